"""Describe files: weights, solver states, mean images, LMDBs, net files, solver
files, checkpoints and runs; safetensors and ONNX.

The kind of a file is recognised by its content, not by its name. All records of
an LMDB are read and decoded: a record is bad if training refuses it.

bin/inspect data/train runs/photos/checkpoints/phase1_iter_1400.*
"""

import json

from bin.common.arguments import Parser, expect_at_least
from bin.common.progress import Bar
from nptrain.inspect.summary import summary
from nptrain.inspect.summary_text import summary_text


def parser():
    p = Parser(prog="inspect", description=__doc__)
    p.add_argument("files", metavar="FILE", nargs="+", help="file, or folder of an LMDB or of a run")
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
    for index, file in enumerate(args.files):
        contents = summary(file, args.records, progress, args.headers)
        if args.json:
            print(json.dumps(contents, allow_nan=False))
        else:
            print("\n" * bool(index) + summary_text(contents, args.layers), end="", flush=True)
