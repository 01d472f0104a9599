"""bin/plan: the model by hand, what it must never do, and its predictions for the published runs."""

import json
import resource
import subprocess
import sys
from dataclasses import replace

import numba
import numpy as np
import pytest
from commands import PROJECT, call

from bin.common.predict import Cluster, against_published, predict
from kernels import fast, scratch, scratch_sizes
from mpi.cost_model import Network, allreduce_seconds, into_buckets, slowest, timeline
from nptrain.bench.shapes import step_flops
from nptrain.bench.step import Work
from nptrain.network.inference import Inference
from nptrain.network.layers import DEPTHS
from nptrain.network.resnet import ResNet
from nptrain.plan import needs
from nptrain.recipes.published import RECIPES

RECIPE = RECIPES["resnet50-448nodes"]
NETWORK = Network(latency=0.5, bandwidth=10.0)


def test_a_sum_over_ranks_by_hand():
    assert allreduce_seconds(100, 1, NETWORK) == 0
    assert allreduce_seconds(100, 2, NETWORK) == 2 * 1 / 2 * 100 / 10 + 2 * 1 * 0.5
    assert allreduce_seconds(100, 4, NETWORK) == 2 * 3 / 4 * 100 / 10 + 2 * 2 * 0.5
    assert allreduce_seconds(100, 5, NETWORK) == 2 * 4 / 5 * 100 / 10 + 2 * 3 * 0.5


def test_buckets_close_when_full_and_are_ready_with_their_last_gradient():
    gradients = [(30, 1.0), (30, 2.0), (200, 3.0), (10, 4.0)]
    assert into_buckets(gradients, 50) == [(60, 2.0), (200, 3.0), (10, 4.0)]
    assert into_buckets(gradients, 1) == gradients
    assert into_buckets(gradients, 1000) == [(270, 4.0)]
    assert into_buckets([], 1) == []


def test_two_buckets_by_hand():
    line = timeline([(100, 1.0), (50, 4.0)], 5.0, 2, NETWORK, least=1)
    first, second = line.buckets  # 11 s and 6 s on their way
    assert (first.ready, first.start, first.end) == (1.0, 1.0, 12.0)
    assert (second.ready, second.start, second.end) == (4.0, 12.0, 18.0)  # the link is busy until 12
    assert (line.communication, line.exposed) == (17.0, 13.0)
    assert line.hidden == pytest.approx(4 / 17)
    late = timeline([(100, 1.0), (50, 4.0)], 5.0, 2, NETWORK, least=1, overlap=False)
    assert (late.exposed, late.hidden) == (17.0, 0.0)


def test_what_is_home_before_backward_ends_costs_nothing():
    line = timeline([(10, 1.0)], 5.0, 2, NETWORK, least=1)
    assert (line.exposed, line.hidden) == (0.0, 1.0)


def test_one_rank_has_no_communication():
    assert timeline([(100, 1.0)], 5.0, 1, NETWORK, least=1).buckets == ()
    found = predict(replace(RECIPE, workers=1), Cluster(1, ranks_per_node=1))
    assert found["buckets"] == []
    assert found["exposed_ms"] == found["slowest_ms"] == 0
    assert found["efficiency"] == pytest.approx(1)
    assert found["step_ms"] == pytest.approx(found["forward_ms"] + found["backward_ms"])


def test_the_slowest_of_many():
    assert slowest(1, 0.03) == 1
    assert slowest(2, 0.1) == pytest.approx(1 + 0.1 * 0.564, abs=0.004)  # 1 / sqrt(pi)
    assert slowest(10, 0.1) == pytest.approx(1 + 0.1 * 1.539, abs=0.002)
    assert slowest(896, 0) == 1


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({}, {"bandwidth_gbit": 5.0}),
        ({}, {"latency_us": 500.0}),
        ({}, {"spread": 0.1}),
        ({}, {"overlap": False}),
        ({"overlap": False, "value_bytes": 4}, {"overlap": False}),
        ({}, {"cores": 24}),
        ({"images_per_s": 80.0}, {"images_per_s": 40.0}),
    ],
)
def test_what_is_worse_takes_longer(better, worse):
    times = [predict(RECIPE, Cluster(448, **values))["step_ms"] for values in (better, worse)]
    assert times[0] < times[1]


