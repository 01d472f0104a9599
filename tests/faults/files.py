"""Checkpoints that are damaged between two starts, two runs in one folder, numbers that are not finite."""

import json
import os
import re
import shutil
import signal
import subprocess

import numpy as np

from nptrain.caffe.model import read_caffemodel
from nptrain.run.checkpoint import list_complete
from tests.faults.case import ITERATIONS
from tests.faults.fault import Fault

NEWEST = "phase1_iter_18"
PASSED_OVER = r"^skipped a damaged checkpoint: \S*/phase1_iter_18\.\w+: "
RANK_0 = r"^train: (rank 0 on \S+: )?"
REFUSED = RANK_0 + r"--resume: all checkpoints are damaged: .*remove \S+ to begin anew, or give another --run-dir"


def damage(change, *kinds):
    """What is done before a start: change(bytes, rng) of the newest checkpoint's file of one of these kinds."""

    def before(case):
        path = case.run_dir / "checkpoints" / f"{NEWEST}.{case.rng.choice(kinds)}"
        found = change(path.read_bytes(), case.rng)
        path.unlink()
        if found is not None:
            path.write_bytes(found)

    return before


def damage_all(kind):
    """The same, for all files of a kind; they are kept beside."""

    def before(case):
        shutil.copytree(case.run_dir / "checkpoints", case.folder / "kept whole")
        for path in (case.run_dir / "checkpoints").glob(f"*.{kind}"):
            path.write_bytes(flip(path.read_bytes(), case.rng))

    return before


def bring_back(case):
    shutil.copytree(case.folder / "kept whole", case.run_dir / "checkpoints", dirs_exist_ok=True)


def cut(data, rng):
    return data[: rng.randrange(len(data))]


def flip(data, rng):
    """One bit changed; in a manifest, not one that leaves it the same JSON."""
    changed = bytearray(data)
    while True:
        at = rng.randrange(len(data))
        if data[at : at + 1] not in b" \n":
            changed[at] ^= 1 << rng.randrange(8)
            return bytes(changed)


def other_json(data, rng):
    """A manifest that names no files, or is another value."""
    return rng.choice((json.dumps({**json.loads(data), "files": {}}).encode(), b"[]", b"null", b"{}", b"[" * 9999))


def damage_start_of_phase_2(case):
    """The last checkpoint of phase 1, damaged."""
    shutil.rmtree(case.run_dir)
    shutil.copytree(case.reference.folder, case.run_dir)
    path = case.run_dir / "checkpoints" / f"phase1_iter_{ITERATIONS}.caffemodel"
    path.write_bytes(flip(path.read_bytes(), case.rng))


def second_start(resume):
    """An act: the same run is started a second time, and is refused; the first one stands still meanwhile."""

    def act(case):
        words = [*case.words(), *["--resume"] * resume]
        ranks = [pid for rank, pid in case.processes().items() if isinstance(rank, int)]
        try:
            send(ranks, signal.SIGSTOP)
            done = subprocess.run(words, cwd=case.folder, capture_output=True, text=True, timeout=120)
        finally:
            send(ranks, signal.SIGCONT)
        assert done.returncode == 2, f"the second one: status {done.returncode}: {done.stderr}"
        line = rf"{RANK_0}--run-dir: {case.run_dir} (is in use by process \d+ on|contains a run already)"
        assert len(re.findall(line, done.stderr, re.M)) == 1, done.stderr

    return act


def send(pids, number):
    for pid in pids:
        os.kill(pid, number)


def expect_finite(case):
    """What is saved has finite numbers."""
    for saved in list_complete(case.run_dir / "checkpoints", ["1"]):
        for name, blobs in read_caffemodel(saved.model).items():
            assert all(np.isfinite(blob).all() for blob in blobs), (saved.model, name)


def resumed(name, ranks, *flags):
    return Fault("resume", name, before=lambda case: None, ranks=ranks, flags=flags, by="mpirun", lost=0,
                 says="^resumes at phase 1, iteration 18")  # fmt: skip


def not_finite(name, *flags, **more):
    where = "(the (loss|gradient) is|after the update the [a-z ]+ are)"
    return Fault("numbers", name, flags=flags, by="mpirun", status=(1,), resumes=False, check=expect_finite, once=True,
                 says=rf"^train: phase 1, iteration \d+: {where} not finite; (the last checkpoint is|there is no)",
                 **more)  # fmt: skip


def another_version(case):
    """The run was made with another NumPy."""
    shutil.copy(case.run_dir / "run.json", case.folder / "run.json")
    entry = json.loads((case.run_dir / "run.json").read_bytes())
    entry["versions"]["numpy"] = "1.0"
    (case.run_dir / "run.json").write_text(json.dumps(entry))


def right_version(case):
    shutil.copy(case.folder / "run.json", case.run_dir / "run.json")


EACH = ("caffemodel", "solverstate")
FILES = [
    *(Fault("checkpoint", f"the newest one {name}", before=damage(change, *kinds), runs=runs, by="mpirun", lost=6,
            says=PASSED_OVER)
      for name, change, kinds, runs in (
          ("cut off", cut, EACH, 2), ("empty", lambda *_: b"", EACH, 1),
          ("longer", lambda data, _: data + b"x", EACH, 1),
          ("with a changed bit", flip, EACH, 4), ("without a file", lambda *_: None, EACH, 2),
          ("with a manifest cut off", cut, ("json",), 2), ("with a manifest of another bit", flip, ("json",), 4),
          ("with another JSON as manifest", other_json, ("json",), 3))),
    *(Fault("checkpoint", f"all {name} damaged, then brought back", before=damage_all(kind), by="mpirun", status=(2,),
            says=REFUSED, mend=bring_back, lost=0)
      for name, kind in ((".caffemodel", "caffemodel"), ("manifests", "json"))),
    Fault("checkpoint", "the one from which phase 2 starts", before=damage_start_of_phase_2, flags=("--phase", "2"),
          by="mpirun", status=(2,), resumes=False,
          says="; phase 2 starts from it: give --weights, or train phase 1 again in another --run-dir"),
    Fault("two runs", "started in one folder", second_start(False), lost=0, by="mpirun"),
    Fault("two runs", "--resume while the first one runs", second_start(True), lost=0, by="mpirun"),
    not_finite("that are not finite, 3 ranks", "--set", "1.base_lr=1e6", ranks=3),
    not_finite("the same, a checkpoint after each iteration", "--set", "1.base_lr=1e6", "--set", "1.snapshot=1"),
    not_finite("in the last update", "--set", "1.base_lr=1e42", "--set", "1.warmup_iter=0", "--iterations", "1"),
    Fault("resume", "with another version of NumPy, then with the right one", before=another_version, by="mpirun",
          status=(2,), lost=0, mend=right_version,
          says=RANK_0 + r"--resume: the run in \S+ would go on with other bits: numpy: found \S+, expected 1.0"),
    resumed("on 1 rank, of 2", 1),
    resumed("on 3 ranks", 3),
    resumed("on 4 ranks, --threads 2 --decode-threads 3", 4, "--threads", "2", "--decode-threads", "3"),
    resumed("--bucket-mib 0.5 --comm-threads 2", 2, "--bucket-mib", "0.5", "--comm-threads", "2"),
]  # fmt: skip
