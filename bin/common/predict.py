"""Predicts a recipe on a cluster, from the needs of the network and the model of communication."""

from dataclasses import dataclass, replace

from mpi.cost_model import Network, slowest, timeline
from nptrain.errors import InputError
from nptrain.plan import needs, published_runs
from nptrain.step import BUCKET_BYTES

MB = 1e6


@dataclass(frozen=True)
class Cluster:
    """Where a recipe runs.

    cores           cores of a node; only used with the published speed
    images_per_s    speed of one rank with the batch of a worker (None: the speed of the published runs)
    latency_us      latency of a message, in microseconds
    bandwidth_gbit  bandwidth of a node's link in each direction, in 1e9 bits/s; the ranks of a node share it
    spread          standard deviation of a rank's time for a step, as a share of the mean
    bucket_mib      size at which a bucket of gradients is closed
    value_bytes     bytes of a gradient as it is sent (None: as in the trainer)
    overlap         whether buckets are sent during the backward pass; else after it
    """

    nodes: int
    ranks_per_node: int = published_runs.RANKS_PER_NODE
    cores: int = published_runs.CORES
    images_per_s: float | None = None
    latency_us: float = published_runs.LATENCY_US
    bandwidth_gbit: float = published_runs.BANDWIDTH_GBIT
    spread: float = published_runs.SPREAD
    bucket_mib: float = BUCKET_BYTES / 2**20
    value_bytes: int | None = None
    overlap: bool = True

    @property
    def ranks(self):
        return self.nodes * self.ranks_per_node

    @property
    def threads(self):
        """How many threads of a rank compute."""
        return max(1, self.cores // self.ranks_per_node - published_runs.COMMUNICATION_CORES)

    @property
    def network(self):
        """The network as one rank sees it while all send."""
        return Network(self.latency_us * 1e-6, self.bandwidth_gbit * 1e9 / 8 / self.ranks_per_node)

    def batch_seconds(self, images):
        """Seconds of forward and backward on a batch of `images`, for a rank alone."""
        if self.images_per_s is not None:
            return images / self.images_per_s
        return published_runs.batch_seconds(images, self.cores, self.ranks_per_node)


def predict(recipe, cluster):
    """The prediction, as a dictionary for JSON. Times within a step are those of the slowest rank."""
    _check(recipe, cluster)
    turns = -(-recipe.workers // cluster.ranks)  # workers of the rank that has the most
    alone = cluster.batch_seconds(recipe.batch_size)
    slow = slowest(cluster.ranks, cluster.spread)
    share = needs.forward_share(recipe)
    forward, backward = alone * slow * share, alone * slow * (1 - share)
    value_bytes = cluster.value_bytes or needs.value_bytes(recipe)
    gradients = [(count * value_bytes, at * backward) for count, at in needs.gradients(recipe)]
    sums = timeline(gradients, backward, cluster.ranks, cluster.network, cluster.bucket_mib * 2**20, cluster.overlap)
    step = turns * alone * slow + sums.exposed  # buckets are sent during the last worker's backward pass
    images = recipe.workers * recipe.batch_size
    return {
        "recipe": recipe.name,
        "nodes": cluster.nodes,
        "ranks": cluster.ranks,
        "workers": recipe.workers,
        "workers_a_rank": turns,
        "batch_size": recipe.batch_size,
        "images_a_step": images,
        "value_bytes": value_bytes,
        "rank_images_per_s": recipe.batch_size / alone,
        "rank_speed_is": "given" if cluster.images_per_s is not None else "fitted to the published runs",
        "alone_ms": turns * alone * 1e3,
        "slowest_ms": turns * alone * (slow - 1) * 1e3,
        "earlier_workers_ms": (turns - 1) * alone * slow * 1e3,
        "forward_ms": forward * 1e3,
        "backward_ms": backward * 1e3,
        "communication_ms": sums.communication * 1e3,
        "hidden": sums.hidden,
        "exposed_ms": sums.exposed * 1e3,
        "step_ms": step * 1e3,
        "images_per_s": images / step,
        # against ranks that compute at their mean speed, evenly loaded, and never wait
        "efficiency": images / step / (cluster.ranks * recipe.batch_size / alone),
        **_run(recipe, cluster, step, sums.exposed, forward),
        "buckets": [_bucket(bucket) for bucket in sums.buckets],
    }


def deaths(prediction, spares):
    """What dead ranks cost: [{"spares", "died", "ranks", "workers_a_rank", "step_ms"}] without spare ranks, and with so
    many, as long as they last and after that. A step is longer by a worker's time for each more worker of a rank.
    """
    rows = []
    for spare, died in ((0, 0), (0, 1), (spares, spares), (spares, spares + 1)):
        ranks = prediction["ranks"] + spare - died
        turns = -(-prediction["workers"] // max(1, ranks))
        more = (turns - prediction["workers_a_rank"]) * (prediction["forward_ms"] + prediction["backward_ms"])
        rows.append({"spares": spare, "died": died, "ranks": ranks, "workers_a_rank": turns,
                     "step_ms": prediction["step_ms"] + more})  # fmt: skip
    return rows


def _bucket(bucket):
    times = {"ready_ms": bucket.ready, "start_ms": bucket.start, "end_ms": bucket.end}
    return {"mb": bucket.size / MB, **{name: seconds * 1e3 for name, seconds in times.items()}}


def _check(recipe, cluster):
    """Raises InputError for more ranks than workers, and where the speed of a rank is not known."""
    if cluster.ranks > recipe.workers:
        raise InputError(f"--nodes: found {cluster.nodes} with {cluster.ranks_per_node} ranks each, expected at most "
                         f"one rank for each of {recipe.workers} workers")  # fmt: skip
    for phase in recipe.phases:
        if recipe.batch_of(phase) != recipe.batch_size:
            raise InputError(f"{phase.name}.batch_size: found {phase.batch_size}, expected that of all phases, "
                             f"{recipe.batch_size}")  # fmt: skip
    if cluster.images_per_s is None and recipe.precision != "float32":
        raise InputError("--images-per-s: found none, expected the speed of a rank: the published one is for float32, "
                         f"the recipe for {recipe.precision}")  # fmt: skip
    published, own = published_runs.NETWORK, f"{recipe.architecture.name} at {recipe.crop_size}"
    if cluster.images_per_s is None and own != published:
        raise InputError("--images-per-s: found none, expected the speed of a rank: the published one is for "
                         f"{published}, the recipe is for {own}")  # fmt: skip


def _run(recipe, cluster, step, exposed, forward):
    """Duration of the whole run, memory of a rank, disk."""
    phases = [_phase(recipe, phase, cluster, step, exposed, forward) for phase in recipe.phases]
    memory = needs.memory_bytes(recipe, cluster.threads)
    return {
        "phases": phases,
        "minutes": sum(phase["minutes"] for phase in phases),
        "memory_mb": {**{name: size / MB for name, size in memory.items()}, "in all": sum(memory.values()) / MB},
        "disk_gb": {name: size / 1e9 for name, size in needs.disk_bytes(recipe).items()},
    }


def _phase(recipe, phase, cluster, step, exposed, forward):
    """Iterations, tests and minutes of a phase. A test is a forward pass over the held-out records."""
    iteration = phase.iter_size * (step - exposed) + exposed  # the gradients of iter_size passes are sent once
    tests = -(-phase.max_iter // phase.test_interval) if phase.test_interval else 1
    _, held_out = recipe.records
    batches = -(-held_out // (cluster.ranks * recipe.batch_size))
    seconds = phase.max_iter * iteration, tests * batches * forward
    return {"phase": phase.name, "iterations": phase.max_iter, "steps_min": seconds[0] / 60, "tests": tests,
            "tests_min": seconds[1] / 60, "minutes": sum(seconds) / 60}  # fmt: skip


def against_published():
    """Rows that compare the model, with all its defaults, with the published runs."""
    rows = []
    for run in published_runs.RUNS:
        cluster = Cluster(run.nodes, value_bytes=published_runs.VALUE_BYTES, bucket_mib=published_runs.BUCKET_MIB)
        if run.speed_at:
            cluster = replace(cluster, images_per_s=run.speed_at / cluster.batch_seconds(run.speed_at))
        prediction = predict(run.recipe, cluster)
        if run.unit == "images/s":
            value = prediction["images_per_s"]
        elif run.phase:
            value = next(phase["minutes"] for phase in prediction["phases"] if phase["phase"] == run.phase)
        else:
            value = prediction["minutes"]
        rows.append({"run": run.what, "unit": run.unit, "published": run.value, "predicted": value,
                     "difference": value / run.value - 1, "fitted": run.fitted})  # fmt: skip
    return rows
