"""bin/inspect: what a file is, by its content, and what it holds; lines of 80 columns, or JSON."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import call, start
from images import image, image_file
from PIL import Image
from shared import shared
from weights import write_layers
from wire import field, legacy

from kernels import naive
from nptrain.caffe.caffe_pb2 import Datum
from nptrain.caffe.state import SolverState, write_solverstate
from nptrain.caffe_net.writer import trained_net
from nptrain.data.classes import write_classes
from nptrain.data.datum import encoded_datum, raw_datum
from nptrain.data.lmdb_dataset import LmdbDataset, write_lmdb
from nptrain.errors import InputError
from nptrain.inspect.summary import summary
from nptrain.inspect.summary_text import summary_text
from nptrain.network.arena import Arena
from nptrain.network.layers import layers
from nptrain.recipes.published import get_recipe
from nptrain.recipes.schedule import Progress
from nptrain.run import checkpoint
from nptrain.run.run_folder import RunFolder
from nptrain.run.versions import versions


def text(path, **options):
    """The summary of a file as text, without the line of its name."""
    found = summary(path, **options)
    json.dumps(found, allow_nan=False)
    lines = summary_text(found).splitlines()
    assert all(len(line) <= 80 for line in lines[1:])
    return "\n".join(lines[1:])


def test_weights(tmp_path):
    path = tmp_path / "any.name"
    bad = np.float32([3, np.nan, -np.inf])
    write_layers(path, "net", [("a", "Scale", [np.float32([[3, 4]]), bad]), ("b", "ReLU", []), ("c", "ReLU", []),
                                   ("a", "Bias", [np.array(2.0), np.float32([3e38] * 2)])])  # fmt: skip
    assert summary(path)["kind"] == "caffemodel"
    assert [blob["norm"] for blob in summary(path)["layers"][0]["blobs"]] == [5, None]
    assert (
        text(path)
        == """\
  weights of the net net (124 bytes)
  layer  type   blob                  L2 norm
  a      Scale  1x2     float32             5
                3       float32  2 not finite
  a      Bias   scalar  float64             2
                2       float32   4.24264e+38
  2 of 4 layers have weights: 4 blobs, 8 numbers
  without: 2 ReLU
  more than once, the last one counts: a"""
    )


def test_layers_from_before_2014(tmp_path):
    (tmp_path / "w").write_bytes(field(2, field(4, b"ip") + b"\x28\x0e" + field(6, legacy((1, 1, 1, 2), [3, 4]))))
    assert "weights of the net (no name) (" in text(tmp_path / "w")
    assert "before 2014" in text(tmp_path / "w")
    assert "  ip     INNER_PRODUCT  1x1x1x2  float32        5\n" in text(tmp_path / "w")


def test_solver_state(tmp_path):
    write_solverstate(tmp_path / "s", SolverState(402, "a.caffemodel", [np.float32([[3, 4]])], 2))
    found = summary(tmp_path / "s")
    assert (found["kind"], found["iteration"], found["current_step"]) == ("solverstate", 402, 2)
    assert found["history"] == [{"shape": [1, 2], "dtype": "float32", "norm": 5.0}]
    assert "after 402 iterations" in text(tmp_path / "s")
    assert "plateau" not in text(tmp_path / "s")
    write_solverstate(tmp_path / "s", SolverState(402, "a.caffemodel", [], 2, 0.5, 399))
    assert "  plateau: least smoothed loss 0.5, last event in iteration 399\n" in text(tmp_path / "s")
    write_solverstate(tmp_path / "s", SolverState(402, "", [], 2, float(np.finfo(np.float32).max), -123456789))
    assert summary(tmp_path / "s")["iter_last_event"] == -123456789
    assert "  iter_last_event -123456789, which has no meaning: the policy was not plateau\n" in text(tmp_path / "s")
    write_solverstate(tmp_path / "s", SolverState(0, "", []))
    assert summary(tmp_path / "s")["kind"] == "solverstate"


def test_mean_image(tmp_path):
    (tmp_path / "mean").write_bytes(legacy((1, 3, 1, 2), [1, 2, 3, 4, 5, 6]))
    assert summary(tmp_path / "mean")["blob"]["channel_means"] == [1.5, 3.5, 5.5]
    assert "1x3x1x2, float32" in text(tmp_path / "mean")


def test_lmdb(tmp_path, monkeypatch):
    records = [("a", encoded_datum(image_file(image(), "JPEG"), 3)), ("b", raw_datum(image(width=10), 3)),
               ("c", encoded_datum(image_file(image(mode="L")), 0)), ("d", b"junk"),
               ("e", encoded_datum(b"no", 1))]  # fmt: skip
    write_lmdb(tmp_path / "set", records)
    found = summary(tmp_path / "set")
    assert found["codings"] == {"JPEG": 1, "raw": 1, "PNG": 1}
    assert found["channels"] == {3: 2, 1: 1}
    assert found["labels"] == {0: 1, 3: 2}
    assert found["mean_size"] == [(20 + 10 + 20) / 3, 16]
    assert (found["records"], found["bad"]) == (5, 2)
    assert "record 00000003_d: found 4 bytes that are not a Datum" in found["first_bad"]
    assert found["first_keys"] == ["00000000_a", "00000001_b", "00000002_c"]
    assert summary(tmp_path / "set" / "data.mdb")["labels"] == found["labels"]
    first = summary(tmp_path / "set", records=2)
    assert (first["records"], first["read"], first["labels"], first["bad"]) == (5, 2, {3: 2}, 0)
    assert "5 records" in text(tmp_path / "set", records=2)
    monkeypatch.chdir(tmp_path)  # the line names the folder, which fits into 80 columns only if it is short
    assert "BAD RECORDS: 2; the first: " in text(Path("set"))
    assert "2 of them read" in text(tmp_path / "set", records=2)


def test_what_training_refuses_is_bad(tmp_path):
    """Records, pixels and labels; inspection and training have the same line."""
    good = image_file(image(), "JPEG")
    refused = [("four planes", Datum(label=1, data=bytes(256), channels=4, height=8, width=8).SerializeToString()),
               ("cut short", encoded_datum(image_file(image())[:-99], 1)), ("negative", encoded_datum(good, -1)),
               ("no such class", encoded_datum(good, 2)),
               ("floats", encoded_datum(image_file(Image.fromarray(np.float32([[0, 1]])), "TIFF"), 1))]  # fmt: skip
    for name, record in refused:
        path = tmp_path / name
        write_lmdb(path, [("good", encoded_datum(good, 0)), ("bad", record)])
        write_classes(path, ["ant", "bee"])
        found = summary(path)
        with pytest.raises(InputError) as error:
            LmdbDataset(path, classes=2)[1]
        assert (found["labels"], found["bad"], found["first_bad"]) == ({0: 1}, 1, str(error.value))
        assert summary(path, headers=True)["bad"] == (name != "cut short")
        output, _ = call("inspect", "--headers", path)
        assert ("BAD RECORDS" in output) == (name != "cut short")


def test_names_of_classes(tmp_path):
    path = tmp_path / "set"
    write_lmdb(path, [(f"{i}", raw_datum(image(), i)) for i in (0, 0, 2)])
    write_classes(path, ["ant", "bee", "cow\x1b[31m"])
    assert summary(path)["classes"] == ["ant", "bee", "cow\\x1b[31m"]
    assert "  label and class: records: 0 ant: 2, 1 bee: 0, 2 cow\\x1b[31m: 1" in text(path)
    write_classes(path, [f"class {i}" for i in range(1000)])
    assert "  1000 names: class 0, class 1, class 2, class 3, class 4, ..." in text(path)
    (path / "classes.txt").unlink()
    assert "label: records: 0: 2, 2: 1" in text(path)
    assert summary(path)["classes"] is None


def test_an_lmdb_that_is_one_file(tmp_path):
    """As LMDB writes with MDB_NOSUBDIR, with any name."""
    write_lmdb(tmp_path / "set", [("a", raw_datum(image(), 3))])
    (tmp_path / "set" / "data.mdb").rename(tmp_path / "train.mdb")
    found = summary(tmp_path / "train.mdb")
    assert (found["kind"], found["labels"]) == ("lmdb", {3: 1})
    assert found["bytes"] == (tmp_path / "train.mdb").stat().st_size


def test_texts(tmp_path):
    path = tmp_path / "t"
    path.write_text('net: "x"\nbase_lr: 4.8\nstepvalue: 3\nstepvalue: 5\nsolver_mode: CPU\n')
    assert summary(path)["kind"] == "SolverParameter"
    assert summary(path)["fields"] == {"net": "x", "base_lr": pytest.approx(4.8), "stepvalue": [3, 5],
                                       "solver_mode": "CPU"}  # fmt: skip
    assert "  stepvalue: 3, 5" in text(path)
    path.write_text('# comment\nname: "n"\nlayer { name: "a" type: "LRN" lrn_param { local_size: 5 } }\n')
    assert [(layer["name"], layer["type"]) for layer in summary(path)["layers"]] == [("a", "LRN")]
    assert summary(path)["unknown"].startswith("3:31")
    assert 'Message type "caffe.LayerParameter" has no field named "lrn_param"' in summary(path)["unknown"]
    path.write_text('layers { name: "a" type: POOLING }\n')
    assert summary(path)["layers"] == [{"name": "a", "type": "POOLING"}]


def test_checkpoints(tmp_path):
    recipe = replace(get_recipe("digits"), depth=18, width=16)
    arena, net = Arena(layers(recipe.architecture, 10), naive), trained_net(recipe)
    saved = checkpoint.save(tmp_path, "1", 30, arena, net, Progress())
    assert text(saved.manifest).endswith("  its files are complete, with the manifest's checksums")
    elsewhere = checkpoint.save(tmp_path / "run", "1", 30, arena, net, Progress(), tmp_path / "caffe")
    assert elsewhere.model == tmp_path / "caffe_iter_30.caffemodel"
    assert text(elsewhere.manifest).endswith("  its files are complete, with the manifest's checksums")
    found = summary(saved.model)
    assert sum(bool(layer["blobs"]) for layer in found["layers"]) == 20 + 20 + 20 + 1
    assert len(text(saved.model).splitlines()) > 100
    saved.model.write_bytes(b"")
    assert "  DAMAGED: " in summary_text(summary(saved.manifest))


def test_a_run(tmp_path):
    run_folder = RunFolder(tmp_path)
    run_folder.describe(get_recipe("digits"), [{"host": "a"}, {"host": "b"}], {"seed": 3}, versions("Some MPI 1.0"))
    found = summary(tmp_path)
    assert (found["kind"], found["hosts"], found["arguments"]) == ("run", 2, {"seed": 3})
    assert found == summary(run_folder.description)
    assert "  description of a run on 2 ranks (" in text(tmp_path)
    assert "recipe: name digits," in text(tmp_path)
    assert "mpi Some MPI 1.0" in text(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\x89HDF\r\n\x1a\n", "found an HDF5 file, which Caffe does not write with snapshot_format: BINARYPROTO"),
        (image_file(image()), "found a PNG"),
        (b"\x08\x01\x10\x02", "not one of Caffe's files"),
        (b"Hello, world!\n", "1:6: "),
        (b"a: 1\n", "a text without any field"),
        (b"\xe4\xf6\xfc text", "not a text in UTF-8: line 1, not in a comment, expected text"),
        ('net: "a"'.encode("utf-16"), "not a text in UTF-8: found UTF-16, expected text"),
        (b'{"recipe": [], "arguments": {}, "versions": {}, "hosts": []}', "neither the"),
        (b'{"recipe": {"a": NaN}, "arguments": {}, "versions": {}, "hosts": []}', "neither the"),
        (b'{"recipe": {"a": 1e999}, "arguments": {}, "versions": {}, "hosts": []}', "neither the"),
        (b"{}", "neither the manifest of a checkpoint nor the description of a run"),
    ],
)
def test_other_things(tmp_path, content, message):
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(InputError, match=f"f:.*{message}"):
        summary(tmp_path / "f")


def test_no_file(tmp_path):
    with pytest.raises(InputError, match="x: cannot be read: No such file"):
        summary(tmp_path / "x")
    with pytest.raises(InputError, match=r"a folder without data.mdb and run.json"):
        summary(tmp_path)


def test_caffes_own_files():
    for name, kind in (("cifar10_quick_iter_4000.caffemodel", "caffemodel"), ("caffestart_train_lmdb", "lmdb"),
                       ("cifar10_quick_iter_4000.solverstate", "solverstate")):  # fmt: skip
        assert summary(shared(f"formats/real/{name}"))["kind"] == kind
        text(shared(f"formats/real/{name}"))


def test_command(tmp_path):
    write_solverstate(tmp_path / "s", SolverState(7, "w", []))
    output, _ = call("inspect", tmp_path / "s", tmp_path / "s", "--json")
    assert [json.loads(line)["iteration"] for line in output.splitlines()] == [7, 7]
    output, errors = call("inspect", tmp_path / "s", tmp_path / "none", status=2)
    assert "after 7 iterations" in output
    assert errors == f"inspect: {tmp_path}/none: cannot be read: No such file or directory\n"
    _, errors = call("inspect", tmp_path / "s", "--records", "0", status=2)
    assert errors == "inspect: --records: found 0, expected 1 or more\n"


def test_a_reader_that_goes_away(tmp_path):
    write_solverstate(tmp_path / "s", SolverState(7, "w", [np.ones(1, np.float32)] * 5000))
    process = start("inspect", *[tmp_path / "s"] * 3)
    assert process.stdout.readline() == f"{tmp_path}/s:\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) in (0, 1)
