"""What a run starts from: nothing, weights, a snapshot, the phase before, or its own newest checkpoint."""

import json
from argparse import Namespace
from itertools import islice

import numpy as np
import pytest
from weights import write_layers

from bin.common.start import load_start
from kernels import naive
from nptrain.caffe.caffe_pb2 import NetParameter
from nptrain.errors import InputError
from nptrain.network.arena import Arena
from nptrain.network.layers import Architecture, layers
from nptrain.recipes.published import get_recipe
from nptrain.recipes.recipe import override
from nptrain.recipes.schedule import Progress
from nptrain.run import checkpoint
from nptrain.run.run_folder import RunFolder
from nptrain.run.versions import versions

RECIPE = get_recipe("digits")
NET = NetParameter(
    name="net", layer=[{"name": layer.name, "type": layer.kind} for layer in layers(Architecture(18), 5)]
)
DATA = {"train_data": {"number of records": 7}}
BEGUN = {"kernels": "fast", "dtype": "float32", "reproducible": False, "compress": "none", "seed": 3}


def flags(**changed):
    others = dict.fromkeys(("weights", "weights_run", "snapshot"))
    return Namespace(**{**BEGUN, "resume": False, "allow_other_bits": False, **others, **changed})


def arena_of(value=0.0):
    """The first layers of the network, filled with a value."""
    arena = Arena(islice(layers(Architecture(18), 5), 3), naive)
    arena.weights[:], arena.history[:] = value, value / 2
    return arena


def numbers(arena):
    """What all weights are, and all momenta."""
    return {*np.unique(arena.weights)}, {*np.unique(arena.history)}


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


def begin(folder, iterations=0, **changed):
    """What a run leaves that was killed after so many iterations of phase 1."""
    folder.describe(RECIPE, [], vars(flags(**changed)), versions("none"), DATA)
    lines = [{"phase": "1", "iteration": i, "loss": 1.0} for i in range(iterations)]
    folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"phase": "1", "iter')


def test_a_new_run_starts_from_nothing(folder):
    arena = arena_of(7)
    assert load_start(flags(), RECIPE, ["1"], folder, arena, data=DATA) == (None, [])
    assert numbers(arena) == ({7}, {3.5})
    begin(folder)
    with pytest.raises(InputError, match="contains a run already"):
        load_start(flags(), RECIPE, ["1"], folder, arena, data=DATA)


def test_weights_may_have_more_layers_but_not_less(folder, tmp_path):
    arena, (path, less) = arena_of(), (tmp_path / "w.caffemodel", tmp_path / "less.caffemodel")
    exported = arena_of(5).export()
    write_layers(path, "x", [*exported, ("other", "x", [np.zeros(3, np.float32)])])
    assert load_start(flags(weights=path), RECIPE, ["1"], folder, arena, data=DATA) == (
        None,
        [f"phase 1: starts from the weights in {path}",
         f"{path}: skipped layer other, which this network does not have"],
    )  # fmt: skip
    assert numbers(arena) == ({5}, {0})
    write_layers(less, "x", exported[:1])
    with pytest.raises(InputError, match="no layer bn_conv1"):
        load_start(flags(weights=less), RECIPE, ["1"], folder, arena, data=DATA)


def test_several_weights_are_loaded_one_after_the_other(folder, tmp_path):
    """As in `caffe train -weights A,B`: a layer of both is B's."""
    one, two = tmp_path / "one.caffemodel", tmp_path / "two,half.caffemodel"
    arena, first, second = arena_of(), arena_of(5).export(), arena_of(7).export()
    write_layers(one, "x", first[:2])
    write_layers(two, "x", second[1:])
    with pytest.raises(InputError, match="two: cannot be read"):
        load_start(flags(weights=f"{one},{two}"), RECIPE, ["1"], folder, arena, data=DATA)
    both = two.rename(tmp_path / "two.caffemodel")
    load_start(flags(weights=f"{one},{both}"), RECIPE, ["1"], folder, arena, data=DATA)
    assert [{*np.unique(x)} for _, kind, blobs in arena.export() if kind != "BatchNorm" for x in blobs] == [
        {5}, {5}, {7}, {7}]  # fmt: skip
    write_layers(tmp_path / "a,b", "x", arena_of(3).export())
    load_start(flags(weights=tmp_path / "a,b"), RECIPE, ["1"], folder, arena, data=DATA)  # a file of that name
    assert numbers(arena)[0] == {3}


