"""bin/inspect of files for other programs, and such a file where a .caffemodel is expected."""

import numpy as np
import pytest
from commands import call

from nptrain.errors import InputError
from nptrain.export.safetensors_file import write_safetensors
from nptrain.inspect.summary import summary


def test_safetensors(tmp_path):
    path = tmp_path / "any.name"
    write_safetensors(
        path, {"a": np.float32([[3, 4]]), "b": np.float32(2)}, {"network": "ResNet-18", "classes": '["a"]'}
    )
    output, _ = call("inspect", path)
    assert (
        output
        == f"""\
{path}:
  tensors in the format safetensors ({path.stat().st_size} bytes)
  metadata: network ResNet-18, classes ["a"]
  tensor                   L2 norm
  a       1x2     float32        5
  b       scalar  float32        2
  2 tensors, 3 numbers
"""
    )
    _, errors = call("evaluate", "--weights", path, "--data", "x", status=2)
    assert errors == (f"evaluate: {path}: found a safetensors file, which bin/convert makes a .caffemodel; expected a "
                      "NetParameter message\n")  # fmt: skip
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="damaged: its tensors are not the"):
        summary(path)


def test_onnx(tmp_path):
    onnx = pytest.importorskip("onnx")
    kind, make = onnx.TensorProto.FLOAT, onnx.helper
    ends = [make.make_tensor_value_info(name, kind, [2]) for name in ("x", "y")]
    nodes = [make.make_node("Add", ["x", "w"], ["z"]), make.make_node("Relu", ["z"], ["y"])]
    graph = make.make_graph(nodes, "g", ends[:1], ends[1:], [make.make_tensor("w", kind, [2], [1, 2])])
    model = make.make_model(graph, producer_name="nptrain")
    make.set_model_props(model, {"depth": "18"})
    onnx.save(model, tmp_path / "m")
    found = summary(tmp_path / "m")
    assert (found["kind"], found["producer"], found["metadata"]) == ("onnx", "nptrain", {"depth": "18"})
    assert (found["operators"], found["arrays"]) == (["Add", "Relu"], 1)
    output, _ = call("inspect", tmp_path / "m")
    assert "  metadata: depth 18\n  2 operators, 1 arrays\n  1 Add, 1 Relu\n" in output
