"""Make a data set (an LMDB of Caffe Datums) from images.

SOURCE is a folder of class folders, a tar archive of class folders (.tar,
.tar.gz, .tar.xz, .tar.bz2), or, with --list, either of them with the images
that a list file names. Classes are numbered by the sorted names of their
folders, which OUT/classes.txt keeps. Files that are no images are skipped and
listed.

bin/make_lmdb imagenet/train imagenet-train --resize 256
bin/make_lmdb cifar10_jpeg.tar.xz cifar10-test --split test
"""

import time

from tqdm import tqdm

from bin.common.arguments import Parser
from nptrain.data.convert import convert


def parser():
    p = Parser(prog="make_lmdb", description=__doc__)
    p.add_argument("source", metavar="SOURCE", help="folder or tar archive")
    p.add_argument("out", metavar="OUT", help="folder of the new LMDB; must not exist")
    p.add_argument("--split", metavar="NAME", help="use the class folders in this folder: train, val, test")
    p.add_argument("--list", metavar="FILE", help='lines "path label"; a file, or the name of one in SOURCE')
    p.add_argument("--resize", metavar="N", type=int, help="make the shorter side N pixels (JPEG, quality 95)")
    p.add_argument("--raw", action="store_true", help="store uncompressed pixels")
    p.add_argument("--limit", metavar="N", type=int, help="use N files, after shuffling")
    p.add_argument("--seed", metavar="N", type=int, default=0, help="of the shuffled order (0)")
    p.add_argument("--no-shuffle", dest="shuffle", action="store_false", help="keep the sorted or listed order")
    return p


def main(argv, world):
    args = parser().parse_args(argv)
    began = time.perf_counter()
    summary = convert(
        args.source, args.out, split=args.split, list_file=args.list, resize=args.resize, raw=args.raw,
        limit=args.limit, seed=args.seed, shuffle=args.shuffle,
        progress=lambda records, total: tqdm(records, total=total, unit=" images", disable=None),
    )  # fmt: skip
    for name, why in summary.skipped:
        print(f"skipped {name}: {why}")
    print(
        f"{args.out}: {summary.records} records, {summary.classes} classes, {summary.bytes / 1e6:.1f} MB, "
        f"{len(summary.skipped)} files skipped, {time.perf_counter() - began:.1f} s"
    )