def test_a_snapshot_goes_on_in_the_first_phase(folder, tmp_path):
    saved = checkpoint.save(tmp_path / "other", "x", 674, arena_of(5), NET, Progress(current_step=2))
    arena = arena_of()
    found, lines = load_start(flags(snapshot=saved.state), RECIPE, ["1"], folder, arena, data=DATA)
    assert (found.phase, found.iteration, found.progress.current_step) == ("1", 674, 2)
    assert lines == [f"{saved.state}: iteration 674, weights from {saved.model}"]
    assert numbers(arena) == ({5}, {2.5})
    late = checkpoint.save(tmp_path / "other", "x", 675, arena, NET, Progress())
    with pytest.raises(InputError, match=r"at iteration 675, expected less than max_iter \(675\) of phase 1"):
        load_start(flags(snapshot=late.state), RECIPE, ["1"], folder, arena, data=DATA)


def test_a_later_phase_starts_from_the_one_before(folder):
    arena = arena_of()
    with pytest.raises(InputError, match="no checkpoint of phase 1 at iteration 640"):
        load_start(flags(), RECIPE, ["2"], folder, arena, data=DATA)
    folder.path.mkdir(exist_ok=True)
    checkpoint.save(folder.checkpoints, "1", 640, arena_of(5), NET, Progress())
    line = "phase 2: starts from the weights of phase 1 at iteration 640"
    assert load_start(flags(), RECIPE, ["2"], folder, arena, data=DATA) == (None, [line])
    assert numbers(arena) == ({5}, {0})  # weights, not momentum


def test_only_plateau_takes_a_snapshot_s_last_event(folder, tmp_path):
    """In the original's files of other policies it is what was in memory."""
    saved = checkpoint.save(tmp_path / "other", "x", 3, arena_of(), NET, Progress((), 2, 0.5, -7))
    found, _ = load_start(flags(snapshot=saved.state), RECIPE, ["1"], folder, arena_of(), data=DATA)
    assert found.progress == Progress(current_step=2)
    plateau = override(RECIPE, ["lr_policy=plateau", "gamma=0.1", "plateau_winsize=9"])
    with pytest.raises(InputError) as caught:
        load_start(flags(snapshot=saved.state), plateau, ["1"], folder, arena_of(), DATA)
    found = "iter_last_event: found -7, expected 0 or more, as lr_policy is 'plateau'"
    assert str(caught.value) == f"{saved.state}: {found}"
    saved = checkpoint.save(tmp_path / "other", "x", 4, arena_of(), NET, Progress((), 2, 0.5, 3))
    found, _ = load_start(flags(snapshot=saved.state), plateau, ["1"], folder, arena_of(), DATA)
    assert found.progress == Progress((), 2, 0.5, 3)


def test_a_run_resumes_from_its_newest_checkpoint(folder):
    begin(folder, iterations=4)
    for iteration in (2, 3):
        checkpoint.save(folder.checkpoints, "1", iteration, arena_of(iteration), NET, Progress((1.0,) * iteration))
    arena = arena_of()
    found, lines = load_start(flags(resume=True, reproducible=True), RECIPE, ["1"], folder, arena, data=DATA)
    assert (found.phase, found.iteration, found.progress.losses) == ("1", 3, (1.0, 1.0, 1.0))
    assert lines == ["--reproducible: True from here on; the run had False"]
    assert numbers(arena) == ({3}, {1.5})
    assert len(folder.metrics.read_text().splitlines()) == 3  # what came after it is forgotten


