"""Draw one training step of a run: what rank 0 computed and what it sent.

bin/timeline runs/photos --out step.png
bin/timeline runs/photos --phase 2 --iteration 17 --out step.svg

The step is read from the run's metrics.jsonl. If several iterations match, the
one of median duration is drawn.
"""

from bin.common.arguments import Parser
from bin.common.run_data import description_of
from nptrain.errors import InputError
from nptrain.report import picture
from nptrain.report.timeline import median, read
from nptrain.run.run_folder import RunFolder


def parser():
    p = Parser(prog="timeline", description=__doc__)
    p.add_argument("run", metavar="RUN_DIR", help="folder of a run (bin/train --run-dir)")
    p.add_argument("--phase", metavar="NAME", help="phase of the iteration (any)")
    p.add_argument("--iteration", metavar="N", type=int, help="iteration to draw (the one of median duration)")
    p.add_argument("--out", metavar="FILE", default="step.png", help="picture: .png, .svg or .pdf (%(default)s)")
    return p


def main(argv, world):
    args = parser().parse_args(argv)
    picture.check(args.out)
    timelines = read(RunFolder(args.run).metrics, args.phase, args.iteration)
    if args.iteration is not None and len(timelines) > 1:
        raise InputError(f"--iteration: found {args.iteration} in several phases, expected --phase with it")
    chosen = median(timelines)
    hosts = description_of(args.run).get("hosts")
    if isinstance(hosts, list) and len(hosts) == 1:
        chosen = chosen.alone()

    from nptrain.report.step_plot import draw  # here: the import takes a second, and mistakes are reported before

    draw(chosen.spans, chosen.sums, chosen.title, "ms", args.out)
    print(chosen.title + (f" (median of {len(timelines)} iterations)" if args.iteration is None else ""))
    print(", ".join(f"{name} {ms:.1f} ms" for name, ms in chosen.spent().items()))
    print(f"picture in {args.out}")
