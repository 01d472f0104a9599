"""bin/bench: tables, counts and sums that add up, one line for a mistake; what is measured is the machine's."""

import json
import os
import subprocess
import sys

import pytest
from commands import PROJECT, call

from kernels import cpu, fast
from nptrain.bench import against, convolutions, data, roofline, step, tiles
from nptrain.bench.shapes import Shape, convolution_flops, distinct_shapes, inference_flops, step_flops
from nptrain.bench.timing import samples
from nptrain.errors import InputError
from nptrain.report.table import WIDTH, report, table

TINY = ["--batch", "2", "--crop-size", "32", "--repeats", "1"]


def test_flops_of_an_image_at_224():
    assert step_flops(224) / 1e9 == pytest.approx(24.30, abs=0.005)
    assert inference_flops(224) / 1e9 == pytest.approx(8.18, abs=0.005)
    flops = convolution_flops(224)
    assert flops["forward"] == flops["weights"] > flops["data"]  # the images need no gradient
    assert sum(distinct_shapes(224).values()) == 53


def test_least_traffic():
    shape = Shape(3, 64, 7, 2, 224)
    assert shape.label == "3>64 7x7/2 224"
    maps, weights = 2 * (3 * 224**2 + 64 * 112**2), 3 * 64 * 49
    assert shape.traffic("forward", 2) == 4 * (maps + weights)
    assert shape.traffic("weights", 2) == 4 * (maps + 2 * weights)
    assert shape.passes == ("forward", "weights")


def test_table():
    rows = [{"pass": "forward", "ms": 1.5, "of_peak": 0.8125, "error": 3e-7},
            {"pass": "data", "ms": 12345.6, "of_peak": None, "error": None}]  # fmt: skip
    assert table(rows) == "pass        ms  of peak  error\nforward   1.50      81%  3e-07\ndata     12346"


def test_a_report_fits_into_80_columns():
    lines = report({"rows": [{"kind": "a", "ms": 1.0}], **{f"value_{i}": i / 7 for i in range(20)}}).splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert lines[:3] == ["kind    ms", "a     1.00", ""]
    assert all(line.startswith("value_") for line in lines[3:])  # no line begins inside a value


def test_samples_are_taken_in_turn():
    order = []
    found = samples({name: lambda name=name: order.append(name) or len(order) for name in "ab"}, 2, warm_up=2)
    assert "".join(order) == "aabb" + "abab"
    assert found == {"a": [5, 7], "b": [6, 8]}


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_tiles(precision):
    result = tiles.measure(1, precision)
    names = [row["tile"] for row in result["rows"]]
    more = ["16x4-dw-1x1"] if precision == "bf16" else []
    assert names[names.index("6x4") + 1 :] == ["16x1-dw", "16x2-dw", "16x4-dw", *more]
    assert all(row["of_peak"] > 0 for row in result["rows"])
    with pytest.raises(InputError, match="--assembly: found '7x7', expected one of 16x1, 8x2, "):
        tiles.assembly("7x7", precision)


def test_a_tile_keeps_its_sums_in_registers():
    features = "+avx512f,+avx512vl,+avx512bw,+avx512dq,+avx2,+fma,+bmi2"
    environment = {**os.environ, "NUMBA_CPU_NAME": "skylake-avx512", "NUMBA_CPU_FEATURES": features}
    words = [sys.executable, PROJECT / "bin" / "bench", "tiles", "--assembly", "6x4"]
    code = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout
    assert code.count("vfmadd") == 16 * 24
    assert code.count("(%rsp)") < 40  # without `keep_order` more than 300


@pytest.mark.parametrize("training", [True, False])
def test_the_kinds_add_up_to_the_step(training):
    result = step.measure(training, 2, 32, 2)
    rows = {row["kind"]: row for row in result["rows"]}
    assert sum(row["ms"] for row in rows.values()) == pytest.approx(result["ms"], rel=1e-9)
    assert sum(row["share"] for row in rows.values()) == pytest.approx(1)
    assert all(row["ms"] >= 0 for row in rows.values())
    assert rows["convolution forward"]["calls"] == 53
    assert ("update" in rows) == training
    assert result["images_per_s"] == pytest.approx(2000 / result["ms"])
    assert result["memory_mb"] > 100


def test_a_kernel_that_is_not_in_the_table_counts_as_rest():
    assert step.kind_of("some_new_kernel") is None
    assert step.kind_of("batchnorm_backward") == "batch norm backward"
    ops = step.Timed(fast)
    assert ops.IN_PLACE is True
    assert ops.pack is fast.pack
    ops.sgd_update(*(fast.pack_vector([0.0] * 16) for _ in range(3)), 0.0, 0.0, 0.0)
    assert [calls for calls, _ in ops.spent.values()] == [1]


