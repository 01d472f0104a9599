"""Ranks die under `mpirun --with-ft ulfm`, and the others go on to the same bits."""

import os
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from commands import MPIRUN, PROJECT, call, launcher
from short_runs import arguments, metrics
from test_mpi import HEAD

from bin.common.ending import holding
from nptrain.errors import RanksLost
from nptrain.recipes.schedule import Progress
from nptrain.recovery import Position, expect_majority, share_state, who_died
from nptrain.run.best import Test
from nptrain.run.checkpoint import Checkpoint
from nptrain.run.metrics import forget_after, read_entries
from nptrain.run.run_folder import RunFolder
from nptrain.world import Solo

FLAGS = ["--set", "1.max_iter=8", "--set", "1.snapshot=4", "--set", "2.max_iter=2", "--set", "2.starts_from=4", "--set",
         "test_interval=4", "--workers", "3", "--reproducible", "--threads", "1"]  # fmt: skip


@pytest.fixture(scope="module")
def ulfm():
    """A function: run a program on so many ranks that may die; returns the finished process."""
    launcher(1)
    version = subprocess.run([MPIRUN, "--version"], capture_output=True, text=True).stdout
    if not re.search(r"Open MPI\) [5-9]", version):
        pytest.skip("needs Open MPI 5, which has ULFM")

    def of(ranks, *words):
        words = [MPIRUN, "--with-ft", "ulfm", "-n", ranks, sys.executable, *words]
        return subprocess.run([*map(str, words)], capture_output=True, text=True, errors="replace", timeout=120)

    return of


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The folder of a run of one process, in which nothing dies."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    call("train", *arguments(data, folder, *FLAGS))
    return folder


