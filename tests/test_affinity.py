"""Threads a rank: its share of the cores it may use."""

import os
import subprocess
import sys

import pytest
from commands import MPIRUN, PROJECT

from mpi.affinity import threads_for, threads_of
from mpi.solo import Solo

FOUR = frozenset(range(4))


@pytest.mark.parametrize(
    ("mine", "sets", "quota", "threads"),
    [
        (FOUR, [FOUR], None, 4),
        (FOUR, [FOUR] * 2, None, 2),
        (FOUR, [FOUR] * 3, None, 1),
        (FOUR, [FOUR] * 9, None, 1),
        ({0}, [{0}, {1}], None, 1),
        ({0, 1}, [{0, 1}, {2, 3}], None, 2),
        ({0, 1}, [{0, 1}, {2, 3}, {0, 1}, {2, 3}], None, 1),
        (FOUR, [FOUR], 2.5, 2),
        (FOUR, [FOUR] * 2, 3.0, 1),
        (FOUR, [FOUR], 0.5, 1),
        (FOUR, [FOUR], 64.0, 4),
    ],
)
def test_threads_of(mine, sets, quota, threads):
    assert threads_of(mine, sets, quota) == threads


def test_one_process_may_use_its_cores():
    assert 1 <= threads_for(Solo()) <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(("binding", "warned"), [("none", False), ("core", True)])
def test_cores_that_the_launcher_leaves_idle_are_named(tmp_path, binding, warned):
    if not MPIRUN.exists():
        pytest.skip("needs mpirun in the environment")
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores")
    script = tmp_path / "script.py"
    script.write_text(f"""
import sys
sys.path.insert(0, {str(PROJECT)!r})
from mpi.affinity import threads_for
from mpi.world import connect
print(threads_for(connect()))
""")
    launch = [MPIRUN, "-n", "1", "--bind-to", binding, sys.executable, script]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert ("--bind-to none" in done.stderr) == warned
    if warned:
        assert done.stdout == "1\n"
