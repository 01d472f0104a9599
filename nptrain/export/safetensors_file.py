"""Files of tensors by name in the format safetensors: the length of a JSON header, the header, and the numbers.

https://huggingface.co/docs/safetensors; nothing in such a file is executed when it is read, unlike PyTorch's pickles.
"""

import json
import struct
from itertools import pairwise
from math import prod
from pathlib import Path

import numpy as np

from nptrain.errors import InputError, reason
from nptrain.files import atomic_write, check_regular

METADATA = "__metadata__"
MAX_HEADER = 100_000_000  # bytes, the format's own limit
FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I64": 8, "I32": 4, "I16": 2, "I8": 1,
         "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1}  # fmt: skip
PICKLES = b"PK\x03\x04", b"\x80"  # the first bytes of what torch.save writes


def write_safetensors(path, tensors, metadata):
    """Write {name: float32 array} and the {name: text} `metadata`. The file is replaced whole or not at all; raises
    OSError.
    """
    header, at = {METADATA: metadata}, 0
    for name, values in tensors.items():
        header[name] = {"dtype": "F32", "shape": values.shape, "data_offsets": [at, at := at + values.nbytes]}
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the numbers are aligned
    with atomic_write(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for values in tensors.values():
            file.write(np.ascontiguousarray(values, "<f4").tobytes())


def read_safetensors(path):
    """({name: array}, {name: text}), the tensors of a file and its metadata. Tensors of F16 and BF16 become float32;
    those that are no floating-point numbers are left out.

    Raises InputError for a file that is missing, damaged, or of another kind.
    """
    try:
        check_regular(path)
        content = memoryview(Path(path).read_bytes())
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        raise InputError(f"{path}: cannot be read: {reason(error)}") from None
    header, numbers = _header(path, content)
    metadata = header.pop(METADATA, None) or {}
    if not (isinstance(metadata, dict) and all(isinstance(text, str) for text in metadata.values())):
        raise InputError(f"{path}: {METADATA}: expected texts by name")
    entries = {name: _entry(path, name, entry) for name, entry in header.items()}
    spans = sorted((begin, end) for _, _, begin, end in entries.values())
    edges = [(0, 0), *spans, (len(numbers), len(numbers))]
    if any(end != begin for (_, end), (begin, _) in pairwise(edges)):
        raise InputError(f"{path}: damaged: its tensors are not the {len(numbers)} bytes after the header")
    return {name: _array(numbers[begin:end], dtype).reshape(shape)
            for name, (dtype, shape, begin, end) in entries.items() if dtype in FLOATS}, metadata  # fmt: skip


def _header(path, content):
    """(the header of a file, the bytes after it)."""
    size = struct.unpack("<Q", content[:8])[0] if len(content) >= 8 else -1
    if not 0 < size <= min(len(content) - 8, MAX_HEADER):
        if bytes(content[:4]).startswith(PICKLES):
            raise InputError(
                f"{path}: found a pickle of PyTorch, which is never loaded, as it may run any code; in Python: from "
                f"safetensors.torch import save_file; save_file(torch.load({str(path)!r}, weights_only=True), "
                "'model.safetensors')"
            )
        raise InputError(f"{path}: not a safetensors file, or cut off")
    try:
        header = json.loads(bytes(content[8 : 8 + size]))
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise InputError(f"{path}: not a safetensors file: its header is not JSON")
    return header, content[8 + size :]


def _entry(path, name, entry):
    """(dtype, shape, begin, end) of a tensor's entry in the header."""
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
        if not whole or end - begin != prod(shape) * SIZES[dtype]:
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path}: tensor {name}: damaged: its type, shape and size do not agree") from None
    return dtype, shape, begin, end


def _array(numbers, dtype):
    values = np.frombuffer(numbers, FLOATS[dtype])
    if dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float64 if dtype == "F64" else np.float32)
