"""LMDBs of Datum records, as Caffe reads and writes them."""

import functools
import shutil
from pathlib import Path

import lmdb
import numpy as np

from nptrain.data.datum import decode, parse_datum
from nptrain.errors import InputError

COMMIT_EVERY = 1000  # records a transaction when writing


class LmdbDataset:
    """Labelled images by number, in key order. Reads from any thread.

    Raises InputError if there is no LMDB at `path`, if it is empty, or, on reading, if a record is no Datum,
    its image does not decode, or its label is not below `classes` (None: any label will do).
    """

    def __init__(self, path, classes=None):
        self.path, self.classes = Path(path), classes
        if not (self.path / "data.mdb").is_file():
            found = "no data.mdb in this folder" if self.path.is_dir() else "no such folder"
            raise InputError(f"{path}: {found}, expected an LMDB")
        try:
            self.environment = _open(self.path.resolve())
            with self.environment.begin() as transaction:
                keys = list(transaction.cursor().iternext(keys=True, values=False))
        except lmdb.Error as error:
            raise InputError(f"{path}: not an LMDB ({error})") from None
        if not keys:
            raise InputError(f"{path}: an empty LMDB, expected records")
        # one buffer, not a million objects
        self._keys = b"".join(keys)
        self._ends = np.cumsum([len(key) for key in keys])

    def __len__(self):
        return len(self._ends)

    def key(self, index):
        """The key of a record, as bytes."""
        return self._keys[self._ends[index - 1] if index else 0 : self._ends[index]]

    def where(self, index):
        """The file and key of a record, for messages."""
        return f"{self.path}: record {self.key(index).decode(errors='replace')}"

    def __getitem__(self, index):
        """(RGB image, label)."""
        where = self.where(index)
        with self.environment.begin() as transaction:
            datum = parse_datum(transaction.get(self.key(index)), where)
        if self.classes is not None and not 0 <= datum.label < self.classes:
            raise InputError(f"{where}: label {datum.label}, expected 0 to {self.classes - 1}")
        return decode(datum, where), datum.label


@functools.cache
def _open(path):
    """LMDB allows a file to be open only once in a process. No lock file: folders may be read-only."""
    return lmdb.open(str(path), readonly=True, lock=False, readahead=False, max_readers=1024)


def write_lmdb(path, records):
    """Write (name, Datum) pairs, in their order, under the keys of convert_imageset: number_name.

    What is not complete never has the name `path`. Returns (records, bytes). Raises InputError if `path` exists.
    """
    path = Path(path)
    if path.exists():
        raise InputError(f"{path}: exists already, expected a new folder's name")
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    count = size = 0
    try:
        # the map is address space, not disk: files stay as large as their records
        with lmdb.open(str(partial), map_size=1 << 40, sync=False, writemap=False) as environment:
            transaction = environment.begin(write=True)
            for name, datum in records:
                value = datum.SerializeToString()
                transaction.put(b"%08d_" % count + name.encode()[:400], value, append=True)
                count, size = count + 1, size + len(value)
                if count % COMMIT_EVERY == 0:
                    transaction.commit()
                    transaction = environment.begin(write=True)
            transaction.commit()
            environment.sync(True)
        (partial / "lock.mdb").unlink(missing_ok=True)
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return count, size
