"""Training by Caffe's own files: solver and net file, weights and snapshots, as `caffe train` takes them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import NARROW, call
from images import image, image_file

from bin.common.caffe_files import SolverFiles
from kernels import naive
from nptrain.caffe.model import read_caffemodel
from nptrain.caffe.state import SolverState, read_solverstate, write_solverstate
from nptrain.data.augment import Transform
from nptrain.data.datum import encoded_datum
from nptrain.data.lmdb_dataset import LmdbDataset, write_lmdb
from nptrain.evaluate import evaluate
from nptrain.network.layers import Architecture
from nptrain.network.resnet import ResNet
from nptrain.recipes.published import RECIPES
from nptrain.recipes.recipe import override
from nptrain.recipes.schedule import learning_rate
from nptrain.world import Solo

CAFFE = Path(__file__).parent / "caffe"
PUBLISHED = RECIPES["resnet50-448nodes"]
SMALL = [*NARROW, "--classes", "5", "--crop-size", "32", "--batch-size", "2", "--set", "test_resize=36"]
REQUIRED = {"train": [], "evaluate": ["--weights", "w", "--data", "d"], "bench": ["step"]}  # arguments


@pytest.fixture(scope="module")
def files(data, tmp_path_factory):
    """The published solvers, two small nets for them, and data where the nets say."""
    folder = tmp_path_factory.mktemp("caffe")
    for name in ("train", "val"):
        shutil.copytree(data / name, folder / name)
    for name in ("solver.prototxt", "solver_collapse.prototxt"):
        shutil.copy(CAFFE / name, folder)
    for phase, name, val in (("1", "train_val", ["--val-data", "val"]), ("2", "train_val_noaug", [])):
        text, _ = call("train", "--print-net", "--phase", phase, *SMALL, "--train-data", "train", *val)
        (folder / f"{name}.prototxt").write_text(text)
    return folder


@pytest.fixture
def folder(files, tmp_path):
    """Copies, to run in."""
    return shutil.copytree(files, tmp_path / "caffe")


def metrics(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def rates(run_dir):
    return [entry["lr"] for entry in metrics(run_dir) if "lr" in entry]


def bits(prefix):
    """The weights, statistics and momentum of a snapshot."""
    blobs = [b.tobytes() for layer in read_caffemodel(f"{prefix}.caffemodel").values() for b in layer]
    return blobs + [b.tobytes() for b in read_solverstate(f"{prefix}.solverstate").history]


def test_both_parts_of_the_published_recipe(folder):
    output, _ = call("train", "--solver=solver.prototxt", "--iterations", "3", cwd=folder)
    assert "net file: train_val.prototxt" in output
    assert "1 workers x 2 images = global batch 2; 41 images to train on\n" in output
    assert rates(folder / "runs/solver") == [learning_rate(PUBLISHED.phases[0], i) for i in range(3)]
    path = folder / "resnet50_448nodes_iter_3.solverstate"
    state = read_solverstate(path)
    assert (state.iteration, state.learned_net) == (3, "resnet50_448nodes_iter_3.caffemodel")
    recipe = json.loads((folder / "runs/solver/run.json").read_text())["recipe"]
    assert (recipe["depth"], recipe["classes"], recipe["crop_size"], recipe["workers"]) == (18, 5, 32, 1)
    assert recipe["phases"][0]["augmentation"] == "random_aspect_ratio"

    # the step down after the warm-up
    write_solverstate(path, SolverState(445, state.learned_net, [np.zeros_like(b) for b in state.history]))
    later = ["--iterations", "447", "--run-dir", "runs/later", "--set", "snapshot_after_train=false"]
    output, _ = call("train", "--solver=solver.prototxt", f"--snapshot={path.name}", *later, cwd=folder)
    assert rates(folder / "runs/later") == [learning_rate(PUBLISHED.phases[0], i) for i in (445, 446)]
    assert [round(rate, 3) for rate in rates(folder / "runs/later")] == [4.789, 4.534]
    assert "done: no snapshot after training" in output
    assert not list(folder.glob("*_iter_447.*"))

    weights = "--weights=resnet50_448nodes_iter_3.caffemodel"
    call("train", "--solver=solver_collapse.prototxt", weights, "--iterations", "2", cwd=folder)
    assert rates(folder / "runs/solver_collapse") == [learning_rate(PUBLISHED.phases[1], i) for i in range(2)]
    names = {path.name for path in folder.glob("*_iter_*")}
    assert names == {f"resnet50_448nodes_{stem}.{kind}" for stem in ("iter_3", "collapse_iter_2")
                     for kind in ("caffemodel", "solverstate")}  # fmt: skip


def test_resuming_and_snapshots_give_the_same_bits(folder):
    solver = ["--solver=solver.prototxt", "--set", "snapshot=2", "--iterations", "4"]
    last, snapshot = folder / "resnet50_448nodes_iter_4", "resnet50_448nodes_iter_2.solverstate"
    call("train", *solver, cwd=folder)
    whole = bits(last)
    manifests = {path.name for path in (folder / "runs/solver/checkpoints").iterdir()}
    assert manifests == {"phasesolver_iter_2.json", "phasesolver_iter_4.json"}
    moved = shutil.copytree(
        folder, folder / "moved", ignore=lambda _, names: {*names} - {snapshot[:-11] + "caffemodel", snapshot}
    )

    def forget():
        for path in (last.with_suffix(".caffemodel"), last.with_suffix(".solverstate")):
            path.unlink()

    forget()
    (folder / "runs/solver/checkpoints/phasesolver_iter_4.json").unlink()
    output, _ = call("train", *solver, "--resume", cwd=folder)
    assert "2 snapshots" not in output
    assert "resumes at phase solver, iteration 2" in output
    assert bits(last) == whole

    forget()
    (folder / "resnet50_448nodes_iter_2.caffemodel").unlink()
    output, _ = call("train", *solver, f"--snapshot={moved / snapshot}", "--run-dir", "runs/on", cwd=folder)
    assert f"iteration 2, weights from {moved}/resnet50_448nodes_iter_2.caffemodel" in output
    assert [entry["iteration"] for entry in metrics(folder / "runs/on")] == [2, 3]
    assert bits(last) == whole

    recipe = ["--recipe", "resnet50-448nodes", *SMALL, "--workers", "1", "--train-data", "train", "--phase", "1",
              "--run-dir", "runs/recipe"]  # fmt: skip
    call("train", *recipe, f"--snapshot={moved / snapshot}", "--iterations", "4", cwd=folder)
    assert bits(folder / "runs/recipe/checkpoints/phase1_iter_4") == whole

    evaluate = ["evaluate", "--data", "val", "--json", "--weights"]
    of_run, errors = call(*evaluate, "runs/recipe/checkpoints/phase1_iter_4.caffemodel", cwd=folder)
    assert errors.startswith("that the 5 classes of weights and data are the same is not checked: ")
    assert call(*evaluate, f"{last}.caffemodel", "--solver", "solver.prototxt", cwd=folder)[0] == of_run
    _, errors = call(*evaluate, f"{last}.caffemodel", "--crop-size", "32", *NARROW, cwd=folder)
    assert errors.startswith(
        f"{last}.caffemodel is not in a run's folder: network, crop and mean are the file's, and test images are "
    )


def test_every_rank_is_a_worker_and_files_are_found_beside_the_solver(folder, tmp_path, on_ranks):
    """From another folder: net and data are found beside the files that name them, and Caffe's tests are made."""
    text = (folder / "solver.prototxt").read_text().replace("resnet50_448nodes", f"{folder}/deep/er/snapshot")
    text = text.replace('"train_val', '"models/train_val')
    (folder / "solver.prototxt").write_text(f"{text}test_iter: 1\ntest_interval: 2\nrandom_seed: 5\n")
    output = on_ranks(2).call("train", "--solver", folder / "solver.prototxt", "--iterations", "1", cwd=tmp_path)
    assert "2 workers x 2 images = global batch 4; 41 images to train on, 7 to test on" in output
    assert json.loads((tmp_path / "runs/solver/run.json").read_text())["arguments"]["seed"] == 5
    entries = metrics(tmp_path / "runs/solver")
    assert [entry["iteration"] for entry in entries if "top1" in entry] == [0, 1]  # test_initialization; the end
    assert (folder / "deep/er/snapshot_iter_1.caffemodel").exists()


