"""The table of buffers against a real step and a real inference: each is used, and as large as its largest use."""

from math import prod

import numpy as np
import pytest

from kernels import fast, naive
from nptrain.network.buffers import Buffers
from nptrain.network.inference import Inference
from nptrain.network.layers import Architecture
from nptrain.network.resnet import ResNet
from nptrain.network.slots import inference_slots, training_slots

IMAGES, HEIGHT, WIDTH = 2, 40, 33


@pytest.fixture
def used(monkeypatch):
    """{slot: the most numbers asked of it}, of all that the test computes."""
    largest, get = {}, Buffers.get

    def recorded(self, name, shape):
        largest[name] = max(largest.get(name, 0), prod(shape))
        return get(self, name, shape)

    monkeypatch.setattr(Buffers, "get", recorded)
    return largest


def sizes(slots):
    """The same of a table."""
    return {name: prod(fast.activation_shape(IMAGES, *size)) for name, size in slots.items()}


@pytest.mark.parametrize(("depth", "downsample"), [(18, "3x3"), (34, "3x3"), (50, "3x3"), (50, "1x1")])
def test_every_slot_is_used_and_none_is_larger_than_needed(used, depth, downsample):
    network = ResNet(fast, classes=5, architecture=Architecture(depth, downsample))
    x = network.pack_images(np.zeros((IMAGES, 3, HEIGHT, WIDTH), np.uint8), (0, 0, 0), 1)
    network.forward(x, np.zeros(IMAGES, np.int64))
    network.backward()
    assert used == sizes(training_slots(HEIGHT, WIDTH, Architecture(depth, downsample)))
    assert {name: held.size for name, held in network.buffers.held.items()} == used
    used.clear()
    Inference(network)(network.pack_images(np.zeros((IMAGES, 3, HEIGHT, WIDTH), np.uint8), (0, 0, 0), 1))
    assert used == sizes(inference_slots(HEIGHT, WIDTH, Architecture(depth, downsample)))


def test_a_slot_that_is_too_small_is_named():
    buffers = Buffers(fast, Architecture(18))
    buffers.reserve(IMAGES, HEIGHT, WIDTH)
    room = fast.activation_shape(IMAGES, *training_slots(HEIGHT, WIDTH, Architecture(18))["dz"])
    assert buffers.get("dz", room).shape == room
    first, *rest = room
    with pytest.raises(ValueError, match=rf"buffer dz: .* needs {prod(room) + prod(rest)} numbers.* has {prod(room)}"):
        buffers.get("dz", (first + 1, *rest))


def test_more_images_need_more_room_and_fewer_none():
    buffers = Buffers(fast, Architecture(18))
    for images, grown in ((2, True), (1, False), (3, True)):
        before = buffers.held.get("dz")
        buffers.reserve(images, HEIGHT, WIDTH)
        buffers.get("dz", fast.activation_shape(images, *training_slots(HEIGHT, WIDTH, Architecture(18))["dz"]))
        assert (buffers.held["dz"] is not before) == grown


def test_plain_kernels_have_no_buffers():
    buffers = Buffers(naive, Architecture(18))
    buffers.reserve(IMAGES, HEIGHT, WIDTH)
    assert buffers.get("dz", (1, 2, 3, 4)) is None
    assert not buffers.held
