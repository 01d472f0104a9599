"""Ranks that are slower than the others for long are named once."""

import json
import time
from types import SimpleNamespace

from commands import call
from short_runs import arguments, metrics

from nptrain.run import stragglers
from nptrain.run.log import Log
from nptrain.run.stragglers import ITERATIONS, Stragglers, line

SLOW = {"rank": 1, "host": "<b>", "iterations": [0, 19], "worker_s": 0.4, "median_s": 0.2,
        "parts_s": {"images": 0.0, "forward and backward": 0.4}}  # fmt: skip


def said(steps, workers=(1, 1, 1), iterations=ITERATIONS):
    """What ranks say that need so many seconds for forward and for backward; {iteration: lines}."""
    sent = {}
    worlds = [SimpleNamespace(rank=rank, size=len(steps), host=f"node-{rank}") for rank in range(len(steps))]
    ranks = [Stragglers(world, own, set()) for world, own in zip(worlds, workers, strict=True)]
    for world in worlds[1:]:
        world.allgather = lambda value, world=world: (
            sent.__setitem__(world.rank, value) or [None, (world.host, 1, {"x": 1.0})]
        )
    worlds[0].allgather = lambda value: [value, *(sent[rank] for rank in range(1, len(steps)))]
    found = {}
    for iteration in range(iterations):
        times = [{"forward_s": step(iteration), "backward_s": step(iteration), "data_s": 0.0} for step in steps]
        for rank in (*range(1, len(steps)), 0):
            slow = ranks[rank].after(iteration, times[rank])
        if slow:
            found[iteration] = [line(each) for each in slow]
    return found


def test_a_slow_rank_is_named_once():
    lines = said([lambda i: 0.1, lambda i: 0.1, lambda i: 0.2], iterations=3 * ITERATIONS)
    assert lines == {
        19: [
            "rank 2 on node-2 is slow: 0.400 s for each of its workers in iterations 0 to 19, the median of all ranks "
            "is 0.200 s: images 0.000 s, forward and backward 0.400 s, update 0.000 s, log 0.000 s"
        ]
    }


def test_a_rank_is_named_once_in_all_phases_and_with_another_number():
    def named(rank, host):
        return Stragglers(SimpleNamespace(size=2, host="a", allgather=lambda mine: pair(mine, rank, host)), 1, names)

    def pair(mine, rank, host):
        other = (host, 7, {"images": 9.0})
        return [mine, other] if rank else [other, mine]

    def lines(stragglers):
        return [line(each)[:12] for i in range(ITERATIONS) for each in stragglers.after(i, {"forward_s": 0.1})]

    names = set()
    assert lines(named(1, "b")) == ["rank 1 on b "]
    assert lines(named(1, "b")) == []  # another phase
    assert lines(named(0, "b")) == []  # rank 0 has died
    assert lines(named(0, "c")) == ["rank 0 on c "]


def test_a_slow_disk_below_the_run_s_folder_is_a_part(data, tmp_path, monkeypatch):
    found, write = [], Log.iteration
    monkeypatch.setattr(Log, "iteration", lambda *args, **named: time.sleep(0.02) or write(*args, **named))
    monkeypatch.setattr(stragglers.Stragglers, "after", lambda _, iteration, times: found.append(times["log_s"]) or [])
    words = ["--phase", "1", "--iterations", "3", "--workers", "1", "--threads", "1"]
    call("train", *arguments(data, tmp_path / "run", *words))
    assert [seconds >= 0.02 for seconds in found] == [False, True, True]


def test_rank_0_is_named_too_and_of_two_the_slower():
    assert "rank 0 on node-0 is slow" in said([lambda i: 0.2, lambda i: 0.1], (1, 1))[19][0]


def test_who_is_not_slow_is_not_named():
    assert said([lambda i: 0.1, lambda i: 0.14, lambda i: 0.1]) == {}
    assert said([lambda i: 0.1, lambda i: 0.1 + 0.3 * (i == 5), lambda i: 0.1]) == {}  # once is not for long
    assert said([lambda i: 0.1, lambda i: 0.2, lambda i: 0.0], (1, 2, 0)) == {}  # two workers; none
    assert said([lambda i: 0.0001, lambda i: 0.001, lambda i: 0.0001]) == {}
    assert said([lambda i: 1.0], (1,)) == {}


def test_the_line_is_in_the_log_and_in_the_metrics(data, tmp_path, monkeypatch):
    monkeypatch.setattr(stragglers.Stragglers, "after", lambda _, iteration, times: [SLOW] * (iteration == 1))
    words = ["--phase", "1", "--iterations", "3", "--workers", "1", "--threads", "1"]
    output, _ = call("train", *arguments(data, tmp_path / "run", *words))
    assert output.count("rank 1 on <b> is slow: 0.400 s for each of its workers in iterations 0 to 19, ") == 1
    assert [entry.get("slow") for entry in metrics(tmp_path / "run")[:3]] == [None, [SLOW], None]
    call("report", tmp_path / "run", "--records", "0")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<h3>Slow ranks</h3>" in page
    cells = ("1", "&lt;b&gt;", "1", "0 to 19", "0.400", "0.200", "images 0.000, forward and backward 0.400")
    assert "".join(f"<td>{cell}</td>" for cell in cells) in page


def test_a_report_without_slow_ranks_does_not_speak_of_them(data, tmp_path):
    words = ["--phase", "1", "--iterations", "1", "--workers", "1", "--threads", "1"]
    call("train", *arguments(data, tmp_path / "run", *words))
    path = tmp_path / "run" / "metrics.jsonl"
    call("report", tmp_path / "run", "--records", "0")
    assert "Slow ranks" not in (tmp_path / "run" / "report.html").read_text()
    first, *rest = path.read_text().splitlines(keepends=True)
    path.write_text(json.dumps({**json.loads(first), "slow": ["rank 1 is slow"]}) + "\n" + "".join(rest))
    call("report", tmp_path / "run", "--records", "0")  # as a version before wrote it
    assert "<td>rank 1 is slow</td>" in (tmp_path / "run" / "report.html").read_text()
