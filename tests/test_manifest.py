"""The manifest of a checkpoint is checked as strictly as its files: whatever changes in it is found, in one line."""

import json
import random

import pytest

from kernels import naive
from nptrain.caffe.caffe_pb2 import NetParameter
from nptrain.errors import InputError
from nptrain.network.arena import Arena
from nptrain.network.layers import Blob, Layer
from nptrain.recipes.published import get_recipe
from nptrain.recipes.schedule import Progress
from nptrain.run import checkpoint
from nptrain.run.manifest import read_manifest

LAYERS = (Layer("fc", "InnerProduct", (Blob((2, 3)), Blob((2,)))),)
NET = NetParameter(name="net", layer=[{"name": "fc", "type": "InnerProduct"}])
RECIPE = get_recipe("digits")


def saved(folder, iteration, prefix=None):
    arena = Arena(LAYERS, naive)
    arena.weights[:] = iteration
    return checkpoint.save(folder, "1", iteration, arena, NET, Progress((0.25, 1.5)), prefix)


def newest(folder):
    lines = []
    return checkpoint.latest(RECIPE, folder, lines.append), lines


@pytest.mark.parametrize("with_prefix", [False, True])
def test_every_flipped_bit_is_found(tmp_path, with_prefix):
    """And the checkpoint before it is taken, with a line that says why."""
    prefix = str(tmp_path / "caffe") if with_prefix else None
    saved(tmp_path, 3, prefix)
    path = saved(tmp_path, 6, prefix).manifest
    whole = path.read_bytes()
    assert newest(tmp_path)[0].iteration == 6
    assert read_manifest(path)["losses"] == [0.25, 1.5]
    bits = range(8 * len(whole)) if not with_prefix else random.Random(1).sample(range(8 * len(whole)), 300)
    blank = {index for index, byte in enumerate(whole) if byte in b" \n"}
    for bit in bits:
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        found, lines = newest(tmp_path)
        if found.iteration == 6:  # the same text for JSON: one blank for another
            assert bit // 8 in blank
            assert json.loads(changed) == json.loads(whole)
            continue
        assert (found.iteration, len(lines)) == (3, 1)
        assert lines[0].startswith(f"skipped a damaged checkpoint: {path}: ")


def test_every_length_is_found(tmp_path):
    saved(tmp_path, 3)
    path = saved(tmp_path, 6).manifest
    whole = path.read_bytes()
    for length in range(len(whole) - 1):
        path.write_bytes(whole[:length])
        found, lines = newest(tmp_path)
        assert (found.iteration, len(lines)) == (3, 1)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"files": {}}, "its checksum is another one"),
        ({"files": {}, "sha256": None}, "files: found none, expected a .caffemodel and a .solverstate"),
        ({"iteration": 7, "sha256": None}, "it is of phase 1, iteration 7"),
        ({"iteration": True, "sha256": None}, "iteration: not a value of its kind"),
        ({"phase": None, "sha256": None}, "phase: missing"),
        ({"losses": [0.5, "x"], "sha256": None}, "numbers that it cannot have"),
        ({"colour": 1, "sha256": None}, "colour: an unknown field"),
    ],
)
def test_other_contents(tmp_path, change, line):
    path = saved(tmp_path, 6).manifest
    entry = {**json.loads(path.read_bytes()), **change}
    path.write_text(json.dumps({name: value for name, value in entry.items() if value is not None}))
    with pytest.raises(InputError, match=f"^{path}: damaged: {line}$"):
        read_manifest(path)


@pytest.mark.parametrize("text", ["[]", "1", "null", '"x"', "{", "[" * 10**5, '{"phase": NaN}', '{"files": [1]}'])
def test_other_json(tmp_path, text):
    path = tmp_path / "phase1_iter_6.json"
    path.write_text(text)
    with pytest.raises(InputError, match=f"^{path}: damaged: "):
        read_manifest(path)


def test_a_manifest_without_a_checksum_of_its_own(tmp_path):
    """As versions before wrote it."""
    path = saved(tmp_path, 6).manifest
    entry = json.loads(path.read_bytes())
    path.write_text(json.dumps({name: value for name, value in entry.items() if name not in ("sha256", "losses")}))
    found, lines = newest(tmp_path)
    assert (found.iteration, lines) == (6, [])


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_anew(tmp_path):
    first, second = saved(tmp_path, 3), saved(tmp_path, 6)
    first.model.write_bytes(b"")
    second.manifest.write_bytes(b"")
    with pytest.raises(InputError) as caught:
        newest(tmp_path)
    first = f"{second.manifest}: damaged: not a manifest (and 1 more)"
    end = f"remove {tmp_path} to begin anew, or give another --run-dir"
    assert str(caught.value) == f"--resume: all checkpoints are damaged: {first}; {end}"


def test_a_phase_whose_start_is_damaged_says_how_to_go_on(tmp_path):
    last = saved(tmp_path, RECIPE.phases[1].starts_from)
    last.model.write_bytes(last.model.read_bytes()[:-1])
    with pytest.raises(InputError, match="phase 2 starts from it: give --weights, or train phase 1 again"):
        checkpoint.load_start_of(RECIPE.phases[1], RECIPE, tmp_path, Arena(LAYERS, naive))
