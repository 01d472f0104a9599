"""Mapped snapshots: the state of a run after its last whole iteration, in a file on a host's local disk.

A file has two slots, which are written in turn, so that one is whole at any moment. A slot begins with its seal, the
SHA-256 of what describes it and of the sums of its blocks, which is written last. The file survives its process: the
kernel has the pages. The arrays are as the kernels store them.
"""

import hashlib
import json
import mmap
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from nptrain.errors import InputError, reason
from nptrain.files import writing
from nptrain.recipes.schedule import Progress

SEAL = hashlib.sha256().digest_size
HEAD = 1 << 18  # bytes before the arrays: seal, length of the description, the description
BLOCK = 1 << 20  # bytes that are copied and summed at once: they stay in a core's cache
ROW = 1 << 10  # 64-bit words of a block that are one row of its table
PAGE = 4096
ALIGNED = 64  # bytes, where an array may begin


def place(folder=None):
    """The Path of the user's own folder of snapshots below `folder` (None: the system's for temporary files)."""
    return Path(folder or tempfile.gettempdir()).absolute() / f"nptrain-{os.getuid()}"


def make_folder(path):
    """Make a folder that this user alone can write. Raises InputError if it is another's: what is in it is trusted."""
    with writing(path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise InputError(f"--snapshot-folder: others can write to {path}, expected a folder of this user's alone")


def state_of(arena):
    """The arrays that an update changes, flat."""
    return arena.weights, arena.history, arena.statistics, arena.factors


def layout(arena):
    """A text that is the same for two arenas whose arrays mean the same, byte for byte."""
    shapes = [(parameter.layer, parameter.w.shape) for parameter in arena.parameters]
    return hashlib.sha256(repr((np.dtype(arena.dtype).str, shapes)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Snapshot:
    """What describes a state: that of `run` after `iteration` updates of `phase`.

    run      identity of the run          progress  the phase's Progress
    layout   of the arena (`layout`)      lines     the last entries of its metrics.jsonl
    """

    run: str
    layout: str
    phase: str
    iteration: int
    progress: Progress
    lines: tuple[dict, ...] = ()

    def encoded(self):
        """As bytes, with only as many of the newest lines as there is room for."""
        lines, fields = list(self.lines), {**vars(self), "progress": asdict(self.progress)}
        while True:
            text = json.dumps({**fields, "lines": lines}).encode()
            if len(text) <= HEAD - SEAL - 4:
                return text
            if not lines:
                raise InputError(f"average_loss: {len(self.progress.losses)} losses do not fit into a snapshot")
            del lines[0]

    @classmethod
    def decoded(cls, text):
        """The way back. Raises ValueError, TypeError or KeyError if it is none."""
        fields = json.loads(text)
        progress = {**fields["progress"], "losses": tuple(fields["progress"]["losses"])}
        return cls(**{**fields, "progress": Progress(**progress), "lines": tuple(fields["lines"])})


class SnapshotFile:
    """A new file for the snapshots of an arena, mapped; `bytes` is its size. Raises InputError if there is no room."""

    def __init__(self, path, arena):
        self.path, self.arrays, self._turn = path, [_bytes(array) for array in state_of(arena)], 0
        self._starts, size = _starts([array.size for array in self.arrays])
        self.bytes = 2 * size
        with writing(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, self.bytes)  # a page without room would end the process
                mapped = mmap.mmap(descriptor, self.bytes)
            except OSError:
                path.unlink()
                raise
            finally:
                os.close(descriptor)
        self._slots = np.frombuffer(mapped, np.uint8).reshape(2, size)

    def write(self, snapshot):
        """Write the arena's arrays, which stand still meanwhile, and what describes them."""
        slot, text = self._slots[self._turn], snapshot.encoded()
        slot[:SEAL] = 0
        seal = hashlib.sha256(text)
        for array, start in zip(self.arrays, self._starts, strict=True):
            for at in range(0, array.size, BLOCK):
                block = array[at : at + BLOCK]
                slot[start + at : start + at + block.size] = block
                _add_block(seal, block)
        slot[SEAL : SEAL + 4].view("<u4")[0] = len(text)
        slot[SEAL + 4 : SEAL + 4 + len(text)] = np.frombuffer(text, np.uint8)
        slot[:SEAL] = np.frombuffer(seal.digest(), np.uint8)
        self._turn = 1 - self._turn


@dataclass(frozen=True)
class Found:
    """A whole Snapshot that was found in a file. `fill(arena)` copies its arrays."""

    snapshot: Snapshot
    fill: Callable


def newest(paths, expected, arena, phases, say):
    """The Found of the newest whole snapshot in files for this arena, or None. `phases` are the names of all phases, in
    order. Calls say(line) for each that is damaged, or is not of the run `expected`.
    """
    found = []
    for path in paths:
        try:
            data = np.memmap(path, np.uint8, "r")
        except (OSError, ValueError) as error:  # gone, or empty
            say(f"skipped a snapshot: {path}: cannot be read: {reason(error)}")
            continue
        half = data.size // 2
        for slot in (data[:half], data[half : 2 * half]):
            if slot[:SEAL].any():  # else it was never written, or its writer has died
                found += [candidate] if (candidate := _candidate(slot, path, expected, arena, phases, say)) else []
    return max(found, key=lambda f: (phases.index(f.snapshot.phase), f.snapshot.iteration), default=None)


def _candidate(slot, path, expected, arena, phases, say):
    """The Found of a slot, or None after a line that says why not."""
    problem, snapshot = "damaged: not a snapshot", None
    try:
        text = slot[SEAL + 4 : SEAL + 4 + int(slot[SEAL : SEAL + 4].view("<u4")[0])].tobytes()
        snapshot = Snapshot.decoded(text)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        pass
    arrays = [_bytes(array) for array in state_of(arena)]
    starts, size = _starts([array.size for array in arrays])
    if snapshot and snapshot.run != expected:
        problem = "of another run"
    elif snapshot and (snapshot.layout != layout(arena) or size != slot.size or snapshot.phase not in phases):
        problem = "of another network, or other kernels"
    elif snapshot:
        parts = [slot[start : start + array.size] for start, array in zip(starts, arrays, strict=True)]
        if _seal(text, parts) == slot[:SEAL].tobytes():
            return Found(snapshot, lambda arena: _fill(arena, parts, text, slot, path))
        problem = "damaged, or of another version: its checksum is another one"
    say(f"skipped a snapshot: {path}: {problem}")
    return None


def _fill(arena, parts, text, slot, path):
    arrays = [_bytes(array) for array in state_of(arena)]
    for array, part in zip(arrays, parts, strict=True):
        array[:] = part
    if _seal(text, arrays) != slot[:SEAL].tobytes():
        raise InputError(f"{path}: changed while it was read: a process of an earlier start lives; end it first")


def _seal(text, arrays):
    seal = hashlib.sha256(text)
    for array in arrays:
        for at in range(0, array.size, BLOCK):
            _add_block(seal, array[at : at + BLOCK])
    return seal.digest()


def _add_block(seal, block):
    """Add the sums of a block's rows and columns, as a table of words, to the hash: two words that are swapped change
    one of them at least. 200 MB that were just copied take 8 ms; a hash of all bytes would take thrice the copy's time.
    """
    whole = block[: block.size // (8 * ROW) * 8 * ROW]
    table = whole.view(np.uint64).reshape(-1, ROW)
    for axis in (0, 1):
        seal.update(np.add.reduce(table, axis=axis).tobytes())
    seal.update(block[whole.size :].tobytes())


def _bytes(array):
    return array.reshape(-1).view(np.uint8)


def _starts(sizes):
    """(where arrays of these sizes begin in a slot, the size of the slot)."""
    starts, at = [], HEAD
    for size in sizes:
        starts.append(at)
        at += -(-size // ALIGNED) * ALIGNED
    return starts, -(-at // PAGE) * PAGE
