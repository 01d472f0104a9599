"""ResNet forward and backward, hand-written and mirrored: what forward does last, backward undoes first.

Works on either set of kernels (`kernels.fast` or `kernels.naive`), handed in as `ops`. The layers keep
what their backward pass needs; gradients are added to the arena's, activations' gradients overwritten.
"""

from math import prod

import numpy as np

from nptrain.arena import Arena
from nptrain.layers import STEM, blocks, layers


class Buffers:
    """Activations and their gradients by name, allocated once and used again at every step.

    With `keep` false (the plain kernels make new arrays), there is no buffer to write into: None.
    """

    def __init__(self, keep):
        self.keep, self.held = keep, {}

    def get(self, name, shape):
        if not self.keep:
            return None
        if name not in self.held or self.held[name].shape != shape:
            self.held[name] = np.empty(shape, np.float32)
        return self.held[name]


class ConvolutionNorm:
    """A convolution, its batch norm and scale, and the residual add and ReLU that follow."""

    def __init__(self, conv, arena, buffers, eps):
        self.conv, self.ops, self.buffers, self.eps = conv, arena.ops, buffers, eps
        self.weights, *bias = arena.of(conv.name)
        self.bias = bias[0] if bias else None
        self.gamma, self.beta = arena.of(f"scale{conv.norm}")
        self.norm = arena.norms[f"bn{conv.norm}"]

    def _convolve(self, x):
        conv, bias = self.conv, self.bias.w if self.bias else None
        n, h, w = self.ops.unpacked_size(x)
        size = [(length + 2 * conv.pad - conv.kernel) // conv.stride + 1 for length in (h, w)]
        shape = self.ops.activation_shape(n, conv.outputs, *size)
        out = self.buffers.get(f"{conv.name} z", shape)
        return self.ops.conv_forward(x, self.weights.w, bias, conv.stride, conv.pad, out)

    def forward(self, x, residual=None, relu=True):
        """Returns y = [relu](scale(norm(conv(x))) [+ residual]), by the batch's statistics."""
        z = self._convolve(x)
        out = self.buffers.get(f"{self.conv.name} y", z.shape)
        y, mean, var = self.ops.batchnorm_forward(
            z, self.gamma.w, self.beta.w, self.eps, residual, relu, out)  # fmt: skip
        count = prod(self.ops.unpacked_size(z))
        self.norm.batch_mean += mean.astype(z.dtype)
        self.norm.batch_var += (var * (count / max(count - 1, 1))).astype(z.dtype)  # unbiased, as Caffe keeps it
        self.x, self.z, self.y, self.mean, self.var, self.relu = x, z, y, mean, var, relu
        return y

    def backward(self, dy, dx=None, add=False, dresidual=None, need_dx=True):
        """Returns dx, written (or added) to `dx` if given. dy is overwritten; the residual's gradient goes to
        `dresidual` if given, which may be dy itself.
        """
        conv, ops = self.conv, self.ops
        out = dy if dresidual is None else self.buffers.get("dz", dy.shape)
        dz = ops.batchnorm_backward(
            dy, self.z, self.y, self.gamma.w, self.mean, self.var, self.eps,
            self.gamma.dw, self.beta.dw, self.relu, out, dresidual)  # fmt: skip
        dbias = self.bias.dw if self.bias else None
        ops.conv_backward_weights(self.x, dz, self.weights.dw, dbias, conv.stride, conv.pad)
        if not need_dx:
            return None
        size = ops.unpacked_size(self.x)[1:]
        if dx is None:
            dx = self.buffers.get(f"dx of {conv.name[-1]}", self.x.shape)
        return ops.conv_backward_data(dz, self.weights.w, size, conv.stride, conv.pad, dx, add)

    def infer(self, x, residual=None, relu=True):
        """The same as forward with the running statistics, keeping nothing."""
        z = self._convolve(x)
        norm, factor = self.norm, float(self.norm.factor[0]) or 1.0
        mean, var = (v.astype(np.float64) / factor for v in (norm.mean, norm.var))
        gamma, beta = self.gamma.w, self.beta.w
        return self.ops.batchnorm_inference(z, gamma, beta, mean, var, self.eps, residual, relu, out=z)


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

    def backward(self, dy):
        """Returns dx. Along the shortcut the gradient is dy through the last ReLU, kept in dy itself."""
        *middle, last = self.branch
        d = last.backward(dy, dresidual=dy)
        for layer in reversed(middle[1:]):
            d = layer.backward(d)
        dshortcut = self.projection.backward(dy) if self.projection else dy
        return middle[0].backward(d, dx=dshortcut, add=True)

    def infer(self, x):
        shortcut = self.projection.infer(x, relu=False) if self.projection else x
        for layer in self.branch[:-1]:
            x = layer.infer(x)
        return self.branch[-1].infer(x, residual=shortcut)


class ResNet:
    """The network, from packed images to the loss and back.

    ops      `kernels.fast`, or `kernels.naive` in float32 or float64
    depth    18, 34, 50, 101 or 152
    eps      of every batch norm
    """

    def __init__(self, ops, classes=1000, depth=50, eps=1e-5, dtype=np.float32):
        self.ops, self.classes, self.dtype = ops, classes, dtype
        self.arena = Arena(layers(depth, classes), ops, dtype)
        self.buffers = Buffers(keep=ops.IN_PLACE)
        parts = (self.arena, self.buffers, eps)
        self.stem = ConvolutionNorm(STEM, *parts)
        self.blocks = [ResidualBlock(block, *parts) for block in blocks(depth)]
        self.weights, self.bias = self.arena.of("fc1000")

    def pack_images(self, pixels, mean, scale):
        """uint8 BGR pixels (N, 3, H, W) -> the network's input, (pixel - mean) * scale."""
        n, c, h, w = pixels.shape
        out = self.buffers.get("images", self.ops.activation_shape(n, c, h, w))
        if out is not None:
            out[...] = 0
        return self.ops.pack_images(pixels, mean, scale, self.dtype, out)

    def forward(self, x, labels):
        """Training pass: (loss, scores). loss is the mean over images, scores (N, classes)."""
        x = self.stem.forward(x)
        self.stem_size = self.ops.unpacked_size(x)[1:]
        x, self.winner = self.ops.maxpool_forward(x)
        for block in self.blocks:
            x = block.forward(x)
        self.last_size = self.ops.unpacked_size(x)[1:]
        self.pooled = self.ops.average_forward(x)
        scores = self.ops.linear_forward(self.pooled, self.weights.w, self.bias.w, self.classes)
        self.labels = labels
        loss, self.probabilities = self.ops.softmax_loss(scores, labels)
        return loss, scores

    def backward(self):
        """Adds the gradient of the last forward pass's loss to the arena's gradients."""
        dscores = self.ops.softmax_loss_backward(self.probabilities, self.labels)
        dpooled = self.ops.linear_backward(dscores, self.pooled, self.weights.w, self.weights.dw, self.bias.dw)
        dx = self.ops.average_backward(dpooled, self.last_size)
        for block in reversed(self.blocks):
            dx = block.backward(dx)
        dx = self.ops.maxpool_backward(dx, self.winner, self.stem_size)
        self.stem.backward(dx, need_dx=False)

    def infer(self, x):
        """Scores (N, classes) by the running statistics."""
        x = self.stem.infer(x)
        x, _ = self.ops.maxpool_forward(x)
        for block in self.blocks:
            x = block.infer(x)
        pooled = self.ops.average_forward(x)
        return self.ops.linear_forward(pooled, self.weights.w, self.bias.w, self.classes)


def compile_kernels(recipe):
    """Run a smallest step and an inference, so that every kernel is compiled, or loaded from the cache."""
    from kernels import fast

    network = ResNet(fast, recipe.classes, recipe.depth)
    network.arena.initialise(0)
    x = network.pack_images(np.zeros((2, 3, 32, 32), np.uint8), recipe.mean_bgr, recipe.scale)
    network.forward(x, np.zeros(2, np.int64))
    network.backward()
    network.infer(x)
    flat = np.zeros(32, np.float32)
    fast.sgd_update(flat, flat.copy(), flat.copy(), 0.0, 0.0, 0.0)
    fast.squared_norm(flat)
    fast.add_into(flat.astype(np.float64), flat)
