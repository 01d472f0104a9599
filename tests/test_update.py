"""The update by hand: averaging, clipping, decay, multipliers, LARS, momentum, and the running statistics."""

from dataclasses import replace

import numpy as np
import pytest

from kernels import fast, naive
from nptrain.errors import InputError, TrainingError
from nptrain.network.arena import Arena
from nptrain.network.layers import Architecture, Blob, Layer, layers
from nptrain.recipes.recipe import Phase, Recipe
from nptrain.update import momentum_at, update

PHASE = Phase("x", base_lr=0.5, max_iter=10, weight_decay=0.1, lr_policy="fixed", momentum=0.9)
LAYERS = (
    Layer("conv", "Convolution", (Blob((2, 3, 1, 1)), Blob((2,), lr_mult=2.0, decay_mult=0.0))),
    Layer("bn", "BatchNorm", (Blob((2,)), Blob((2,)), Blob((1,)))),
    Layer("scale", "Scale", (Blob((2,), decay_mult=0.0), Blob((2,), decay_mult=0.0))),
)


def arena_with(ops=naive, dtype=np.float64):
    """An arena whose weights, gradients and history are known numbers; returns (arena, copies of them)."""
    arena = Arena(LAYERS, ops, dtype)
    rng = np.random.default_rng(0)
    for flat in (arena.weights, arena.gradients, arena.history):
        for parameter in arena.parameters:
            values = rng.standard_normal(parameter.blob.shape)
            flat[parameter.part] = arena.pack(values).reshape(-1)
    return arena, [flat[: arena.size].copy() for flat in (arena.weights, arena.gradients, arena.history)]


def parts(arena):
    weights, bias, gamma, beta = (parameter.part for parameter in arena.parameters)
    return weights, bias, gamma, beta


def test_rates_and_decay_have_multipliers():
    arena, (w, g, h) = arena_with()
    update(arena, PHASE, 0, count=4)
    for part, rate, decay in zip(parts(arena), (0.5, 1.0, 0.5, 0.5), (0.1, 0, 0, 0), strict=True):
        history = rate * (g[part] / 4 + decay * w[part]) + 0.9 * h[part]
        assert arena.history[part] == pytest.approx(history)
        assert arena.weights[part] == pytest.approx(w[part] - history)


def test_the_published_engine_decayed_scale_and_shift():
    arena, (w, g, h) = arena_with()
    update(arena, replace(PHASE, decay_scale_and_shift=True), 0, count=1)
    for part in parts(arena)[2:]:
        assert arena.history[part] == pytest.approx(0.5 * (g[part] + 0.1 * w[part]) + 0.9 * h[part])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("ops", [fast, naive])
