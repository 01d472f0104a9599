"""What can be said of a training that has died: who, by which signal, perhaps why, and what is lost."""

import json
import re
import signal
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from nptrain.run.run_folder import RunFolder

# the lines of launchers: Open MPI, twice; MPICH and Intel MPI, which write them to stdout; Slurm
KILLED = re.compile(
    r"process rank (?P<rank>\d+) with PID \S+ on node (?P<host>\S+) exited\s+on\s+signal (?P<signal>\d+)"
)
LOST = re.compile(r"lost communication with a remote daemon[\s\S]*?Remote daemon:.*? on node (?P<host>\S+)")
PEER = re.compile(r"peer process has unexpectedly disconnected[\s\S]*?Peer host: +(?P<host>\S+)")
HYDRA = re.compile(r"(?:RANK (?P<rank>\d+) )?PID \d+ RUNNING AT (?P<host>\S+)\s+=\s+"
                   r"(?:EXIT (?:CODE|STATUS): (?P<status>\d+)|KILLED BY SIGNAL: (?P<signal>\d+))")  # fmt: skip
SLURM = re.compile(r"^srun: error: (?P<host>\S+): tasks? (?P<rank>[\d,-]+): "
                   r"(?P<name>Exited with exit code \d+|[A-Z][A-Za-z ]*[a-z])", re.M)  # fmt: skip
NODE = re.compile(r"^srun: error: Node failure on (?P<host>\S+)", re.M)
MEMORY = re.compile(r"Detected \d+ oom.kill event|: tasks? [\d,-]+: Out Of Memory")
STALL = re.compile(r"^train: stalled: (?P<line>.*)$", re.M)
OWN = re.compile(r"^train: (?P<line>.*)$", re.M)
NUMBERS = {signal.strsignal(number): number for number in signal.valid_signals()} | {"Out Of Memory": signal.SIGKILL}
USUAL = (6, 7, 9, 11, 15)  # what MPICH calls an exit code is one of these signals, or a status that is not one
TRAIL = 1 << 18  # bytes at the end of metrics.jsonl that hold its last line


class Position(NamedTuple):
    """The last iteration that a run has logged; None if there is none."""

    phase: str | None = None
    iteration: int | None = None

    @classmethod
    def of(cls, folder):
        """That of the run in a folder. Raises OSError if that cannot be known."""
        with suppress(FileNotFoundError), open(RunFolder(folder).metrics, "rb") as file:
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
    kills = kills or bool(MEMORY.search(text))
    if found := STALL.search(text):
        return found["line"]
    if found := NODE.search(text):
        return f"host {found['host']} is lost"
    if found := KILLED.search(text):
        return _killed(found["rank"], found["host"], int(found["signal"]), kills)
    if (found := SLURM.search(text)) and found["name"] in NUMBERS:  # the first one: srun then ends the others
        return _killed(found["rank"], found["host"], NUMBERS[found["name"]], kills)
    if found := _of_hydra(text):
        return _killed(*found, kills)
    if found := LOST.search(text):
        return f"host {found['host']} is lost"
    if found := PEER.search(text):
        return f"a rank on {found['host']} has died, or cannot be reached"
    if own := OWN.findall(text):
        return own[-1]
    if 128 < status < 128 + signal.NSIG:
        return f"the launcher{_by(status - 128, kills)}"
    return f"the launcher has ended with status {status}, but the run is not done"


def _of_hydra(text):
    """(rank or None, host or None, number of the signal) of the rank that a signal has ended, or None. Hydra kills the
    others, and Intel's names them, too.
    """
    ended = [(found["rank"], found["host"], _signal(found)) for found in HYDRA.finditer(text)]
    ended = [rank for rank in ended if rank[2]]
    first = next((rank for rank in ended if rank[2] != signal.SIGKILL), None)
    if first or len(ended) < 2:
        return first or next(iter(ended), None)
    hosts = {host for _, host, _ in ended}
    return None, hosts.pop() if len(hosts) == 1 else None, signal.SIGKILL


def _signal(found):
    """The signal in a match of HYDRA, or None."""
    if found["signal"]:
        return int(found["signal"])
    number = int(found["status"])
    return number if number in USUAL else number - 128 if number > 128 else None


def _killed(rank, host, number, kills):
    who = "a rank" if rank is None else f"rank {rank}" if rank.isdecimal() else f"ranks {rank}"
    return f"{who}{f' on {host}' if host else ''}{_by(number, kills, '-' in who or ',' in who)}"


def _by(number, kills, several=False):
    name = (signal.strsignal(number) if 0 < number < signal.NSIG else None) or f"number {number}"
    memory = ", probably by the system, as no memory was left" if number == signal.SIGKILL and kills else ""
    return f" {'were' if several else 'was'} ended by a signal: {name}{memory}"


def memory_kills():
    """How many processes this host has killed so far as it had no memory left."""
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/vmstat").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return 0
