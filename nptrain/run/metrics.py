"""A run's metrics.jsonl: a line for each iteration and each test."""

import errno
import itertools
import json
import os
from contextlib import suppress
from functools import partial
from os.path import lexists
from pathlib import Path

from nptrain.errors import InputError, reason
from nptrain.files import retried, write_small, writing


class GoneError(InputError):
    """The metrics.jsonl of a run, or its folder, is not where the run has written it."""


class MetricsFile:
    """Lines at the end of a metrics.jsonl, without a buffer: each is on disk at once, or raises InputError; also if the
    file is not at its path any more, as it was removed, or its folder was renamed.
    """

    def __init__(self, path):
        self.path = Path(path)
        with writing(path):
            self.file = open(path, "ab", buffering=0)  # noqa: SIM115

    def write(self, line):
        """Append a line, of bytes."""
        self.expect_there()
        with writing(self.path):
            while line:  # a disk with little room takes a part of it
                line = line[retried(partial(self.file.write, line), self.path) :]

    def expect_there(self):
        """Raise GoneError unless the file is at its path."""
        try:
            with writing(self.path):
                there = os.path.samestat(retried(partial(os.stat, self.path), self.path), os.fstat(self.file.fileno()))
        except InputError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise
            there = False
        if not there:
            what = self.path if self.path.parent.exists() else self.path.parent
            raise GoneError(f"{what}: removed, renamed or replaced while the run wrote to it; go on with --resume, "
                             "and the folder where it is now")  # fmt: skip

    def close(self):
        self.file.close()


def read_entries(path):
    """The entries of a metrics.jsonl whose lines are complete, as `forget_after` leaves it; none without a file, or of
    a device, which may have no end.
    """
    path = Path(path)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def read(path, parse):
    """[parse(entry)] for the entries of all lines; an incomplete last line, which is still being written, is left out.

    Raises InputError for a file that is missing, damaged or without an iteration, and where `parse` raises KeyError,
    TypeError, IndexError, ValueError or ArithmeticError.
    """
    try:
        *lines, _ = Path(path).read_text().split("\n")
    except OSError as error:
        raise InputError(f"{path}: {reason(error)}, expected the metrics of a run") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not text, expected the metrics of a run") from None
    results, iterations = [], 0
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            results.append(parse(entry))
            iterations += "loss" in entry
        except KeyError as error:
            raise InputError(f"{path}: line {number}: found no {error}, expected {error} in an iteration") from None
        except (TypeError, IndexError, ValueError, ArithmeticError, RecursionError):
            raise InputError(f"{path}: line {number}: damaged, expected an iteration or a test as JSON") from None
    if not iterations:
        raise InputError(f"{path}: found no iteration, expected at least one")
    return results


def forget_after(path, checkpoint, phases, lines=(), tested=False):
    """Remove the lines of a metrics.jsonl that were written after a checkpoint (None: all), and an incomplete last one.
    Then add those of the entries `lines` that should come next, but were lost. Returns lines for the log, which name
    those that are damaged, and are left out.

    A checkpoint of n updates is saved after the line of iteration n - 1 and before that of a test after n, which
    remains if `tested`.
    """
    path, kept, last, said = Path(path), [], (), []
    if not path.is_file() and not lines:
        return []
    end = (phases.index(checkpoint.phase), checkpoint.iteration + 0.5 * tested) if checkpoint else ()
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True) if path.is_file() else (), 1):
        try:
            place = _place(json.loads(line), phases)
        except (ValueError, KeyError, TypeError, RecursionError):
            if line.endswith(b"\n"):  # else it was being written
                said.append(f"{path}: line {number}: damaged: left out")
            continue
        if place <= end:
            kept.append(line.rstrip() + b"\n")
            last = place
    kept += [json.dumps(entry).encode() + b"\n" for entry in lines if last < _place(entry, phases) <= end]
    write_small(path, b"".join(kept))
    return said


def set_aside(path):
    """Rename the metrics.jsonl of a run that begins anew, if it has iterations. Returns lines for the log."""
    path, count = Path(path), 0
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        with suppress(ValueError, RecursionError):
            count += "loss" in json.loads(line)
    if not count:
        return []
    kept = next(path.with_name(f"{path.name}.{n}") for n in itertools.count(1) if not lexists(f"{path}.{n}"))
    with writing(kept):
        path.rename(kept)
    lost = f"{count} iterations are" if count > 1 else "1 iteration is"
    return [f"--resume: found no checkpoint: {lost} lost, and the run begins anew; its metrics before are in {kept}"]


def _place(entry, phases):
    """What orders the entries of a run, and its checkpoints. Raises ValueError, KeyError or TypeError if it is none."""
    numbers = [entry[name] for name in ("loss", "test_loss", "top1", "top5") if name in entry]
    known = all(type(number) in (int, float, type(None)) for number in numbers)
    if type(entry["iteration"]) is not int or not numbers or not known:
        raise TypeError
    return phases.index(entry["phase"]), entry["iteration"] + (1 if "loss" in entry else 0.5)
