"""Which records of an LMDB are damaged, and why: all are decoded as in training, by a process for each core."""

import multiprocessing
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from nptrain.data.classes import read_classes
from nptrain.data.lmdb_dataset import LmdbDataset
from nptrain.data.parallel import ahead
from nptrain.errors import InputError
from nptrain.inspect.lmdb import ANY_LABEL

CHUNK = 32  # records that a process is given at once


def find_damaged(path, limit=None, progress=lambda results, total: results, most=20, processes=None):
    """{"file", "records", "read", "damaged": how many, "lines": for the first `most` of them their key and what is
    wrong, "records_per_s"} of the LMDB `path`, of its first `limit` records. A record is damaged if training refuses
    it. Raises InputError if it is not an LMDB, or if a process dies.

    progress   passes on an iterable of results, of so many in all
    processes  None: as many as this process has cores
    """
    names = read_classes(path)
    dataset = LmdbDataset(path, len(names) if names else ANY_LABEL)
    count = len(dataset) if limit is None else min(limit, len(dataset))
    chunks = [range(at, min(at + CHUNK, count)) for at in range(0, count, CHUNK)]
    processes = min(processes or len(os.sched_getaffinity(0)), len(chunks))
    began, read, damaged, lines = time.perf_counter(), 0, 0, []
    # a fork has the data set already, with its millions of keys
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("fork"), _begin, (dataset,))
    results = (reason for chunk in ahead(_reasons, chunks, processes, pool) for reason in chunk)
    try:
        for reason in progress(results, count):
            read += 1
            if reason:
                damaged += 1
                lines += [reason] if len(lines) < most else []
    except BrokenProcessPool:
        raise InputError(f"{dataset.where(read)}: a process that read it, or one of the next {CHUNK * processes}, has "
                         "died: no memory was left, or a library for images has a fault") from None  # fmt: skip
    return {"file": str(path), "records": len(dataset), "read": count, "damaged": damaged, "lines": lines,
            "records_per_s": round(count / (time.perf_counter() - began), 1)}  # fmt: skip


def _begin(dataset):
    global _dataset
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that waits for this one ends it
    _dataset = dataset


def _reasons(indices):
    """For each record None, or what is wrong with it, in one line."""
    return [_reason(index) for index in indices]


def _reason(index):
    try:
        _dataset[index]
    except InputError as error:
        return str(error)
    return None
