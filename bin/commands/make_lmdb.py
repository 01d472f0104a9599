"""Make data sets (LMDBs of Caffe Datums) from images.

SOURCE is a folder or a tar archive (.tar, .tar.gz, .tar.xz, .tar.bz2) with one
folder of images per class; with --list, the images are those of a list file.
Classes are numbered in the sorted order of their folders' names, which are
written to OUT/classes.txt. A folder that contains train, val or test makes a
data set of each, OUT/train and so on, with the numbers of train's classes.

Images are stored so that Caffe reads them: as they are, if they are JPEG or PNG
with three channels of 8 bits, else encoded anew, as PNG if the file is without
loss, as JPEG of quality 95 if not. Photographs are turned as their EXIF
orientation says. Files that are not images are skipped and listed.

bin/make_lmdb photos data --resize 256
bin/make_lmdb more_photos data/more --resize 256 --classes-of data/train
bin/make_lmdb cifar10_jpeg.tar.xz cifar10-test --split test
"""

import signal
import sys
import time
from contextlib import contextmanager

from bin.common.arguments import Parser
from bin.common.progress import Bar
from nptrain.data.convert import convert
from nptrain.data.labels import Labels
from nptrain.data.storage import Storage
from nptrain.errors import counted, printable

SHOWN = 200  # characters of a name or reason
ENDING = (signal.SIGTERM, signal.SIGHUP)


class Ended(SystemExit):
    """The process was told to end: a SystemExit, which nothing catches by mistake."""


def parser():
    p = Parser(prog="make_lmdb", description=__doc__)
    p.add_argument("source", metavar="SOURCE", help="folder or tar archive")
    p.add_argument("out", metavar="OUT", help="folder of the new LMDB; must not exist")
    p.add_argument("--limit", metavar="N", type=int, help="use only N files, after shuffling")
    p.add_argument("--seed", metavar="N", type=int, default=0, help="seed of the order (%(default)s)")
    p.add_argument("--no-shuffle", dest="shuffle", action="store_false", help="keep the sorted or listed order")
    labels = p.add_argument_group("labels")
    labels.add_argument("--split", metavar="NAME", help="use the class folders in this folder, e.g. train or val")
    labels.add_argument("--classes-of", metavar="DATA",
                        help="number the class folders like this data set, or like the names in a classes.txt; a "
                             "folder that it does not have is an error")  # fmt: skip
    labels.add_argument("--list", metavar="FILE", help='file of lines "path label", here or in SOURCE')
    labels.add_argument("--classes", metavar="FILE", help="names of the classes of --list, one a line")
    storage = p.add_argument_group("storage")
    storage.add_argument("--resize", metavar="N", type=int,
                         help="resize the shorter side to N pixels (JPEG, quality 95)")  # fmt: skip
    storage.add_argument("--raw", action="store_true", help="store uncompressed pixels")
    storage.add_argument("--keep", action="store_true",
                         help="store files as they are, also those that Caffe cannot read, and unturned")  # fmt: skip
    storage.add_argument("--no-orient", dest="orient", action="store_false",
                         help="ignore the EXIF orientation, as Caffe does")  # fmt: skip
    return p


def main(argv, world):
    args = parser().parse_args(argv)
    labels = Labels(args.split, args.list, args.classes, args.classes_of)
    storage = Storage(args.resize, args.raw, args.keep, args.orient)
    began = time.perf_counter()
    with ended_by_signals():
        summaries = convert(
            args.source, args.out, labels=labels, storage=storage, limit=args.limit, seed=args.seed,
            shuffle=args.shuffle, progress=lambda records, total: Bar(records, total, "images"))  # fmt: skip
    for line in report(summaries, time.perf_counter() - began):
        print(printable(line, 3 * SHOWN))


@contextmanager
def ended_by_signals():
    """A signal that ends the process does so as an exception, so that temporary files are removed."""

    def end(number, frame):
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise Ended(128 + number)

    before = {number: signal.getsignal(number) for number in ENDING}
    before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}  # of nohup
    try:
        for number in before:
            signal.signal(number, end)
        yield
    except Ended:
        print("make_lmdb: ended by a signal", file=sys.stderr)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def report(summaries, seconds):
    """The lines about the data sets that were made in so many seconds."""
    if left_out := summaries[0].left_out:
        kinds = [f"{printable(name, 40)} ({count})" for name, count in left_out.most_common(5)]
        more = [f"{len(left_out) - 5} more"] if len(left_out) > 5 else []
        yield f"left out, as tools leave it behind: {', '.join(kinds + more)}"
    for summary in summaries:
        took = f", {seconds:.1f} s" if summary is summaries[-1] else ""
        yield from (f"skipped {printable(name, SHOWN)}: {reason}" for name, reason in summary.skipped)
        if summary.names is None:
            yield f"{summary.path}: its classes have no names: --classes FILE gives them"
        elif empty := [name for number, name in enumerate(summary.names) if number not in summary.used]:
            some = ", ".join([printable(name, 40) for name in empty[:5]] + ["..."] * (len(empty) > 5))
            yield f"{summary.path}: classes without images: {len(empty)} ({some})"
        encoded = f", {summary.encoded} of them encoded anew" if summary.encoded else ""
        classes = f"{summary.classes} class{'es' * (summary.classes != 1)}"
        yield (f"{summary.path}: {counted(summary.records, 'record')}{encoded}, {classes}, "
               f"{summary.bytes / 1e6:.1f} MB, {counted(len(summary.skipped), 'file')} skipped{took}")  # fmt: skip
