"""Draw the training loss and the test accuracy of runs, one over the other.

bin/curves runs/photos
bin/curves runs/one runs/other --out both.png
"""

from bin.common.arguments import Parser, expect_at_least
from nptrain.report import picture
from nptrain.report.curves_plot import draw, read


def parser():
    p = Parser(prog="curves", description=__doc__)
    p.add_argument("runs", metavar="RUN", nargs="+", help="folder of a run, as bin/train --run-dir has made it")
    p.add_argument("--out", metavar="FILE", default="curves.png", help=".png, .svg or .pdf to write (%(default)s)")
    p.add_argument("--smooth", metavar="N", type=int, default=20, help="iterations a loss is the mean of (%(default)s)")
    return p


def main(argv, world):
    p = parser()
    args = p.parse_args(argv)
    expect_at_least(args, 1, "smooth")
    picture.check(args.out)
    draw({run: read(run) for run in args.runs}, args.out, args.smooth)
    print(args.out)
