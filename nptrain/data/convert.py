"""Making a data set: an LMDB from a folder or an archive of images."""

import io
import itertools
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

from nptrain.data.augment import shorter_side
from nptrain.data.datum import decode_file, encoded_datum, raw_datum
from nptrain.data.lmdb_dataset import LmdbWriter
from nptrain.data.sampler import CONVERT, stream
from nptrain.data.sources import by_class_folders, by_list, open_source
from nptrain.errors import InputError

JPEG_QUALITY = 95


@dataclass
class Summary:
    """The result of a conversion: `bytes` of all records; `skipped` is [(file name, reason)]."""

    records: int = 0
    classes: int = 0
    bytes: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)


def convert(
    source, out, *, split=None, list_file=None, resize=None, raw=False, limit=None, seed=0, shuffle=True,
    threads=None, progress=lambda records, total: records,
):  # fmt: skip
    """Write the images of `source` (a folder or tar archive) to the new LMDB folder `out`.

    split      use the class folders in the folder of this name
    list_file  lines "path label"; without it, labels are the indices of the sorted class folders, whose names are
               written to `out`/classes.txt
    resize     resize the shorter side to this many pixels (JPEG, quality 95); without it, files are stored as they are
    raw        store uint8 planes, BGR
    limit      use only this many files
    shuffle    in an order that depends on `seed`; else the order is sorted, or that of the list
    progress   progress(records, total) wraps the iterator over the records

    Files that do not decode are skipped. Files are read in the new order, so that images never fill the memory; a
    compressed archive, which can only be read from its beginning, is first unpacked to a temporary file beside `out`.
    Returns a Summary. Raises InputError for a user's mistake, and if no image is left.
    """
    if list_file and split:
        raise InputError("--split: cannot be used with --list, which names the images itself")
    for flag, value in (("--resize", resize), ("--limit", limit)):
        if value is not None and value < 1:
            raise InputError(f"{flag}: found {value}, expected 1 or more")
    if not os.path.exists(source):
        raise InputError(f"{source}: no such folder or archive")
    threads = threads or len(os.sched_getaffinity(0))
    with LmdbWriter(out) as writer, closing(open_source(source, writer.folder)) as files:
        entries, names, stray = (by_list(files, list_file), [], []) if list_file else by_class_folders(files, split)
        if shuffle:
            entries = [entries[i] for i in stream(seed, CONVERT).permutation(len(entries))]
        entries = entries[:limit]
        summary, labels = Summary(skipped=[(name, "in no class folder") for name in stray]), set()
        with ThreadPoolExecutor(threads) as pool:
            records = _ahead(pool, partial(_record, files, resize=resize, raw=raw), entries, 4 * threads)
            for (name, label), record in zip(entries, progress(records, len(entries)), strict=True):
                if isinstance(record, Exception):
                    summary.skipped.append((name, str(record).removeprefix(f"{name}: ")))
                else:
                    writer.add(name, record)
                    summary.bytes += len(record)
                    labels.add(label)
        summary.records, summary.classes = writer.records, len(names or labels)
        if not summary.records:
            first = "; the first, {}: {}".format(*summary.skipped[0]) if summary.skipped else ""
            raise InputError(f"{source}: found no image in {len(summary.skipped)} files{first}")
        if names:
            text = "".join(f"{name}\n" for name in names)
            (writer.folder / "classes.txt").write_text(text, encoding="utf-8")
    return summary


def _record(files, entry, resize, raw):
    """The record of an entry (name, label), or the exception that says why there is none."""
    name, label = entry
    try:
        file = files.read(name)
        image = decode_file(file, name)  # in any case: what does not decode would stop the training
        if resize and min(image.size) != resize:
            image = shorter_side(image, resize)
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=JPEG_QUALITY)
            file = buffer.getvalue()
        return raw_datum(image, label) if raw else encoded_datum(file, label)
    except (InputError, OSError) as error:
        return error


def _ahead(pool, function, items, count):
    """The results of `function` in the order of `items`, `count` of them computed ahead in the pool."""
    items, queue = iter(items), deque()
    while True:
        queue.extend(pool.submit(function, item) for item in itertools.islice(items, count - len(queue)))
        if not queue:
            return
        yield queue.popleft().result()
