"""Weights and solver states: bit for bit through our files, and read from Caffe's own."""

import struct
import tracemalloc

import numpy as np
import pytest
from shared import shared
from weights import write_layers
from wire import field, legacy, varint

from kernels import naive
from nptrain.caffe import caffe_pb2
from nptrain.caffe.model import layers_of, read_caffemodel
from nptrain.caffe.state import SolverState, read_solverstate, write_solverstate
from nptrain.caffe.wire import MAX_FIELDS
from nptrain.errors import InputError
from nptrain.files import atomic_write
from nptrain.network.arena import Arena
from nptrain.network.layers import Architecture
from nptrain.network.layers import layers as resnet_layers
from nptrain.run.checkpoint import load_caffemodel


def arrays(dtype):
    """Blobs of four, one and no dimensions, with the values that formatting or rounding would lose."""
    rng = np.random.Generator(np.random.Philox(1))
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, np.finfo(dtype).tiny / 2, 1 / 3], dtype)
    return [
        rng.standard_normal((4, 3, 2, 2)).astype(dtype),
        special,
        np.array(7, dtype),
        np.empty((0, 2), dtype),
    ]


def assert_same_bits(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_trip(tmp_path, dtype):
    blobs = arrays(dtype)
    write_layers(tmp_path / "w", "net", [("a", "Convolution", blobs), ("b", "ReLU", []), ("c", "Scale", blobs[:1])])
    layers = read_caffemodel(tmp_path / "w")
    assert list(layers) == ["a", "c"]
    assert_same_bits(layers["a"], blobs)
    assert_same_bits(layers["c"], blobs[:1])
    assert layers["a"][0].dtype == dtype

    state = SolverState(402, "w.caffemodel", blobs, 3, 0.5, 399)
    write_solverstate(tmp_path / "s", state)
    found = read_solverstate(tmp_path / "s")
    assert (found.iteration, found.learned_net) == (402, "w.caffemodel")
    assert (found.current_step, found.minimum_loss, found.iter_last_event) == (3, 0.5, 399)
    assert_same_bits(found.history, blobs)


@pytest.mark.parametrize("event", [-(2**31), -1, 2**31 - 1])
def test_the_last_event_may_be_any_number(tmp_path, event):
    """The original does not initialise it, unless the policy is plateau."""
    head = caffe_pb2.SolverState(iter=4, current_step=1, minimum_loss=3e38, iter_last_event=event)
    (tmp_path / "s").write_bytes(head.SerializeToString())
    found = read_solverstate(tmp_path / "s")
    assert (found.iteration, found.current_step, found.iter_last_event) == (4, 1, event)
    (tmp_path / "s").write_bytes(caffe_pb2.SolverState(iter=4, current_step=-1).SerializeToString())
    with pytest.raises(InputError, match=r"found current_step -1, expected 0\.\.2147483647"):
        read_solverstate(tmp_path / "s")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\x89HDF\r\n\x1a\n" + bytes(9), "an HDF5 file, which Caffe does not write with snapshot_format: BINARYPROTO"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS, in place of the file"),
        (b"\n<!DOCTYPE html>\n<html></html>", "a web page: the download has failed"),
        (b"PK\x03\x04" + bytes(26), "a zip archive, such as a PyTorch file"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path, content, kind):
    (tmp_path / "w").write_bytes(content)
    for read in (read_caffemodel, read_solverstate):
        with pytest.raises(InputError, match=f"^{tmp_path}/w: found {kind}"):
            read(tmp_path / "w")


def test_files_are_plain_caffe_messages(tmp_path):
    """What another protobuf reader sees: ordinary repeated floats, names and types."""
    write_layers(tmp_path / "w", "net", [("a", "Scale", [np.float32([[1, 2.5]])]), ("b", "ReLU", [])])
    net = caffe_pb2.NetParameter.FromString((tmp_path / "w").read_bytes())
    assert (net.name, [(x.name, x.type) for x in net.layer]) == ("net", [("a", "Scale"), ("b", "ReLU")])
    assert list(net.layer[0].blobs[0].data) == [1, 2.5]
    assert list(net.layer[0].blobs[0].shape.dim) == [1, 2]


def test_noncontiguous_array(tmp_path):
    x = np.arange(12, dtype=np.float32).reshape(3, 4).T
    write_layers(tmp_path / "w", "net", [("a", "Scale", [x])])
    assert (read_caffemodel(tmp_path / "w")["a"][0] == x).all()


