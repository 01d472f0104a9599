"""Arrays to and from Caffe's BlobProto."""

import math
from itertools import islice

import numpy as np

from nptrain.caffe import caffe_pb2
from nptrain.caffe.wire import I32, I64, LEN, VARINT, Message, signed
from nptrain.errors import InputError

MAX_AXES, MAX_NUMBERS = 32, 2**31 - 1  # Caffe's own limits of a blob


def fill_blob(blob, array):
    """Store a float32 (in `data`) or float64 (in `double_data`) array in the empty BlobProto `blob`.

    The blob is parsed from bytes, which takes 0.1 s per 100 MB. Setting its repeated field takes 7 s.
    """
    packed = caffe_pb2.PackedBlob(shape=caffe_pb2.BlobShape(dim=array.shape))
    if array.dtype == np.float32:
        packed.data = array.astype("<f4", copy=False).tobytes()
    elif array.dtype == np.float64:
        packed.double_data = array.astype("<f8", copy=False).tobytes()
    else:
        raise TypeError(f"a blob holds float32 or float64, not {array.dtype}")
    blob.ParseFromString(packed.SerializeToString())


def read_blob(message, where):
    """The array of a BlobProto, a wire Message: float64 where it has `double_data`, else float32.

    The shape is (num, channels, height, width) if one of these fields is set, as in files from before 2014, else the
    BlobShape. Raises InputError, which begins with `where`, if the shape and the number of values differ; WireError if
    the message is damaged.
    """
    legacy, shape, data, double_data = {}, [], [], []
    for number, wire, value in message.fields():
        if 1 <= number <= 4 and wire == VARINT:
            legacy[number] = signed(value)
        elif number == 5 and wire in (LEN, I32):
            data.append(value)
        elif number == 8 and wire in (LEN, I64):
            double_data.append(value)
        elif number == 7 and wire == LEN:
            shape += _dims(value)
            if len(shape) > MAX_AXES:
                raise InputError(f"{where}: found a shape of more than {MAX_AXES} axes")
    if legacy:
        shape = [legacy.get(number, 0) for number in (1, 2, 3, 4)]
    if any(_bytes(piece) for piece in double_data):
        return _join(double_data, "<f8", tuple(shape), where)
    return _join(data, "<f4", tuple(shape), where)


def _dims(message):
    """The numbers of a BlobShape; reading stops when there are more than MAX_AXES."""
    numbers = []
    for number, wire, value in message.fields():
        if number == 1 and wire in (VARINT, LEN):
            numbers += [signed(value)] if wire == VARINT else islice(value.integers(), MAX_AXES + 1)
            if len(numbers) > MAX_AXES:
                break
    return numbers


def _join(pieces, dtype, shape, where):
    """One array of `shape` from the pieces of its numbers: Messages, or arrays of their bits."""
    size, dtype = sum(map(_bytes, pieces)), np.dtype(dtype)
    count, rest = divmod(size, dtype.itemsize)
    numbers = f"{size} bytes of {dtype.name}" if rest else f"{count} numbers"
    if min(shape, default=0) < 0 or rest or math.prod(shape) != count:
        raise InputError(f"{where}: found {numbers} for a blob of shape {shape}")
    if math.prod(max(n, 1) for n in shape) > MAX_NUMBERS:
        raise InputError(f"{where}: found a blob of shape {shape}, larger than Caffe allows")
    array, at = np.empty(count, dtype), 0
    memory = memoryview(array.view(np.uint8))
    for piece in pieces:
        part = memory[at : at + _bytes(piece)]
        if isinstance(piece, Message):
            piece.read_into(part)
        else:
            part[:] = piece.tobytes()
        at += len(part)
    return array.reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _bytes(piece):
    return len(piece) if isinstance(piece, Message) else piece.nbytes
