"""Predict a recipe on a cluster: duration of a step and of the run, memory, disk.

bin/plan --recipe resnet50-448nodes --nodes 448
bin/plan --nodes 16 --images-per-s 60 --bandwidth-gbit 25 --out step.png

This is a model, not a measurement; docs/plan.md states its assumptions. Measure
--images-per-s with `bin/bench step --batch N` on the cores with which one rank
will compute.
"""

import json
import math
from dataclasses import fields, replace

from bin.common.arguments import Parser, add_renamed, expect_at_least, expect_positive, flag_of
from bin.common.predict import Cluster, against_published, deaths, predict
from nptrain.errors import InputError
from nptrain.plan import published_runs
from nptrain.recipes.check import PRECISIONS
from nptrain.recipes.published import DEFAULT, get_recipe
from nptrain.report import picture
from nptrain.report.table import table


def parser():
    p = Parser(prog="plan", description=__doc__)
    p.add_argument("--recipe", metavar="NAME", default=DEFAULT, help="recipe of bin/train (%(default)s)")
    p.add_argument("--workers", metavar="N", type=int, help="logical workers, divided among the ranks")
    p.add_argument("--batch-size", metavar="N", type=int, help="images per worker")
    p.add_argument("--precision", choices=PRECISIONS, help="of activations and products (the recipe's, float32)")
    ranks = p.add_argument_group("ranks")
    ranks.add_argument("--nodes", metavar="N", type=int, help="number of hosts (one rank per worker)")
    ranks.add_argument("--ranks-per-node", metavar="N", type=int, default=published_runs.RANKS_PER_NODE,
                       help="ranks on each host (%(default)s)")  # fmt: skip
    ranks.add_argument("--spares", metavar="N", type=int, default=0,
                       help="ranks besides those of --nodes, without workers: what a dead rank costs")  # fmt: skip
    speed = ranks.add_mutually_exclusive_group()
    speed.add_argument("--images-per-s", metavar="X", type=float,
                       help="speed of one rank alone (fitted to the published runs)")  # fmt: skip
    speed.add_argument("--cores", metavar="N", type=int, default=published_runs.CORES,
                       help="cores per host, of which each rank uses 2 for communication; scales the "
                            "published speed (%(default)s)")  # fmt: skip
    ranks.add_argument("--spread", metavar="X", type=float, default=published_runs.SPREAD,
                       help="standard deviation of a rank's step time, relative to the mean (%(default)s)")  # fmt: skip
    network = p.add_argument_group("network (or, for one host, the connection among its ranks)")
    network.add_argument("--latency-us", metavar="X", type=float, default=published_runs.LATENCY_US,
                         help="latency of a message, in microseconds (%(default)s)")  # fmt: skip
    network.add_argument("--bandwidth-gbit", metavar="X", type=float, default=published_runs.BANDWIDTH_GBIT,
                         help="bandwidth of a host's link, each way; its ranks share it (%(default)s)")  # fmt: skip
    network.add_argument("--bucket-mib", metavar="X", type=float, default=Cluster.bucket_mib,
                         help="size in MiB at which a bucket of gradients is sent (%(default)s)")  # fmt: skip
    add_renamed(network, "--bucket-mb", "--bucket-mib", type=float, scale=1e6 / 2**20)
    network.add_argument("--value-bytes", metavar="N", type=int,
                         help="bytes of a gradient when sent (as bin/train: 4 or, above two workers, 8)")  # fmt: skip
    network.add_argument("--no-overlap", dest="overlap", action="store_false", help="send all buckets after backward")
    p.add_argument("--out", metavar="FILE", help="picture of a step: .png, .svg or .pdf")
    p.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    return p


def check(args):
    """Raises InputError for values that make no sense."""
    expect_at_least(args, 1, "nodes", "ranks_per_node", "cores", "workers", "batch_size", "value_bytes")
    expect_at_least(args, 0, "spares")
    expect_positive(args, "images_per_s", "bandwidth_gbit", "bucket_mib")
    for name, top in (("latency_us", math.inf), ("spread", 1)):
        if not 0 <= getattr(args, name) < top:
            expected = "0 or more" if top == math.inf else f"from 0 to below {top}"
            raise InputError(f"{flag_of(name)}: found {getattr(args, name)}, expected {expected}")
    if args.out:
        picture.check(args.out)


