"""The whole trainer in float64 against the original program: every loss, norm and momentum of both parts.

LMDB, loader, network, loss, update, schedule, running statistics and checkpoints, with the plain kernels.
"""

import golden
import numpy as np
import pytest
from weights import write_layers

from kernels import naive
from nptrain.caffe.model import read_caffemodel
from nptrain.caffe.state import read_solverstate
from nptrain.data.datum import raw_datum
from nptrain.data.lmdb_dataset import LmdbDataset, write_lmdb
from nptrain.network.layers import Architecture
from nptrain.network.resnet import ResNet
from nptrain.run.checkpoint import load_caffemodel
from nptrain.run.log import Log
from nptrain.train import Trainer
from nptrain.world import Solo


class Losses(Log):
    """A log that keeps the losses and rates."""

    def __init__(self):
        super().__init__(None)
        self.losses, self.rates = [], []

    def iteration(self, iteration, lr, loss, images_per_s, data_wait_s, **times):
        self.losses.append(loss)
        self.rates.append(lr)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The formula's images as an LMDB of raw records, and its weights as a .caffemodel."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("golden")
    pixels, labels = golden.images()
    rgb = (Image.fromarray(np.ascontiguousarray(p[::-1].transpose(1, 2, 0))) for p in pixels)
    write_lmdb(folder / "lmdb", ((f"{i}", raw_datum(*pair)) for i, pair in enumerate(zip(rgb, labels, strict=True))))
    kinds = {layer.name: layer.kind for layer in golden.layers(Architecture(50), golden.CLASSES)}
    weights = golden.weights()
    write_layers(folder / "start.caffemodel", "golden", [(n, kinds[n], b) for n, b in weights.items()])
    return folder


def run(files, folder, part, **changes):
    """Train one part from the formula's weights. Returns (losses with the last one, rates, checkpoint)."""
    recipe = golden.recipe(**changes)
    network = ResNet(naive, recipe.classes, recipe.architecture, recipe.bn_eps, np.float64)
    load_caffemodel(files / "start.caffemodel", network.arena)
    data, log = LmdbDataset(files / "lmdb", recipe.classes), Losses()
    trainer = Trainer(recipe, network, data, None, folder, Solo(), log, seed=0)
    saved = trainer.run([part])
    # the original ends with one more forward pass, after the last snapshot
    pixels, labels = golden.images()
    chosen = (np.arange(8) + 8 * len(log.losses)) % golden.IMAGES
    x = network.pack_images(pixels[chosen], recipe.mean_bgr, recipe.scale)
    last, _ = network.forward(x, np.array(labels)[chosen])
    return [*log.losses, last], log.rates, saved


def check_state(saved, iterations, numbers):
    """Weights, running statistics and momentum of a checkpoint against the original's."""
    layers = read_caffemodel(saved.model)
    assert list(layers) == list(numbers["layers"])
    for name, blobs in layers.items():
        for index, (blob, expected) in enumerate(zip(blobs, numbers["layers"][name], strict=True)):
            if (name, index) == ("conv1", 1):
                continue  # a bias before a batch norm: its gradient is rounding noise
            assert np.linalg.norm(blob) == pytest.approx(expected["norm"], rel=1e-5), (name, index)
            assert blob.reshape(-1)[:3] == pytest.approx(expected["first"], rel=1e-5, abs=1e-9), (name, index)
    state = read_solverstate(saved.state)
    assert state.iteration == iterations
    assert len(state.history) == 321
    for index, (blob, expected) in enumerate(zip(state.history, numbers["history"], strict=True)):
        if index != 1:
            assert np.linalg.norm(blob) == pytest.approx(expected, rel=1e-5, abs=1e-12), index


def test_part_1(files, tmp_path):
    losses, rates, _ = run(files, tmp_path, "1")
    assert losses == pytest.approx(golden.NUMBERS["part1"]["losses"], rel=1e-6)
    assert rates == pytest.approx(golden.NUMBERS["part1"]["learning_rates"], rel=1e-6)


def test_part_1_with_momentum_correction(files, tmp_path):
    numbers = golden.NUMBERS["part1_momentum_correction"]
    losses, rates, saved = run(files, tmp_path, "1", momentum_correction=True)
    assert losses == pytest.approx(numbers["losses"], rel=1e-6)
    assert losses != pytest.approx(golden.NUMBERS["part1"]["losses"], rel=1e-6)
    check_state(saved, len(rates), numbers)


def test_part_2(files, tmp_path):
    numbers = golden.NUMBERS["part2"]
    losses, rates, saved = run(files, tmp_path, "2")
    assert losses == pytest.approx(numbers["losses"], rel=1e-6)
    assert rates == pytest.approx(numbers["learning_rates"], rel=1e-6)
    check_state(saved, len(rates), numbers)
