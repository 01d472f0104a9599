"""Data sets: LMDBs of Caffe Datums, as `convert_imageset` writes them, read and written."""

import os
import re
import shutil
from array import array
from contextlib import contextmanager, suppress
from pathlib import Path

import lmdb

from nptrain.data.classes import write_classes
from nptrain.data.datum import MAX_PIXELS, decode, parse_datum
from nptrain.data.lmdb_file import LmdbError, leaves
from nptrain.errors import InputError, ReadError, reason
from nptrain.files import MAKE_ROOM, read_at, retried, sync_folder, writing

MAX_RECORD = 3 * MAX_PIXELS + (1 << 16)  # bytes: three raw planes, and the fields around them
# A Datum as protobuf writes it, field by field: what is before its pixels and their size, and what is behind them.
_VARINT = rb"[\x80-\xff]*[\x00-\x7f]"
HEAD = re.compile(rb"(?:[\x08\x10\x18]" + _VARINT + rb")*\x22(" + _VARINT + rb")")
TAIL = re.compile(rb"\x28(" + _VARINT + rb")(?:\x38[\x00\x01])?")
HEAD_BYTES, TAIL_BYTES = 64, 16
CAFFES_LMDB = 0  # the library's major version: 1.x writes another format


class LmdbDataset:
    """The records of an LMDB, in key order: `dataset[i]` is (PIL RGB image, label). `path` is its folder, or its file
    with any name (LMDB's MDB_NOSUBDIR).

    Any number of threads may read it. Nothing is written to its folder, not even a lock: an LMDB must not be
    changed while it is read. With `classes`, labels must be in 0..classes-1. Raises InputError if `path` is not an
    LMDB, or is empty, damaged or incomplete; on access, if a record is not a Datum, does not decode or has another
    label; ReadError if it cannot be read whole, by an error of the disk or the network.
    """

    def __init__(self, path, classes=None):
        self.path, self.classes = Path(path), classes
        # All keys in one string, and where each ends: a million bytes objects would take several times the memory.
        self._keys, self._ends = bytearray(), array("q", [0])
        self._offsets, self._sizes = array("q"), array("q")
        data = self.path if os.path.isfile(path) else self.path / "data.mdb"
        try:
            if not data.is_file():  # a pipe would wait for its writer
                data.stat()
                raise InputError(f"{path}: not an LMDB: {data} is not a file")
            self._file = retried(lambda: open(data, "rb", buffering=0), data)  # noqa: SIM115, as long as it lives
            for keys, offsets, sizes in leaves(self._file):
                for key in keys:
                    self._keys += key
                    self._ends.append(len(self._keys))
                self._offsets.frombytes(offsets.tobytes())
                self._sizes.frombytes(sizes.tobytes())
        except (OSError, ValueError) as error:  # ValueError: a path with a null byte
            expect_no_splits(path)
            raise InputError(f"{path}: not an LMDB: {data} cannot be read: {reason(error)}") from None
        except LmdbError as error:
            raise InputError(f"{path}: {error}") from None
        if not len(self):
            raise InputError(f"{path}: found an LMDB without records")
        self.file_bytes = os.fstat(self._file.fileno()).st_size

    def __len__(self):
        return len(self._ends) - 1

    def key(self, index):
        """The key (bytes) of record `index`, 0..len-1."""
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        return bytes(self._keys[self._ends[index] : self._ends[index + 1]])

    def where(self, index):
        """The beginning of every error line about record `index`: file and key."""
        return f"{self.path}: record {self.key(index).decode(errors='backslashreplace')}"

    def bytes(self, index):
        """The size of record `index` in bytes."""
        return self._sizes[index]

    def sizes(self):
        """The sizes of all records in bytes, int64 in order, as bytes."""
        return self._sizes.tobytes()

    def datum(self, index):
        """The Datum of record `index`."""
        where = self.where(index)
        if self._sizes[index] > MAX_RECORD:
            raise InputError(f"{where}: found {self._sizes[index]} bytes, expected at most {MAX_RECORD}")
        try:
            record = read_at(self._file, self._sizes[index], self._offsets[index])
        except OSError as error:
            raise ReadError(f"{where}: cannot be read: {error.strerror}") from None
        if len(record) < self._sizes[index]:  # which were there when the data set was opened
            raise ReadError(f"{where}: cut short: found {len(record)} bytes, expected {self._sizes[index]}")
        return parse_datum(record, where)

    def label(self, index):
        """The label of record `index`. Its pixels are not read, unless the record's fields are in an unusual order."""
        offset, size = self._offsets[index], self._sizes[index]
        with suppress(OSError):  # which `datum` reports
            head = HEAD.match(read_at(self._file, min(size, HEAD_BYTES), offset))
            behind = head.end() + _number(head[1]) if head else size
            if 0 < size - behind <= TAIL_BYTES:
                tail = TAIL.fullmatch(read_at(self._file, size - behind, offset + behind))
                if tail and len(tail[1]) <= 4:  # not negative
                    return _number(tail[1])
        return self.datum(index).label

    def largest_label(self, most=None):
        """(the largest label, the index of its first record) of all records, or of about `most`, evenly spread. Records
        that are damaged are passed over. Raises InputError if all are; ReadError.
        """
        largest, error = None, None
        for index in range(0, len(self), 1 if most is None else -(-len(self) // most)):
            try:
                label = self.label(index)
            except ReadError:
                raise
            except InputError as found:
                error = error or found
                continue
            if largest is None or label > largest[0]:
                largest = label, index
        if largest is None:
            raise error
        return largest

    def labelled(self, index):
        """(Datum, where) of record `index`, whose label is right."""
        datum, where = self.datum(index), self.where(index)
        if self.classes is not None and not 0 <= datum.label < self.classes:
            raise InputError(f"{where}: found label {datum.label}, expected 0..{self.classes - 1}")
        return datum, where

    def __getitem__(self, index):
        datum, where = self.labelled(index)
        return decode(datum, where), datum.label


def _number(varint):
    """The value of a varint's bytes."""
    return sum((byte & 127) << (7 * place) for place, byte in enumerate(varint))


def expect_no_splits(path):
    """Raise InputError for a folder of several data sets, as make_lmdb makes of splits, instead of one of them."""
    found = sorted(data.parent.name for data in Path(path).glob("*/data.mdb")) if os.path.isdir(path) else []
    if found:
        raise InputError(f"{path}: found a folder of data sets, expected one of them: {', '.join(found[:5])}")


def write_lmdb(path, records, classes=None):
    """Write an LMDB of (name, Datum bytes) pairs to the new folder `path`, and the names of the `classes`, if not None.
    Returns the number of records.

    Raises InputError if `path` exists.
    """
    with LmdbWriter(path) as writer:
        for name, datum in records:
            writer.add(name, datum)
        if classes:
            writer.name_classes(classes)
    return writer.records


def expect_new(path):
    """Raise InputError if there is something at `path`, a new data set."""
    if os.path.lexists(path):
        raise InputError(f"{path}: exists already: remove it or choose another name")


class LmdbWriter:
    """Writes an LMDB, with the keys of `convert_imageset`: number and name, in the order added.

    A context manager: the LMDB is made in `folder`, a temporary one beside `path`. When the block ends it is renamed to
    `path`; after an exception it is removed. The map grows as needed. Raises InputError if `path` exists, or cannot be
    written.
    """

    BATCH_BYTES = 32 << 20  # of a transaction

    def __init__(self, path, map_size=64 << 20):
        self.path = Path(path)
        expect_new(self.path)
        self.folder = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        self.records, self._map_size = 0, map_size
        self._batch, self._batch_bytes = [], 0

    def __enter__(self):
        try:  # a signal may end it after any call
            try:
                self.folder.mkdir(parents=True)
            except OSError as error:
                raise InputError(f"{self.path}: cannot be made: {error.strerror}") from None
            with self._writing():
                # Nothing has to be durable before the end, so nothing is synced before.
                self._environment = lmdb.open(
                    str(self.folder), map_size=self._map_size, sync=False, lock=False, lib_version=CAFFES_LMDB
                )
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        return self

    def add(self, name, datum):
        """Add the record `datum` (bytes) under the next number and `name`."""
        key = f"{self.records:08d}_{name}".encode(errors="surrogateescape")[: self._environment.max_key_size()]
        self._batch.append((key, datum))
        self._batch_bytes += len(datum)
        self.records += 1
        if self._batch_bytes >= self.BATCH_BYTES:
            self._commit()

    def name_classes(self, names):
        """Write the names of the classes, in the order of their labels."""
        with self._writing():
            write_classes(self.folder, names)

    def _commit(self):
        while True:
            try:
                with self._writing(), self._environment.begin(write=True) as transaction:
                    for key, datum in self._batch:
                        transaction.put(key, datum, append=True)
                break
            except lmdb.MapFullError:
                self._map_size *= 2
                with self._writing():
                    self._environment.set_mapsize(self._map_size)
        self._batch, self._batch_bytes = [], 0

    @contextmanager
    def _writing(self):
        """An error of LMDB or of the system becomes one line."""
        try:
            with writing(self.path):
                yield
        except lmdb.MapFullError:
            raise
        except lmdb.Error as error:
            raise InputError(f"{self.path}: cannot be written: {error} (a full disk?){MAKE_ROOM}") from None

    def __exit__(self, kind, *_):
        try:
            if kind is None:
                self._commit()
                with self._writing():
                    self._environment.sync(True)
                    self._environment.close()
                    os.rename(self.folder, self.path)
                    sync_folder(self.path.parent)
        finally:
            self._environment.close()
            shutil.rmtree(self.folder, ignore_errors=True)  # gone already if all went well
