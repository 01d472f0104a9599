"""ResNet forward and backward, hand-written and mirrored: what forward does last, backward undoes first.

Works on either set of kernels (`kernels.fast` or `kernels.naive`), handed in as `ops`. The layers keep
what their backward pass needs; gradients are added to the arena's, activations' gradients overwritten.
"""

from math import prod

import numpy as np

from kernels.epilogue import FusedBatchNorm
from kernels.input_norm import InputNorm
from kernels.sizes import pooled_size
from nptrain.network.arena import Arena
from nptrain.network.buffers import Buffers
from nptrain.network.layers import RESNET50, blocks, layers, stem
from nptrain.network.slots import (
    DZ,
    IMAGES,
    LAST_GRADIENT,
    POOLED,
    WINNER,
    activation_slots,
    block_gradient_slots,
    inner_gradient_slot,
)


class ConvolutionNorm:
    """A convolution, its batch norm and scale, and the residual add and ReLU that follow.

    inner   its result, after a ReLU, is only the next convolution's input: it is not kept, because that convolution
            computes it from z, forward and backward
    """

    def __init__(self, conv, arena, buffers, eps, inner=False):
        self.conv, self.ops, self.buffers, self.eps, self.inner = conv, arena.ops, buffers, eps, inner
        self.weights, *bias = arena.of(conv.name)
        self.bias = bias[0] if bias else None
        self.gamma, self.beta = arena.of(f"scale{conv.norm}")
        self.norm = arena.norms[f"bn{conv.norm}"]
        self.statistics = np.empty((2, self.gamma.w.size))
        self.slots = activation_slots(conv, inner)

    def forward(self, x, residual=None, relu=True, norm=None):
        """Returns y = [relu](scale(norm(conv(x))) [+ residual]), by the batch's statistics; of an inner one conv(x).

        norm   the `InputNorm` of the inner one that made x (None: x is the input itself)
        """
        conv, bias = self.conv, self.bias.w if self.bias else None
        shape = result_shape(self.ops, conv, x)
        z = self.ops.conv_forward(
            x, self.weights.w, bias, conv.stride, conv.pad, self.buffers.get(self.slots[0], shape),
            self.statistics, norm)  # fmt: skip
        y, (mean, var) = None, self.statistics
        if not self.inner:
            y, _, _ = self.ops.batchnorm_forward(
                z, self.gamma.w, self.beta.w, self.eps, residual, relu, self.buffers.get(self.slots[1], shape),
                self.statistics)  # fmt: skip
        count = prod(self.ops.unpacked_size(z))
        dtype = self.norm.batch_mean.dtype
        self.norm.batch_mean += mean.astype(dtype)
        self.norm.batch_var += (var * (count / max(count - 1, 1))).astype(dtype)  # unbiased, as Caffe keeps it
        self.x, self.z, self.y, self.mean, self.var = x, z, y, mean, var
        self.relu, self.residual, self.norm_of_x = relu, residual is not None, norm
        return z if self.inner else y

    def backward(self, dy, sums=None, dx=None, accumulate=False, below=None, dresidual=None, need_dx=True):
        """From the gradient of y to (dx, its sums).

        dy          overwritten; if it has gone through the ReLU already, `sums` are those that batch norm needs of it
        dx          the array to write dx to (None: a new one), or with `accumulate` to add it to
        below       the layer that made x: dx has then gone through its ReLU, and comes with sums for its batch norm
        dresidual   where the gradient of the residual goes, which may be dy itself
        need_dx     false for the first layer: returns (None, None)
        """
        conv, ops = self.conv, self.ops
        out = dy if dresidual is None else self.buffers.get(DZ, dy.shape)
        dz = ops.batchnorm_backward(
            dy, self.z, self.y, self.gamma.w, self.mean, self.var, self.eps, self.gamma.dw, self.beta.dw,
            self.relu, out, dresidual, sums)  # fmt: skip
        dbias = self.bias.dw if self.bias else None
        ops.conv_backward_weights(self.x, dz, self.weights.dw, dbias, conv.stride, conv.pad, self.norm_of_x)
        if not need_dx:
            return None, None
        result = ops.conv_backward_data(
            dz, self.weights.w, ops.unpacked_size(self.x)[1:], conv.stride, conv.pad, dx, accumulate,
            below and below.as_fused())  # fmt: skip
        return result if below else (result, None)

    def as_input(self):
        """Its batch norm and ReLU, for the convolution above, which reads z."""
        return InputNorm(self.gamma.w, self.beta.w, self.mean, self.var, self.eps)

    def as_fused(self):
        """Its batch norm and ReLU, for the convolution above, which computes the gradient of y."""
        return FusedBatchNorm(
            self.z, self.y, self.gamma.w, self.beta.w, self.mean, self.var, self.eps, self.residual)  # fmt: skip


def result_shape(ops, conv, x):
    """The shape of the convolution's result, as stored."""
    n, h, w = ops.unpacked_size(x)
    return ops.activation_shape(n, conv.outputs, conv.out(h), conv.out(w))