def test_the_fork_s_signs_for_ranks(folder):
    """%* is the number of workers, which are the fork's ranks, and %# rank 0, which writes; not in a source."""
    (folder / "train").rename(folder / "train_2")
    solver, net = ((folder / name).read_text() for name in ("solver.prototxt", "train_val.prototxt"))
    (folder / "solver.prototxt").write_text(solver.replace("resnet50_448nodes", "on%*/rank%#"))
    (folder / "train_val.prototxt").write_text(net.replace('"train"', '"train_%*"'))
    more = ["--solver=solver.prototxt", "--workers", "2", "--iterations", "1"]
    call("train", *more, cwd=folder)
    assert read_solverstate(folder / "on2/rank0_iter_1.solverstate").learned_net == "on2/rank0_iter_1.caffemodel"
    output, _ = call("train", *more, "--resume", cwd=folder)
    assert "resumes at phase solver, iteration 1" in output
    assert (
        'snapshot_prefix: "on%*/rank%#"' in call("train", "--solver=solver.prototxt", "--print-solver", cwd=folder)[0]
    )

    (folder / "train_val.prototxt").write_text(net.replace('"train"', '"train_%#"'))
    _, errors = call("train", *more, status=2, cwd=folder)
    assert errors == ("train: train_val.prototxt: source: found 'train_%#', a data set for each rank, expected one for "
                      "all; --train-data names it\n")  # fmt: skip
    call("train", *more, "--train-data", "train_2", "--run-dir", "runs/given", cwd=folder)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_comes_back_from_its_printed_files(name, tmp_path):
    """All but what Caffe's files do not hold: names, description and what a phase starts from; and how many workers
    there are, which the launcher says. Padding before a random crop is refused.
    """
    recipe, found = override(RECIPES[name], ["pad=0"]), []
    for phase in recipe.phases:
        printed = []
        for what in ("--print-solver", "--print-net"):
            words = ["--recipe", name, "--phase", phase.name, "--set", "pad=0", "--val-data", "val"]
            printed.append(call("train", what, *words)[0])
        solver, net = printed
        path = tmp_path / f"{phase.name}.prototxt"
        path.write_text(solver)
        (tmp_path / solver.split('"')[1]).write_text(net)
        found.append(SolverFiles.read(path).recipe(recipe.workers))
        net_name = "train_val.prototxt" if phase is recipe.phases[0] else f"train_val_{phase.name}.prototxt"
        assert solver.startswith(f'net: "{net_name}"\n')
        assert f'snapshot_prefix: "{name}_phase{phase.name}"' in solver  # Caffe refuses snapshots without one
        assert call("train", "--print-solver", "--solver", path) == (solver, "")
    for one, phase in zip(found, recipe.phases, strict=True):
        again = replace(one.phases[0], starts_from=phase.starts_from, snapshot_prefix=None)
        same = {"name": name, "description": recipe.description, "records": recipe.records}
        assert replace(one, phases=(again,), **same) == replace(
            recipe, phases=(phase,), test_batch_size=recipe.batch_size
        )


