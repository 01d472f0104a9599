"""Predict a recipe on a cluster: time of a step and of the run, memory, disk.

bin/plan --recipe resnet50-448nodes --nodes 448
bin/plan --nodes 16 --images-per-s 60 --bandwidth-gbit 25 --out step.png

A model, not a measurement: docs/plan.md states what it assumes. Measure
--images-per-s with `bin/bench step --batch N` on the cores that one rank will
have to compute with.
"""

import json
import math
from dataclasses import fields, replace

from bin.common.arguments import Parser, add_renamed
from bin.common.predict import Cluster, against_published, predict
from nptrain.errors import InputError
from nptrain.plan import published_runs
from nptrain.recipes.published import DEFAULT, get_recipe
from nptrain.report import picture
from nptrain.report.table import table


def parser():
    p = Parser(prog="plan", description=__doc__)
    p.add_argument("--recipe", metavar="NAME", default=DEFAULT, help="of bin/train (%(default)s)")
    p.add_argument("--workers", metavar="N", type=int, help="logical workers, shared out over the ranks")
    p.add_argument("--batch-size", metavar="N", type=int, help="images a worker")
    ranks = p.add_argument_group("ranks")
    ranks.add_argument("--nodes", metavar="N", type=int, help="hosts (as many as give each worker a rank)")
    ranks.add_argument("--ranks-per-node", metavar="N", type=int, default=published_runs.RANKS_PER_NODE,
                       help="processes a host (%(default)s)")  # fmt: skip
    speed = ranks.add_mutually_exclusive_group()
    speed.add_argument("--images-per-s", metavar="X", type=float,
                       help="of one rank training alone (fitted to the published runs)")  # fmt: skip
    speed.add_argument("--cores", metavar="N", type=int, default=published_runs.CORES,
                       help="a host, 2 a rank for communication; scales the published speed (%(default)s)")  # fmt: skip
    ranks.add_argument("--spread", metavar="X", type=float, default=published_runs.SPREAD,
                       help="standard deviation of a rank's time for a step, as a share (%(default)s)")  # fmt: skip
    network = p.add_argument_group("network (with one host: what connects its ranks)")
    network.add_argument("--latency-us", metavar="X", type=float, default=published_runs.LATENCY_US,
                         help="of a message, in microseconds (%(default)s)")  # fmt: skip
    network.add_argument("--bandwidth-gbit", metavar="X", type=float, default=published_runs.BANDWIDTH_GBIT,
                         help="of a host's link, each way; its ranks share it (%(default)s)")  # fmt: skip
    network.add_argument("--bucket-mib", metavar="X", type=float, default=Cluster.bucket_mib,
                         help="gradients that travel together, at least (%(default)s)")  # fmt: skip
    add_renamed(network, "--bucket-mb", "--bucket-mib", type=float, scale=1e6 / 2**20)
    network.add_argument("--value-bytes", metavar="N", type=int,
                         help="of a gradient as it travels (as in bin/train: 4, or 8 above two workers)")  # fmt: skip
    network.add_argument("--no-overlap", dest="overlap", action="store_false", help="all travel after backward")
    p.add_argument("--out", metavar="FILE", help="draw the step, as .png, .svg or .pdf")
    p.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    return p


def check(args):
    """Raises InputError for a flag whose value makes no sense."""
    for name in ("nodes", "ranks_per_node", "cores", "workers", "batch_size", "value_bytes"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')}: found {value}, expected at least 1")
    for name in ("images_per_s", "bandwidth_gbit", "bucket_mib"):
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"--{name.replace('_', '-')}: found {value}, expected more than 0")
    for name, top in (("latency_us", math.inf), ("spread", 1)):
        if not 0 <= getattr(args, name) < top:
            expected = "0 or more" if top == math.inf else f"from 0 to below {top}"
            raise InputError(f"--{name.replace('_', '-')}: found {getattr(args, name)}, expected {expected}")
    if args.out:
        picture.check(args.out)


def show(found, rows):
    """The prediction as text of up to 80 columns."""
    turns = found["workers_a_rank"]
    parts = [
        f"{found['recipe']} on {found['nodes']} nodes, {found['ranks']} ranks: {found['workers']} workers of "
        f"{found['batch_size']} images\na rank alone: {found['rank_images_per_s']:.1f} images/s "
        f"({found['rank_speed_is']})",
        table([
            {"step of the slowest rank": name, "ms": found[key]}
            for name, key in (
                ("workers before the last", "earlier_workers_ms"), ("forward", "forward_ms"),
                ("backward", "backward_ms"), ("waiting for gradients", "exposed_ms"), ("in all", "step_ms"),
            ) if turns > 1 or key != "earlier_workers_ms"
        ]),
        f"scaling efficiency {found['efficiency']:.1%}: the slowest rank costs {found['slowest_ms']:.1f} ms, "
        f"gradients {found['exposed_ms']:.1f} ms\n"
        f"communication {found['communication_ms']:.1f} ms, {found['hidden']:.0%} hidden: {len(found['buckets'])} "
        f"buckets, {found['value_bytes']} bytes a gradient\nthe cluster: {found['images_per_s']:.0f} images/s",
    ]  # fmt: skip
    if found["buckets"]:
        parts.append(table([
            {"bucket": number, "MB": b["mb"], "ready at ms": b["ready_ms"], "sent": b["start_ms"], "home": b["end_ms"]}
            for number, b in enumerate(found["buckets"])
        ]) + f"\nms after the start of backward, which takes {found['backward_ms']:.2f}")  # fmt: skip
    phases = [
        {"phase": p["phase"], "iterations": p["iterations"], "tests": p["tests"], "minutes": p["minutes"]}
        for p in found["phases"]
    ]
    tests = sum(p["tests"] for p in phases)
    parts.append(table([*phases, {"phase": "in all", "iterations": sum(p["iterations"] for p in phases),
                                  "tests": tests, "minutes": found["minutes"]}]))  # fmt: skip
    parts.append(table([{"memory of a rank": name, "MB": round(size)}
                        for name, size in found["memory_mb"].items()]))  # fmt: skip
    parts.append(table([{"disk": name, "GB": size, "where": "once" if name == "checkpoints" else "each node"}
                        for name, size in found["disk_gb"].items()]))  # fmt: skip
    if rows:
        parts.append(table([
            {"published run": row["run"], "unit": row["unit"], "published": row["published"],
             "predicted": f"{row['predicted']:.4g}".rjust(9), "": f"{row['difference']:+.1%}".rjust(6),
             "speed": "fitted" if row["fitted"] else ""}
            for row in rows
        ]))  # fmt: skip
    return "\n\n".join(parts)


def main(argv, world):
    args = parser().parse_args(argv)
    check(args)
    recipe = plain = get_recipe(args.recipe)
    changes = {name: getattr(args, name) for name in ("workers", "batch_size") if getattr(args, name) is not None}
    recipe = replace(recipe, **changes)
    if args.nodes is None:
        args.nodes = max(1, recipe.workers // args.ranks_per_node)
    cluster = Cluster(**{field.name: getattr(args, field.name) for field in fields(Cluster)})
    found = predict(recipe, cluster)
    # the published runs are held against the model as it stands, not against a cluster of other values
    standing = replace(cluster, nodes=1) == Cluster(1) and plain.name in published_runs.RECIPES
    rows = against_published() if standing else []
    if args.out:
        from nptrain.plan.plot import draw  # only here: the import takes longer than the prediction

        draw(found, args.out)
    print(json.dumps({**found, "published": rows}) if args.json else show(found, rows))
