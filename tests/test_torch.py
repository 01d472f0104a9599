"""Gradients beside PyTorch's, where PyTorch is installed (it is not among the requirements)."""

import numpy as np
import pytest

from kernels import fast, naive
from nptrain.network.layers import STEM, blocks
from nptrain.network.resnet import ResNet

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
F = torch.nn.functional


def torch_gradients(arena, x, labels, dtype, autocast=False):
    """(loss, {(layer, blob): gradient}) of the same network by PyTorch's autograd; x is NCHW. `autocast`: in bf16."""
    values = {(n, i): torch.tensor(b, dtype=dtype, requires_grad=True)
              for n, kind, bs in arena.export() if kind != "BatchNorm" for i, b in enumerate(bs)}  # fmt: skip

    def layer(conv, x):
        y = F.conv2d(x, values[conv.name, 0], values.get((conv.name, 1)), conv.stride, conv.pad)
        gamma, beta = values[f"scale{conv.norm}", 0], values[f"scale{conv.norm}", 1]
        return F.batch_norm(y, None, None, gamma, beta, training=True, eps=1e-5)

    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = F.max_pool2d(F.relu(layer(STEM, torch.tensor(x, dtype=dtype))), 3, 2, ceil_mode=True)
        for block in blocks():
            shortcut = layer(block.projection, y) if block.projection else y
            for conv in block.branch[:-1]:
                y = F.relu(layer(conv, y))
            y = F.relu(layer(block.branch[-1], y) + shortcut)
        scores = F.linear(y.mean((2, 3)), values["fc1000", 0], values["fc1000", 1])
        loss = F.cross_entropy(scores, torch.tensor(labels))
    loss.backward()
    return loss.item(), {key: value.grad.numpy().astype(np.float64) for key, value in values.items()}


def our_gradients(ops, blobs, pixels, labels, classes, dtype):
    """The same by the network's own backward pass."""
    network = ResNet(ops, classes, dtype=dtype)
    network.arena.load(blobs, "the same weights")
    x = network.pack_images(pixels, (104, 117, 123), 0.0078125)
    loss, _ = network.forward(x, labels)
    network.backward()
    arena, found, seen = network.arena, {}, {}
    for parameter in arena.parameters:
        index = seen[parameter.layer] = seen.get(parameter.layer, -1) + 1
        found[parameter.layer, index] = arena.unpack(parameter.dw, parameter.blob.shape).astype(np.float64)
    return loss, found


def case(classes, batch, size, dtype, last_gamma=None):
    """A network's arena and blobs (no gamma is zero, which would hide gradients), pixels and labels. `last_gamma`: the
    gamma of each branch's last batch norm. Small, as in a trained network, it keeps the shortcut the larger part, and
    rounding errors do not grow from block to block.
    """
    network = ResNet(naive, classes, dtype=dtype)
    network.arena.initialise(seed=5)
    rng = np.random.default_rng(5)
    for parameter in network.arena.parameters:
        if parameter.kind == "Scale":
            parameter.w[...] += rng.uniform(0.1, 0.3, parameter.w.shape).astype(np.float32)
    last = {f"scale{block.branch[-1].norm}" for block in blocks()} if last_gamma else ()
    for name in last:
        network.arena.of(name)[0].w[...] = last_gamma
    coarse = rng.integers(0, 200, (batch, 3, 8, 8)).repeat(size // 8, 2).repeat(size // 8, 3)
    pixels = (coarse + rng.integers(0, 56, (batch, 3, size, size))).astype(np.uint8)
    blobs = {name: blobs for name, _, blobs in network.arena.export()}
    return network.arena, blobs, pixels, rng.integers(0, classes, batch)


def errors(found, exact):
    """Relative error of every tensor but conv1's bias, whose gradient is rounding noise."""
    return {k: np.linalg.norm(found[k] - exact[k]) / np.linalg.norm(exact[k]) for k in exact if k != ("conv1", 1)}


def test_float64_gradients_are_pytorch_s():
    arena, blobs, pixels, labels = case(10, 4, 64, np.float64)
    x = naive.pack_images(pixels, (104, 117, 123), 0.0078125, np.float64)
    expected_loss, expected = torch_gradients(arena, x, labels, torch.float64)
    loss, found = our_gradients(naive, blobs, pixels, labels, 10, np.float64)
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    assert len(found) == len(expected) == 162
    assert max(errors(found, expected).values()) < 1e-8


@pytest.fixture(scope="module")
def large():
    """{last_gamma: a case at 224, batch 16}: (arena, blobs, pixels, labels, images in float64, exact gradients)."""
    found = {}
    for last_gamma in (None, 0.1):
        arena, blobs, pixels, labels = case(1000, 16, 224, np.float32, last_gamma)
        x = naive.pack_images(pixels, (104, 117, 123), 0.0078125, np.float64)
        found[last_gamma] = arena, blobs, pixels, labels, x, torch_gradients(arena, x, labels, torch.float64)[1]
    return found


# In float32 and with small branches, the error is that of the few values that a ReLU lets pass in one program only.
@pytest.mark.parametrize(
    ("precision", "last_gamma", "factor"), [("float32", None, 1.5), ("bf16", None, 1.2), ("bf16", 0.1, 1.2)]
)
def test_gradients_are_as_exact_as_pytorch_s(large, precision, last_gamma, factor):
    arena, blobs, pixels, labels, x, exact = large[last_gamma]
    _, theirs = torch_gradients(arena, x.astype(np.float32), labels, torch.float32, precision == "bf16")
    _, ours = our_gradients(fast.configured(precision=precision), blobs, pixels, labels, 1000, np.float32)
    ours, theirs = (np.array(list(errors(g, exact).values())) for g in (ours, theirs))
    print(f"{precision}: relative errors, median and largest: ours {np.median(ours):.2e} {ours.max():.2e}, "
          f"PyTorch's {np.median(theirs):.2e} {theirs.max():.2e}")  # fmt: skip
    assert np.median(ours) < factor * np.median(theirs)
    assert ours.max() < 1.5 * theirs.max()
    assert np.median(ours / theirs) < factor
