"""ResNet forward and backward, hand-written and mirrored: what forward does last, backward undoes first.

Works on either set of kernels (`kernels.fast` or `kernels.naive`), handed in as `ops`. The layers keep
what their backward pass needs; gradients are added to the arena's, activations' gradients overwritten.
"""

from math import prod

import numpy as np

from kernels.epilogue import Through
from kernels.scratch import aligned
from nptrain.arena import Arena
from nptrain.layers import STEM, blocks, layers, pooled


class Buffers:
    """Activations and their gradients by name, in memory that is allocated at the first step and used again at every
    later one.

    With `keep` false (the plain kernels make new arrays), there is no buffer to write into: None.
    """

    def __init__(self, keep):
        self.keep, self.held = keep, {}

    def get(self, name, shape):
        if not self.keep:
            return None
        size = prod(shape)
        if name not in self.held or self.held[name].size < size:
            self.held[name] = aligned(size)
        return self.held[name][:size].reshape(shape)


class ConvolutionNorm:
    """A convolution, its batch norm and scale, and the residual add and ReLU that follow."""

    def __init__(self, conv, arena, buffers, eps):
        self.conv, self.ops, self.buffers, self.eps = conv, arena.ops, buffers, eps
        self.weights, *bias = arena.of(conv.name)
        self.bias = bias[0] if bias else None
        self.gamma, self.beta = arena.of(f"scale{conv.norm}")
        self.norm = arena.norms[f"bn{conv.norm}"]
        self.statistics, self.sums = (np.empty((2, self.gamma.w.size)) for _ in range(2))
        self.summed = False  # the gradient of y that comes next has gone through the ReLU, to self.sums

    def forward(self, x, residual=None, relu=True):
        """Returns y = [relu](scale(norm(conv(x))) [+ residual]), by the batch's statistics."""
        conv, bias = self.conv, self.bias.w if self.bias else None
        shape = result_shape(self.ops, conv, x)
        z = self.ops.conv_forward(
            x, self.weights.w, bias, conv.stride, conv.pad, self.buffers.get(f"{conv.name} z", shape),
            self.statistics)  # fmt: skip
        y, mean, var = self.ops.batchnorm_forward(
            z, self.gamma.w, self.beta.w, self.eps, residual, relu, self.buffers.get(f"{conv.name} y", shape),
            self.statistics)  # fmt: skip
        count = prod(self.ops.unpacked_size(z))
        self.norm.batch_mean += mean.astype(z.dtype)
        self.norm.batch_var += (var * (count / max(count - 1, 1))).astype(z.dtype)  # unbiased, as Caffe keeps it
        self.x, self.z, self.y, self.mean, self.var = x, z, y, mean, var
        self.relu, self.residual = relu, residual is not None
        return y

    def backward(self, dy, below=None, dx=None, add=False, dresidual=None, need_dx=True):
        """Returns dx, written (or added) to `dx` if given; where `below` is the layer that made x, it has gone
        through the ReLU there, too. dy is overwritten; the residual's gradient goes to `dresidual` if given, which
        may be dy itself.
        """
        conv, ops = self.conv, self.ops
        out = dy if dresidual is None else self.buffers.get("dz", dy.shape)
        dz = ops.batchnorm_backward(
            dy, self.z, self.y, self.gamma.w, self.mean, self.var, self.eps, self.gamma.dw, self.beta.dw,
            self.relu, out, dresidual, self.sums if self.summed else None)  # fmt: skip
        self.summed = False
        dbias = self.bias.dw if self.bias else None
        ops.conv_backward_weights(self.x, dz, self.weights.dw, dbias, conv.stride, conv.pad)
        if not need_dx:
            return None
        size = ops.unpacked_size(self.x)[1:]
        if dx is None:
            # a projection's travels on as the blocks' gradient until the next projection needs it
            name = conv.name if conv.name.endswith("branch1") else conv.name[-1]
            dx = self.buffers.get(f"dx of {name}", self.x.shape)
        through = below.through() if below else None
        return ops.conv_backward_data(dz, self.weights.w, size, conv.stride, conv.pad, dx, add, through)

    def through(self):
        """For the convolution above, which is about to compute the gradient of y."""
        self.summed = True
        return Through(self.z, self.y, self.gamma.w, self.beta.w, self.mean, self.var, self.eps, self.residual,
                       self.sums)  # fmt: skip


def result_shape(ops, conv, x):
    """The shape of the convolution's result, as stored."""
    n, h, w = ops.unpacked_size(x)
    return ops.activation_shape(n, conv.outputs, conv.out(h), conv.out(w))