@pytest.mark.ranks
@pytest.mark.parametrize(
    ("deaths", "lines"),
    [
        # one in a sum, rank 0 in a test, and another one while the others recover from that
        ("sum:5:2,test:1:0,recovery:2:1",
         [r"rank 2 on \S+ \(process \d+\) died: 3 of 4 ranks go on at phase 1, iteration [12], after \d+ ms",
          r"rank 0 on \S+ \(process \d+\), rank 1 on .* died: 1 of 3 ranks go on at phase 1, iteration 4, after"]),
        # one where some have updated, and rank 3 has not; rank 0 while it writes a checkpoint; the next one at the end
        ("update:3:1,late:3:3,checkpoint:2:0,finish:1:2",
         [r"rank 1 on \S+ .* died: 3 of 4 ranks go on at phase 1, iteration 3, after",
          r"rank 0 on \S+ .* died: 2 of 3 ranks go on at phase 1, iteration 8, after",
          r"rank 2 on \S+ .* died: 1 of 2 ranks go on at phase 2, iteration 2, after"]),
    ],
    ids=["sum-test-recovery", "update-checkpoint-finish"],
)  # fmt: skip
def test_the_others_go_on_to_the_same_bits(deaths, lines, ulfm, data, whole, tmp_path):
    """Of four ranks for three workers, one is a spare."""
    words = arguments(data, tmp_path / "run", *FLAGS, "--snapshot-folder", tmp_path)
    done = ulfm(4, PROJECT / "tests" / "deaths.py", deaths, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    said = [line for line in done.stdout.splitlines() if " died: " in line]
    assert len(said) == len(lines), said
    for line, pattern in zip(said, lines, strict=True):
        assert re.match(pattern, line), line
    expected = metrics(whole)
    assert metrics(tmp_path / "run") == [
        {**entry, "test_loss": pytest.approx(entry["test_loss"])} if "top1" in entry else entry for entry in expected
    ]
    for path in (whole / "checkpoints").glob("*.[cs]*"):
        assert (tmp_path / "run" / "checkpoints" / path.name).read_bytes() == path.read_bytes(), path.name
    assert {path.name for path in (tmp_path / "run").iterdir()} == {path.name for path in whole.iterdir()}
    left = [path.name for path in (tmp_path / f"nptrain-{os.getuid()}").iterdir() if path.suffix != ".rank"]
    assert left == []


@pytest.mark.ranks
def test_what_ranks_tell_each_other_after_deaths(ulfm, tmp_path):
    """In sums of two threads; a death that no one expects ends all, with a line."""
    script = tmp_path / "script.py"
    body = """
import os
for turn, victims in enumerate(((1,), (0, 4), (3,))):
    first, size = world.members[world.rank], world.size
    ones, sums, out = np.ones(100_000), np.ones(1000), np.empty(10)
    try:
        with world.reducer(2) as reducer:
            futures = [reducer.start(world.allreduce, array) for array in (ones, sums)]
            if first in victims:
                os.kill(os.getpid(), 9)
            for future in futures:
                future.result()
        world.barrier()
        raise AssertionError("nobody has noticed")
    except world.failures:
        if turn == 2:
            raise
        lost = world.recover()
    assert [each.rank for each in lost] == list(victims) and all(each.dead for each in lost), lost
    assert [each.place for each in lost] == ([1] if turn == 0 else [0, 3]) and lost[0].host == world.host
    assert world.size == size - len(victims) and world.members[world.rank] == first
    assert world.allgather((world.rank, world.local_rank)) == [(rank, rank) for rank in range(world.size)]
    assert world.bcast(first) == world.members[0] and world.allreduce_scalars([1, first])[0] == world.size
    values = np.full(5, float(first))
    world.bcast_array(values, 1)
    assert (values == world.members[1]).all()
    with world.reducer(2) as reducer:
        reducer.start(world.allreduce, sums[:0]).result()
        reducer.start(world.allreduce_by, [np.ones(10)], [1] * world.size, sum, out).result()
    assert (out == world.size).all()
    world.barrier()
"""
    indented = "".join(f"    {line}\n" for line in body.strip().splitlines())
    script.write_text(f"{HEAD}{indented}\nsys.exit(run('script.py', main, world=connect()))\n")
    done = ulfm(5, script)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("script.py: a rank has died, or MPI has failed (") == 1


def test_a_rank_that_dies_before_mpi_starts_ends_the_others_after_a_time():
    body = f"import sys, time; sys.path.insert(0, {str(PROJECT)!r}); from mpi.limited import limited\n"
    body += "with limited(10): pass\nwith limited(0.1): time.sleep(60)"
    done = subprocess.run([sys.executable, "-c", body], capture_output=True, text=True, timeout=50,
                          env={**os.environ, "OMPI_COMM_WORLD_RANK": "3"})  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    assert re.fullmatch(
        r"rank 3 on \S+: MPI has not started within 0 s: a rank has died before it, or cannot be reached\n", done.stderr
    )


def lost(*places, dead=False):
    return [SimpleNamespace(place=place, rank=place, host=f"h{place}", process=7, dead=dead) for place in places]


@pytest.mark.parametrize(
    ("workers", "size", "gone", "goes_on"),
    [
        (4, 4, lost(3), True),
        (4, 4, lost(2, 3), True),  # half of them, and rank 0 is here
        (4, 4, lost(0, 1), False),
        (4, 4, lost(1, 2, 3), False),
        (4, 4, lost(1, 2, 3, dead=True), True),  # they do not go on elsewhere
        (4, 4, [*lost(0, dead=True), *lost(3)], True),
        (2, 4, lost(2, 3), True),  # spares do not count
        (2, 4, lost(0, 1), False),
        (3, 4, [], True),
    ],
)
def test_of_two_parts_only_one_goes_on(workers, size, gone, goes_on):
    if goes_on:
        expect_majority(workers, size, gone)
    else:
        with pytest.raises(RanksLost, match="the others may go on; start again with --resume"):
            expect_majority(workers, size, gone)


def test_a_rank_that_is_behind_takes_the_state_of_one_that_is_ahead():
    ahead, arena = Position("2", 5, Progress((1.0,))), SimpleNamespace(
        **{name: np.zeros(3) for name in ("weights", "history", "statistics", "factors")})  # fmt: skip
    test, place = Test("2", 5, 0.5), (1, 5, True, 1)

    def world(*answers):
        given = iter(answers)
        return SimpleNamespace(rank=0, allgather=lambda _: next(given),
                               bcast_array=lambda array, root: array.__setitem__(slice(None), root))  # fmt: skip

    def trainer(at, *answers):
        return SimpleNamespace(
            at=at, world=world(*answers), network=SimpleNamespace(arena=arena), tests=[], before_update=lambda: None,
            recipe=SimpleNamespace(phases=[SimpleNamespace(name=name) for name in "12"]),
            snapshots=SimpleNamespace(lines=[]))  # fmt: skip

    told = [None, (ahead, [test], ["a line"])]
    behind = trainer(Position("2", 4), [(1, 4, True, 0), place], told)
    assert share_state(behind)
    assert (behind.at, behind.tests, behind.snapshots.lines) == (ahead, [test], ["a line"])
    assert all((array == 1).all() for array in vars(arena).values())
    arena.weights[:] = 7
    same = trainer(ahead, [(1, 5, True, 0), place], told)
    assert share_state(same), "it has not made the test"
    assert (same.tests, arena.weights[0]) == ([test], 7)
    new = trainer(Position("1", 8), [(0, 8, True, 0), (1, 0, False, 0)], [None, (Position("2", begun=False), [], [])])
    assert share_state(new)
    assert (new.at.begun, arena.weights[0]) == (False, 7), "a phase that has not begun loads its weights"
    with pytest.raises(RanksLost, match="no rank that is left has a whole state"):
        share_state(trainer(None, [None, None]))


def test_a_new_rank_0_holds_the_folder(tmp_path):
    folder, ranks = RunFolder(tmp_path / "run"), Solo()
    ranks.rank = 1
    with holding(folder, False, ranks) as hold:
        assert not folder.path.exists()
        assert hold(60)
        assert (folder.path / "lock").exists()
        assert not hold(60), "it has it already"
    assert not folder.path.exists()


def test_where_a_run_goes_on(tmp_path):
    assert Position.first(["1", "2"]) == Position("1", 0)
    assert Position.first(["2"], Checkpoint(tmp_path, "1", 8, Progress((1.0,)))) == Position("1", 8, Progress((1.0,)))
    assert who_died(lost(*range(6))).endswith("rank 3 on h3 (process 7) and 2 more died or cannot be reached")
    assert who_died(lost(5, dead=True)) == "rank 5 on h5 (process 7) died"
    path, (one, test, two) = tmp_path / "metrics.jsonl", (
        {"phase": "1", "iteration": 0, "loss": 1.0}, {"phase": "1", "iteration": 1, "top1": 0.5},
        {"phase": "1", "iteration": 1, "loss": 0.5})  # fmt: skip
    for tested, expected in ((True, [one, test]), (False, [one])):
        path.write_text("")
        forget_after(path, Checkpoint(tmp_path, "1", 1), ["1"], [one, test, two], tested)
        assert read_entries(path) == expected
