"""Python loads this at the start of a process whose PYTHONPATH has this folder: a fault at one call of a function.

NPTRAIN_FAULTS is a list of JSON objects:

    call    the function, as "os.fsync"; it is told by its first argument, a path or a descriptor
    holds   a text that its file's path contains
    turn    the call, 1 for the first one in a process, at which it strikes
    rank    that it strikes, alone
    mark    a file, made when it strikes: so it strikes once in all starts
    act     {"kill": true}, {"errno": N, "times": N}, or {"sleep": SECONDS}
"""

import builtins
import importlib
import itertools
import json
import os
import signal
import time


def path_of(place):
    """The path of a file that is named, or open as a descriptor."""
    try:
        return os.readlink(f"/proc/self/fd/{place}") if isinstance(place, int) else os.fspath(place)
    except (OSError, TypeError):
        return ""


def first(mark):
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def strike(act):
    if "kill" in act:
        os.kill(os.getpid(), signal.SIGKILL)
    if "sleep" in act:
        time.sleep(act["sleep"])
    if "errno" in act:
        raise OSError(act["errno"], os.strerror(act["errno"]))


def arm(fault):
    module, _, name = fault["call"].rpartition(".")
    owner = importlib.import_module(module) if module else builtins
    function, turns, left = getattr(owner, name), itertools.count(1), [0]

    def calling(*args, **named):
        if args and fault["holds"] in path_of(args[0]):
            if next(turns) == fault["turn"] and first(fault["mark"]):
                left[0] = fault["act"].get("times", 1)
            if left[0]:
                left[0] -= 1
                strike(fault["act"])
        return function(*args, **named)

    setattr(owner, name, calling)


rank = os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK"))
for found in json.loads(os.environ.get("NPTRAIN_FAULTS", "[]")):
    if rank == str(found["rank"]) and not os.path.exists(found["mark"]):
        arm(found)
        break
