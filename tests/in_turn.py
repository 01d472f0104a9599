"""Run several commands one after another on the same ranks, so that they start once: a JSON list of lists of words.

A training fails here unless all ranks end with the same weights, statistics and momentum. Each command's output ends
with a line of `END` alone.
"""

import hashlib
import importlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from commands import END, as_before

from bin import launch
from bin.commands import train
from mpi.world import connect
from nptrain.world import Solo

world = connect() or Solo()


class Compared(train.Trainer):
    def run(self, *args):
        last, arena = super().run(*args), self.network.arena
        state = arena.weights.tobytes() + arena.history.tobytes() + arena.statistics.tobytes()
        assert len(set(world.allgather(hashlib.sha256(state).digest()))) == 1, "ranks ended with different weights"
        return last


train.Trainer = Compared
for name, *words in json.loads(sys.argv[1]):
    with as_before():
        status = launch.run(name, importlib.import_module(f"bin.commands.{name}").main, words, world)
    if status:  # of one process; ranks have ended by now
        sys.exit(status)
    if world.rank == 0:
        print(END, flush=True)