class ResidualBlock:
    """y = relu(branch(x) + shortcut(x)); the shortcut is x itself or its projection."""

    def __init__(self, block, *parts):
        self.branch = [ConvolutionNorm(conv, *parts) for conv in block.branch]
        self.projection = ConvolutionNorm(block.projection, *parts) if block.projection else None

    def forward(self, x):
        shortcut = self.projection.forward(x, relu=False) if self.projection else x
        for layer in self.branch[:-1]:
            x = layer.forward(x)
        return self.branch[-1].forward(x, residual=shortcut)

    def backward(self, dy, below):
        """Returns dx, through the ReLU of `below`, the layer that made x, if that is one. Along the shortcut the
        gradient is dy through the last ReLU, kept in dy itself.
        """
        d = dy
        for layer, under in zip(reversed(self.branch[1:]), reversed(self.branch[:-1]), strict=True):
            d = layer.backward(d, under, dresidual=dy if layer is self.branch[-1] else None)
        dshortcut = self.projection.backward(dy) if self.projection else dy
        return self.branch[0].backward(d, below, dx=dshortcut, add=True)


class ResNet:
    """The network, from packed images to the loss and back.

    ops      `kernels.fast`, or `kernels.naive` in float32 or float64
    depth    18, 34, 50, 101 or 152
    eps      of every batch norm
    downsample, changes   as in `layers`
    """

    def __init__(self, ops, classes=1000, depth=50, eps=1e-5, dtype=np.float32, downsample="3x3", changes=()):
        self.ops, self.classes, self.dtype, self.eps = ops, classes, dtype, eps
        self.arena = Arena(layers(depth, classes, downsample, changes), ops, dtype)
        self.buffers = Buffers(keep=ops.IN_PLACE)
        parts = (self.arena, self.buffers, eps)
        self.stem = ConvolutionNorm(STEM, *parts)
        self.blocks = [ResidualBlock(block, *parts) for block in blocks(depth, downsample)]
        self.weights, self.bias = self.arena.of("fc1000")

    @classmethod
    def of(cls, recipe, ops, dtype=np.float32):
        """The network of a recipe."""
        return cls(ops, recipe.classes, recipe.depth, recipe.bn_eps, dtype, recipe.downsample, recipe.blobs)

    def pack_images(self, pixels, mean, scale):
        """uint8 BGR pixels (N, 3, H, W) -> the network's input, (pixel - mean) * scale."""
        out = self.buffers.get("images", self.ops.activation_shape(*pixels.shape))
        return self.ops.pack_images(pixels, mean, scale, self.dtype, out)

    def forward(self, x, labels):
        """Training pass: (loss, scores). loss is the mean over images, scores (N, classes)."""
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

    def backward(self, ready=lambda offset: None):
        """Adds the gradient of the last forward pass's loss to the arena's gradients. Calls ready(offset), from the
        last parameter to the first, when all gradients from that element on are final.
        """
        dscores = self.ops.softmax_loss_backward(self.probabilities, self.labels)
        dpooled = self.ops.linear_backward(dscores, self.pooled, self.weights.w, self.weights.dw, self.bias.dw)
        offsets = iter(self.offsets())
        ready(next(offsets))
        last = self.blocks[-1].branch[-1].y
        dx = self.ops.average_backward(dpooled, self.last_size, self.buffers.get("dx of the last", last.shape))
        for block, below in zip(reversed(self.blocks), [*reversed(self.blocks[:-1]), None], strict=True):
            dx = block.backward(dx, below.branch[-1] if below else None)
            ready(next(offsets))
        dx = self.ops.maxpool_backward(
            dx, self.winner, self.stem_size, out=self.buffers.get("dz", self.stem.y.shape))  # fmt: skip
        self.stem.backward(dx, need_dx=False)
        ready(next(offsets))

    def offsets(self):
        """Where in the flat gradients the parts begin that become final one after another on the way back."""
        first = [(block.projection or block.branch[0]).weights.part.start for block in self.blocks]
        return [self.weights.part.start, *reversed(first), 0]

    def max_pool(self, x):
        """The pooling after the stem: (y, winner)."""
        n, h, w = self.ops.unpacked_size(x)
        shape = self.ops.activation_shape(n, STEM.outputs, pooled(h), pooled(w))
        return self.ops.maxpool_forward(
            x, out=self.buffers.get("pool", shape), winner=self.buffers.get("winner", shape))  # fmt: skip

    def classify(self, pooled):
        """Scores (N, classes) of pooled features."""
        return self.ops.linear_forward(pooled, self.weights.w, self.bias.w, self.classes)
