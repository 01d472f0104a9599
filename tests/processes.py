"""The processes of a run, as /proc shows them."""

import contextlib
import re
from pathlib import Path

RANK = re.compile(rb"\0(?:OMPI_COMM_WORLD_RANK|PMI_RANK)=(\d+)")
LAUNCHERS = ("mpirun.openmpi", "prterun", "mpiexec.hydra")  # of MPIs; mpirun is this project's, which starts one


def processes(run_dir):
    """{rank, or "launcher", "mpirun", "supervise", or another program's name: process id} of a run in a folder."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (path / "cmdline").read_bytes().split(b"\0")
            if not any(str(run_dir).encode() == word for word in words):
                continue
            rank = RANK.search(b"\0" + (path / "environ").read_bytes())
            found[int(rank[1]) if rank else _name([word.decode(errors="replace") for word in words])] = int(path.name)
    return found


def _name(words):
    """What a program without a rank is, by its words."""
    names = [Path(word).name for word in words]
    if names[0] in LAUNCHERS:
        return "launcher"
    return next((name for name in names[1:3] if name in ("supervise", "mpirun")), names[0])


def iterations(run_dir):
    """How many iterations a run has logged."""
    with contextlib.suppress(OSError):
        return (Path(run_dir) / "metrics.jsonl").read_bytes().count(b'"loss"')
    return 0
