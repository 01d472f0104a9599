"""The recipe for one's own images: its numbers from the data and the flags, and a run of it."""

import re
import shutil

import pytest
from commands import NARROW, call
from images import make_dataset
from short_runs import metrics

from nptrain.errors import InputError
from nptrain.recipes.photos import PARTS, photos, shares
from nptrain.recipes.published import get_recipe
from nptrain.recipes.schedule import learning_rate

PUBLISHED = get_recipe("resnet50-448nodes")


@pytest.mark.parametrize(("workers", "batch_size"), [(1, 16), (2, 16), (2, 64), (896, 16)])
def test_rates_are_proportional_to_the_batch(workers, batch_size):
    recipe = photos((2_000_000, 100), 10, workers=workers, batch_size=batch_size)
    share = workers * batch_size / (896 * 16)
    for phase, published in zip(recipe.phases, PUBLISHED.phases, strict=True):
        for field in ("base_lr", "warmup_start_lr"):
            rate = getattr(phase, field)
            assert rate == pytest.approx(share * getattr(published, field), rel=0.005)
            assert rate == float(f"{rate:.3g}")
    assert (recipe.workers, recipe.batch_size) == (workers, batch_size)


@pytest.mark.parametrize("records", [40, 1000, 54_321])
@pytest.mark.parametrize("epochs", [3, 7.5, 30, 60])
def test_lengths_follow_the_epochs(records, epochs):
    recipe = photos((records, 100), 10, epochs)
    first, second = recipe.phases
    assert first.max_iter + second.max_iter == round(epochs * records / 32)
    assert second.max_iter == max(1, round((first.max_iter + second.max_iter) / (PARTS + 1)))
    assert first.warmup_iter == pytest.approx(first.max_iter * 446 / 8040, abs=0.5)
    assert second.warmup_iter == 0
    assert first.snapshot == first.test_interval
    assert first.max_iter <= PARTS * first.snapshot < first.max_iter + PARTS
    assert second.starts_from % first.snapshot == 0
    assert 0 < second.starts_from <= first.max_iter
    assert first.max_iter - second.starts_from - second.max_iter < first.snapshot
    assert recipe.records == (records, 100)


def test_the_proportions_are_the_published_ones():
    first, second = photos((32 * 21, 0), 10, 100).phases
    assert (first.max_iter, first.snapshot, second.max_iter, second.starts_from) == (2000, 100, 100, 1900)


def test_the_collapse_crops_resized_images():
    """Stored photographs may have any size."""
    assert [phase.resize for phase in photos((1000, 0), 10).phases] == [None, 256]


def test_the_rate_drops_every_few_epochs():
    first = photos((1600, 0), 10, decay_epochs=10).phases[0]
    assert (first.lr_policy, first.stepsize, first.gamma) == ("step", 500, 0.1)
    assert [learning_rate(first, i) / first.base_lr for i in (499, 500, 1000)] == pytest.approx([1, 0.1, 0.01])


@pytest.mark.parametrize(
    ("batch", "workers", "expected"),
    [(32, None, (2, 16)), (4, None, (2, 2)), (1, None, (1, 1)), (64, None, (4, 16)), (40, None, (4, 10)),
     (40, 2, (2, 20)), (256, None, (16, 16))],
)  # fmt: skip
def test_workers_share_the_batch(batch, workers, expected):
    assert shares(batch, workers) == expected


def test_a_batch_that_cannot_be_shared_is_said():
    line = r"^--batch-size: found 37, expected the same number for each of 3 workers, as 36 or 39; or --workers$"
    with pytest.raises(InputError, match=line):
        shares(37)


def test_all_else_is_as_published():
    recipe = photos((1000, 0), 10)
    for phase, published in zip(recipe.phases, PUBLISHED.phases, strict=True):
        for field in ("lr_policy", "power", "weight_decay", "momentum", "augmentation", "mirror"):
            assert getattr(phase, field) == getattr(published, field)
    assert (recipe.classes, recipe.depth, recipe.crop_size) == (10, 50, 224)


