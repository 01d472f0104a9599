"""bin/report: the page, its pictures, and what it says of a network's mistakes."""

import base64
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from commands import call
from PIL import Image
from short_runs import SHORT, arguments

from bin.commands.report import agreed_names
from nptrain.data.classes import write_classes
from nptrain.report import report, report_plot
from nptrain.report.predictions import Predictions, Spread

NAMES = ["<b>ant</b>", 'b"ee', "cow & calf", "d" * 60, "Čáp"]
FIGURES = ["accuracy", "classes", "confusion", "loss", "mistakes", "rate", "speed", "step", "time"]
FULL = 3_000_000  # bytes that a page may have


class Found(HTMLParser):
    """The sources of a page's pictures, and its text."""

    def __init__(self, path):
        super().__init__()
        self.sources, self.words, self.open = [], [], []
        self.feed(path.read_text())
        assert not self.open

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.sources += [values[name] for name in ("src", "srcset") if name in values]
        if tag not in ("meta", "link", "img", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open and data.strip():
            self.words.append(data.strip())


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A run of two phases, whose classes have names."""
    folder = tmp_path_factory.mktemp("report") / "run"
    call("train", *arguments(data, folder, *SHORT))
    description = json.loads((folder / "run.json").read_text()) | {"classes": NAMES}
    (folder / "run.json").write_text(json.dumps(description))
    return folder


@pytest.fixture(scope="module")
def made(run):
    output, errors = call("report", run)
    assert (output, errors) == (f"{run}/report.html, and its figures in {run}/report/\n", "")
    return run / "report.html"


def test_the_page(run, made):
    found = Found(made)
    assert made.stat().st_size < FULL
    assert sorted(path.name for path in (run / "report").iterdir()) == [f"{name}.png" for name in FIGURES]
    assert len(found.sources) > 2 * (len(FIGURES) - 1)
    for source in found.sources:
        kind, content = source.removeprefix("data:image/").split(";base64,")
        with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
            assert picture.format.lower() == kind
            picture.load()
    assert {"Confusion matrix", "Accuracy of each class", "iteration 8", "12 of 12", "3 of 3"} <= {*found.words}
    assert any(re.search(r"phase2_iter_3.caffemodel on all 7 images of .*: top-1 \d+\.\d\d%", w) for w in found.words)
    assert "top-1" in found.words
    assert "top-5" not in found.words  # of five classes
    captions = [word for word in found.words if " taken for " in word]
    assert captions
    assert all(any(caption.startswith(f"{name} taken for ") for name in NAMES) for caption in captions)
    shares = [int(caption.rpartition(" ")[2].rstrip("%")) for caption in captions]
    assert shares == sorted(shares, reverse=True)


def test_the_accuracy_is_that_of_evaluate(run, made, data):
    output, _ = call("evaluate", "--weights", run / "checkpoints/phase2_iter_3.caffemodel", "--data", data / "val")
    top1 = re.search(r"top-1 ([\d.]+%)", output)[1]
    assert f"top-1 {top1}" in made.read_text()


def test_two_runs_in_one_page(run, made, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    out = tmp_path / "both.html"
    _, errors = call("report", run, other, "--out", out, "--records", "0")
    assert errors == "".join(f"{each}: no images were evaluated (--records 0)\n" for each in (run, other))
    assert {str(run), str(other), f"{run}, {other}"} <= {*Found(out).words}
    assert {"1-step.png", "2-step.png", "loss.png"} < {path.name for path in (tmp_path / "both").iterdir()}


def test_held_out_images(run, tmp_path, data):
    other = shutil.copytree(run, tmp_path / "other")
    description = json.loads((other / "run.json").read_text())
    for flag in ("train_data", "val_data"):
        description["arguments"][flag] = "gone"
    description |= {"hosts": 5, "versions": ["odd"]}
    (other / "run.json").write_text(json.dumps(description))
    _, errors = call("report", other)
    assert errors == f"{other}: the run's held-out images cannot be read here; --data names others\n"
    assert any("epochs are not known" in word for word in Found(other / "report.html").words)
    named = shutil.copytree(data / "val", tmp_path / "named")
    write_classes(named, NAMES)
    call("report", other, "--data", named, "--records", "4")
    assert any(
        f"on 4, evenly spread, of the 7 images of {named}" in word for word in Found(other / "report.html").words
    )
    (other / "best.json").write_text(json.dumps({"phase": "1", "iteration": 8, "top1": 0.5, "weights": "x"}))
    call("report", other, "--data", named, "--records", "4")
    assert any("phase1_iter_8.caffemodel on 4" in word for word in Found(other / "report.html").words)
    (other / "run.json").write_text(json.dumps({**description, "classes": None}))
    write_classes(named, ["only", "three", "names"])
    weights = other / "checkpoints" / "phase2_iter_3.caffemodel"
    assert agreed_names(weights, named, 5) == ["only", "three", "names", "3", "4"]
    write_classes(named, list("abcdef"))
    _, errors = call("report", other, "--data", named, status=2)
    assert "found 6 classes, expected 5, as " in errors
    (other / "run.json").write_text(json.dumps(description))
    write_classes(named, [*NAMES[:3], "x", "y"])
    _, errors = call("report", other, "--data", named, status=2)
    assert errors == f"report: {named}: class 3: found x, expected {'d' * 60}, as in the run of " + (
        f"{other}/checkpoints/phase1_iter_8.caffemodel\n")  # fmt: skip


def test_predictions_by_hand():
    found = Predictions(np.array([0, 0, 1, 2]), np.array([0, 1, 2, 0]), np.array([0.9, 0.4, 0.8, 0.6]))
    assert found.confusion(3).tolist() == [[1, 1, 0], [0, 0, 1], [1, 0, 0]]
    assert found.mistakes(2).tolist() == [2, 3]
    assert Spread(range(10), 4).indices.tolist() == [0, 2, 5, 7]
    assert len(Spread(range(10), 12)) == 10
    assert report.duration(75) == "1 min 15 s"
    assert (report.duration(3700), report.duration(3.21)) == ("1 h 1 min", "3.2 s")


def test_a_thousand_classes(tmp_path):
    """The matrix is drawn without names, and the lowest accuracies are shown."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 1000, 5000)
    predicted = np.where(rng.random(5000) < 0.7, labels, rng.integers(0, 1000, 5000))
    matrix = Predictions(labels, predicted, rng.random(5000)).confusion(1000)
    names, counts = [f"class {label}" for label in range(1000)], matrix.sum(1)
    figure = report_plot.per_class(np.diag(matrix) / np.maximum(counts, 1), counts, names)
    assert len(figure.axes[0].get_yticks()) == report_plot.BARS
    light, dark = map(report_plot.smaller, report_plot.pictures(lambda: report_plot.confusion(matrix, names)))
    assert len(light) + len(dark) < FULL / 8
    assert all(Image.open(io.BytesIO(png)).size == (1050, 930) for png in (light, dark))


CHECK = """<script>
document.title = [...document.images].filter(i => !(i.complete && i.naturalWidth)).length + " missing, " +
  document.images.length + " pictures, " + Math.max(0, document.documentElement.scrollWidth - innerWidth) + " too wide";
</script>"""


@pytest.mark.parametrize("width", [600, 1200])
def test_in_a_browser(made, tmp_path, width):
    """No errors, no missing picture, nothing wider than the window."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("needs Chromium")
    copy = tmp_path / "page.html"
    copy.write_text(made.read_text().replace("</body>", f"{CHECK}</body>"))
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile",
         "--enable-logging=stderr", f"--window-size={width},1000", "--dump-dom", copy.as_uri()],
        capture_output=True, text=True, timeout=60)  # fmt: skip
    assert re.search(r"<title>0 missing, \d\d pictures, 0 too wide</title>", done.stdout), done.stderr[-2000:]
    assert "CONSOLE" not in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["none"], "none: found no run.json, expected the folder of a run"),
        (["run", "--out", "x.pdf"], "--out: found x.pdf, expected a name that ends in .html"),
        (["run", "--out", "no/x.html"], "--out: found no/x.html, expected a folder that exists"),
        (["run", "other"], "--out: found none for 2 runs, expected the page's name"),
        (["run", "run"], "RUN: found the same run twice, expected different ones"),
        (["run", "--records", "-1"], "--records: found -1, expected 0 or more"),
        (["run", "--data", "none"], "none: not an LMDB: none/data.mdb cannot be read: No such file or directory"),
    ],
)
def test_mistakes_are_one_line(run, words, line):
    output, errors = call("report", *words, status=2, cwd=run.parent)
    assert (output, errors) == ("", f"report: {line}\n")
    assert not (Path(run) / "x.pdf").exists()