def test_kernels_of_one_shape():
    result = convolutions.measure(2, 32, 1, only="512>512 3x3/1")
    *rows, _, _, last = result["rows"]
    kernels = [(p, kernel) for kernel in ("direct", "winograd") for p in ("forward", "data", "weights")]
    assert [(row["pass"], row["kernel"]) for row in rows] == kernels
    assert all(row["error"] < 1e-4 for row in rows)
    assert (last["kernel"], convolutions.used_kernel(distinct_last(), 2)) == ("used", "direct")
    assert (last["shape"], last["uses"]) == ("sum", 2)
    assert last["ms"] == pytest.approx(2 * rows[2]["ms"])
    assert last["gflops"] == pytest.approx(rows[2]["gflops"])


def distinct_last():
    return next(reversed(distinct_shapes(32)))


def test_a_wrong_kernel_is_not_timed(monkeypatch):
    right = fast.conv_forward
    monkeypatch.setattr(fast, "conv_forward", lambda *args, **options: right(*args, **options) * 1.01)
    with pytest.raises(ArithmeticError, match="forward by direct: relative error 1"):
        convolutions.measure(2, 32, 1, only="512>512 3x3/1")


def test_data_on_made_up_photographs():
    result = data.measure(None, 6, 4, 32, 1, decode_threads=2, rate=100.0)
    *stages, loader = result["rows"]
    assert [row["stage"] for row in stages][0::3] == ["read and decode", "pack for the network"]
    assert loader["decode_threads"] == 2
    assert result["core_images_per_s"] == 50
    for row in result["rows"]:
        assert row["cores"] == pytest.approx(row["decode_threads"] * 100 / row["images_per_s"])
    assert result["records"] == 6


def test_roofline(tmp_path, monkeypatch):
    stage = {shape: uses for shape, uses in distinct_shapes(32).items() if shape.height == 4 or shape.inputs == 3}
    monkeypatch.setattr(roofline, "distinct_shapes", lambda crop_size: stage)
    monkeypatch.setattr(cpu, "memory_bandwidth", lambda measure=cpu.memory_bandwidth: measure(1, 1 << 20))
    result = roofline.measure(2, 32, 1, tmp_path / "roof.png")
    assert (tmp_path / "roof.png").read_bytes().startswith(b"\x89PNG")
    assert 1 < result["bandwidth"] < 10_000
    assert 1 < result["peak_gflops"] < 100_000
    kinds = {row["kind"] for row in result["rows"]}
    assert kinds == {"conv forward", "conv data", "conv weights", "batch norm forward", "batch norm backward",
                     "pooling", "linear", "update"}  # fmt: skip
    assert all(row["intensity"] > 0 and 0 < row["gflops"] < 3 * result["peak_gflops"] for row in result["rows"])
    assert max(map(len, report(result).splitlines())) <= WIDTH


def test_without_torch_one_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(against, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^--against torch: PyTorch is not installed: .*pip install torch==2\.13\.0$"):
        step.measure(True, 2, 32, 1, ["eager"])


def test_against_torch():
    pytest.importorskip("torch", reason="PyTorch is not installed")
    ours, theirs = step.measure(True, 2, 32, 1, ["eager"])["against"]
    assert (ours["program"], theirs["program"]) == ("nptrain", "torch eager")
    assert theirs["ours_to_theirs"] == pytest.approx(ours["images_per_s"] / theirs["images_per_s"])
    assert theirs["memory_mb"] > 100


def test_torch_s_network_is_ours():
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from nptrain.bench.torch_step import Network
    from nptrain.network.arena import Arena
    from nptrain.network.layers import layers

    trained = sum(parameter.w.size for parameter in Arena(layers(), fast).parameters)
    padding = 8 * (2048 + 1)  # the classifier's 1000 outputs are stored as 1008
    assert sum(p.numel() for p in Network().parameters()) == trained - padding


def test_the_command_prints_json():
    output, _ = call("bench", "inference", *TINY, "--json")
    result = json.loads(output)
    assert result["batch"] == 2
    assert result["rows"][-1]["kind"] == "rest"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["step", "--batch", "0"], "--batch: found 0, expected 1 or more"),
        (["kernels", "--crop-size", "16"], "--crop-size: found 16, expected 32 or more"),
        (["kernels", "--shape", "9x9"], "--shape: found '9x9', expected a part of one like '512>512 3x3/1 7'"),
        (["step", "--mode", "eager"], "--mode: expected only with --against torch"),
        (["data", "no/such/folder"], "no/such/folder: not an LMDB: "),
        (["roofline", "--out", "no/such/folder/x.png"], "--out: found no/such/folder/x.png, expected a folder"),
    ],
)
def test_a_mistake_is_one_line(words, says):
    _, errors = call("bench", *words, status=2)
    assert errors.startswith(f"bench: {says}")
    assert errors.count("\n") == 1
