"""A rank of bin/train that dies where it is told, as the program of each rank under mpirun.

deaths.py POINT:TURN:RANK[,...] arguments of bin/train

The rank of that number kills itself when it comes to a point of POINTS for the TURN-th time, from 1. At the point
"late" it does not die, but learns of another's death when others have done the update that it comes to.
"""

import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bin.commands import train
from bin.launch import run
from mpi.ulfm import RankDied, SurvivingWorld
from mpi.world import connect
from nptrain import recovery, step
from nptrain import train as loop
from nptrain.run import checkpoint

POINTS = {"sum": (SurvivingWorld, "allreduce_by"), "update": (step, "update"), "late": (step, "update"),
          "test": (loop, "evaluate"), "checkpoint": (checkpoint, "save"), "recovery": (SurvivingWorld, "recover"),
          "agreement": (recovery, "share_state"), "finish": (train, "finish")}  # fmt: skip


def dies_in(point, turns):
    """At these turns this rank dies, or is late, before it does what is at the point."""
    owner, name = POINTS[point]
    action, turn = getattr(owner, name), 0

    def deadly(*args, **options):
        nonlocal turn
        turn += 1
        if turn in turns and point == "late":
            time.sleep(0.5)
            raise RankDied(point)
        if turn in turns:
            os.kill(os.getpid(), signal.SIGKILL)
        return action(*args, **options)

    setattr(owner, name, deadly)


if __name__ == "__main__":
    deaths = [death.split(":") for death in sys.argv[1].split(",")]
    for point in POINTS:
        own = {int(turn) for where, turn, rank in deaths
               if (where, rank) == (point, os.environ["OMPI_COMM_WORLD_RANK"])}  # fmt: skip
        dies_in(point, own)
    sys.exit(run("train", train.main, sys.argv[2:], connect()))
