"""Protobuf messages by hand, as no library would write them."""

import numpy as np


def field(number, data):
    """A field of bytes as protobuf writes it."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(n):
    return bytes([n & 127 | 128]) + varint(n >> 7) if n > 127 else bytes([n])


def legacy(shape, data):
    """A BlobProto as it was before 2014: num, channels, height, width."""
    return b"".join(bytes([8 * (k + 1), n]) for k, n in enumerate(shape)) + field(5, np.float32(data).tobytes())
