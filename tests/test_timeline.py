"""What a run records of its steps: that times are in order and add up to what it logs, and bin/timeline's picture."""

import json
from itertools import pairwise

import pytest
from commands import TINY, call
from images import make_dataset

from kernels import fast
from nptrain.network.arena import Arena
from nptrain.network.layers import Architecture, layers
from nptrain.report.timeline import median, read

LINE = {"phase": "1", "iteration": 0, "loss": 1.0, "hidden": 0.9,
        "spans": [["data", 0.1], ["forward", 0.3], ["backward", 0.6], ["update", 0.8]],
        "sums": [[16, 0.3, 0.3, 0.4, 0.6, 0.6],
                 [4000, 0.4, 0.4, 0.5, 0.6, 0.6], [80, 0.6, 0.6, 0.7, 0.65, 0.7]]}  # fmt: skip


@pytest.fixture(scope="module")
def folder(on_ranks, tmp_path_factory):
    """A run of four workers on two ranks, in small buckets."""
    at = tmp_path_factory.mktemp("timeline")
    make_dataset(at / "data", 11, width=36, height=34)
    on_ranks(2).call("train", *TINY, "--train-data", at / "data", "--run-dir", at / "run", "--workers", "4",
                  "--bucket-mib", "0.25", "--phase", "1", "--iterations", "3")  # fmt: skip
    return at / "run"


def entries(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def write(folder, *lines):
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


def test_spans_add_up_to_the_times_logged(folder):
    for entry in entries(folder):
        names, ends = zip(*entry["spans"], strict=True)
        assert names == ("data", "forward", "backward") * 2 + ("update",)
        assert list(ends) == sorted(ends)
        found = dict.fromkeys(names, 0.0)
        for name, begin, end in zip(names, (0, *ends), ends, strict=False):
            found[name] += end - begin
        found["update"] -= entry["gradient_wait_s"]
        for name, seconds in found.items():
            assert seconds == pytest.approx(entry[f"{name}_s"], abs=3e-4)


def test_sums_are_in_order_and_add_up_to_the_communication_logged(folder):
    for entry in entries(folder):
        (loss, *buckets), ends = entry["sums"], [end for _, end in entry["spans"]]
        assert loss[0] == 32  # with the time of waiting, whether to stop, and bad records
        assert len(buckets) > 5
        values = Arena(layers(Architecture(18, width=16), 5), fast).gradients.size
        assert sum(size for size, *_ in buckets) == 8 * values  # float64 above two workers
        for _, ready, begin, end, asked, home in entry["sums"]:
            assert ends[-4] <= ready <= begin <= end <= home <= ends[-1]  # after the last worker's data
            assert ends[-2] <= asked <= home
        sent = [times[1:4] for times in entry["sums"]]
        assert all(earlier[2] <= later[1] for earlier, later in pairwise(sent))
        count = len(sent)
        assert sum(end - begin for _, begin, end in sent) == pytest.approx(entry["communication_s"], abs=2e-4 * count)
        waited = sum(home - asked for *_, asked, home in entry["sums"])
        assert waited == pytest.approx(entry["gradient_wait_s"], abs=1e-4 * count)
        hidden = 1 - waited / entry["communication_s"]
        assert max(0, hidden) == pytest.approx(entry["hidden"], abs=2e-4 * count / entry["communication_s"])


def test_the_timeline_shows_what_was_computed_and_waited_for(folder):
    for line, entry in zip(read(folder / "metrics.jsonl"), entries(folder), strict=True):
        edges = [edge for _, begin, end in line.spans for edge in (begin, end)]
        assert edges[1:-1:2] == edges[2::2]  # no gap
        assert line.duration == pytest.approx(entry["spans"][-1][1] * 1e3)
        spent = line.spent()
        assert spent["forward"] == pytest.approx(entry["forward_s"] * 1e3, abs=0.3)
        assert line.sums[0][0] == "loss"


def test_waiting_is_cut_out_of_a_span(tmp_path):
    line, = read(write(tmp_path, LINE) / "metrics.jsonl")  # fmt: skip
    *_, update, waiting, rest = line.spans
    assert update == ("update", pytest.approx(600), pytest.approx(650))
    assert waiting == ("waiting", pytest.approx(650), pytest.approx(700))
    assert rest == ("update", pytest.approx(700), pytest.approx(800))
    assert line.sums[1] == ("0.00 MB", 400, 400, 500)


def test_the_median_of_an_even_number_is_one_of_them(tmp_path):
    ends = (0.9, 0.8, 1.0, 1.1)
    lines = [{**LINE, "iteration": i, "spans": [["update", end]]} for i, end in enumerate(ends)]
    found = read(write(tmp_path, *lines) / "metrics.jsonl")
    assert median(found).iteration == 0
    assert median(found[:3]).iteration == 0


def test_the_command_draws_a_picture(folder, tmp_path):
    output, _ = call("timeline", folder, "--out", tmp_path / "step.png")
    assert (tmp_path / "step.png").read_bytes().startswith(b"\x89PNG")
    assert "(median of 3 iterations)" in output
    output, _ = call("timeline", folder, "--phase", "1", "--iteration", "2", "--out", tmp_path / "step.svg")
    assert output.startswith("phase 1, iteration 2: ")
    assert (tmp_path / "step.svg").stat().st_size > 1000


def test_one_rank_sends_nothing(tmp_path):
    words = ["timeline", write(tmp_path / "run", LINE), "--out", tmp_path / "step.svg", "--iteration", "0"]
    for hosts, hidden in (([{}, {}], ", 90.0% of communication hidden"), ([{}], "")):
        (tmp_path / "run" / "run.json").write_text(json.dumps({"hosts": hosts}))
        output, _ = call(*words)
        assert output.startswith(f"phase 1, iteration 0: 800.0 ms{hidden}\n")
        assert ("in flight" in (tmp_path / "step.svg").read_text()) == bool(hidden)


@pytest.mark.parametrize(
    ("lines", "words", "says"),
    [
        ([], [], "metrics.jsonl: found no iteration, expected at least one"),
        ([LINE], ["--iteration", "7"], "--iteration: found 7, expected one of the run's, up to 0"),
        ([LINE], ["--phase", "9"], "--phase: found '9', expected one of 1"),
        ([LINE, {**LINE, "phase": "2"}], ["--iteration", "0"], "found 0 in several phases, expected --phase with it"),
        ([LINE, 7], [], "metrics.jsonl: line 2: damaged, expected an iteration or a test as JSON"),
        ([{**LINE, "spans": [["data"]]}], [], "metrics.jsonl: line 1: damaged"),
        ([{**LINE, "sums": [[16, 0, 0]]}], [], "metrics.jsonl: line 1: damaged"),
        ([{"phase": "1", "iteration": 0, "loss": 1.0}], [], "line 1: found no 'sums', expected 'sums' in an iteration"),
        ([LINE], ["--out", "x.txt"], "--out: found x.txt, expected a name that ends in .png, .svg or .pdf"),
        ([LINE], ["--out", "no/such/x.png"], "--out: found no/such/x.png, expected a folder that exists"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(tmp_path, lines, words, says):
    _, errors = call("timeline", write(tmp_path / "run", *lines), *words, status=2)
    assert says in errors
    assert errors.startswith("timeline: ")
    assert errors.count("\n") == 1


def test_no_such_run(tmp_path):
    _, errors = call("timeline", tmp_path / "none", status=2)
    assert (
        errors == f"timeline: {tmp_path}/none/metrics.jsonl: No such file or directory, expected the metrics of a run\n"
    )