def test_too_little_of_either_is_said():
    first, second = photos((32, 0), 10, epochs=2).phases  # so much is enough: an iteration of each phase
    assert (first.max_iter, first.snapshot, second.max_iter, second.starts_from) == (1, 1, 1, 1)
    with pytest.raises(InputError, match=r"^--train-data: found 31 images, expected 32 or more: 2 workers of 16; "):
        photos((31, 0), 10)
    line = r"^--epochs: found 0\.03, expected 1 or more for 1000 images and a batch of 32$"
    with pytest.raises(InputError, match=line):
        photos((1000, 0), 10, epochs=0.03)
    with pytest.raises(InputError, match=r"^--epochs: found 1, expected 2 or more for 32 images and a batch of 32$"):
        photos((32, 0), 10, epochs=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data of five classes, /train of 41 images and /val of 7, and /named, whose classes have seven names."""
    folder = tmp_path_factory.mktemp("photos")
    for name, records in (("train", 41), ("val", 7), ("named", 41)):
        make_dataset(folder / name, records, width=36, height=34)
    (folder / "named" / "classes.txt").write_text("".join(f"class {i}\n" for i in range(7)))
    return folder


SMALL = ["--recipe", "photos", *NARROW, "--crop-size", "32", "--set", "test_resize=34", "--batch-size", "4",
         "--epochs", "2.05"]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "flags", "classes"), [("train", [], 5), ("train", ["--classes", 9], 9), ("named", [], 7)]
)
def test_classes_are_those_of_the_data(folder, name, flags, classes):
    """As many as classes.txt has names; without it, as the labels say."""
    net, _ = call("train", *SMALL, "--train-data", folder / name, *flags, "--print-net")
    assert re.findall(r"inner_product_param \{\s*num_output: (\d+)", net) == [str(classes)]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([*SMALL, "--batch-size", "42"], "--train-data: found 41 images, expected 42 or more: 3 workers of 14; "),
        ([*SMALL, "--batch-size", "5", "--workers", "2"], "--batch-size: found 5, expected the same number for each "
            "of 2 workers, as 4 or 6; or --workers"),
        ([*SMALL, "--epochs", "0.1"], "--epochs: found 0.1, expected 1 or more for 41 images"),
        ([*SMALL, "--classes", "4"], "train: record 00000004_4.png: found label 4, expected 0..3, as --classes "),
        ([*SMALL, "--train-data", "named", "--classes", "9"], "--classes: found 9 classes, expected 7, as named/"),
        ([*SMALL, "--decay-epochs", "0"], "--decay-epochs: found 0.0, expected more than 0"),
        ([*SMALL, "--epochs", "0"], "--epochs: found 0.0, expected more than 0"),
        ([*SMALL, "--epochs", "nan"], "--epochs: found nan, expected more than 0"),
        (["--recipe", "digits", "--epochs", "3"], "--epochs: expected only with --recipe photos: the other recipes "),
        (["--recipe", "photos", "--train-data", "none"], "none: not an LMDB: "),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(folder, words, line):
    _, errors = call("train", "--train-data", "train", *words, status=2, cwd=folder)
    assert errors.startswith(f"train: {line}")
    assert errors.count("\n") == 1
    assert not (folder / "runs").exists()


def test_without_data_it_says_which_flag_is_missing(tmp_path):
    assert call("train", "--recipe", "photos", status=2, cwd=tmp_path) == (
        "", "train: --data: found none, nor --train-data, expected a folder that bin/make_lmdb has made\n")  # fmt: skip


def test_a_run_of_both_phases_and_one_resumed(folder, tmp_path):
    words = [*SMALL, "--train-data", folder / "train", "--val-data", folder / "val", "--set", "snapshot=19",
             "--set", "test_interval=10"]  # fmt: skip
    output, _ = call("train", *words, cwd=tmp_path)
    assert output.startswith(
        "crop of 32: those of phase 2 are resized to 37\n"
        "photos: ResNet-18 of width 16, 5 classes, images of 32x32\n"
        "2 workers x 2 images = global batch 4; 41 images to train on, 7 to test on\n5 classes without names\n"
        "phase 1: 20 iterations, 1.95 epochs; lr 0.00134, after 1 iterations of warm-up, poly\n"
    )
    assert "phase 2: starts from the weights of phase 1 at iteration 19\n" in output
    run, cut = tmp_path / "runs" / "photos", tmp_path / "cut"
    steps = [(entry["phase"], entry["iteration"]) for entry in metrics(run) if "loss" in entry]
    assert steps == [("1", i) for i in range(20)] + [("2", 0)]
    assert [(e["phase"], e["iteration"]) for e in metrics(run) if "top1" in e] == [("1", 10), ("1", 20), ("2", 1)]
    shutil.copytree(run, cut, ignore=shutil.ignore_patterns("phase2_*", "phase1_iter_20.*"))
    output, _ = call("train", *words, "--run-dir", cut, "--resume")
    assert "resumes at phase 1, iteration 19\n" in output
    assert metrics(cut) == metrics(run)
    last = ["phase2_iter_1.caffemodel", "phase2_iter_1.solverstate"]
    one, other = ([(at / "checkpoints" / name).read_bytes() for name in last] for at in (run, cut))
    assert one == other
