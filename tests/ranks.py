"""Ranks that run one command after another, so that only the first one waits for their start.

Under mpirun this file is the program of each rank: it takes commands from the tests over a socket.
"""

import hashlib
import importlib
import io
import json
import socket
import subprocess
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands import MPIRUN, as_before, launcher

from bin import launch
from bin.commands import train
from mpi.world import connect
from nptrain.world import Solo

TIMEOUT = 240  # s for a command, or for the start


class Ranks:
    """So many processes under mpirun; `environment` is the folder of another one than this, with another MPI."""

    def __init__(self, size, environment=None):
        python, mpirun = sys.executable, MPIRUN
        if environment:
            python, mpirun = environment / "bin" / "python", environment / "bin" / "mpirun"
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115
        with socket.socket(socket.AF_UNIX) as server, tempfile.TemporaryDirectory() as folder:
            server.bind(f"{folder}/socket")
            server.listen(size)
            server.settimeout(TIMEOUT)
            words = [*launcher(size, mpirun), str(python), __file__, server.getsockname()]
            self.process = subprocess.Popen(words, stdout=self.said, stderr=self.said, stdin=subprocess.DEVNULL)
            self.files = [server.accept()[0] for _ in range(size)]
        for place, rank in enumerate(self.files):
            rank.settimeout(TIMEOUT)
            self.files[place] = rank.makefile("rw")

    def call(self, *words, cwd="."):
        """Run a command on all ranks, in the folder `cwd`; returns what rank 0 printed. Fails unless it succeeds, and
        after a training also unless all ranks hold the same weights, statistics and momentum.
        """
        command = json.dumps([str(Path(cwd).absolute()), *map(str, words)])
        try:
            for file in self.files:
                print(command, file=file, flush=True)
            answers = [file.readline() for file in self.files]
        except OSError:  # also a timeout
            self.process.kill()
            raise
        if not all(answers):
            self.close()
            self.said.seek(0)
            raise AssertionError(f"{command}\n{self.said.read()}")
        return "".join(map(json.loads, answers))

    @property
    def usable(self):
        """Whether no command has ended them."""
        return self.process.poll() is None

    def release(self):
        """Let them end."""
        for file in self.files:
            file.close()

    def close(self):
        """Wait until they have ended."""
        self.release()
        try:
            self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()


class Compared(train.Trainer):
    """Ends with an error where ranks have come to different results."""

    def run(self, *args):
        last, arena = super().run(*args), self.network.arena
        state = b"".join(array.tobytes() for array in (arena.weights, arena.history, arena.statistics, arena.factors))
        assert len(set(self.world.allgather(hashlib.sha256(state).digest()))) == 1, "ranks ended with different weights"
        return last


def serve(address):
    """Run the commands that come from `address`, and answer with what this rank printed, until there are no more."""
    train.Trainer, world = Compared, connect() or Solo()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        commands = server.makefile("rw")
        for line in commands:
            cwd, name, *words = json.loads(line)
            main = importlib.import_module(f"bin.commands.{name}").main
            with as_before(cwd), redirect_stdout(io.StringIO()) as output:
                status = launch.run(name, main, words, world)
            if status:  # of one process; several have ended by now
                sys.exit(status)
            world.barrier()
            print(json.dumps(output.getvalue()), file=commands, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