def test_nothing_is_updated_by_a_gradient_that_is_not_finite(ops, value):
    """Also where its bucket is the last that arrives."""
    arena, (w, _, h) = arena_with(ops, np.float32)
    arena.gradients[arena.size - 1] = value
    halves = [slice(0, arena.size // 2), slice(arena.size // 2, arena.size)]
    with pytest.raises(TrainingError, match="phase x, iteration 7: the gradient is not finite"):
        update(arena, PHASE, 7, 1, iter(halves))
    assert (arena.weights[: arena.size] == w).all()
    assert (arena.history[: arena.size] == h).all()


def test_l1():
    arena, (w, g, h) = arena_with()
    update(arena, replace(PHASE, regularization="L1"), 0, count=1)
    part = parts(arena)[0]
    assert arena.history[part] == pytest.approx(0.5 * (g[part] + 0.1 * np.sign(w[part])) + 0.9 * h[part])


@pytest.mark.parametrize(("share", "clipped"), [(0.01, True), (0.99, True), (1.01, False), (-1.0, False)])
def test_clipping_is_by_the_norm_of_the_averaged_gradient(share, clipped):
    arena, (w, g, h) = arena_with()
    limit = share * np.linalg.norm(g / 2)
    update(arena, replace(PHASE, clip_gradients=limit), 0, count=2)
    scale = limit / np.linalg.norm(g / 2) if clipped else 1
    part = parts(arena)[0]
    assert arena.history[part] == pytest.approx(0.5 * (scale * g[part] / 2 + 0.1 * w[part]) + 0.9 * h[part])


@pytest.mark.parametrize("regularization", ["L1", "L2"])
@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("norm", ["fused", "unfused"])
def test_lars(norm, passes, regularization):
    """Of two workers. Fused: the norm of the sum over passes, without decay; unfused: of the mean, with it."""
    arena, (w, g, h) = arena_with()
    phase = replace(PHASE, local_lr_auto=True, local_gw_ratio=0.01, lars_norm=norm, iter_size=passes,
                    regularization=regularization)  # fmt: skip
    update(arena, phase, 0, count=2 * passes)
    for part, decay in zip(parts(arena), (0.1, 0, 0, 0), strict=True):  # in place of lr_mult, of which one is 2
        weight, pull = np.linalg.norm(w[part]), np.sign(w[part]) if regularization == "L1" else w[part]
        step = g[part] / (2 * passes) + decay * pull
        gradient = np.linalg.norm(step if norm == "unfused" else g[part] / 2)
        rate = 0.5 * 0.01 * weight / (gradient + 0.1 * weight)
        assert arena.history[part] == pytest.approx(rate * step + 0.9 * h[part])
        assert arena.weights[part] == pytest.approx(w[part] - arena.history[part])


def test_lars_is_fused_where_nothing_is_said():
    assert PHASE.lars_norm == "fused"
    with pytest.raises(InputError, match="lars_norm: found mean, expected one of fused, unfused"):
        Recipe("x", "", (replace(PHASE, lars_norm="mean"),))


@pytest.mark.parametrize("norm", ["fused", "unfused"])
def test_lars_leaves_a_rate_of_zero_and_counts_one_for_zero_weights(norm):
    arena, (_, g, h) = arena_with()
    frozen, still, *_ = parts(arena)
    arena.parameters[0].blob = replace(arena.parameters[0].blob, lr_mult=0.0)
    arena.weights[still] = 0
    update(arena, replace(PHASE, local_lr_auto=True, lars_norm=norm), 0, count=1)
    assert arena.history[frozen] == pytest.approx(0.9 * h[frozen])
    assert arena.history[still] == pytest.approx(0.5 * g[still] + 0.9 * h[still])


def test_nesterov_has_no_lars():
    results = []
    for more in ({}, {"local_lr_auto": True, "lars_norm": "fused"}, {"local_lr_auto": True, "lars_norm": "unfused"}):
        arena, _ = arena_with()
        update(arena, replace(PHASE, type="Nesterov", **more), 0, count=2)
        results.append(arena.weights.copy())
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


@pytest.mark.parametrize("more", [{}, {"clip_gradients": 0.3}, {"regularization": "L1"}])
def test_nesterov_is_caffe_s(more):
    """w -= (1 + momentum) * history - momentum * the history before, which is as without it."""
    plain, (w, _, before) = arena_with()
    ahead, _ = arena_with()
    update(plain, replace(PHASE, **more), 0, count=4)
    update(ahead, replace(PHASE, type="Nesterov", **more), 0, count=4)
    assert ahead.history == pytest.approx(plain.history)
    assert ahead.weights == pytest.approx(w - (1.9 * plain.history - 0.9 * before))
    assert np.abs(ahead.weights - plain.weights).max() > 1e-2


def test_nesterov_is_torch_s_at_a_constant_rate():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    w, history = rng.standard_normal(9), np.zeros(9)
    theirs = torch.tensor(w.copy(), requires_grad=True)
    solver = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True)
    for _ in range(5):
        g = rng.standard_normal(9)
        naive.sgd_update(w, g, history, 0.1, 0.9, 0.01, nesterov=True)
        theirs.grad = torch.tensor(g)
        solver.step()
    assert w == pytest.approx(theirs.detach().numpy(), rel=1e-12)


@pytest.mark.parametrize("l1", [False, True])
@pytest.mark.parametrize("size", [1, 16, 1000, 4099])
def test_the_compiled_nesterov_is_the_plain_one(size, l1):
    rng = np.random.default_rng(size)
    start = rng.standard_normal((3, size)).astype(np.float32)
    (w, g, history), (w64, g64, history64) = start.copy(), start.astype(np.float64)
    for _ in range(3):
        fast.sgd_update(w, g, history, 0.1, 0.9, 0.01, 0.5, l1, nesterov=True)
        naive.sgd_update(w64, g64, history64, 0.1, 0.9, 0.01, 0.5, l1, nesterov=True)
    assert w == pytest.approx(w64, rel=1e-5, abs=1e-6)
    assert history == pytest.approx(history64, rel=1e-5, abs=1e-6)


def test_momentum_correction_is_for_the_warm_up():
    phase = replace(PHASE, warmup_iter=4, warmup_start_lr=0.1, momentum_correction=True)
    assert momentum_at(phase, 0) == pytest.approx(0.9)
    assert momentum_at(phase, 2) == pytest.approx(0.9 * 0.3 / 0.2)
    assert momentum_at(phase, 4) == 0.9
    assert momentum_at(replace(phase, momentum_correction=False), 2) == 0.9
    from_zero = replace(phase, warmup_start_lr=0.0)
    assert [momentum_at(from_zero, i) for i in range(3)] == pytest.approx([0.9, 0.9, 0.9 * 2])
    assert momentum_at(replace(from_zero, base_lr=0.0), 2) == 0.9


@pytest.mark.parametrize("more", [{}, {"type": "Nesterov"}, {"local_lr_auto": True}, {"momentum_correction": True,
                                  "warmup_iter": 2}])  # fmt: skip
def test_a_rate_of_zero_changes_no_weight(more):
    arena, (w, _, _) = arena_with()
    arena.history[:] = 0
    for iteration in range(3):
        update(arena, replace(PHASE, base_lr=0.0, **more), iteration, count=1)
    assert np.array_equal(arena.weights, w)


@pytest.mark.parametrize("more", [{}, {"clip_gradients": 0.3}, {"local_lr_auto": True}, {"regularization": "L1"},
                                  {"local_lr_auto": True, "lars_norm": "unfused"}, {"type": "Nesterov"}])  # fmt: skip
def test_the_compiled_update_is_the_plain_one(more):
    results = []
    for ops, dtype in ((naive, np.float64), (fast, np.float32)):
        arena, _ = arena_with(ops, dtype)
        update(arena, replace(PHASE, **more), 0, count=3)
        results.append([blob for _, _, blobs in arena.export() for blob in blobs] + arena.export_history())
    for exact, ours in zip(*results, strict=True):
        assert ours == pytest.approx(exact, rel=1e-5, abs=1e-6)


def test_running_statistics_are_caffe_s():
    """After two passes of each of three workers: f * (f * old + mean of first) + mean of second."""
    arena, _ = arena_with()
    norm = arena.norms["bn"]
    norm.mean[:], norm.factor[:] = 5, 3
    first, second = np.array([[1, 2], [3, 4], [5, 6]]), np.array([[2, 0], [0, 0], [1, 3]])
    norm.batch_mean[:] = first.sum(axis=0)
    arena.batch_statistics *= 0.95
    norm.batch_mean += second.sum(axis=0)
    arena.blend_statistics(0.95, passes=2, workers=3)
    assert norm.mean == pytest.approx(0.95 * (0.95 * 5 + first.mean(axis=0)) + second.mean(axis=0))
    assert norm.factor[0] == pytest.approx(0.95 * (0.95 * 3 + 1) + 1)


@pytest.mark.parametrize("ops", [fast, naive])
def test_what_is_exported_comes_back(ops):
    one, two = (Arena(layers(Architecture(50), 10), ops) for _ in range(2))
    one.initialise(seed=7)
    one.statistics[:] = np.arange(one.statistics.size) % 7 if ops is naive else 0
    one.history[:] = one.weights
    blobs = {name: arrays for name, _, arrays in one.export()}
    assert two.load(blobs, "here") == ([], [])
    two.load_history(one.export_history(), "here")
    for name in ("weights", "history", "statistics", "factors"):
        assert np.array_equal(getattr(one, name), getattr(two, name))
    assert len(one.export_history()) == 321


def test_the_recipe_s_initial_weights():
    arena = Arena(layers(Architecture(50), 1000), naive)
    arena.initialise(seed=0)
    blobs = {name: arrays for name, _, arrays in arena.export()}
    assert blobs["conv1"][0].std() == pytest.approx(np.sqrt(2 / (64 * 49)), rel=0.05)
    assert blobs["res3a_branch2b"][0].std() == pytest.approx(np.sqrt(2 / (128 * 9)), rel=0.02)
    assert blobs["fc1000"][0].std() == pytest.approx(0.01, rel=0.01)
    zero = {name for name in blobs if name.startswith("scale") and not blobs[name][0].any()}
    assert zero == {"scale2c_branch2c", "scale3d_branch2c", "scale4f_branch2c", "scale5c_branch2c"}
    again = Arena(layers(Architecture(50), 1000), naive)
    again.initialise(seed=0)
    assert np.array_equal(arena.weights, again.weights)
    again.initialise(seed=1)
    assert not np.array_equal(arena.weights, again.weights)
