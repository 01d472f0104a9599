"""Say what files hold: weights, solver states, mean images, LMDBs, nets, runs.

The content of a file says what it is, not its name. Every record of an LMDB is
read, of its image only the header.

bin/inspect data/train runs/photos/checkpoints/phase1_iter_1400.*
"""

import json

from tqdm import tqdm

from bin.common.arguments import Parser
from nptrain.errors import InputError
from nptrain.inspect.summary import summary
from nptrain.inspect.summary_text import summary_text


def parser():
    p = Parser(prog="inspect", description=__doc__)
    p.add_argument("files", metavar="FILE", nargs="+", help="file, or folder of an LMDB or a run")
    p.add_argument("--records", metavar="N", type=int, help="read the first N records of an LMDB, not all")
    p.add_argument("--json", action="store_true", help="print a JSON object for each file, one a line")
    return p


def main(argv, world):
    args = parser().parse_args(argv)
    if args.records is not None and args.records < 1:
        raise InputError(f"--records: found {args.records}, expected at least 1")
    for index, file in enumerate(args.files):
        found = summary(file, args.records, lambda indices: tqdm(indices, unit=" records", disable=None, leave=False))
        if args.json:
            print(json.dumps(found, allow_nan=False))
        else:
            print("\n" * bool(index) + summary_text(found), end="", flush=True)
