"""Where the records of an LMDB lie in its file: the B-tree of data.mdb, read page by page.

LMDB's own library trusts the file that it maps: a damaged page or a file cut short ends the process with a signal. Here
nothing is mapped, every number is checked before it is used, and an error is one line. The format is that of LMDB 0.9
on 64-bit little-endian machines (mdb.c: MDB_meta, MDB_page, MDB_node), as Caffe writes it.
"""

import os

import numpy as np

from nptrain.files import read_at

MAGIC, VERSION = 0xBEEFC0DE, 1
HEADER = 16  # bytes of a page: number u64, unused u16, flags u16, end of the pointers u16, begin of the nodes u16
BRANCH, LEAF, META = 1, 2, 8  # flags of a page
BIG = 1  # flag of a node: its data lies in pages of its own
NO_PAGE = 2**64 - 1
MAX_DEPTH = 32

_DB = [("page_bytes", "<u4"), ("flags", "<u2"), ("depth", "<u2"), ("pages", "<u8", 3), ("entries", "<u8"),
       ("root", "<u8")]  # fmt: skip
_META = np.dtype([("page", "<u8"), ("unused", "<u2"), ("flags", "<u2"), ("bounds", "<u4"), ("magic", "<u4"),
                  ("version", "<u4"), ("address", "<u8"), ("map_bytes", "<u8"), ("free", _DB), ("main", _DB),
                  ("last_page", "<u8"), ("transaction", "<u8")])  # fmt: skip


class LmdbError(Exception):
    """What is wrong with an LMDB, in one line."""


def leaves(file):
    """Yields (keys, offsets, sizes) of the records of each leaf, in key order: keys is a list of bytes, the others are
    int64 arrays with the places of the records' values in `file`, a data.mdb opened for reading.

    Raises LmdbError if the file is not an LMDB, cut short or damaged; OSError.
    """
    return _Tree(file).walk()


class _Tree:
    """The main B-tree of the last whole transaction."""

    def __init__(self, file):
        self.file, self.file_bytes = file, os.fstat(file.fileno()).st_size
        first = self._meta(0)
        self.page_bytes = int(first["free"]["page_bytes"])
        if self.page_bytes not in (512 << k for k in range(7)):
            raise LmdbError(f"not an LMDB: pages of {self.page_bytes} bytes")
        second = self._meta(self.page_bytes)
        meta = max(first, second, key=lambda meta: meta["transaction"])
        self.root, self.entries = int(meta["main"]["root"]), int(meta["main"]["entries"])
        self.pages = int(meta["last_page"]) + 1
        if self.file_bytes < self.pages * self.page_bytes:
            raise LmdbError(f"cut short: found {self.file_bytes} bytes in data.mdb, "
                            f"expected {self.pages * self.page_bytes}")  # fmt: skip
        if meta["main"]["flags"]:
            raise LmdbError(f"found an LMDB with flags {meta['main']['flags']:#x}, expected none, as Caffe writes it")
        self.seen = bytearray(self.pages)

    def _meta(self, at):
        found = read_at(self.file, _META.itemsize, at)
        if len(found) < _META.itemsize:
            raise LmdbError(f"not an LMDB: data.mdb has only {self.file_bytes} bytes")
        meta = np.frombuffer(found, _META)[0]
        if meta["magic"] != MAGIC or not meta["flags"] & META:
            raise LmdbError("not an LMDB: data.mdb has another header")
        if meta["version"] != VERSION:
            raise LmdbError(f"not an LMDB that Caffe reads: found format version {meta['version']}, expected {VERSION}")
        return meta

    def walk(self):
        count = 0
        stack = [] if self.root == NO_PAGE else [(self.root, 1)]
        while stack:
            number, depth = stack.pop()
            page, flags, nodes, heads = self._page(number, depth)
            if flags == BRANCH:
                children = heads[:, 0] | heads[:, 1] << 16 | heads[:, 2] << 32
                stack += [(child, depth + 1) for child in children[::-1].tolist()]
            else:
                yield self._leaf(number, page, nodes, heads)
                count += len(nodes)
        if count != self.entries:
            raise LmdbError(f"damaged: found {count} records, expected {self.entries}")

    def _page(self, number, depth):
        """Page `number` as bytes, its flags, the offsets of its nodes, and their heads of four numbers."""
        if not 2 <= number < self.pages or self.seen[number] or depth > MAX_DEPTH:
            raise LmdbError(f"damaged: a reference to page {number}")
        self.seen[number] = 1
        page = np.frombuffer(read_at(self.file, self.page_bytes, number * self.page_bytes), np.uint8)
        if len(page) < self.page_bytes:
            raise LmdbError(f"cut short in page {number}")
        flags, lower, upper = page[10:HEADER].view("<u2").tolist()
        if flags not in (BRANCH, LEAF) or not HEADER <= lower <= upper <= self.page_bytes or lower % 2:
            raise LmdbError(f"damaged: page {number} is not a page of the tree")
        nodes = page[HEADER:lower].view("<u2").astype(np.int64)
        if (nodes % 2).any() or (nodes < upper).any() or (nodes > self.page_bytes - 8).any():
            raise LmdbError(f"damaged: page {number} has records outside it")
        words = page.view("<u2").astype(np.int64)
        return page, flags, nodes, words[nodes[:, None] // 2 + np.arange(4)]

    def _leaf(self, number, page, nodes, heads):
        """The keys, offsets and sizes of a leaf's records."""
        sizes, flags, key_sizes = heads[:, 0] | heads[:, 1] << 16, heads[:, 2], heads[:, 3]
        starts, big = nodes + 8 + key_sizes, flags == BIG
        ends = starts + np.where(big, 8, sizes)
        if (flags & ~BIG).any():
            raise LmdbError(f"damaged: page {number} has records of another kind than Caffe's")
        # Nodes that overlap could make a small file have any number of bytes of keys.
        if (ends > self.page_bytes).any() or (ends - nodes).sum() > self.page_bytes:
            raise LmdbError(f"damaged: page {number} has records that end outside it")
        offsets = number * self.page_bytes + starts
        targets = page[starts[big][:, None] + np.arange(8)].view("<u8").ravel()
        if (targets >= self.pages).any():
            raise LmdbError(f"damaged: page {number} has records outside the file")
        offsets[big] = targets.astype(np.int64) * self.page_bytes + HEADER
        if (offsets + sizes > self.file_bytes).any():
            raise LmdbError(f"damaged: page {number} has records outside the file")
        keys = page.tobytes()
        return (
            [keys[a:b] for a, b in zip((nodes + 8).tolist(), starts.tolist(), strict=True)],
            offsets,
            sizes,
        )
