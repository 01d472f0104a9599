"""Write handwritten digits as two LMDBs, OUT/train and OUT/val, for a first run."""

from bin.common.arguments import Parser
from nptrain.data.digits import write_digits


def parser():
    p = Parser(prog="make_digits", description=__doc__)
    p.add_argument("out", metavar="OUT", help="folder to write into")
    return p


def main(argv, world):
    args = parser().parse_args(argv)
    for name, records in write_digits(args.out).items():
        print(f"{args.out}/{name}: {records} records")