def test_without_a_checkpoint_it_begins_anew_with_what_it_began_with(folder, tmp_path):
    path = tmp_path / "w.caffemodel"
    write_layers(path, "x", arena_of(5).export())
    begin(folder, iterations=4, weights=str(path))
    args, arena = flags(resume=True), arena_of()
    found, lines = load_start(args, RECIPE, ["1"], folder, arena, data=DATA)
    kept = folder.path / "metrics.jsonl.1"
    assert (found, lines) == (None, [
        "--resume: found no checkpoint: 4 iterations are lost, and the run begins anew; its metrics before are in "
        f"{kept}",
        f"phase 1: starts from the weights in {path}"])  # fmt: skip
    assert len(kept.read_text().splitlines()) == 5
    assert args.weights == str(path)  # which run.json will say again
    assert numbers(arena) == ({5}, {0})
    assert not folder.metrics.exists()
    begin(folder, iterations=0)  # killed in its first iteration
    assert load_start(flags(resume=True), RECIPE, ["1"], folder, arena, data=DATA) == (None, [])
    assert folder.metrics.read_text() == ""
    begin(folder, iterations=1)
    _, lines = load_start(flags(resume=True), RECIPE, ["1"], folder, arena, data=DATA)
    assert lines[0].endswith(
        f": 1 iteration is lost, and the run begins anew; its metrics before are in {kept.parent}/metrics.jsonl.2"
    )


def test_files_without_manifests_are_no_reason_to_begin_anew(folder):
    begin(folder, iterations=4)
    for iteration in (2, 3):
        saved = checkpoint.save(folder.checkpoints, "1", iteration, arena_of(iteration), NET, Progress())
        saved.manifest.unlink()
    before = folder.metrics.read_bytes()
    with pytest.raises(InputError) as caught:
        load_start(flags(resume=True), RECIPE, ["1"], folder, arena_of(), data=DATA)
    assert str(caught.value) == (
        f"{saved.state} and 3 other files: found no manifest, expected phase1_iter_3.json: bring the manifests back; "
        "or start in another --run-dir by --snapshot or --weights from such a file; or remove them to begin anew"
    )
    assert folder.metrics.read_bytes() == before


def test_half_of_the_first_checkpoint_is(folder, monkeypatch):
    """The process was killed before the manifest."""
    begin(folder, iterations=4)
    monkeypatch.setattr(checkpoint, "write_manifest", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(folder.checkpoints, "1", 3, arena_of(3), NET, Progress())
    assert {"phase1_iter_3.caffemodel", "phase1_iter_3.solverstate"} <= {p.name for p in folder.checkpoints.iterdir()}
    found, lines = load_start(flags(resume=True), RECIPE, ["1"], folder, arena_of(), data=DATA)
    assert found is None
    assert lines[0].startswith("--resume: found no checkpoint: 4 iterations are lost")
    folder.clear_temporary(RECIPE)  # and once more, before the next checkpoint
    assert list(folder.checkpoints.iterdir()) == []
    found, _ = load_start(flags(resume=True), RECIPE, ["1"], folder, arena_of(), data=DATA)
    assert found is None


def test_a_run_that_cannot_be_resumed_stays_as_it_is(folder):
    with pytest.raises(InputError, match=r"run\.json does not exist"):
        load_start(flags(resume=True), RECIPE, ["1"], folder, arena_of(), data=DATA)
    begin(folder, iterations=4)
    before = folder.metrics.read_text(), folder.description.read_text()
    with pytest.raises(InputError, match=r"--seed: found 4, expected 3, as in the run in "):
        load_start(flags(resume=True, seed=4), RECIPE, ["1"], folder, arena_of(), data=DATA)
    assert (folder.metrics.read_text(), folder.description.read_text()) == before
