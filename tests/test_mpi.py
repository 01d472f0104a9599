"""Ranks: what they tell each other, on one and on several; a failure of one ends all."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import MPIRUN, PROJECT, launcher

from mpi.world import shortfall
from nptrain.step import worker_range

pytestmark = pytest.mark.ranks

HEAD = f"""
import sys
sys.path.insert(0, {str(PROJECT)!r})
import numpy as np
from bin.launch import run
from mpi.affinity import claim
from mpi.agree import raise_together
from mpi.world import ASKED_FOR, connect
from nptrain.errors import InputError
from nptrain.world import Solo

def main(argv, world):
"""


def ranks(count, body, folder, timeout=60):
    """Run a main() on so many ranks; returns the finished process. A hang fails the test."""
    script = Path(folder) / "script.py"
    indented = "".join(f"    {line}\n" for line in body.strip().splitlines())
    script.write_text(f"{HEAD}{indented}\nsys.exit(run('script.py', main, world=connect() or Solo()))\n")
    words = [*launcher(count), sys.executable, str(script)]
    return subprocess.run(words, capture_output=True, text=True, timeout=timeout)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_what_ranks_tell_each_other(tmp_path, count):
    """Also in sums of several threads at once, which do not mix; the thread level is the one asked for."""
    done = ranks(count, """
total = np.full(1000, world.rank + 1, np.float32)
world.allreduce(total)
first = np.full((3, 4), world.rank + 7.0)
world.bcast_array(first)
scalars = world.allreduce_scalars([0.1, world.rank])
shared = world.bcast({"from": world.rank})
ranks = world.allgather(world.rank)
order = []
world.one_per_host_first(lambda: order.append(world.local_rank))
n = world.size
assert (total == n * (n + 1) / 2).all()
assert (first == 7).all()
assert abs(scalars[0] - n / 10) < 1e-15 and scalars[1] == n * (n - 1) / 2
assert shared == {"from": 0} and ranks == list(range(n)) and order == [world.local_rank]
assert world.local_size == n and claim(world).threads >= 1
world.barrier()

sums = [np.full(100_000 + at, world.rank + at, np.float32) for at in range(12)]
combined = [np.empty(1000 + at) for at in range(12)]
with world.reducer(3) as reducer:
    futures = [reducer.start(world.allreduce, each) for each in sums]
    for at, out in enumerate(combined):
        mine = [np.full(out.size, float(at))]
        futures.append(reducer.start(world.allreduce_by, mine, [1] * world.size, lambda arrays: sum(arrays), out))
    for future in futures:
        future.result()
assert all((each == n * (n - 1) / 2 + n * at).all() for at, each in enumerate(sums))
assert all((out == n * at).all() for at, out in enumerate(combined))

assert world.thread_level == ASKED_FOR
print(f"fine on {n}")
""", tmp_path)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count(f"fine on {max(count, 1)}") == max(count, 1)  # the ends of lines may come later


def test_an_exception_on_one_rank_ends_all_with_its_traceback(tmp_path):
    done = ranks(3, "if world.rank == 1:\n    raise RuntimeError('boom')\nworld.barrier()", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert "RuntimeError: boom" in done.stderr


def test_a_mistake_on_one_rank_is_said_once_with_rank_and_host(tmp_path):
    body = "with raise_together(world, InputError):\n    if world.rank == 2:\n        raise InputError('x: found y')\n"
    done = ranks(3, body + "world.barrier()", tmp_path)
    assert done.returncode == 2
    first, *rest = done.stderr.splitlines()
    assert first.startswith("script.py: rank 2 on ")
    assert first.endswith(": x: found y")
    assert "found y" not in "".join(rest)


def test_a_mistake_on_all_ranks_is_said_once(tmp_path):
    done = ranks(2, "with raise_together(world, InputError):\n    raise InputError('x: found y')", tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == "script.py: x: found y"
    assert done.stderr.count("found y") == 1


def test_a_rank_that_does_not_start_is_not_waited_for_without_end(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(f"""
import os, sys, time
sys.path.insert(0, {str(PROJECT)!r})
from mpi import world
world.START = 1
if "1" in map(os.environ.get, ("OMPI_COMM_WORLD_RANK", "PMI_RANK")):
    time.sleep(100)
world.connect()
""")
    words = [*launcher(2), sys.executable, script]
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=60)
    assert done.returncode
    assert re.search(
        r"^rank 0 on \S+: MPI has not started within 1 s: a rank has died before it, or ", done.stderr, re.M
    )


@pytest.mark.parametrize(("workers", "size"), [(896, 896), (896, 7), (4, 3), (2, 3), (1, 1)])
def test_every_worker_is_carried_by_one_rank(workers, size):
    shares = [worker_range(workers, rank, size) for rank in range(size)]
    assert [w for part in shares for w in part] == list(range(workers))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_command_runs_in_the_environment_of_its_launcher(tmp_path):
    if MPIRUN.parent.parent != Path(sys.prefix) or Path(sys.prefix).parent != PROJECT:
        pytest.skip("needs one of the project's environments")
    script = tmp_path / "script.py"
    script.write_text(f"""#!/usr/bin/env python3
import sys
sys.path.insert(0, {str(PROJECT / "bin")!r})
from launch import enter_environment
enter_environment("script.py")
sys.path[0] = {str(PROJECT)!r}
from mpi.world import connect
if connect().rank == 0:
    print(sys.prefix)
""")
    script.chmod(0o755)
    done = subprocess.run([*launcher(2), str(script)], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [Path(line).resolve() for line in done.stdout.splitlines()] == [Path(sys.prefix).resolve()]


def test_a_thread_level_that_is_too_low_is_said_once(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(f"""
import sys
sys.path.insert(0, {str(PROJECT)!r})
import mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
MPI.Init_thread(MPI.THREAD_SINGLE)
from mpi.world import connect
print(connect().thread_level)
MPI.Finalize()
""")
    done = subprocess.run([*launcher(2), sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    if "single" not in done.stdout:
        pytest.skip("this MPI grants more than it is asked for")
    assert done.stderr.count("found thread level single, expected serialized") == 1
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("found", "expected", "said"),
    [("funneled", "funneled", False), ("multiple", "serialized", False), ("serialized", "multiple", True)],
)
def test_a_shortfall_of_thread_level_names_the_library(found, expected, said):
    line = shortfall("An MPI 1.0", found, expected)
    assert bool(line) == said
    if said:
        assert line.startswith(f"An MPI 1.0: found thread level {found}, expected {expected}: ")
