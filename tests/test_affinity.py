"""A rank's cores: what the machine tells of them, what the launcher granted, and threads that stay on theirs."""

import json
import os
import subprocess
import sys
import threading

import pytest
from commands import MPIRUN, PROJECT

from mpi import affinity
from mpi.affinity import claim, topology
from mpi.cores import CoreAssignment
from nptrain.world import Solo

HEAD = f"""
import json, os, sys, threading
sys.path.insert(0, {str(PROJECT)!r})
from functools import partial
from mpi.affinity import claim, pin, release, started, tasks
from mpi.world import connect
from nptrain.world import Solo
"""
CLAIM = "print(claim(connect() or Solo()).threads)"
PIN = """
import numba
import numpy as np
from kernels import fast

world = connect()
assignment = claim(world)
pool = []
with started(pool):
    numba.set_num_threads(assignment.threads)
    fast.squared_norm(np.zeros(1000, np.float32))  # which starts the threads
pin(assignment, pool, numba.threading_layer() != "workqueue")
seen = []
def other(first):
    first()
    seen.append(sorted(os.sched_getaffinity(0)))
for first in (lambda: None, partial(release, assignment)):
    thread = threading.Thread(target=other, args=[first])
    thread.start()
    thread.join()
cores = [sorted(os.sched_getaffinity(task)) for task in sorted(tasks()) if task == os.getpid() or task in pool]
print(json.dumps([world.rank, assignment.compute, cores, *seen]))
"""


def ranks(tmp_path, count, *options, script=PIN):
    """Run a script on so many ranks; returns what each printed, and what all said."""
    if not MPIRUN.exists():
        pytest.skip("needs mpirun in the environment")
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores")
    path = tmp_path / "script.py"
    path.write_text(HEAD + script)
    launch = [MPIRUN, "-n", str(count), *options, sys.executable, path]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return sorted(json.loads(line) for line in done.stdout.splitlines()), done.stderr


def test_one_process_may_use_its_cores():
    assignment = claim(Solo())
    assert set(assignment.compute) <= os.sched_getaffinity(0)
    assert not assignment.communication
    assert not assignment.crowded


@pytest.mark.parametrize("limit", ["1", "none", ""])
def test_what_slurm_granted_is_kept_to(monkeypatch, limit):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", limit)
    free = claim(Solo()).threads
    assert free == 1 if limit == "1" else free >= 1


def test_threads_asked_for_are_given():
    assignment = claim(Solo(), threads=len(os.sched_getaffinity(0)) * 2 + 1, comm_threads=2)
    assert assignment.threads == len(os.sched_getaffinity(0)) * 2 + 1
    assert len(assignment.communication) == 2
    assert assignment.crowded


def test_topology_of_a_machine(tmp_path):
    for core in range(4):
        folder = tmp_path / "cpu" / f"cpu{core}" / "topology"
        folder.mkdir(parents=True)
        (folder / "physical_package_id").write_text(f"{core % 2}\n")
        (folder / "core_id").write_text("0\n")
        (tmp_path / "node" / f"node{core % 2}" / f"cpu{core}").mkdir(parents=True)
    (tmp_path / "cpu" / "cpu4").mkdir()  # switched off
    (tmp_path / "cpu" / "cpufreq").mkdir()
    node_of, physical_of = topology(tmp_path)
    assert node_of == {0: 0, 1: 1, 2: 0, 3: 1}
    assert physical_of[0] == physical_of[2] != physical_of[1] == physical_of[3]
    assert set(physical_of) == {0, 1, 2, 3}
    assert topology(tmp_path / "none") == ({}, {})


@pytest.mark.ranks
@pytest.mark.parametrize(("binding", "warned"), [("none", False), ("core", True)])
def test_cores_that_the_launcher_leaves_idle_are_named(tmp_path, monkeypatch, binding, warned):
    if warned:
        monkeypatch.setenv("I_MPI_PIN", "on")  # Intel MPI has no flag for it
        monkeypatch.setenv("I_MPI_PIN_DOMAIN", "core")
    (threads,), errors = ranks(tmp_path, 1, "--bind-to", binding, script=CLAIM)
    assert ("--bind-to none" in errors) == warned
    if warned:
        assert threads == 1


@pytest.mark.ranks
def test_threads_of_two_ranks_stay_on_cores_of_their_own(tmp_path):
    found, _ = ranks(tmp_path, 2)
    allowed = os.sched_getaffinity(0)
    used = [core for _, compute, *_ in found for core in compute]
    assert len(set(used)) == len(used)
    assert set(used) <= allowed
    for _, compute, threads, inherited, released in found:
        pinned = [cores[0] for cores in threads if len(cores) == 1]
        assert set(pinned) >= set(compute)
        assert len(inherited) == 1
        assert set(released) >= set(compute)


@pytest.mark.ranks
def test_more_ranks_than_cores_are_not_pinned(tmp_path):
    cores = len(os.sched_getaffinity(0))
    if cores > 4:
        pytest.skip("would take too many ranks")
    found, _ = ranks(tmp_path, cores + 1)
    everywhere = sorted(os.sched_getaffinity(0))
    assert all(at == everywhere for _, _, threads, *others in found for at in (*threads, *others))


def test_a_thread_goes_to_the_cores_for_communication():
    core = min(os.sched_getaffinity(0))
    seen = []

    def communicate(assignment):
        affinity.to_communication(assignment)
        seen.append(os.sched_getaffinity(0))

    for pinned in (True, False):
        assignment = CoreAssignment(cores=(core,), compute=(), communication=(core,), full=True, pinned=pinned)
        thread = threading.Thread(target=communicate, args=[assignment])
        thread.start()
        thread.join()
    assert seen == [{core}, os.sched_getaffinity(0)]


def test_a_system_that_does_not_let_threads_move(monkeypatch):
    def refuse(task, cores):
        raise PermissionError("no")

    assignment = claim(Solo())
    assert not assignment.crowded
    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    affinity.release(assignment)
    with pytest.raises(OSError, match="no"):
        affinity.pin(assignment, [])
