"""The inner product: a 1x1 convolution of 1x1 maps."""

import numpy as np

from kernels.conv_backward_data import conv_backward_data
from kernels.conv_backward_weights import conv_backward_weights
from kernels.conv_forward import conv_forward
from kernels.layout import pack, unpack


def linear_forward(x, w, bias, outputs):
    """x w' + bias, plain (N, outputs), float32 also of x in bf16.

    x        activation (C/16, 1, 1, N, 16)
    w, bias  weights (1x1) and vector, as `layout` stores them
    outputs  how many there are: those up to a multiple of 16 are left out
    """
    scores = np.empty((w.shape[0], 1, 1, *x.shape[3:]), np.float32)
    return unpack(conv_forward(x, w, bias, out=scores), outputs)[:, :, 0, 0]


def linear_backward(dy, x, w, dw, dbias):
    """dw += dy' x, dbias += sum dy, in place. Returns dx = dy w, an activation as x.

    dy           plain (N, outputs)
    x, w         as in `linear_forward`
    dw, dbias    gradients of w and bias, as those are stored
    """
    filled = np.pad(dy, ((0, 0), (0, w.shape[0] * 16 - dy.shape[1])))
    stored = pack(filled[:, :, None, None], dtype=x.dtype)
    conv_backward_weights(x, stored, dw, dbias)
    return conv_backward_data(stored, w, (1, 1))
