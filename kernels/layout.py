"""How the fast kernels store arrays, and the conversion from and to the plain layouts.

    activations  NCHW  <->  (C/16, H, W, N, 16)          up to 4 channels: (1, H, W, N, 4)
    weights      KCRS  <->  (K/16, C/16, R, S, 16, 16)   up to 4 inputs: (K/16, 1, R, S, C, 16); C before K
    vectors      (C,)  <->  (C/16 * 16,)

Channels are filled up to a multiple of 16 with zeros, which stay zero through training. With the images
of a batch innermost, the pixels that a register tile reads are neighbours in memory for every kernel
size, stride and map size.
"""

import numpy as np

LANES = 16  # channels of a block, and numbers of a vector
FEW = 4  # channels (an image's three) that are not worth a block of 16
BF16 = np.dtype(np.uint16)  # how bf16 is stored: NumPy has no such type
STORED = {"float32": np.dtype(np.float32), "bf16": BF16}  # how activations are stored, by precision


def blocks_of(channels):
    """How many blocks of 16 hold `channels`."""
    return -(-channels // LANES)


def stored_as(values, dtype):
    """float32 values as an array of `dtype`: float32, or BF16, rounded to nearest, ties to even."""
    if dtype != BF16:
        return values
    with np.errstate(over="ignore"):
        words = np.ascontiguousarray(values, np.float32).view(np.uint32)
        upper = words >> 16
        half = (words + 0x7FFF + (upper & 1)) >> 16
    return np.where(np.isnan(values), upper | 0x40, half).astype(BF16)


def values_of(stored):
    """The float32 values of an array of either dtype."""
    return (stored.astype(np.uint32) << 16).view(np.float32) if stored.dtype == BF16 else stored


def lanes_of(c):
    """The numbers that a block of c channels has in each pixel of an activation."""
    return FEW if c <= FEW else LANES


def activation_shape(n, c, h, w):
    """The stored shape of an (n, c, h, w) activation."""
    return 1 if c <= FEW else blocks_of(c), h, w, n, lanes_of(c)


def unpacked_size(x):
    """(images, height, width) of an activation."""
    return x.shape[3], x.shape[1], x.shape[2]


def weights_shape(k, c, r, s):
    """The stored shape of (k, c, r, s) weights."""
    return (blocks_of(k), 1, r, s, c, LANES) if c <= FEW else (blocks_of(k), blocks_of(c), r, s, LANES, LANES)


def vector_shape(c):
    """The stored shape of a value for each of c channels."""
    return (blocks_of(c) * LANES,)


def pack(x, out=None, dtype=np.float32):
    """(N, C, H, W) of any dtype -> activation, float32 or (`dtype` BF16) bf16."""
    n, c, h, w = x.shape
    shape = activation_shape(n, c, h, w)
    full = np.zeros((n, shape[0] * shape[4], h, w), np.float32)
    full[:, :c] = x
    blocked = full.reshape(n, shape[0], shape[4], h, w).transpose(1, 3, 4, 0, 2)
    if out is None:
        return stored_as(np.ascontiguousarray(blocked), dtype)
    out[...] = stored_as(blocked, out.dtype)
    return out


def unpack(x, channels):
    """Activation -> (N, channels, H, W), float32."""
    blocks, h, w, n, lanes = x.shape
    x = values_of(x)
    return np.ascontiguousarray(x.transpose(3, 0, 4, 1, 2).reshape(n, blocks * lanes, h, w)[:, :channels])


def pack_weights(w):
    """(K, C, R, S) -> stored weights, float32."""
    k, c, r, s = w.shape
    shape = weights_shape(k, c, r, s)
    full = np.zeros((shape[0] * LANES, shape[1] * shape[4], r, s), np.float32)
    full[:k, :c] = w
    blocked = full.reshape(shape[0], LANES, shape[1], shape[4], r, s)
    return np.ascontiguousarray(blocked.transpose(0, 2, 4, 5, 3, 1))


def unpack_weights(w, shape):
    """Stored weights -> (K, C, R, S) of the given shape."""
    k_blocks, c_blocks, r, s, lanes, _ = w.shape
    full = w.transpose(0, 5, 1, 4, 2, 3).reshape(k_blocks * LANES, c_blocks * lanes, r, s)
    return np.ascontiguousarray(full[: shape[0], : shape[1]])


def scaled_weights(w, factor):
    """Stored weights, every output's times its factor (a float64 vector)."""
    return (w * factor.reshape(-1, 1, 1, 1, 1, LANES)).astype(np.float32)


def pack_vector(v):
    """(C,) -> stored vector, float32."""
    full = np.zeros(vector_shape(len(v)), np.float32)
    full[: len(v)] = v
    return full


def unpack_vector(v, channels):
    """Stored vector -> (channels,)."""
    return v[:channels].copy()
