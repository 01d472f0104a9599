"""The network for evaluation: every batch norm is folded into its convolution."""

from typing import NamedTuple

import numpy as np

from nptrain.network.layers import Convolution
from nptrain.network.resnet import result_shape


class Folded(NamedTuple):
    """A convolution with its batch norm folded in; `made` is what its kernel keeps for the next call."""

    conv: Convolution
    weights: np.ndarray
    bias: np.ndarray
    made: dict


class Inference:
    """Scores of images by a ResNet's weights and running statistics as they are when this is made: it holds its own
    copies, so that one network, with other weights each time, can make several.

    With s = gamma / sqrt(var + eps), scale(norm(conv(x, w) + b)) = conv(x, s w) + s (b - mean) + beta.
    """

    def __init__(self, network):
        self.network, self.ops, self.buffers = network, network.ops, network.buffers
        self.classifier = network.weights.w.copy(), network.bias.w.copy(), network.classes
        self.stem = self._folded(network.stem)
        self.blocks = [
            ([self._folded(layer) for layer in block.branch],
             self._folded(block.projection) if block.projection else None)
            for block in network.blocks
        ]  # fmt: skip

    def _folded(self, layer):
        norm, factor = layer.norm, float(layer.norm.factor[0]) or 1.0
        mean, var = (v.astype(np.float64) / factor for v in (norm.mean, norm.var))
        scale = layer.gamma.w / np.sqrt(var + layer.eps)
        shift = layer.beta.w + scale * ((layer.bias.w if layer.bias else 0) - mean)
        weights = self.ops.scaled_weights(layer.weights.w, scale)
        return Folded(layer.conv, weights, shift.astype(weights.dtype), {})

    def __call__(self, x):
        """x as packed by the network -> scores (N, classes)."""
        self.buffers.reserve(*self.ops.unpacked_size(x))
        x = self._convolve(self.stem, x, "stem")
        x, _ = self.network.max_pool(x)
        for index, (branch, projection) in enumerate(self.blocks):
            shortcut = x if projection is None else self._convolve(projection, x, "shortcut", relu=False)
            for place, layer in enumerate(branch[:-1]):
                x = self._convolve(layer, x, f"inner {place}")
            x = self._convolve(branch[-1], x, f"block {index % 2}", shortcut)  # the block before holds the shortcut
        return self.ops.linear_forward(self.ops.average_forward(x), *self.classifier)

    def _convolve(self, layer, x, name, residual=None, relu=True):
        conv = layer.conv
        out = self.buffers.get(f"inference {name}", result_shape(self.ops, conv, x))
        return self.ops.conv_inference(x, layer.weights, layer.bias, conv.stride, conv.pad, residual, relu, out,
                                       layer.made)  # fmt: skip
