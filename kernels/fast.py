"""The compiled kernels under one name, with the signatures of their twins in `naive` and `naive_bf16`.

Activations are float32, or bf16 stored as uint16; a kernel computes in the precision of what it is given.
"""

from functools import partial
from types import SimpleNamespace

from kernels.batchnorm import batchnorm_backward, batchnorm_forward, batchnorm_inference
from kernels.bf16 import bf16_add_into, bf16_split
from kernels.check import expect
from kernels.conv_backward_data import conv_backward_data
from kernels.conv_backward_weights import conv_backward_weights
from kernels.conv_forward import conv_forward, conv_inference
from kernels.images import pack_images
from kernels.layout import (
    STORED,
    activation_shape,
    pack,
    pack_vector,
    pack_weights,
    scaled_weights,
    unpack,
    unpack_vector,
    unpack_weights,
    unpacked_size,
    vector_shape,
    weights_shape,
)
from kernels.linear import linear_backward, linear_forward
from kernels.pooling import average_backward, average_forward, maxpool_backward, maxpool_forward
from kernels.sgd import add_into, sgd_update, squared_norm
from kernels.softmax_loss import cross_entropy, softmax_loss, softmax_loss_backward, top_k
from kernels.winograd_division import MODES

IN_PLACE = True  # results go to the `out` they are given: buffers are worth keeping

__all__ = [
    "IN_PLACE", "activation_dtype", "activation_shape", "add_into", "average_backward", "average_forward",
    "batchnorm_backward", "batchnorm_forward", "batchnorm_inference", "bf16_add_into", "bf16_split",
    "conv_backward_data", "conv_backward_weights", "conv_forward", "conv_inference", "cross_entropy",
    "linear_backward", "linear_forward", "maxpool_backward", "maxpool_forward", "pack", "pack_images",
    "pack_vector", "pack_weights", "scaled_weights", "sgd_update", "softmax_loss", "softmax_loss_backward",
    "squared_norm", "top_k", "unpack", "unpack_vector", "unpack_weights", "unpacked_size", "vector_shape",
    "weights_shape",
]  # fmt: skip

CONVOLUTIONS = ("conv_forward", "conv_inference", "conv_backward_data", "conv_backward_weights")


def activation_dtype(dtype):
    """The dtype of activations, whatever that of the weights."""
    return STORED["float32"]


def configured(winograd="auto", precision="float32"):
    """These kernels under the same names, with `winograd` in every convolution: "auto", where it is faster (the
    default), "always", where it can be, or "never"; and for activations in a `precision`, "float32" or "bf16". Raises
    ValueError for others.
    """
    expect(winograd in MODES, f"winograd is {winograd!r}, expected one of {', '.join(MODES)}")
    expect(precision in STORED, f"precision is {precision!r}, expected one of {', '.join(STORED)}")
    kernels = {name: globals()[name] for name in __all__}
    bound = {name: partial(kernels[name], winograd=winograd) for name in CONVOLUTIONS}
    bound["activation_dtype"] = lambda dtype: STORED[precision]
    return SimpleNamespace(**kernels | bound, __all__=__all__)