def test_every_legal_coding_of_floats(tmp_path):
    """Protobuf allows a packed field to come unpacked or in pieces."""
    blob = b"\x08\x04\x10\x01\x18\x01\x20\x01"  # num 4, the other three 1
    blob += b"\x2d" + struct.pack("<f", 1) + b"\x2a\x08" + struct.pack("<2f", 2, 3) + b"\x2a\x04" + struct.pack("<f", 4)
    layer = caffe_pb2.LayerParameter(name="a").SerializeToString() + b"\x3a" + bytes([len(blob)]) + blob
    (tmp_path / "w").write_bytes(b"\xa2\x06" + bytes([len(layer)]) + layer)
    (x,) = read_caffemodel(tmp_path / "w")["a"]
    assert x.shape == (4, 1, 1, 1)
    assert x.ravel().tolist() == [1, 2, 3, 4]


def test_the_older_fields_count_before_a_shape(tmp_path):
    """As in Caffe's Blob::FromProto."""
    blob = field(7, field(1, b"\x03\x02")) + legacy((1, 1, 2, 3), range(6))
    (tmp_path / "w").write_bytes(field(100, field(1, b"a") + field(7, blob)))
    assert read_caffemodel(tmp_path / "w")["a"][0].shape == (1, 1, 2, 3)


def test_unpacked_floats_of_any_number(tmp_path):
    """Also more of them than a file may have fields; and doubles, after which others come."""
    values = np.arange(MAX_FIELDS + 7, dtype=np.float32)
    rows = np.empty(len(values), [("key", "u1"), ("value", "<f4")])
    rows["key"], rows["value"] = 0x2D, values
    double = b"".join(b"\x41" + struct.pack("<d", x) for x in (1.5, 2.5)) + field(7, field(1, b"\x02"))
    shape = field(7, field(1, varint(len(values))))
    layer = field(1, b"a") + field(7, rows.tobytes() + shape) + field(7, double)
    (tmp_path / "w").write_bytes(field(100, layer))
    first, second = read_caffemodel(tmp_path / "w")["a"]
    assert (first == values).all()
    assert second.dtype == np.float64
    assert second.tolist() == [1.5, 2.5]


def test_layers_from_before_2014(tmp_path):
    """V1LayerParameter: other numbers, types as numbers; where there are such layers, they count alone, as in Caffe."""
    inner = (
        field(4, b"ip")
        + b"\x28\x0e"
        + field(6, legacy((1, 1, 2, 3), range(6)))
        + field(6, legacy((1, 1, 1, 2), [7, 8]))
    )
    relu = field(4, b"relu") + b"\x28\x12"
    odd = field(4, b"odd") + b"\x28\x63" + field(6, legacy((1, 1, 1, 1), [9]))
    new = field(100, field(1, b"new") + field(7, legacy((1, 1, 1, 1), [1])))
    (tmp_path / "w").write_bytes(field(1, b"net") + field(2, inner) + new + field(2, relu) + field(2, odd))
    assert [(x.name, x.type, len(x.blobs)) for x in layers_of(tmp_path / "w")] == [
        ("ip", "INNER_PRODUCT", 2), ("relu", "RELU", 0), ("odd", "99", 1)]  # fmt: skip
    layers = read_caffemodel(tmp_path / "w")
    assert [x.shape for x in layers["ip"]] == [(1, 1, 2, 3), (1, 1, 1, 2)]
    assert layers["ip"][0].ravel().tolist() == [0, 1, 2, 3, 4, 5]


def test_the_last_layer_of_a_name_counts(tmp_path):
    ones = np.ones(2, np.float32)
    write_layers(tmp_path / "w", "n", [("a", "Scale", [ones]), ("b", "Scale", [ones]), ("a", "Scale", [2 * ones])])
    layers = read_caffemodel(tmp_path / "w")
    assert list(layers) == ["a", "b"]
    assert layers["a"][0].tolist() == [2, 2]


def test_legacy_shapes_fit_the_network(tmp_path):
    """A 1x1xOxI inner product weight and 1x1x1xC vectors, as Caffe's ShapeEquals takes them."""
    arena = Arena(resnet_layers(Architecture(18), 10), naive)
    old = {name: [x.reshape((1,) * (4 - x.ndim) + x.shape) for x in blobs] for name, _, blobs in arena.export()}
    write_layers(tmp_path / "w", "n", [(name, "", [x + 1 for x in blobs]) for name, blobs in old.items()])
    load_caffemodel(tmp_path / "w", arena)
    assert all((x == y.reshape(x.shape) + 1).all() for name, _, blobs in arena.export()
               for x, y in zip(blobs, old[name], strict=True))  # fmt: skip
    old["fc1000"][0] = old["fc1000"][0][:, :, :, 1:]
    write_layers(tmp_path / "w", "n", [(name, "", blobs) for name, blobs in old.items()])
    with pytest.raises(InputError, match=r"w: layer fc1000 blob 0 has shape \(1, 1, 10, 511\), expected \(10, 512\)"):
        load_caffemodel(tmp_path / "w", arena)