def test_flags_of_glog_are_noted(folder):
    """They come with the command lines of Caffe; none of them is taken for the beginning of a flag of this project."""
    glog = ["--logtostderr", "--v=1", "-log_dir", "logs", "--minloglevel=2", "-alsologtostderr=1", "--nolog_prefix"]
    printed, errors = call("train", *glog, "-solver=solver.prototxt", "--print-solver", cwd=folder)
    assert printed.startswith('net: "train_val.prototxt"')
    flags = ["--logtostderr", "--v", "-log_dir", "--minloglevel", "-alsologtostderr", "--nolog_prefix"]
    assert errors.splitlines() == [f"train: {flag} has no effect: it is for the log of Caffe" for flag in flags]
    assert not (folder / "logs").exists()
    for command, flag in (("train", "--solve=s"), ("train", "--w=x"), ("evaluate", "--weight=w"), ("bench", "--h")):
        assert f"unrecognized arguments: {flag}" in call(command, flag, *REQUIRED[command], status=2)[1]


def test_mistakes_are_one_line(folder, monkeypatch):
    monkeypatch.chdir(folder)
    solver = ["--solver=solver.prototxt"]
    (folder / "over.prototxt").write_text((folder / "solver.prototxt").read_text() + "type: 'Adam'")
    collapse = (folder / "solver_collapse.prototxt").read_text()
    (folder / "collapse.prototxt").write_text(collapse + "test_iter: 1 test_interval: 1")
    (folder / "lost.prototxt").write_text(collapse.replace("train_val", "nets/lost"))
    (folder / "deep").mkdir()
    shutil.copy("solver.prototxt", "deep")
    (folder / "deep/train_val.prototxt").write_text(
        (folder / "train_val.prototxt").read_text().replace('"train"', '"t"')
    )
    for arguments, line in (
        ([*solver, "--recipe", "digits"], "--solver: found together with --recipe, expected one of them"),
        ([*solver, "--phase", "1"], "phase: found '1', expected one of solver"),
        ([*solver, "--weights=w", "--snapshot=s"], "--weights: found together with --snapshot"),
        ([*solver, "--resume", "--snapshot=s"], "--snapshot: found together with --resume"),
        ([*solver, "--print-net", "--print-solver"], "--print-solver: found together with --print-net"),
        *(([*solver, f"--{flag}=0"], f"--{flag}: leave it out") for flag in
          ("gpu", "engine", "level", "stage", "sigint_effect", "sighup_effect")),
        (["--solver=none"], "none: cannot be read: No such file"),
        (["--solver=over.prototxt"], "over.prototxt: type: found 'Adam'"),
        (["--solver=lost.prototxt"], "lost.prototxt: net: found none of nets/lost_noaug.prototxt, lost_noaug.prototxt"),
        (["--solver=deep/solver.prototxt", "--val-data=val", "--set", "scale=-1"], "scale: found -1.0"),
        (["--solver=collapse.prototxt"], "collapse.prototxt: test_iter: train_val_noaug.prototxt has no TEST"),
        (["--solver=solver_collapse.prototxt", "--val-data=val"], "--val-data: train_val_noaug.prototxt has no TEST"),
        (["--print-solver", "--set", "momentum_correction=true"], "1.momentum_correction: found True"),
        ([*solver, "--set", "snapshot_prefix=/proc/none/x"], "snapshot_prefix: /proc/none cannot be made"),
    ):  # fmt: skip
        _, errors = call("train", *arguments, status=2)
        assert errors.startswith(f"train: {line}")
        assert errors.count("\n") == 1
    (folder / "train").rename(folder / "gone")
    _, errors = call("train", *solver, status=2)
    assert errors == "train: train_val.prototxt: source: found none of train\n"


