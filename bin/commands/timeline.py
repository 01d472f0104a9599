"""Draw one step of a run: what rank 0 computed, and when gradients travelled.

bin/timeline runs/photos --out step.png
bin/timeline runs/photos --phase 2 --iteration 17 --out step.svg

From the run's own metrics.jsonl; of all iterations asked for, one of median
duration is drawn.
"""

from bin.common.arguments import Parser
from nptrain.errors import InputError
from nptrain.report import picture
from nptrain.report.timeline import median, read
from nptrain.run.run_folder import RunFolder


def parser():
    p = Parser(prog="timeline", description=__doc__)
    p.add_argument("run", metavar="RUN_DIR", help="as in bin/train --run-dir")
    p.add_argument("--phase", metavar="NAME", help="of the iteration (any)")
    p.add_argument("--iteration", metavar="N", type=int, help="to draw (one of median duration)")
    p.add_argument("--out", metavar="FILE", default="step.png", help="as .png, .svg or .pdf (%(default)s)")
    return p


def main(argv, world):
    args = parser().parse_args(argv)
    picture.check(args.out)
    found = read(RunFolder(args.run).metrics, args.phase, args.iteration)
    if args.iteration is not None and len(found) > 1:
        raise InputError(f"--iteration: found {args.iteration} in several phases, expected --phase with it")
    line = median(found)

    from nptrain.report.step_plot import draw  # Matplotlib takes a second to import: mistakes come first

    draw(line.spans, line.sums, line.title, "ms", args.out)
    print(line.title + (f" (median of {len(found)} iterations)" if args.iteration is None else ""))
    print(", ".join(f"{name} {ms:.1f} ms" for name, ms in line.spent().items()))
    print(f"picture in {args.out}")
