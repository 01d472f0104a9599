"""Check this machine and this environment before a training: a line for each
check. The exit status is 0 if a training can run, else 1.

bin/doctor
bin/doctor --run-dir runs --data data
"""

import fcntl
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path

from PIL import Image

from bin.common.arguments import Parser, expect_at_least
from bin.common.data_sets import MOST
from bin.common.memory import available_bytes, needed_bytes
from kernels import cache
from mpi.affinity import quota, topology
from nptrain.data.datum import encoded_datum
from nptrain.data.lmdb_dataset import LmdbDataset, write_lmdb
from nptrain.errors import InputError, printable
from nptrain.files import writing
from nptrain.plan.needs import parameter_bytes
from nptrain.recipes.published import get_recipe
from nptrain.run.snapshot import place
from nptrain.run.snapshots import files_of
from nptrain.run.versions import package_versions

PROJECT = Path(__file__).resolve().parents[2]
RECIPE = "resnet50-448nodes"
GOOD, NOTE, BAD = "ok", "note", "FAILS"  # a note: a training runs, but slower, or with less room than most need
CPU = Path("/proc/cpuinfo")
NEEDED, FASTER, BF16 = ("avx2", "fma"), "avx512f", "avx512_bf16"
SLOWEST = 60  # s that the trial of MPI may take
GB = 1e9


def parser():
    p = Parser(prog="doctor", description=__doc__)
    p.add_argument(
        "--run-dir", metavar="DIR", default="runs", help="folder of runs, whose disk is checked (%(default)s)"
    )
    p.add_argument(
        "--data",
        metavar="DIR",
        action="append",
        default=[],
        help="LMDB to check, or a folder of LMDBs; may be repeated",
    )
    p.add_argument("--ranks", metavar="N", type=int, default=2, help="ranks that MPI is tried with (%(default)s)")
    return p


def main(argv, world):
    args = parser().parse_args(argv)
    expect_at_least(args, 1, "ranks")
    failed = False
    for name, check in checks(args):
        try:
            state, text = check()
        except (OSError, InputError) as error:
            state, text = BAD, error
        failed |= state == BAD
        print(f"{name:10}{state:6}{printable(str(text), 400)}", flush=True)
    if failed:
        raise SystemExit(1)


def checks(args):
    """(name, function that returns (state, text)) of each check."""
    yield "versions", versions
    yield "cpu", cpu
    yield "cores", cores
    yield "memory", memory
    yield "kernels", kernels
    yield "mpi", lambda: mpi(args.ranks)
    yield "disk", lambda: disk(Path(args.run_dir))
    yield "snapshots", snapshots
    yield "lmdb", new_lmdb
    for path in args.data:
        for part in sorted(file.parent for file in Path(path).glob("*/data.mdb")) or [path]:
            yield "data", partial(data, part)


def versions():
    """Versions of Python and packages, against requirements.txt."""
    found = package_versions()
    lines = (PROJECT / "requirements.txt").read_text().split()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    other = [f"{name} {number}, expected {pinned[name]}" for name, number in found.items()
             if pinned.get(name, number) != number]  # fmt: skip
    if other:
        return NOTE, f"{'; '.join(other)} (as in requirements.txt: make setup)"
    return GOOD, ", ".join(f"{name} {number}" for name, number in found.items())


def cpu():
    """The processor and its instruction sets."""
    facts = dict(re.split(r"\s*:\s*", line, maxsplit=1) for line in CPU.read_text().splitlines() if ":" in line)
    features, text = facts.get("flags", "").split(), facts.get("model name", os.uname().machine)
    missing = [name for name in NEEDED if name not in features]
    if missing:
        return BAD, f"{text}: found no {' and no '.join(missing)}, expected an x86-64 processor with AVX2 and FMA"
    if FASTER not in features:
        return NOTE, f"{text}: AVX2; AVX-512 would be faster"
    bf16 = "with bf16: --precision bf16 is faster" if BF16 in features else "without bf16: it would save memory only"
    return GOOD, f"{text}: AVX-512, {bf16}"


