"""bin/curves: what it reads from runs, and the picture."""

import json

import numpy as np
import pytest
from commands import call
from PIL import Image

from nptrain.errors import InputError
from nptrain.recipes.published import get_recipe
from nptrain.recipes.recipe import override, to_dict
from nptrain.report.curves_plot import smoothed
from nptrain.report.history import best_test, expect_epochs, read

NO_EPOCHS = "--epochs: whole: its run.json or its training data cannot be read: leave the flag out"


def make_run(folder, tail="", loss=1):
    """A run of two phases, of 30 and 4 iterations and a test after each."""
    folder.mkdir(exist_ok=True)
    lines = [{"phase": p, "iteration": i, "lr": 0.1, "loss": loss / (1 + i)} for p, n in (("1", 30), ("2", 4))
             for i in range(n)]  # fmt: skip
    lines.insert(30, {"phase": "1", "iteration": 30, "test_loss": 1.0, "top1": 0.5, "top5": 0.9})
    lines.append({"phase": "2", "iteration": 4, "test_loss": 1.0, "top1": 0.75, "top5": 0.9})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
    return folder


def test_iterations_count_on_through_the_phases(tmp_path):
    first, second = read(make_run(tmp_path, tail='{"phase": "2", "itera'))
    assert first.x(first.iterations, False).tolist() == list(range(1, 31))
    assert second.x(second.iterations, False).tolist() == [31, 32, 33, 34]
    assert (first.iterations[-1, 1], second.iterations[0, 1]) == (1 / 30, 1)
    assert np.hstack([first.x(first.tests, False), second.x(second.tests, False)]).tolist() == [30, 34]
    assert (first.tests[0, 2], second.tests[0, 2]) == (0.5, 0.75)
    assert best_test([first, second])[1][2] == 0.75
    with pytest.raises(InputError, match="--epochs: x: its run"):
        expect_epochs("x", [first])


def test_a_phase_begins_where_its_weights_come_from(tmp_path):
    recipe = override(get_recipe("digits"), ["1.max_iter=30", "2.max_iter=4", "2.starts_from=20", "2.batch_size=8"])
    (make_run(tmp_path) / "run.json").write_text(json.dumps({"recipe": to_dict(recipe)}))
    first, second = read(tmp_path, records=64)
    assert (second.begin, second.name) == (20, "2")
    assert second.x(second.iterations, False).tolist() == [21, 22, 23, 24]
    assert first.x(first.iterations[-1:], True).tolist() == [15]  # 30 steps of 2 workers of 16 images, of 64
    assert second.x(second.iterations, True).tolist() == [10.25, 10.5, 10.75, 11]
    call("curves", tmp_path, "--out", tmp_path / "c.png")


def test_a_phase_that_the_recipe_has_not(tmp_path):
    recipe = override(get_recipe("digits"), ["1.max_iter=30", "2.max_iter=4"])
    (make_run(tmp_path) / "run.json").write_text(json.dumps({"recipe": to_dict(recipe)}))
    lines = (tmp_path / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text(lines.replace('"phase": "1"', '"phase": ["odd"]'))
    first, second = read(tmp_path, records=64)
    assert (first.name, first.epochs, second.epochs, second.epoch) == ("['odd']", None, None, None)


def test_a_test_without_a_result_is_a_gap(tmp_path):
    nothing = {"phase": "1", "iteration": 0, "test_loss": None, "top1": None, "top5": None, "why": "x"}
    run = make_run(tmp_path)
    (run / "metrics.jsonl").write_text(json.dumps(nothing) + "\n" + (run / "metrics.jsonl").read_text())
    first, _ = read(run)
    assert np.isnan(first.tests[0, 2])
    assert first.tests[1:, [0, 2]].tolist() == [[30, 0.5]]
    call("curves", run, "--out", tmp_path / "gap.png")


def test_smoothing_by_hand():
    assert smoothed(np.array([1.0, 3, 5, 10]), 2).tolist() == [1, 2, 4, 7.5]
    assert smoothed(np.array([1.0, 3]), 20).tolist() == [1, 2]


def test_the_picture(tmp_path):
    one, other, out = make_run(tmp_path / "one"), make_run(tmp_path / "other", loss=2), tmp_path / "both.png"
    output, errors = call("curves", one, other, "--out", out)
    assert (output, errors) == (f"{out}\n", "")
    colors = {tuple(color) for color in np.asarray(Image.open(out).convert("RGB")).reshape(-1, 3)}
    assert {(31, 119, 180), (255, 127, 14)} <= colors  # C0 and C1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["none"], "none/metrics.jsonl: No such file or directory, expected the metrics of a run"),
        (["broken"], "broken/metrics.jsonl: line 37: damaged, expected an iteration or a test as JSON"),
        (["empty"], "empty/metrics.jsonl: found no iteration, expected at least one"),
        (["whole", "--out", "x.txt"], "--out: found x.txt, expected a name that ends in .png, .svg or .pdf"),
        (["whole", "--out", "no/x.png"], "--out: found no/x.png, expected a folder that exists"),
        (["whole", "--out", "folder.png"], "--out: folder.png: Is a directory"),
        (["whole", "--epochs"], NO_EPOCHS),
        (["whole", "--smooth", "0"], "--smooth: found 0, expected 1 or more"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, words, line):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "whole")
    make_run(tmp_path / "broken", tail="[1]\n")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "metrics.jsonl").write_text("")
    output, errors = call("curves", *words, status=2)
    assert (output, errors) == ("", f"curves: {line}\n")
