"""Checkpoints, manifests and what else --resume reads, changed at random: it goes on from what was saved, bit for bit,
or says what is wrong.
"""

import hashlib
import json
import shutil
import tempfile
from argparse import Namespace
from pathlib import Path

from bin.common.start import load_start
from kernels import naive
from nptrain.caffe.caffe_pb2 import NetParameter
from nptrain.errors import InputError
from nptrain.network.arena import Arena
from nptrain.network.layers import Blob, Layer
from nptrain.recipes.published import get_recipe
from nptrain.recipes.schedule import Progress
from nptrain.run import checkpoint
from nptrain.run.best import read_tests
from nptrain.run.run_folder import RunFolder
from nptrain.run.snapshot import state_of
from nptrain.run.versions import versions
from tests.faults.records import Counts
from tests.fuzz import memory_folder, mutated

LAYERS = (Layer("fc", "InnerProduct", (Blob((2, 3)), Blob((2,)))),)
NET = NetParameter(name="net", layer=[{"name": "fc", "type": "InnerProduct"}])
RECIPE = get_recipe("digits")
SAVED = (3, 6, 9)
VERSIONS = versions("MPI", instructions="AVX2")
VALUES = (None, True, -1, 0, 1.5, 2**70, 10**400, float("nan"), "x", "x" * 10_000, "../../etc/passwd", [], {}, [1] * 9,
          {"a": {"a": 1}})  # fmt: skip


class Run:
    """A small run with three checkpoints in `folder`, and what was saved in each."""

    def __init__(self, folder):
        self.folder, self.states = RunFolder(folder), {}
        arguments = {
            "seed": 3,
            "recipe": "digits",
            "workers": 2,
            "weights": None,
            "weights_run": None,
            "snapshot": None,
        }
        self.args = Namespace(resume=True, compress="none", kernels="numpy", allow_other_bits=False, **arguments)
        self.folder.describe(RECIPE, [], vars(self.args), VERSIONS, identity="0123456789abcdef")
        for iteration in SAVED:
            arena, progress = Arena(LAYERS, naive), Progress((0.25, 1.5 * iteration), 1, 2.5)
            arena.weights[:], arena.history[:] = iteration, -iteration
            checkpoint.save(self.folder.checkpoints, "1", iteration, arena, NET, progress)
            self.states[iteration] = fingerprint(arena), progress
        lines = [{"phase": "1", "iteration": n, "loss": 1.0 + n} for n in range(10)]
        self.folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
        self.whole = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def restore(self):
        """All files as they were."""
        for path in self.folder.path.rglob("*"):
            if path not in self.whole and not path.is_dir():
                path.unlink()
        for path, data in self.whole.items():
            if path.is_dir():
                shutil.rmtree(path)
            if not path.is_file() or path.read_bytes() != data:
                path.write_bytes(data)


def fingerprint(arena):
    return hashlib.sha256(b"".join(array.tobytes() for array in state_of(arena))).hexdigest()


def change(rng, run):
    """Change one to three files. Returns their paths."""
    paths = rng.sample(sorted(run.whole), rng.choice((1, 1, 1, 2, 3)))
    for path in paths:
        data, kind = run.whole[path], rng.randrange(10)
        if kind == 0:
            path.unlink()
        elif kind == 1:
            path.unlink()
            path.mkdir()
        elif kind == 2:  # another file in its place
            path.write_bytes(run.whole[rng.choice(sorted(run.whole))])
        elif kind == 3:
            path.write_bytes(data[: rng.randrange(len(data))])
        elif kind == 4:
            path.write_bytes(data + rng.randbytes(rng.choice((1, 8, 100_000))))
        elif kind < 8 and path.suffix in (".json", ".jsonl"):
            path.write_bytes(other_json(rng, data, path.suffix))
        else:
            path.write_bytes(mutated(rng, data))
    return paths


def other_json(rng, data, suffix):
    """A field of a JSON, at any depth, is another value, is missing, or is new."""
    lines = data.splitlines() if suffix == ".jsonl" else [data]
    at = rng.randrange(len(lines))
    entry = place = json.loads(lines[at])
    while True:
        name = rng.choice(sorted(place))
        if isinstance(place[name], dict) and place[name] and rng.random() < 0.7:
            place = place[name]
            continue
        break
    match rng.randrange(4):
        case 0:
            del place[name]
        case 1:
            place["new"] = rng.choice(VALUES)
        case 2:
            entry = rng.choice(VALUES)
        case _:
            place[name] = rng.choice(VALUES)
    lines[at] = json.dumps(entry).encode()
    return b"\n".join(lines) + b"\n"


def check(run, changed, counts):
    """What --resume does with the files as they are. AssertionError, unless it is right, or one line of error."""
    arena = Arena(LAYERS, naive)
    counts.add("runs")
    try:
        run.folder.arguments()
        run.folder.identity(resume=True)
        found, lines = load_start(run.args, RECIPE, ["1"], run.folder, arena, None, {}, None, VERSIONS)
        read_tests(run.folder.metrics)
    except InputError as error:
        line = str(error)
    else:
        line = None
    if line is not None:
        assert line.isprintable(), line
        assert len(line) <= 1000, line
        assert str(run.folder.path) in line or line.startswith("--"), line
        counts.add("runs reported")
        return
    assert found is not None, f"it began anew: {changed}"
    state, progress = run.states[found.iteration]
    assert fingerprint(arena) == state, f"other weights than those saved at {found.iteration}: {changed}"
    assert found.progress == progress, (changed, found.progress)
    whole = {n for n in SAVED if not any(f"iter_{n}." in path.name for path in changed)}
    assert found.iteration >= max(whole, default=0), f"a whole checkpoint was passed over: {changed}"
    said = {n for n in SAVED if n > found.iteration and any(f"_iter_{n}." in line for line in lines)}
    silent = {n for n in SAVED if n > found.iteration} - said
    gone = {n for n in silent if not checkpoint.Checkpoint(run.folder.checkpoints, "1", n).manifest.exists()}
    assert silent == gone, f"passed over without a line: {silent}, {changed}"
    which = "the newest one" if found.iteration == SAVED[-1] else "an older one"
    counts.add(f"runs that went on from {which}")


def run(count, rng, alive):
    """Check so many changed runs; calls alive() for each. Returns the Counts."""
    counts = Counts()
    with tempfile.TemporaryDirectory(dir=memory_folder()) as name:
        small = Run(Path(name) / "run")
        for number in range(count):
            changed = change(rng, small)
            alive()
            with counts.finding(f"run {number}, {', '.join(path.name for path in changed)}"):
                check(small, changed, counts)
            small.restore()
    return counts
