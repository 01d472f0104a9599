"""Say what files hold: Caffe's weights, solver states, mean images, LMDBs, nets and solvers as text, runs.

What a file is, is told by its content, not by its name. Every record of an LMDB is read, images' headers only.

bin/inspect data/train runs/photos/checkpoints/phase1_iter_1400.*
"""

import json

from tqdm import tqdm

from bin.common.arguments import Parser, expect_at_least
from nptrain.inspect.summary import summary
from nptrain.inspect.summary_text import summary_text


def parser():
    p = Parser(prog="inspect", description=__doc__)
    p.add_argument("files", metavar="FILE", nargs="+", help="file, or folder of an LMDB or a run")
    p.add_argument("--records", metavar="N", type=int, help="read the first N records of an LMDB, not all")
    p.add_argument("--json", action="store_true", help="print a JSON object for each file, one a line")
    return p


def progress(indices):
    """Shows how many records were read, on a terminal."""
    return tqdm(indices, unit=" records", disable=None, leave=False)


def main(argv, world):
    args = parser().parse_args(argv)
    expect_at_least(args, 1, "records")
    for index, file in enumerate(args.files):
        contents = summary(file, args.records, progress)
        if args.json:
            print(json.dumps(contents, allow_nan=False))
        else:
            print("\n" * bool(index) + summary_text(contents), end="", flush=True)