def test_more_nodes_are_faster_and_less_efficient():
    found = [predict(RECIPE, Cluster(nodes)) for nodes in (1, 7, 56, 448)]
    speeds, efficiencies = ([one[key] for one in found] for key in ("images_per_s", "efficiency"))
    assert speeds == sorted(speeds)
    assert efficiencies == sorted(efficiencies, reverse=True)
    assert efficiencies[-1] > 0.9  # as the paper states


def test_fewer_ranks_carry_more_workers_one_after_another():
    whole, half = (predict(RECIPE, Cluster(nodes, spread=0)) for nodes in (448, 224))
    assert half["workers_a_rank"] == 2
    assert half["step_ms"] - half["exposed_ms"] == pytest.approx(2 * (whole["step_ms"] - whole["exposed_ms"]))
    assert half["communication_ms"] == pytest.approx(whole["communication_ms"], rel=0.02)
    assert predict(RECIPE, Cluster(300))["workers_a_rank"] == 2  # uneven: the fullest rank counts


def test_what_dead_ranks_cost():
    found = json.loads(call("plan", "--nodes", 448, "--spares", 2, "--json")[0])
    assert [(row["spares"], row["died"], row["ranks"], row["workers_a_rank"]) for row in found["deaths"]] == [
        (0, 0, 896, 1), (0, 1, 895, 2), (2, 2, 896, 1), (2, 3, 895, 2)]  # fmt: skip
    whole, one, spared, again = (row["step_ms"] for row in found["deaths"])
    assert whole == spared == found["step_ms"]
    assert one == again == pytest.approx(2 * whole - found["exposed_ms"])
    text, _ = call("plan", "--nodes", 448, "--spares", 2)
    assert "mpirun -n 898\n" in text
    assert max(map(len, text.splitlines())) <= 80
    even = json.loads(call("plan", "--nodes", 300, "--spares", 1, "--json")[0])["deaths"]  # 600 ranks: some have two
    assert {row["workers_a_rank"] for row in even} == {2}


def test_the_published_runs():
    rows = {row["run"]: row for row in against_published()}
    for name in ("64 nodes", "64 nodes, all 5 parts", "448 nodes, part 1"):
        assert abs(rows[name]["difference"]) < 0.15, rows[name]
    assert sum(row["fitted"] for row in rows.values()) == 2


def test_operations_are_those_of_the_benchmark():
    steps = needs.steps_of(RECIPE)
    flops = sum(step.flops + step.backward_flops for step in steps) + 3 * needs.classifier_flops(RECIPE)
    assert (len(steps), flops) == (53, step_flops(224))


@pytest.mark.parametrize("depth", DEPTHS)
def test_all_gradients_travel_and_the_last_is_ready_at_the_end(depth):
    recipe = replace(RECIPE, depth=depth)
    found = needs.gradients(recipe)
    assert 4 * sum(count for count, _ in found) == needs.parameter_bytes(recipe)["gradients"]
    times = [at for _, at in found]
    assert times == sorted(times)
    assert times[-1] == 1


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_memory_is_what_a_step_holds(precision):
    ops = fast.configured(precision=precision)
    work = Work(True, 2, 64, ops=ops)
    work()
    network, recipe = work.network, replace(RECIPE, batch_size=2, crop_size=64, precision=precision)
    assert needs.activation_bytes(recipe)["activations"] == sum(held.nbytes for held in network.buffers.held.values())
    infer = Work(False, 2, 64, ops=ops)
    infer()
    held = {name: array.nbytes for name, array in infer.network.buffers.held.items()}
    assert needs.activation_bytes(recipe)["tests"] == sum(size for name, size in held.items() if "inference" in name)
    arrays = needs.parameter_bytes(recipe)
    arena = network.arena
    assert arrays["history"] == pytest.approx(arena.history.nbytes, rel=1e-3)  # stored with a fourth colour
    assert arrays["gradients"] == pytest.approx(arena.gradients.nbytes, rel=1e-3)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize(("batch", "crop", "depth"), [(2, 64, 50), (17, 32, 50), (3, 64, 18)])
