"""A run in which something is waited for too long ends, and says for whom."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from commands import PROJECT, call, launcher
from short_runs import arguments

from nptrain.data.lmdb_dataset import LmdbDataset
from nptrain.run import watchdog
from nptrain.run.watchdog import OF_RANKS, Watchdog
from nptrain.world import World


@pytest.fixture
def ended(monkeypatch):
    """An Event, which is set in place of the end of all ranks."""
    event = threading.Event()
    monkeypatch.setattr(Watchdog, "_end_all", lambda _: event.set())
    monkeypatch.setattr(watchdog, "DELAY", 0)
    monkeypatch.setattr(watchdog, "START", 0)
    return event


def world(rank=0, hosts=("a",)):
    found = [(host, f"run.{place}.rank") for place, host in enumerate(hosts)]
    return SimpleNamespace(rank=rank, host=hosts[rank], allgather=lambda _: found, barrier=lambda: "passed")


def lines(capfd):
    return [line for line in capfd.readouterr().err.splitlines() if line.startswith("train: ")]


def test_waits_that_end_are_no_stall(ended, capfd):
    with Watchdog(0.2, world()) as dog:
        for _ in range(30):
            with dog.waiting("a record"):
                time.sleep(0.02)
            assert dog.watched_world().barrier() == "passed"
    assert not ended.is_set()
    assert capfd.readouterr().err == ""
    with Watchdog() as dog, dog.waiting("nothing"):
        assert dog.watched_data("data") == "data"


def test_a_start_has_more_time(ended, monkeypatch):
    monkeypatch.setattr(watchdog, "START", 1000)
    with Watchdog(0.2, world()) as dog, dog.waiting("a record"):
        assert not ended.wait(1)
        dog.iteration = 0
        assert ended.wait(20)


def test_a_wait_that_lasts_is_said_with_the_stacks(ended, capfd):
    with Watchdog(0.2, world()) as dog, dog.waiting("a record"):
        dog.iteration = 7
        assert ended.wait(20)
    errors = capfd.readouterr().err
    assert errors.startswith("train: stalled: rank 0 on a has waited 0 s for a record in iteration 7\n")
    assert "test_a_wait_that_lasts_is_said_with_the_stacks" in errors  # of the stacks


@pytest.mark.parametrize("name", watchdog.COLLECTIVES)
def test_calls_that_wait_for_other_ranks_are_watched(ended, name):
    ranks = world()
    setattr(ranks, name, lambda *_: ended.wait(20) or [("a", None)])
    with Watchdog(0.2, world()) as dog:
        dog._world = ranks
        getattr(dog.watched_world(), name)(1)
        assert ended.is_set()


def test_what_waits_is_known():
    """A new method of a world is either watched, or known to end."""
    known = {"end_all", "end_together", "one_per_host_first"}
    methods = {name for name, value in vars(World).items() if callable(value) and not name.startswith("_")}
    assert methods == {*watchdog.COLLECTIVES} | known


def test_who_is_late_is_named(ended, capfd, tmp_path):
    """Rank 1 waits, too; rank 2 computes, 3 is dead, 4 is stopped, 5 reads, and of 6 nothing is known."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    now, mine = time.monotonic(), os.getpid()
    for rank, process, what, since, written in (
        (1, mine, OF_RANKS, 9, 0),
        (2, mine, None, 40, 0),
        (3, dead.pid, None, 90, 90),
        (4, mine, OF_RANKS, 70, 60),
        (5, mine, "a record", 30, 0),
    ):
        at = now - written if written else now + 60  # not old, however long the test takes
        state = {"process": process, "what": what, "since": now - since, "at": at, "iteration": 7}
        (tmp_path / f"run.{rank}.rank").write_text(json.dumps(state))
    with Watchdog(0.2, world(0, ("a",) * 7), tmp_path, "run") as dog, dog.waiting(OF_RANKS):
        assert ended.wait(20)
    (line,) = lines(capfd)
    assert re.search(
        rf" for other ranks in the start, late: rank 2, process {mine}, which computes in iteration 7 since 4\d s; "
        rf"rank 3, process {dead.pid}, which is dead; rank 4, process {mine}, which has not run for 6\d s; "
        rf"rank 5, process {mine}, which waits for a record in iteration 7 since 3\d s; "
        "rank 6, of which nothing is known$",
        line,
    )
    assert not (tmp_path / "run.0.rank").exists()


