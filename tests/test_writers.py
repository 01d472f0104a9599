"""metrics.csv and TensorBoard's files: what metrics.jsonl has, also after a run has gone on."""

import csv
import json
import struct
import sys

import pytest
from commands import call
from short_runs import arguments

from nptrain.recipes.published import get_recipe
from nptrain.run.writers import COLUMNS, TensorBoardWriter

PHASES = get_recipe("digits").phases
TIME = "2026-05-04T03:02:01.500+02:00"


def test_the_table_has_the_lines_of_the_metrics(data, tmp_path):
    folder = tmp_path / "run"
    brief = ["--workers", "1", "--kernels", "numpy", "--phase", "1", "--set", "1.snapshot=2", "--csv"]
    call("train", *arguments(data, folder, *brief, "--iterations", "3"))
    call("train", "--resume", folder, "--iterations", "4")
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [*rows[0]] == [*COLUMNS]
    texts = [{name: str(entry.get(name, "")) for name in COLUMNS} for entry in entries]
    assert rows == texts
    assert [row["iteration"] for row in rows if row["loss"]] == ["0", "1", "2", "3"]


def events(folder):
    """(curve, step, value, time) of the scalars in the only event file of a folder."""
    from tensorboardX.proto.event_pb2 import Event

    (path,) = folder.iterdir()
    content, at = path.read_bytes(), 0
    while at < len(content):
        (size,) = struct.unpack_from("<Q", content, at)
        event = Event.FromString(content[at + 12 : at + 12 + size])
        at += size + 16
        for value in event.summary.value:
            yield value.tag, event.step, round(value.simple_value, 4), event.wall_time


def test_tensorboard_gets_the_curves(tmp_path):
    pytest.importorskip("tensorboardX")
    metrics = tmp_path / "metrics.jsonl"
    before = {"phase": "1", "iteration": 7, "loss": 2.5, "lr": 0.5, "images_per_s": 3.0, "spans": [], "time": TIME}
    metrics.write_text(json.dumps(before) + "\n")
    for _ in range(2):  # the second one replaces what the first has written
        writer = TensorBoardWriter(metrics, PHASES)
        writer.write({"phase": "2", "iteration": 3, "test_loss": None, "top1": 0.25, "top5": 1.0, "time": TIME})
        writer.close()
    first, when = PHASES[0].max_iter, 1777856521.5
    assert list(events(tmp_path / "tensorboard")) == [
        ("train/lr", 7, 0.5, when), ("train/loss", 7, 2.5, when), ("train/images_per_s", 7, 3.0, when),
        ("test/top1", first + 3, 0.25, when), ("test/top5", first + 3, 1.0, when)]  # fmt: skip


def test_without_the_package_a_line_says_how_to_get_it(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    words = arguments(data, tmp_path / "run", "--workers", "1", "--kernels", "numpy", "--tensorboard")
    _, errors = call("train", *words, status=2)
    assert errors == ("train: --tensorboard: the package tensorboardX is not installed; install it by "
                      ".venv/bin/python -m pip install -r requirements-tensorboard.txt\n")  # fmt: skip
    assert not (tmp_path / "run").exists()
