"""What an LMDB contains. A record is bad if training refuses it."""

import os
from collections import Counter
from functools import partial

from nptrain.data.classes import read_classes
from nptrain.data.datum import decode, header
from nptrain.data.lmdb_dataset import LmdbDataset
from nptrain.data.parallel import ahead
from nptrain.errors import InputError

ANY_LABEL = 2**31


def describe_lmdb(path, limit, progress, headers=False):
    """The entries of `summary` for the LMDB `path`, of its first `limit` records; see there."""
    names = read_classes(path)
    dataset = LmdbDataset(path, len(names) if names else ANY_LABEL)
    count = len(dataset) if limit is None else min(limit, len(dataset))
    labels, sizes, channels, codings = Counter(), Counter(), Counter(), Counter()
    bad, first_bad = 0, None
    records = ahead(partial(_record, dataset, headers), range(count), len(os.sched_getaffinity(0)))
    for record in progress(records, count):
        if isinstance(record, str):
            bad, first_bad = bad + 1, first_bad or record
            continue
        label, size, planes, coding = record
        labels[label] += 1
        sizes[size] += 1
        channels[planes] += 1
        codings[coding] += 1
    good = sum(labels.values())
    return {
        "bytes": dataset.file_bytes,
        "records": len(dataset),
        "read": count,
        "record_bytes": sum(map(dataset.bytes, range(len(dataset)))) / len(dataset),
        "first_keys": [dataset.key(i).decode(errors="backslashreplace") for i in range(min(3, len(dataset)))],
        "codings": dict(codings),
        "channels": dict(channels),
        "sizes": len(sizes),
        "common_sizes": [[*size, n] for size, n in sizes.most_common(3)],
        "mean_size": [sum(s[axis] * n for s, n in sizes.items()) / good for axis in (0, 1)] if good else None,
        "labels": dict(sorted(labels.items())),
        "classes": names,
        "bad": bad,
        "first_bad": first_bad,
    }


def _record(dataset, headers, index):
    """(label, (width, height), channels, coding) of a record; or what is wrong with it (str)."""
    try:
        datum, where = dataset.labelled(index)
        if not headers:
            decode(datum, where)
        return datum.label, *header(datum, where)
    except InputError as error:
        return str(error)
