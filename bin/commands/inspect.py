"""Describe files: weights, solver states, mean images, LMDBs, net files, solver
files, checkpoints and runs; safetensors and ONNX.

The kind of a file is recognised by its content, not by its name. All records of
an LMDB are read and decoded: a record is bad if training refuses it. --all
lists the bad ones, and ends with status 1 if there are any.

bin/inspect data/train runs/photos/checkpoints/phase1_iter_1400.*
bin/inspect --all data/train
"""

import json

from bin.common.arguments import Parser, expect_at_least, expect_not_both
from bin.common.progress import Bar
from nptrain.errors import counted
from nptrain.inspect.damaged import find_damaged
from nptrain.inspect.summary import summary
from nptrain.inspect.summary_text import summary_text


def parser():
    p = Parser(prog="inspect", description=__doc__)
    p.add_argument("files", metavar="FILE", nargs="+", help="file, or folder of an LMDB or of a run")
    p.add_argument("--all", action="store_true",
                   help="only list the bad records of LMDBs, read by a process for each core")  # fmt: skip
    p.add_argument("--max-lines", metavar="N", type=int, default=20,
                   help="list at most N bad records of an LMDB (%(default)s)")  # fmt: skip
    p.add_argument("--records", metavar="N", type=int, help="read only the first N records of an LMDB")
    p.add_argument("--headers", action="store_true",
                   help="read only the headers of an LMDB's images: faster, but finds no damaged pixels")  # fmt: skip
    p.add_argument("--layers", action="store_true", help="list the layers of weights and net files with all fields")
    p.add_argument("--json", action="store_true", help="print a JSON object per file, one per line")
    return p


def progress(results, total):
    """`results`, with a progress bar on a terminal."""
    return Bar(results, total, "records", leave=False)


def main(argv, world):
    args = parser().parse_args(argv)
    expect_at_least(args, 1, "records")
    expect_at_least(args, 0, "max_lines")
    expect_not_both(args, ("all", "headers"), ("all", "layers"))
    if args.all:
        list_damaged(args)
        return
    for index, file in enumerate(args.files):
        contents = summary(file, args.records, progress, args.headers)
        if args.json:
            print(json.dumps(contents, allow_nan=False))
        else:
            print("\n" * bool(index) + summary_text(contents, args.layers), end="", flush=True)


def list_damaged(args):
    """List the damaged records of all files. Raises SystemExit, with a line, if there are any."""
    damaged = 0
    for file in args.files:
        found = find_damaged(file, args.records, progress, args.max_lines)
        damaged += found["damaged"]
        if args.json:
            print(json.dumps(found))
            continue
        print(f"{file}: {counted(found['read'], 'record')}, {found['damaged']} damaged, "
              f"{found['records_per_s']} records/s")  # fmt: skip
        print("".join(f"  {line}\n" for line in found["lines"]), end="")
        if found["damaged"] > len(found["lines"]):
            print(f"  and {found['damaged'] - len(found['lines'])} more")
    if damaged:
        raise SystemExit(f"{counted(damaged, 'damaged record')}: --max-bad-records of bin/train replaces them")
