"""The log of a run: what people see, and metrics.jsonl, also where a test has no result."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from commands import call
from images import image, image_file
from short_runs import arguments, metrics

from kernels import naive
from nptrain.data.augment import Transform
from nptrain.data.datum import encoded_datum
from nptrain.data.lmdb_dataset import LmdbDataset, write_lmdb
from nptrain.evaluate import evaluate
from nptrain.network.resnet import ResNet
from nptrain.recipes.published import get_recipe
from nptrain.recipes.schedule import Progress, advance
from nptrain.run.checkpoint import Checkpoint
from nptrain.run.log import Log
from nptrain.run.metrics import forget_after
from nptrain.world import Solo


def test_people_see_the_smoothed_loss_as_often_as_display_says(tmp_path):
    phase = replace(get_recipe("digits").phases[0], display=3, average_loss=2)
    losses, progress, said = [8.0, 6.0, 2.0, 4.0, 1.0, 3.0, 7.0, 9.0], Progress(), io.StringIO()
    log = Log(tmp_path, said)
    log.begin(phase, 0, 8)
    for iteration, loss in enumerate(losses):
        progress = advance(progress, phase, iteration, loss)
        log.iteration(iteration, 0.1, loss, 2.0 ** (iteration % 3), 0.0, smoothed_loss=progress.smoothed_loss)
    log.close()
    lines = [line.split("  ")[1:3] for line in said.getvalue().splitlines()]
    assert lines == [["1/8", "loss 8.0000"], ["4/8", "loss 3.0000"], ["7/8", "loss 5.0000"], ["8/8", "loss 8.0000"]]
    speeds = [line.split("  ")[4] for line in said.getvalue().splitlines()]
    assert speeds == [f"{speed} images/s" for speed in (1.0, 1.7, 1.7, 2.0)]  # 1.7: of 2, 4 and 1
    assert [entry["loss"] for entry in metrics(tmp_path)] == losses


@pytest.mark.parametrize(("columns", "fields"), [(80, 6), (100, 7), (8, 1)])
def test_a_terminal_shows_whole_fields(tmp_path, columns, fields):
    said = io.StringIO()
    log = Log(tmp_path, said)
    log.columns = columns
    log.begin(get_recipe("digits").phases[0], 0, 100_000, epoch=0.001)
    for iteration in range(2):
        log.iteration(iteration, 0.01234, 1.5, 123.4, 0.0, smoothed_loss=1.5)
    log.close()
    _, *lines = said.getvalue().split("\r")
    assert {len(line) for line in lines} == {columns - 1}
    whole = ["phase 1", "2/100000", "epoch 0.00/100.00", "loss 1.5000", "0:00 left", "123.4 images/s", "lr 0.01234"]
    found = lines[1].rstrip().split("  ")
    assert len(found) == fields
    assert all(a == b or "left" in b for a, b in zip(found, whole, strict=False))


@pytest.mark.parametrize("depth", [18, 50])
def test_before_the_first_iteration_the_running_averages_are_empty(data, tmp_path, depth):
    """Zero mean and variance, as in Caffe: large scores at depth 18; at 50 they overflow float32."""
    more = ["--set", "1.test_initialization=true", "--iterations", "1", "--phase", "1", "--set", f"depth={depth}"]
    output, errors = call("train", *arguments(data, tmp_path / "run", *more, "--workers", "1"))
    entry = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0], parse_constant=pytest.fail)
    assert errors == ""
    if depth == 18:
        assert 10 < entry["test_loss"] <= 87.3366
        assert entry["top5"] == 1
        return
    why = "the running averages are empty, and the scores overflow"
    nothing = {"test_loss": None, "top1": None, "top5": None}
    del entry["time"]
    assert entry == {"phase": "1", "iteration": 0, **nothing, "why": why}
    assert f"phase 1  test after 0 iterations: no result: {why}\n" in output


def test_in_float64_the_loss_is_the_clamped_one(tmp_path):
    """As the original prints it: -log of the smallest normal float32, for each image whose probability is 0."""
    write_lmdb(
        tmp_path / "data", [(f"{i}", encoded_datum(image_file(image(i, width=36, height=36)), i)) for i in range(4)]
    )
    network = ResNet(naive, 4, dtype=np.float64)
    network.arena.initialise(0)
    data, transform = LmdbDataset(tmp_path / "data"), Transform("test", 32)
    result = evaluate(network, data, transform, replace(get_recipe("digits"), classes=4), Solo(), 1)
    assert result["loss"] == pytest.approx((1 - result["top1"]) * 87.3365, rel=1e-5)
    assert result["top1"] < 1


def test_a_log_is_json_whatever_the_numbers_are(tmp_path):
    log = Log(tmp_path, io.StringIO())
    log.begin(get_recipe("digits").phases[0], 0, 8)
    log.iteration(0, float("inf"), 1.0, 1.0, 0.0, smoothed_loss=1.0)
    log.test(1, {"loss": float("nan"), "top1": 0.0, "top5": 0.0}, "the scores are not finite")
    log.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    iteration, test = (json.loads(line, parse_constant=pytest.fail) for line in lines)
    assert (iteration["lr"], iteration["loss"], iteration["why"]) == (None, 1.0, "not a finite number")
    assert (test["test_loss"], test["top1"], test["why"]) == (None, None, "the scores are not finite")


def test_damaged_lines_are_left_out_and_named(tmp_path):
    """Those after a checkpoint, and one that was being written, in silence; those that were lost are added."""
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"phase": "1", "iteration": n, "loss": 0.5}).encode() + b"\n" for n in range(6)]
    test = b'{"phase": "1", "iteration": 3, "test_loss": null, "top1": null, "top5": 0.5}\n'
    bad = [b"\xb5\n", b"[]\n", b"3\n", b'{"phase": "1", "iteration": 1}\n', b'{"phase": "9", "iteration": 1}\n',
           b'{"phase": "1", "iteration": true, "loss": 1}\n', b'{"phase": "1", "iteration": 1, "top1": "x"}\n',
           b"[" * 10**5 + b"\n"]  # fmt: skip
    path.write_bytes(b"".join([lines[0], *bad, *lines[1:3], test, *lines[4:], lines[5][:9]]))
    said = forget_after(path, Checkpoint(tmp_path, "1", 5), ["1", "2"], [json.loads(line) for line in lines[2:]])
    assert path.read_bytes() == b"".join([*lines[:3], test, lines[4]])
    assert said == [f"{path}: line {number}: damaged: left out" for number in range(2, 2 + len(bad))]