def cores():
    """The cores that this process may use, their NUMA nodes, and the quota of a container."""
    granted, limit, (node_of, physical_of) = os.sched_getaffinity(0), quota(), topology()
    physical = len({physical_of.get(core, core) for core in granted})
    nodes = len({node_of.get(core, 0) for core in granted})
    text = f"{len(granted)} of {os.cpu_count()}, {physical} physical, {nodes} NUMA node{'s' * (nodes > 1)}"
    if limit is not None and limit < len(granted):
        return NOTE, f"{text}; the container's quota is {limit:g} cores, and so many threads are used"
    return GOOD, f"{text}; no quota"


def memory():
    """What is available, against a rank of ResNet-50."""
    found, need = available_bytes(), needed_bytes(get_recipe(RECIPE), len(os.sched_getaffinity(0)))
    text = f"{found / GB:.1f} GB available; a rank of ResNet-50 needs {need / GB:.1f} GB with 16 images of 224x224"
    return (GOOD if found >= need else NOTE), text


def kernels():
    """Where compiled kernels are kept."""
    count = sum(1 for _ in cache.folder.rglob("*.nbc"))
    state = f"{count} compiled" if count else "none compiled yet: about a minute at the first start"
    return (NOTE, cache.note) if cache.note else (GOOD, f"{cache.folder}: {state}")


def mpi(ranks):
    """A trial of the launcher of this environment: ranks, and a sum over them."""
    own = Path(sys.prefix) / "bin" / "mpirun"
    launcher = str(own) if own.exists() else shutil.which("mpirun")
    if launcher is None:
        return NOTE, "found no mpirun, expected one for several ranks: make setup"
    words = [launcher, "-n", str(ranks), sys.executable, "-c", "from mpi.check import main; main()"]
    try:
        done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, timeout=SLOWEST)
    except subprocess.TimeoutExpired:
        return BAD, f"{launcher}: {ranks} ranks did not end within {SLOWEST} s"
    with suppress(ValueError, KeyError):
        found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        if len(found) > 1:
            return BAD, f"{launcher} and mpi4py's library belong to two MPIs: every rank believes that it is alone"
        if done.returncode == 0 and found[0]["right"] and found[0]["ranks"] == ranks:
            speed = "the sum of 16 MiB over {ranks} ranks: {gb_per_s} GB/s".format(**found[0])
            return GOOD, f"{found[0]['library']}, thread level {found[0]['thread_level']}; {speed}"
    said = next((line for line in (done.stderr + done.stdout).splitlines() if line.strip(" -")), "nothing")
    return BAD, f"{launcher} ended with status {done.returncode} and said: {said}"


def disk(folder):
    """Whether runs can be written and locked, and how much room there is."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    need, free = 2 * parameter_bytes(get_recipe(RECIPE))["weights"], shutil.disk_usage(there).free
    text = f"{folder}: {free / GB:.1f} GB free; a checkpoint of ResNet-50 takes {need / GB:.1f} GB"
    with writing(folder), tempfile.TemporaryFile(dir=there) as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return NOTE, f"{text}; it has no locks ({error.strerror}): do not start a run twice"
    return (GOOD if free > need else BAD), text


def snapshots():
    """Those that runs which have died have left in the folder for temporary files."""
    folder = place()
    sizes = [path.stat().st_size for path in files_of(folder, "*")]
    if not sizes:
        return GOOD, f"{folder}: none is left there"
    return NOTE, (f"{folder}: {len(sizes)}, {sum(sizes) / GB:.1f} GB, of runs that are going on or have died; remove "
                  "those from which no run will go on")  # fmt: skip


def new_lmdb():
    """An LMDB is written and read in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, "JPEG")
        write_lmdb(Path(folder) / "data", [("x", encoded_datum(file.getvalue(), 3))])
        image, label = LmdbDataset(Path(folder) / "data")[0]
    right = (image.size, label) == ((8, 8), 3)
    return (GOOD if right else BAD), "a JPEG image was written to an LMDB and read back"


def data(path):
    """The first and the last image of a data set."""
    dataset = LmdbDataset(path)
    for index in {0, len(dataset) - 1}:
        dataset[index]
    largest, _ = dataset.largest_label(MOST)
    return GOOD, f"{path}: {len(dataset)} records, labels up to {largest}; bin/inspect reads all of them"
