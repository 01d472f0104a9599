"""Making a data set: an LMDB from a folder or an archive of images."""

import os
import shutil
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from nptrain.data.labels import Labels, label
from nptrain.data.lmdb_dataset import MAX_RECORD, LmdbWriter, expect_new
from nptrain.data.parallel import ahead
from nptrain.data.sampler import CONVERT, stream
from nptrain.data.sources import open_source
from nptrain.data.storage import Storage
from nptrain.errors import InputError, counted, reason


@dataclass
class Summary:
    """A data set that was made: its folder `path`; `bytes` of all records; `encoded`: the images that were encoded
    anew; `names` of its classes (None: it has none); `used`, their labels that have records; `skipped`:
    [(file name, reason)]; `left_out`: a Counter of what tools left behind in the source.
    """

    path: Path
    records: int = 0
    bytes: int = 0
    encoded: int = 0
    names: list[str] | None = None
    used: set[int] = field(default_factory=set)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def classes(self):
        """How many classes there are, also those without images."""
        return len(self.names or self.used)


def convert(
    source, out, *, labels=None, storage=None, limit=None, seed=0, shuffle=True, threads=None,
    progress=lambda records, total: records,
):  # fmt: skip
    """Write the images of `source` (a folder or tar archive) to the new LMDB folder `out`. If the source has several
    splits, such as train and val, and `labels` chooses none, they become `out`/train and `out`/val, whose labels mean
    the same.

    labels    how they are made: a Labels (None: by class folders)
    storage   how images are stored: a Storage (None: as Caffe reads them)
    limit     use only this many files
    shuffle   in an order that depends on `seed`; else the order is sorted, or that of the list
    progress  progress(records, total) wraps the iterator over the records

    Names of classes, where they have names, are written to classes.txt. Files that do not decode are skipped. Files are
    read in the new order, so that images never fill the memory; a compressed archive, which can only be read from its
    beginning, is first unpacked to a temporary file on the disk of `out`. Returns a Summary of each data set. Raises
    InputError for a user's mistake, and if no image is left; of several data sets, none is left then.
    """
    labels, storage = labels or Labels(), storage or Storage()
    labels.check()
    storage.check()
    if limit is not None and limit < 1:
        raise InputError(f"--limit: found {limit}, expected 1 or more")
    if not os.path.exists(source):
        raise InputError(f"{source}: no such folder or archive")
    threads = threads or len(os.sched_getaffinity(0))
    with closing(open_source(source, _existing(out))) as files, _all_or_nothing(out) as summaries:
        parts = label(files, labels)
        for part in parts:
            expect_new(Path(out, part.split))
        if parts[0].split:
            expect_new(Path(out, "data.mdb"))
        for part in parts:
            order = stream(seed, CONVERT).permutation(len(part.entries)) if shuffle else range(len(part.entries))
            entries = [part.entries[i] for i in order[:limit]]
            summary = Summary(Path(out, part.split), names=part.names, skipped=part.skipped, left_out=files.left_out)
            with LmdbWriter(summary.path) as writer:
                with closing(ahead(partial(_record, files, storage), entries, threads)) as records:
                    _write(writer, entries, progress(records, len(entries)), summary)
                if not summary.records:
                    first = "; the first, {}: {}".format(*summary.skipped[0]) if summary.skipped else ""
                    place = Path(source, part.split)
                    raise InputError(f"{place}: found no image in {counted(len(summary.skipped), 'file')}{first}")
                if part.names:
                    writer.name_classes(part.names)
            summaries.append(summary)
    return summaries


@contextmanager
def _all_or_nothing(out):
    """A list for the Summary of each data set that is made in the folder `out`. After an exception they are removed:
    the same call can be made again.
    """
    summaries, new = [], not os.path.lexists(out)
    try:
        yield summaries
    except BaseException:
        for summary in summaries:
            shutil.rmtree(summary.path, ignore_errors=True)
        with suppress(OSError):  # it has something in it
            if new:
                os.rmdir(out)
        raise


def _write(writer, entries, records, summary):
    """Add the `records`, and take note of them in `summary`."""
    for (name, number), (record, encoded) in zip(entries, records, strict=True):
        if isinstance(record, bytes):
            writer.add(name, record)
            summary.records += 1
            summary.bytes += len(record)
            summary.encoded += encoded
            summary.used.add(number)
        else:
            summary.skipped.append((name, record))


def _record(files, storage, entry):
    """The record (bytes) of an entry (name, label), and whether it was encoded anew; or why there is none (str)."""
    name, number = entry
    try:
        record, encoded = storage.record(files.read(name), "", number)
        if len(record) > MAX_RECORD:
            raise InputError(f"found {len(record)} bytes, expected at most {MAX_RECORD}")
        return record, encoded
    except InputError as error:
        return str(error).removeprefix(": "), False
    except Exception as error:  # whatever one file can raise, the others are converted
        return f"{reason(error)}" or type(error).__name__, False


def _existing(path):
    """The folder `path` itself, or the nearest one above it that exists."""
    path = Path(path).absolute()
    return next((folder for folder in (path, *path.parents) if folder.is_dir()), Path("/"))