def test_a_printed_solver_has_the_prefix_that_is_used_here(folder):
    """Caffe would end without one, and names the files `_iter_N` in a folder."""
    text = (folder / "solver.prototxt").read_text()
    old = next(line for line in text.splitlines() if line.startswith("snapshot_prefix"))
    for line, prefix in (("", "mine"), ('snapshot_prefix: "not/there/"', "not/there/mine")):
        (folder / "mine.prototxt").write_text(text.replace(old, line))
        printed, _ = call("train", "--solver", "mine.prototxt", "--print-solver", cwd=folder)
        assert f'snapshot_prefix: "{prefix}"\n' in printed


def test_a_snapshot_that_cannot_be_gone_on_from_is_one_line(folder):
    write_solverstate(folder / "lost", SolverState(5, "nets/w.caffemodel", []))
    _, errors = call("train", "--solver=solver.prototxt", "--snapshot=lost", status=2, cwd=folder)
    found = "none of nets/w.caffemodel, w.caffemodel"
    assert errors == f"train: lost: learned_net: found {found}, expected a .caffemodel\n"
    write_solverstate(folder / "windows", SolverState(5, "C:\\nets\\w.caffemodel", []))
    _, errors = call("train", "--solver=solver.prototxt", "--snapshot=windows", status=2, cwd=folder)
    found = "none of C:/nets/w.caffemodel, w.caffemodel"
    assert errors == f"train: windows: learned_net: found {found}, expected a .caffemodel\n"
    write_solverstate(folder / "unnamed", SolverState(5, "", []))
    _, errors = call("train", "--solver=solver.prototxt", "--snapshot=unnamed", status=2, cwd=folder)
    assert errors == "train: unnamed: found no learned_net, expected the name of a .caffemodel\n"


def test_a_test_takes_the_batches_that_test_iter_says(tmp_path):
    """Of each worker, from the first record on, and no record twice."""
    records = [(f"{i}.png", encoded_datum(image_file(image(i, width=36, height=36)), i % 5)) for i in range(7)]
    write_lmdb(tmp_path / "all", records)
    write_lmdb(tmp_path / "first", records[:4])
    recipe = override(RECIPES["digits"], ["classes=5", "workers=2", "1.test_iter=1", "test_batch_size=2"])
    network = ResNet(naive, recipe.classes, Architecture(18, width=16), recipe.bn_eps)
    network.arena.initialise(0)

    def test(name, records=None):
        data = LmdbDataset(tmp_path / name)
        return evaluate(network, data, Transform("test", 32), recipe, Solo(), 1, records)

    assert recipe.test_records(recipe.phases[0]) == 4
    assert recipe.test_records(recipe.phases[1]) is None
    assert test("all", 4) == test("first")
    assert test("all", 4) != test("all")
    assert test("all", 100) == test("all")