class ResidualBlock:
    """y = relu(branch(x) + shortcut(x)); the shortcut is x itself or its projection. `dx_slot`: the buffer of dx."""

    def __init__(self, block, dx_slot, *parts):
        *inner, last = block.branch
        self.branch = [*(ConvolutionNorm(conv, *parts, inner=True) for conv in inner), ConvolutionNorm(last, *parts)]
        self.projection = ConvolutionNorm(block.projection, *parts) if block.projection else None
        self.dx_slot = dx_slot

    def forward(self, x):
        shortcut = self.projection.forward(x, relu=False) if self.projection else x
        norm = None
        for layer in self.branch[:-1]:
            x = layer.forward(x, norm=norm)
            norm = layer.as_input()
        return self.branch[-1].forward(x, residual=shortcut, norm=norm)

    def backward(self, dy, sums, below):
        """Returns (dx, its sums), through the ReLU of `below`, the layer that made x, if that is one; `sums` are those
        of dy. Along the shortcut the gradient is dy through the last ReLU, which stays in dy itself.
        """
        d, dresidual = dy, dy
        for place in range(len(self.branch) - 1, 0, -1):
            layer = self.branch[place]
            dx = layer.buffers.get(inner_gradient_slot(place), layer.x.shape)
            d, sums = layer.backward(d, sums, dx, below=self.branch[place - 1], dresidual=dresidual)
            dresidual = None
        dshortcut = dy
        if self.projection:
            dx = self.projection.buffers.get(self.dx_slot, self.projection.x.shape)
            dshortcut, _ = self.projection.backward(dy, dx=dx)
        return self.branch[0].backward(d, sums, dshortcut, accumulate=True, below=below)


class ResNet:
    """The network, from packed images to the loss and back.

    ops      `kernels.fast`, as `fast.configured` returns it, too; `kernels.naive`, or `kernels.naive_bf16`
    dtype    of weights, statistics and gradients of weights: float32; with `kernels.naive` also float64
    eps      of every batch norm
    blob_overrides   as in `layers`
    """

    def __init__(self, ops, classes=1000, architecture=RESNET50, eps=1e-5, dtype=np.float32, blob_overrides=()):
        self.ops, self.classes, self.dtype, self.eps = ops, classes, dtype, eps
        self.arena = Arena(layers(architecture, classes, blob_overrides), ops, dtype)
        self.buffers = Buffers(ops, architecture, dtype)
        parts, table = (self.arena, self.buffers, eps), list(blocks(architecture))
        self.stem = ConvolutionNorm(stem(architecture), *parts)
        self.blocks = [ResidualBlock(block, slot, *parts)
                       for block, slot in zip(table, block_gradient_slots(table), strict=True)]  # fmt: skip
        self.weights, self.bias = self.arena.of("fc1000")

    @classmethod
    def of(cls, recipe, ops, dtype=np.float32):
        """The network of a recipe."""
        return cls(ops, recipe.classes, recipe.architecture, recipe.bn_eps, dtype, recipe.blob_overrides)

    def pack_images(self, pixels, mean, scale):
        """uint8 BGR pixels (N, 3, H, W) -> the network's input, (pixel - mean) * scale."""
        n, _, height, width = pixels.shape
        self.buffers.reserve(n, height, width)
        out = self.buffers.get(IMAGES, self.ops.activation_shape(*pixels.shape))
        return self.ops.pack_images(pixels, mean, scale, self.buffers.dtype, out)

    def forward(self, x, labels):
        """Training pass: (loss, scores). loss is the mean over images, scores (N, classes)."""
        self.buffers.reserve(*self.ops.unpacked_size(x))
        x = self.stem.forward(x)
        self.stem_size = self.ops.unpacked_size(x)[1:]
        x, self.winner = self.max_pool(x)
        for block in self.blocks:
            x = block.forward(x)
        self.last_size = self.ops.unpacked_size(x)[1:]
        self.pooled = self.ops.average_forward(x)
        scores = self.classify(self.pooled)
        self.labels = labels
        loss, self.probabilities = self.ops.softmax_loss(scores, labels)
        return loss, scores

    def backward(self, on_grad_ready=lambda offset: None):
        """Adds the gradient of the last forward pass's loss to the arena's gradients. Calls on_grad_ready(offset), from
        the last parameter to the first, when all gradients from that element on are final.
        """
        dscores = self.ops.softmax_loss_backward(self.probabilities, self.labels)
        dpooled = self.ops.linear_backward(dscores, self.pooled, self.weights.w, self.weights.dw, self.bias.dw)
        offsets = iter(self.offsets())
        on_grad_ready(next(offsets))
        last = self.blocks[-1].branch[-1].y
        dx, sums = self.ops.average_backward(dpooled, self.last_size, self.buffers.get(LAST_GRADIENT, last.shape)), None
        for block, below in zip(reversed(self.blocks), [*reversed(self.blocks[:-1]), None], strict=True):
            dx, sums = block.backward(dx, sums, below.branch[-1] if below else None)
            on_grad_ready(next(offsets))
        dx = self.ops.maxpool_backward(
            dx, self.winner, self.stem_size, out=self.buffers.get(DZ, self.stem.y.shape))  # fmt: skip
        self.stem.backward(dx, need_dx=False)
        on_grad_ready(next(offsets))

    def offsets(self):
        """Where in the flat gradients the parts begin that become final one after another on the way back."""
        first = [(block.projection or block.branch[0]).weights.part.start for block in self.blocks]
        return [self.weights.part.start, *reversed(first), 0]

    def max_pool(self, x):
        """The pooling after the stem: (y, winner)."""
        n, h, w = self.ops.unpacked_size(x)
        shape = self.ops.activation_shape(n, self.stem.conv.outputs, pooled_size(h), pooled_size(w))
        return self.ops.maxpool_forward(
            x, out=self.buffers.get(POOLED, shape), winner=self.buffers.get(WINNER, shape))  # fmt: skip

    def classify(self, pooled):
        """Scores (N, classes) of pooled features."""
        return self.ops.linear_forward(pooled, self.weights.w, self.bias.w, self.classes)
