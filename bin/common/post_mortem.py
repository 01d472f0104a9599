"""What can be said of a training that has died: who, by which signal, perhaps why, and what is lost."""

import json
import re
import signal
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from nptrain.run.run_folder import RunFolder

# the lines of launchers: Open MPI, twice; MPICH and Intel MPI; Slurm
KILLED = re.compile(
    r"process rank (?P<rank>\d+) with PID \S+ on node (?P<host>\S+) exited\s+on\s+signal (?P<signal>\d+)"
)
LOST = re.compile(r"lost communication with a remote daemon[\s\S]*?Remote daemon:.*? on node (?P<host>\S+)")
PEER = re.compile(r"peer process has unexpectedly disconnected[\s\S]*?Peer host: +(?P<host>\S+)")
HYDRA = re.compile(r"PID \d+ RUNNING AT (?P<host>\S+)\s+=\s+EXIT (?:CODE|STATUS): (?P<signal>\d+)")
SLURM = re.compile(
    r"srun: error: (?P<host>\S+): tasks? (?P<rank>\d+)[^:\n]*: (?P<name>Killed|Terminated|Segmentation fault)"
)
STALL = re.compile(r"^train: stalled: (?P<line>.*)$", re.M)
OWN = re.compile(r"^train: (?P<line>.*)$", re.M)
TRAIL = 1 << 18  # bytes at the end of metrics.jsonl that hold its last line


class Position(NamedTuple):
    """The last iteration that a run has logged; None if there is none."""

    phase: str | None = None
    iteration: int | None = None

    @classmethod
    def of(cls, folder):
        """That of the run in a folder."""
        with suppress(OSError), open(RunFolder(folder).metrics, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - TRAIL))
            for line in reversed(file.read().splitlines()):
                with suppress(ValueError, KeyError, TypeError):
                    entry = json.loads(line)
                    if "loss" in entry:
                        return cls(entry["phase"], entry["iteration"])
        return cls()

    def lost(self):
        """What is lost at most, in words: a snapshot is written a moment after the line."""
        if self.iteration is None:
            return "there was no iteration yet"
        return (f"phase {self.phase}, iteration {self.iteration} was the last one logged, at most that and the one "
                "that ran are computed again")  # fmt: skip


def what_died(tail, status, kills):
    """A text from the end of what the launcher wrote (bytes), its exit status, and how many processes this host has
    killed meanwhile as it had no memory left.
    """
    text = tail.decode(errors="replace")
    if found := STALL.search(text):
        return found["line"]
    for pattern in (KILLED, SLURM, HYDRA):
        if found := pattern.search(text):
            return _killed(found.groupdict(), kills)
    if found := LOST.search(text):
        return f"host {found['host']} is lost"
    if found := PEER.search(text):
        return f"a rank on {found['host']} has died, or cannot be reached"
    if own := OWN.findall(text):
        return own[-1]
    if 128 < status < 128 + signal.NSIG:
        return _killed({"signal": status - 128}, kills)
    return f"the launcher has ended with status {status}, but the run is not done"


def _killed(found, kills):
    rank, number = found.get("rank"), int(found.get("signal") or 0)
    who = f"rank {rank}" if rank else "a rank" if found.get("host") else "the launcher"
    where = f" on {found['host']}" if found.get("host") else ""
    name = found.get("name") or (signal.strsignal(number) if 0 < number < signal.NSIG else None) or f"status {number}"
    memory = ", probably by the system, as no memory was left" if number == signal.SIGKILL and kills else ""
    return f"{who}{where} was ended by a signal: {name}{memory}"


def memory_kills():
    """How many processes this host has killed so far as it had no memory left."""
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/vmstat").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return 0