def test_a_rank_of_another_host_is_late(ended, capfd):
    for hosts, named in (("acb", "b or c"), ("abcdef", "one of 5 other hosts")):
        ended.clear()
        with Watchdog(0.2, world(0, tuple(hosts))) as dog, dog.waiting(OF_RANKS):
            assert ended.wait(20)
        assert lines(capfd)[0].endswith(f", late: a rank of {named}")


def test_ranks_of_a_host_see_each_other(ended, capfd, tmp_path):
    hosts = ("a", "a")
    with Watchdog(30, world(1, hosts), tmp_path, "run") as late:
        late.iteration = 3
        with Watchdog(2, world(0, hosts), tmp_path, "run") as dog, dog.waiting(OF_RANKS):
            assert ended.wait(20)
    assert f", late: rank 1, process {os.getpid()}, which computes in iteration 3 since " in lines(capfd)[0]
    assert list(tmp_path.iterdir()) == []


def test_ranks_that_have_died_are_forgotten(ended, capfd, tmp_path):
    """Rank 1 of three has died, and rank 2 is rank 1 now."""
    ranks = world(0, ("a", "a", "a"))
    for rank in (1, 2):
        (tmp_path / f"run.{rank}.rank").write_text("{}")
    with Watchdog(1, ranks, tmp_path, "run") as dog:
        ranks.allgather = lambda _: [("a", "run.0.rank"), ("a", "run.2.rank")]
        dog.ranks_have_changed()
        assert {path.name for path in tmp_path.iterdir()} == {"run.0.rank", "run.2.rank"}
        with dog.waiting(OF_RANKS):
            assert ended.wait(20)
    assert lines(capfd)[0].endswith(", late: rank 1, of which nothing is known")


def test_files_of_ranks_that_were_killed_go_at_the_next_start(tmp_path):
    (tmp_path / "killed.0.rank").write_text("{}")
    with Watchdog(30, world(1, ("a", "a")), tmp_path, "other"), Watchdog(30, world(0), tmp_path, "run"):
        assert {path.name for path in tmp_path.iterdir()} == {"other.1.rank", "run.0.rank"}
    assert list(tmp_path.iterdir()) == []


def test_the_time_in_which_the_process_is_stopped_does_not_count(ended, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with Watchdog(0.2, world()) as dog, dog.waiting("a record"):
        clock[0] = 1000.0
        dog._end.wait(0.1)
        assert not ended.is_set()


def test_a_file_system_that_hangs_ends_a_run(data, tmp_path, monkeypatch, capfd, ended):
    read, turns = LmdbDataset.__getitem__, iter(range(40))

    def hangs(self, index):
        if next(turns, None) == 20:
            ended.wait(30)
        return read(self, index)

    monkeypatch.setattr(LmdbDataset, "__getitem__", hangs)
    words = ["--phase", "1", "--iterations", "4", "--workers", "2", "--threads", "1", "--stall-timeout", "1"]
    call("train", *arguments(data, tmp_path / "run", *words))
    (line,) = lines(capfd)
    assert line.startswith("train: stalled: rank 0 on ")
    assert " for a record in iteration " in line


SLEEPER = f"""
import sys, time
sys.path.insert(0, {str(PROJECT)!r})
from bin.commands import train
from bin.launch import run
from mpi.world import connect
from nptrain.run import watchdog
world = connect()
watchdog.START, watchdog.DELAY = 1, 0.1
opened = train.LmdbDataset.__init__
def hangs(*args):
    time.sleep(100 * world.rank)
    opened(*args)
train.LmdbDataset.__init__ = hangs
sys.exit(run("train", train.main, sys.argv[1:], world))
"""


@pytest.mark.ranks
def test_a_start_that_hangs_ends(data, tmp_path):
    script = tmp_path / "sleeper.py"
    script.write_text(SLEEPER)
    flags = arguments(data, tmp_path / "run", "--stall-timeout", "1", "--workers", "2", "--threads", "1",
                      "--snapshot-folder", tmp_path)  # fmt: skip
    words = [*launcher(2), sys.executable, script, *flags]
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=60)
    assert done.returncode == watchdog.STALLED
    assert re.search(r"^train: stalled: rank 0 on \S+ has waited \d s for other ranks in the start, late: rank 1, "
                     r"process \d+, which computes in the start since \d s$", done.stderr, re.MULTILINE)  # fmt: skip


def test_less_than_no_time_is_refused(data, tmp_path):
    _, errors = call("train", *arguments(data, tmp_path / "run", "--stall-timeout", "-1"), status=2)
    assert errors == "train: --stall-timeout: found -1, expected 0 or more\n"
