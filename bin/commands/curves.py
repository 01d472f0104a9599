"""Draw training loss and test accuracy of one or more runs.

bin/curves runs/photos
bin/curves runs/one runs/other --out both.png
"""

from bin.common.arguments import Parser, expect_at_least
from nptrain.report import picture
from nptrain.report.curves_plot import draw, read


def parser():
    p = Parser(prog="curves", description=__doc__)
    p.add_argument("runs", metavar="RUN", nargs="+", help="folder of a run (bin/train --run-dir)")
    p.add_argument("--out", metavar="FILE", default="curves.png", help="picture: .png, .svg or .pdf (%(default)s)")
    p.add_argument("--smooth", metavar="N", type=int, default=20,
                   help="iterations over which the loss is averaged (%(default)s)")  # fmt: skip
    return p


def main(argv, world):
    args = parser().parse_args(argv)
    expect_at_least(args, 1, "smooth")
    picture.check(args.out)
    draw({run: read(run) for run in args.runs}, args.out, args.smooth)
    print(args.out)