def test_working_memory_is_what_the_kernels_of_a_step_hold(batch, crop, depth, precision, monkeypatch):
    monkeypatch.setattr(scratch, "_held", {})
    recipe = replace(RECIPE, batch_size=batch, crop_size=crop, depth=depth, precision=precision)
    network = ResNet.of(recipe, fast.configured(precision=precision))
    network.arena.initialise(0)
    pixels = np.random.default_rng(0).integers(0, 256, (batch, 3, crop, crop), dtype=np.uint8)
    network.forward(network.pack_images(pixels, recipe.mean_bgr, recipe.scale), np.zeros(batch, np.int64))
    network.backward()
    found = needs.kernel_bytes(recipe, numba.get_num_threads())
    assert found == scratch.held_bytes()
    assert needs.memory_bytes(recipe, numba.get_num_threads())["kernels"] == sum(found.values())


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_weights_of_tests(precision):
    recipe = replace(RECIPE, batch_size=16, crop_size=64, depth=18, width=32, precision=precision)
    network = ResNet.of(recipe, fast.configured(precision=precision))
    network.arena.initialise(0)
    infer = Inference(network)
    x = network.pack_images(np.zeros((16, 3, 64, 64), np.uint8), recipe.mean_bgr, recipe.scale)
    first = infer(x)
    layers = [infer.stem, *(layer for branch, other in infer.blocks for layer in (*branch, other) if layer)]
    held = [array for _, w, bias, made in layers for array in (w, bias, *made.values())]
    assert needs.inference_bytes(recipe, 2) == sum(a.nbytes for a in (*held, *infer.classifier[:2]))
    assert needs.memory_bytes(recipe, 2)["weights of tests"] == needs.inference_bytes(recipe, 2)
    assert np.array_equal(infer(x), first)  # with what was kept


def test_working_memory_of_each_pass_by_each_algorithm(monkeypatch):
    w, y = fast.weights_shape(48, 32, 3, 3), fast.activation_shape(5, 48, 9, 8)
    x, weights, dy = (np.zeros(s, np.float32) for s in (fast.activation_shape(5, 32, 9, 8), w, y))
    threads = numba.get_num_threads()
    for mode in ("always", "never"):
        ops = fast.configured(mode)
        for need, convolve in (
            (scratch_sizes.forward(w, y, 1, 1, threads, mode),
             lambda ops=ops: ops.conv_forward(x, weights, None, 1, 1, statistics=np.empty((2, 48)))),
            (scratch_sizes.forward(w, y, 1, 1, threads, mode, sums=False),
             lambda ops=ops: ops.conv_inference(x, weights, np.zeros(48, np.float32), 1, 1)),
            (scratch_sizes.backward_data(w, x.shape, 1, 1, threads, mode, sums=False),
             lambda ops=ops: ops.conv_backward_data(dy, weights, (9, 8), 1, 1)),
            (scratch_sizes.backward_weights(w, y, 1, 1, mode),
             lambda ops=ops: ops.conv_backward_weights(x, dy, weights, None, 1, 1)),
        ):  # fmt: skip
            monkeypatch.setattr(scratch, "_held", {})
            convolve()
            assert scratch_sizes.largest([need]) == scratch.held_bytes()


def test_several_workers_have_sums_in_float64():
    alone, several = (needs.memory_bytes(replace(RECIPE, workers=workers), 2) for workers in (2, 3))
    assert several.pop("float64 sums") == 2 * several["gradients"]
    assert several == alone


