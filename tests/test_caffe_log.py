"""bin/train --caffe-log: what scripts for Caffe's logs find in it is what metrics.jsonl says."""

import json
import os
import re
from datetime import datetime, timedelta

import pytest
from commands import call
from short_runs import SHORT, arguments, metrics

PREFIX = re.compile(r"I(\d\d)(\d\d) (\d\d):(\d\d):(\d\d)\.(\d{6}) +(\d+) \w+\.cpp:\d+\] (.*)")
NUMBER = r"([-+.\deE]+)"
MORE = [*SHORT, "--workers", "1", "--set", "1.display=2", "--set", "2.display=0", "--set", "1.average_loss=3"]


def lines(path):
    """(time, message) of each line; all have glog's prefix, of this process."""
    found = []
    for line in path.read_text().splitlines():
        *clock, process, message = PREFIX.fullmatch(line).groups()
        assert int(process) == os.getpid()
        found.append((datetime(datetime.now().year, *map(int, clock)), message))
    return found


def parsed(messages):
    """({iteration: {"loss", "lr", "output"}}, {iteration: {name of a test's output: value}})."""
    train, test, at = {}, {}, None
    for message in messages:
        if found := re.match(r"Iteration (\d+)", message):
            at = int(found[1])
        if found := re.search(rf"Iteration \d+, loss = {NUMBER}$", message):
            train.setdefault(at, {})["loss"] = float(found[1])
        if found := re.search(rf"lr = {NUMBER}", message):
            train.setdefault(at, {})["lr"] = float(found[1])
        if found := re.search(rf"Train net output #0: (\S+) = {NUMBER} \(\* 1 = {NUMBER} loss\)", message):
            train.setdefault(at, {})["output"] = float(found[2])
            assert (found[1], found[2]) == ("loss", found[3])
        if found := re.search(rf"Test net output #(\d): (\S+) = {NUMBER}", message):
            test.setdefault(at, {})[found[2]] = float(found[3])
            assert list(test[at]).index(found[2]) == int(found[1])
    return train, test


def phases(path):
    """The messages of each phase: a line Solving begins one."""
    found = []
    for _, message in lines(path):
        if message.startswith("Solving "):
            found.append([])
        found[-1].append(message)
    return found


def check(messages, entries, display):
    """That the messages of a phase say what the entries of metrics.jsonl do."""
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    shown = {e["iteration"]: e for e in entries if "loss" in e and display and e["iteration"] % display == 0}
    tested = {e["iteration"]: e for e in entries if "test_loss" in e}
    train, test = parsed(messages)
    assert (list(train), list(test)) == (list(shown), list(tested))
    for iteration, entry in shown.items():
        last = losses[max(0, iteration - 2) : iteration + 1]
        expected = {"loss": sum(last) / len(last), "output": entry["loss"], "lr": entry["lr"]}
        assert train[iteration] == pytest.approx(expected, rel=1e-5)
    for iteration, entry in tested.items():
        expected = {"loss": entry["test_loss"], "loss3/top-1": entry["top1"], "loss3/top-5": entry["top5"]}
        assert test[iteration] == pytest.approx(expected, rel=1e-5)


def test_the_log_says_what_the_metrics_say(data, tmp_path):
    log, run = tmp_path / "logs" / "train.log", tmp_path / "run"
    began = datetime.now()
    call("train", *arguments(data, run, *MORE, "--caffe-log", log))
    entries, (first, second) = metrics(run), phases(log)
    check(first, [e for e in entries if e["phase"] == "1"], 2)
    check(second, [e for e in entries if e["phase"] == "2"], 0)
    assert first[:2] == ["Solving ResNet-18 of width 16", "Learning Rate Policy: poly"]
    state = run / "checkpoints" / "phase1_iter_4.solverstate"
    at = first.index(f"Snapshotting to binary proto file {state.with_suffix('.caffemodel')}")
    assert first[at + 1] == f"Snapshotting solver state to binary proto file {state}"
    assert "Iteration 3" not in " ".join(first)
    assert first[at + 2].startswith("Iteration 4, loss = ")
    assert (first[-1], second[-1]) == ("Optimization Done.", "Optimization Done.")
    times = [time for time, _ in lines(log)]
    assert sorted(times) == times
    assert began - timedelta(seconds=1) < times[0] < datetime.now()


def test_a_run_that_resumes_continues_its_log_and_another_does_not(data, tmp_path):
    log, run = tmp_path / "train.log", tmp_path / "run"
    more = [*MORE, "--phase", "1", "--caffe-log", log]
    call("train", *arguments(data, run, *more, "--iterations", "4"))
    (before,) = phases(log)
    assert before[-1] == "Optimization stopped early."
    _, errors = call("train", *arguments(data, tmp_path / "other", *more), status=2)
    assert errors == f"train: --caffe-log: {log} exists, expected a new file, or --resume to continue it\n"
    assert not (tmp_path / "other").exists()
    call("train", *arguments(data, run, *more, "--resume"))
    first, second = phases(log)
    assert first == before
    assert list(parsed(second)[0]) == [4, 6, 8, 10]
    train, _ = parsed([*first, *second])
    losses = [e["loss"] for e in metrics(run) if "loss" in e]
    assert [train[i]["output"] for i in range(0, 12, 2)] == pytest.approx(losses[::2], rel=1e-5)


def test_what_cannot_be_written_ends_the_command_at_once(data, tmp_path):
    os.mkfifo(tmp_path / "pipe")  # which nobody reads
    for name, line in (
        (data, "Is a directory"),
        (tmp_path / "pipe", "No such device or address"),
    ):
        _, errors = call("train", *arguments(data, tmp_path / "run", "--caffe-log", name), status=2)
        assert errors == f"train: --caffe-log: {name} cannot be written: {line}\n"
    assert not (tmp_path / "run").exists()


def test_on_standard_error_and_by_rank_0_alone(data, tmp_path, on_ranks):
    more = [*MORE, "--phase", "1", "--iterations", "1", "--set", "test_interval=0"]
    _, errors = call("train", *arguments(data, tmp_path / "run", *more, "--caffe-log", "-"))
    (tmp_path / "stderr").write_text(errors)
    assert [message.split(",")[0] for _, message in lines(tmp_path / "stderr")][2] == "Iteration 0"
    log = tmp_path / "ranks.log"
    on_ranks(2).call("train", *arguments(data, tmp_path / "ranks", *more, "--caffe-log", log))
    assert log.read_text().count("Solving") == 1
    assert log.read_text().count("Iteration 0, loss = ") == 1


def test_a_test_without_a_result(data, tmp_path):
    log = tmp_path / "log"
    more = ["--set", "depth=50", "--set", "test_initialization=true", "--iterations", "1", "--phase", "1"]
    call("train", *arguments(data, tmp_path / "run", *more, "--workers", "1", "--caffe-log", log))
    messages = [message for _, message in lines(log)]
    assert messages[2:4] == ["Iteration 0, Testing net (#0)", "    Test net output #0: loss = nan (* 1 = nan loss)"]
    entry = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert entry["test_loss"] is None