def test_scale_layers_may_be_merged_into_batch_norm(tmp_path):
    """As the engine of the published run writes them: five blobs, and no Scale layer."""
    arena, other = (Arena(resnet_layers(Architecture(18), 10), naive) for _ in range(2))
    arena.initialise(1)
    arena.factors[...] = 3
    plain = {name: blobs for name, _, blobs in arena.export()}
    merged = [(name, "", [*blobs, *plain[f"scale{name[2:]}"]] if name.startswith("bn") else blobs)
              for name, blobs in plain.items() if not name.startswith("scale")]  # fmt: skip
    write_layers(tmp_path / "w", "n", merged)
    assert load_caffemodel(tmp_path / "w", other) == []
    for (name, _, blobs), (_, _, expected) in zip(other.export(), arena.export(), strict=True):
        assert all((x == y).all() for x, y in zip(blobs, expected, strict=True)), name
    write_layers(tmp_path / "w", "n", [*merged, ("scale_conv1", "", plain["scale_conv1"])])
    with pytest.raises(InputError, match="layer bn_conv1 has 5 blobs, expected 3"):
        load_caffemodel(tmp_path / "w", other)


def test_strange_names(tmp_path):
    """Of other codings, or made to confuse a terminal: escaped."""
    (tmp_path / "w").write_bytes(b"".join(field(100, field(1, name) + field(7, legacy((1, 1, 1, 1), [1])))
                                          for name in (b"\xff\xfe", b"a\n\x1b[2J", "größe".encode())))  # fmt: skip
    assert list(read_caffemodel(tmp_path / "w")) == ["\\xff\\xfe", "a\\n\\x1b[2J", "größe"]


def test_weights_take_their_own_memory_once(tmp_path):
    blobs = [np.ones(1_000_000, np.float32)] * 3
    write_layers(tmp_path / "w", "net", [(name, "Scale", blobs) for name in "abc"])
    tracemalloc.start()
    try:
        layers = read_caffemodel(tmp_path / "w")
        assert tracemalloc.get_traced_memory()[1] < 1.05 * sum(x.nbytes for blobs in layers.values() for x in blobs)
    finally:
        tracemalloc.stop()


def test_caffes_own_files():
    layers = read_caffemodel(shared("formats/real/cifar10_quick_iter_4000.caffemodel"))
    state = read_solverstate(shared("formats/real/cifar10_quick_iter_4000.solverstate"))
    shapes = [x.shape for blobs in layers.values() for x in blobs]
    assert list(layers) == ["conv1", "conv2", "conv3", "ip1", "ip2"]
    assert shapes[:2] == [(32, 3, 5, 5), (32,)]
    assert state.iteration == 4000
    assert state.learned_net.endswith("cifar10_quick_iter_4000.caffemodel")
    assert [x.shape for x in state.history] == shapes
    assert all(np.isfinite(x).all() and x.any() for x in state.history)


def test_errors(tmp_path):
    path = tmp_path / "f"
    with pytest.raises(InputError, match=r"f: cannot be read: No such file"):
        read_caffemodel(path)

    write_solverstate(path, SolverState(1, "w", [np.ones(3, np.float32)]))
    with pytest.raises(InputError, match=r"f: not a NetParameter message: .*another kind"):
        read_caffemodel(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"f: not a SolverState message: damaged, cut short"):
        read_solverstate(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"f: holds no layers: not a .caffemodel"):
        read_caffemodel(path)

    write_layers(path, "net", [("a", "Scale", [np.ones(3, np.float32)])])
    with pytest.raises(InputError, match=r"f: not a SolverState message: .*another kind"):
        read_solverstate(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"f: holds no iteration: not a .solverstate"):
        read_solverstate(path)

    net = caffe_pb2.NetParameter()
    net.layer.add(name="a").blobs.add(shape=caffe_pb2.BlobShape(dim=[2, 2]), data=[1, 2, 3])
    path.write_bytes(net.SerializeToString())
    with pytest.raises(InputError, match=r"f: layer a, blob 0: found 3 numbers for a blob of shape \(2, 2\)"):
        read_caffemodel(path)
    net.layer[0].blobs[0].shape.dim[:] = [-1, -3]
    path.write_bytes(net.SerializeToString())
    with pytest.raises(InputError, match=r"found 3 numbers for a blob of shape \(-1, -3\)"):
        read_caffemodel(path)

    with pytest.raises(TypeError, match="int64"):
        write_layers(path, "net", [("a", "Scale", [np.arange(3)])])


def test_atomic_write(tmp_path):
    path = tmp_path / "f"
    path.write_text("old")

    def write_half():
        with atomic_write(path) as file:
            file.write(b"half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_half()
    assert path.read_text() == "old"
    with atomic_write(path, "w") as file:
        file.write("neu: ü")
        assert path.read_text() == "old"
    assert path.read_text(encoding="utf-8") == "neu: ü"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