def show(prediction, rows):
    """The prediction, and the rows of the published runs, as text of up to 80 columns."""
    p = prediction
    parts = [
        f"{p['recipe']} on {p['nodes']} nodes, {p['ranks']} ranks: {p['workers']} workers of {p['batch_size']} images\n"
        f"a rank alone: {p['rank_images_per_s']:.1f} images/s ({p['rank_speed_is']})",
        step_table(p),
        f"scaling efficiency {p['efficiency']:.1%}: the slowest rank costs {p['slowest_ms']:.1f} ms, "
        f"gradients {p['exposed_ms']:.1f} ms\n"
        f"communication {p['communication_ms']:.1f} ms, {p['hidden']:.0%} hidden: {len(p['buckets'])} buckets, "
        f"{p['value_bytes']} bytes a gradient\nthe cluster: {p['images_per_s']:.0f} images/s",
    ]  # fmt: skip
    if prediction["buckets"]:
        parts.append(bucket_table(prediction))
    if prediction["deaths"]:
        parts.append(death_table(prediction))
    parts += [phase_table(prediction), memory_table(prediction), disk_table(prediction)]
    if rows:
        parts.append(published_table(rows))
    return "\n\n".join(parts)


def step_table(prediction):
    earlier = [("workers before the last", "earlier_workers_ms")] if prediction["workers_a_rank"] > 1 else []
    spans = [*earlier, ("forward", "forward_ms"), ("backward", "backward_ms"),
             ("waiting for gradients", "exposed_ms"), ("in all", "step_ms")]  # fmt: skip
    return table([{"step of the slowest rank": name, "ms": prediction[key]} for name, key in spans])


def bucket_table(prediction):
    rows = [
        {"bucket": number, "MB": b["mb"], "ready ms": b["ready_ms"], "start ms": b["start_ms"], "end ms": b["end_ms"]}
        for number, b in enumerate(prediction["buckets"])
    ]
    return f"{table(rows)}\ntimes after the start of backward, which takes {prediction['backward_ms']:.2f} ms"


def death_table(prediction):
    rows = [{"spare ranks": row["spares"], "ranks that died": row["died"], "ranks left": row["ranks"],
             "workers a rank": row["workers_a_rank"], "step ms": row["step_ms"]}
            for row in prediction["deaths"]]  # fmt: skip
    started = prediction["ranks"] + rows[-1]["spare ranks"]
    return f"{table(rows)}\nthe spare ranks are started with the others: mpirun -n {started}"


def phase_table(prediction):
    columns = ("iterations", "tests", "minutes")
    rows = [{"phase": p["phase"], **{name: p[name] for name in columns}} for p in prediction["phases"]]
    return table([*rows, {"phase": "in all", **{name: sum(row[name] for row in rows) for name in columns}}])


def memory_table(prediction):
    return table([{"memory of a rank": name, "MB": round(size)} for name, size in prediction["memory_mb"].items()])


def disk_table(prediction):
    return table([{"disk": name, "GB": size, "where": "once" if name == "checkpoints" else "each node"}
                  for name, size in prediction["disk_gb"].items()])  # fmt: skip


def published_table(rows):
    return table([
        {"published run": row["run"], "unit": row["unit"], "published": row["published"],
         "predicted": f"{row['predicted']:.4g}".rjust(9), "": f"{row['difference']:+.1%}".rjust(6),
         "speed": "fitted" if row["fitted"] else ""}
        for row in rows
    ])  # fmt: skip


def main(argv, world):
    args = parser().parse_args(argv)
    check(args)
    recipe = plain = get_recipe(args.recipe)
    flags = ("workers", "batch_size", "precision")
    changes = {name: getattr(args, name) for name in flags if getattr(args, name) is not None}
    recipe = replace(recipe, **changes)
    if args.nodes is None:
        args.nodes = max(1, recipe.workers // args.ranks_per_node)
    cluster = Cluster(**{field.name: getattr(args, field.name) for field in fields(Cluster)})
    prediction = predict(recipe, cluster)
    prediction["deaths"] = deaths(prediction, args.spares) if args.spares else []
    # the published runs are compared with the model's defaults, not with a cluster of other values
    defaults = replace(cluster, nodes=1) == Cluster(1) and plain.name in published_runs.RECIPES
    rows = against_published() if defaults else []
    if args.out:
        from nptrain.plan.plot import draw  # only here: the import takes longer than the prediction

        draw(prediction, args.out)
    print(json.dumps({**prediction, "published": rows}) if args.json else show(prediction, rows))
