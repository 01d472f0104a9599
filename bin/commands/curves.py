"""Draw training loss and test accuracy of one or more runs.

bin/curves runs/photos
bin/curves runs/one runs/other --out both.png

A phase is drawn from the iteration whose weights it started from.
"""

from bin.common.arguments import Parser, expect_at_least
from bin.common.run_data import training_records
from nptrain.report import history, picture
from nptrain.report.curves_plot import draw


def parser():
    p = Parser(prog="curves", description=__doc__)
    p.add_argument("runs", metavar="RUN", nargs="+", help="folder of a run (bin/train --run-dir)")
    p.add_argument("--out", metavar="FILE", default="curves.png", help="picture: .png, .svg or .pdf (%(default)s)")
    p.add_argument("--epochs", action="store_true", help="epochs on the axis, not iterations")
    p.add_argument("--smooth", metavar="N", type=int, default=20,
                   help="iterations over which the loss is averaged (%(default)s)")  # fmt: skip
    return p


def main(argv, world):
    args = parser().parse_args(argv)
    expect_at_least(args, 1, "smooth")
    picture.check(args.out)
    runs = {run: history.read(run, training_records(run) if args.epochs else None) for run in args.runs}
    if args.epochs:
        for run, phases in runs.items():
            history.expect_epochs(run, phases)
    draw(runs, args.out, args.smooth, args.epochs)
    print(args.out)
