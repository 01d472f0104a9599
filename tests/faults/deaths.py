"""Ranks, launchers and hosts that die, stop or are told to end."""

import os
import signal
import time

from tests.faults.fault import Fault

ENDS = r"^train: {}: ended at phase 1, iteration \d+; go on with: mpirun -n 2 "
AGAIN = r"^supervise: {}; .* starts again in "


def to(*targets, number=signal.SIGKILL):
    """An act: a signal to each of these (ranks, or "launcher", "mpirun"), at once."""

    def act(case):
        found = case.processes()
        for target in targets:
            os.kill(found[target], number)

    return act


def to_any_rank(case):
    """SIGKILL to rank 0, 1, or the last, in turn."""
    ranks = (0, 1, case.fault.ranks - 1)
    to(ranks[(len(case.moments) - 1) % 3])(case)


def to_group(case):
    """Ctrl-C in a terminal: SIGINT to the foreground's process group."""
    os.killpg(case.process.pid, signal.SIGINT)


def stop_for(seconds):
    """An act: a rank is stopped for so long."""

    def act(case):
        pid = case.processes()[case.rng.randrange(case.fault.ranks)]
        os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(pid, signal.SIGCONT)

    return act


def a_twentieth_of_the_time(case):
    """A rank runs for 5 ms, and stands still for 95, until the end."""
    pid = case.processes()[1]
    while case.process.poll() is None:
        for number, seconds in ((signal.SIGSTOP, 0.095), (signal.SIGCONT, 0.005)):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                return
            time.sleep(seconds)


def in_checkpoint(rank, call, turn, holds="/checkpoints"):
    """SIGKILL of a rank by itself, at a call within the writing of a checkpoint."""
    return {"call": call, "holds": holds, "turn": turn, "rank": rank, "act": {"kill": True}}


# of the second checkpoint that a process writes: 3 files, each opened, synced with its folder, and renamed
CALLS = {"open": (4, 6), "os.fsync": (7, 8, 12), "os.replace": (5, 6)}
RANK = r"rank \d on \S+ was ended by a signal: Killed"
NAMES = {number: signal.Signals(number).name for number in signal.Signals}

DEATHS = [
    Fault("kill", "SIGKILL of rank 0, 1, the last, of 3", to_any_rank, at=3, runs=1, ranks=3, says=AGAIN.format(RANK)),
    Fault("kill", "SIGKILL of a rank", to(0), quick=True, says=AGAIN.format(RANK)),
    Fault("kill", "SIGKILL of all ranks at once", to(0, 1), at=2, says=AGAIN.format(RANK)),
    *(Fault("kill", f"... of rank 0 in a checkpoint's {call}", flags=("--set", "1.snapshot=2"), says=AGAIN.format(RANK),
            hooks=tuple(in_checkpoint(0, call, turn) for turn in turns))
      for call, turns in CALLS.items()),
    Fault("kill", "... of rank 1 in a checkpoint's writing", to(1), at=(6, 12), says=AGAIN.format(RANK)),
    Fault("kill", "... in a test", to(0), at=(12,), says=AGAIN.format(RANK)),
    Fault("kill", "SIGKILL of a rank, without bin/supervise", to(1), by="mpirun", status=(137,),
          says=r"process rank 1 .* exited on|BAD TERMINATION"),
    Fault("kill", "SIGKILL of the MPI's launcher", to("launcher"), at=2, says=AGAIN.format(".*")),
    Fault("kill", "SIGKILL of mpirun", to("mpirun"), at=2, says=AGAIN.format(".*")),
    Fault("kill", "SIGQUIT of the launcher", to("launcher", number=signal.SIGQUIT), at=2, says=AGAIN.format(".*")),
    Fault("kill", "SIGUSR2 of the launcher", to("launcher", number=signal.SIGUSR2), at=2, says=AGAIN.format(".*")),
    *(Fault("told to end", f"{NAMES[number]} to mpirun", to("mpirun", number=number), by="mpirun", status=(status,),
            says=ENDS.format("(SIGINT|SIGTERM|SIGUSR1)"), lost=0)
      for number, status in ((signal.SIGTERM, 75), (signal.SIGINT, 130), (signal.SIGHUP, 75), (signal.SIGUSR1, 75))),
    Fault("told to end", "Ctrl-C to the group", to_group, by="mpirun", status=(130,),
          says=ENDS.format("(SIGINT|SIGUSR1)"), lost=0),
    *(Fault("told to end", f"{NAMES[number]} to {who}", to(*targets, number=number), by="mpirun", status=(status,),
            says=ENDS.format(NAMES[number]), lost=0)
      for number, status in ((signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130))
      for who, targets in (("one rank", (1,)), ("all ranks", (0, 1)))),
    Fault("told to end", "SIGTERM to bin/supervise", to("supervise", number=signal.SIGTERM), status=(75,),
          says=ENDS.format("(SIGTERM|SIGUSR1)"), lost=0),
    Fault("told to end", "SIGHUP to one rank", to(1, number=signal.SIGHUP), by="mpirun", lost=0),
    Fault("hang", "SIGSTOP of a rank for 3 s", stop_for(3), at=2, lost=0),
    Fault("hang", "SIGSTOP of a rank for ever", to(1, number=signal.SIGSTOP), flags=("--stall-timeout", "6"),
          quick=True, says=AGAIN.format(r"rank 0 on \S+ has waited \d+ s for other ranks in iteration \d+, late: rank "
                                        r"1, process \d+, which has not run for \d+ s")),
    Fault("hang", "SIGSTOP of rank 0 for ever", to(0, number=signal.SIGSTOP), flags=("--stall-timeout", "6"),
          says=AGAIN.format(r"rank 1 on \S+ has waited \d+ s for other ranks in iteration \d+, late: rank 0, .*")),
    Fault("hang", "a read of the data that never ends", flags=("--stall-timeout", "6"),
          hooks=({"call": "os.pread", "holds": "/train/", "turn": 60, "rank": 1, "act": {"sleep": 1000}},),
          says=AGAIN.format(r"rank \d on \S+ has waited \d+ s for (a record|other ranks) in iteration .*")),
    Fault("hang", "a checkpoint's fsync that never ends", flags=("--stall-timeout", "6"),
          hooks=({"call": "os.fsync", "holds": "/checkpoints/", "turn": 2, "rank": 0, "act": {"sleep": 1000}},),
          says=AGAIN.format(r"rank \d on \S+ has waited \d+ s for (a checkpoint to be written|other ranks) .*")),
    Fault("hang", "a rank has a twentieth of the time", a_twentieth_of_the_time, at=(1,), lost=0,
          says=r"rank 1 on \S+ is slow: "),
]  # fmt: skip