def test_disk():
    found = needs.disk_bytes(RECIPE)
    assert found["training"] == pytest.approx(42e9)
    assert found["checkpoints"] == pytest.approx(21 * 205e6, rel=0.01)  # 20 and 1 of 102 MB twice
    assert needs.checkpoints(replace(RECIPE.phases[0], snapshot=0)) == 1


def test_the_command_prints_in_under_a_second():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = [sys.executable, PROJECT / "bin" / "plan", "--recipe", "resnet50-448nodes", "--nodes", "448"]
    done = subprocess.run(words, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (done.returncode, done.stderr) == (0, "")
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "896 ranks" in done.stdout
    out, _ = call("plan", "--recipe", "resnet50-64nodes-cyclic")
    assert max(map(len, out.splitlines())) <= 80
    assert "64 nodes, 128 ranks" in out
    assert "cyc3" in out
    assert "64 nodes" in done.stdout


def test_nothing_slow_is_imported():
    body = "import sys; sys.path[:0] = [sys.argv[1]]\n"
    body += "import bin.common.predict, nptrain.recipes.published, nptrain.report.table\n"
    body += "print({name.split('.')[0] for name in sys.modules} & {'numba', 'llvmlite', 'matplotlib', 'mpi4py'})"
    done = subprocess.run([sys.executable, "-c", body, PROJECT], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_json_and_picture(tmp_path):
    out, _ = call("plan", "--nodes", 4, "--images-per-s", 60, "--json", "--out", tmp_path / "step.png")
    found = json.loads(out)
    assert (found["ranks"], found["workers_a_rank"], found["published"]) == (8, 112, [])
    assert found["value_bytes"] == 8  # as the trainer adds up more than two workers
    assert sum(bucket["mb"] for bucket in found["buckets"]) == pytest.approx(2 * 102.44, abs=0.01)
    assert (tmp_path / "step.png").read_bytes().startswith(b"\x89PNG")


def test_buckets_may_be_given_in_millions_of_bytes():
    words = ["plan", "--nodes", 4, "--json"]
    found, errors = call(*words, "--bucket-mb", "16.777216")
    assert (found, errors) == (call(*words, "--bucket-mib", 16)[0], "plan: --bucket-mb is now called --bucket-mib\n")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--nodes", 0], "--nodes: found 0, expected 1 or more"),
        (["--nodes", 449], "--nodes: found 449 with 2 ranks each, expected at most one rank for each of 896 workers"),
        (["--spares", "-1"], "--spares: found -1, expected 0 or more"),
        (["--cores", 4], "--cores: found 4, expected more than the 4 for communication, 2 per rank"),
        (["--images-per-s", "nan"], "--images-per-s: found nan, expected more than 0"),
        (["--bandwidth-gbit", "-1"], "--bandwidth-gbit: found -1.0, expected more than 0"),
        (["--latency-us", "-1"], "--latency-us: found -1.0, expected 0 or more"),
        (["--value-bytes", "0"], "--value-bytes: found 0, expected 1 or more"),
        (["--spread", "1"], "--spread: found 1.0, expected from 0 to below 1"),
        (["--out", "step.txt"], "--out: found step.txt, expected a name that ends in .png, .svg or .pdf"),
        (["--out", "no/step.png"], "--out: found no/step.png, expected a folder that exists"),
        (["--recipe", "cifar10"], "--images-per-s: found none, expected the speed of a rank: the published one is for "
                                  "ResNet-50 at 224, the recipe is for ResNet-50 at 32"),
        (["--recipe", "x"], "--recipe: found 'x', expected one of resnet50-448nodes, resnet50-64nodes-cyclic, "
                             "cifar10, cifar10-cyclic, digits"),
    ],
)  # fmt: skip
def test_a_wrong_flag_is_one_line(words, says):
    out, errors = call("plan", *words, status=2)
    assert (out, errors) == ("", f"plan: {says}\n")
