"""A recipe on a cluster, predicted: puts the needs of the network and the model of communication together."""

from dataclasses import dataclass, replace

from mpi.cost_model import Network, slowest, timeline
from nptrain.errors import InputError
from nptrain.plan import needs, published_runs
from nptrain.train_step import BUCKET_BYTES

MB = 1e6


@dataclass(frozen=True)
class Cluster:
    """Where a recipe runs. One rank's speed is `images_per_s`, at the batch of a worker; None: the published runs'.

    cores           of a node; only used with the published speed
    latency_us      of a message, in microseconds
    bandwidth_gbit  of a node's link in each direction, in 1e9 bits/s; the ranks of a node share it
    spread          standard deviation of a rank's time for a step, as a share of it
    bucket_mib      size at which a bucket of gradients is closed
    value_bytes     of a gradient as it travels (None: as the trainer sends it)
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
        """Of a rank, that compute."""
        return max(1, self.cores // self.ranks_per_node - published_runs.COMMUNICATION_CORES)

    @property
    def network(self):
        """As one rank sees it while all send."""
        return Network(self.latency_us * 1e-6, self.bandwidth_gbit * 1e9 / 8 / self.ranks_per_node)

    def batch_seconds(self, images):
        """Seconds that forward and backward of a worker's batch take a rank alone."""
        if self.images_per_s is not None:
            return images / self.images_per_s
        return published_runs.batch_seconds(images, self.cores, self.ranks_per_node)


def predict(recipe, cluster):
    """The prediction as a dictionary that JSON can hold. Times within a step are those of its slowest rank."""
    if cluster.ranks > recipe.workers:
        raise InputError(f"--nodes: found {cluster.nodes} of {cluster.ranks_per_node} ranks, expected at most a rank "
                         f"for each of {recipe.workers} workers")  # fmt: skip
    if cluster.images_per_s is None and (recipe.depth, recipe.crop_size) != published_runs.NETWORK:
        theirs, ours = (
            "ResNet-{} at {}".format(*net) for net in (published_runs.NETWORK, (recipe.depth, recipe.crop_size))
        )
        raise InputError("--images-per-s: found none, expected that of a rank: the published one is for "
                         f"{theirs}, the recipe is for {ours}")  # fmt: skip
    turns = -(-recipe.workers // cluster.ranks)  # workers of the rank that has most
    alone = cluster.batch_seconds(recipe.batch_size)
    slow = slowest(cluster.ranks, cluster.spread)
    share = needs.forward_share(recipe)
    forward, backward = alone * slow * share, alone * slow * (1 - share)
    value_bytes = cluster.value_bytes or needs.value_bytes(recipe)
    gradients = [(count * value_bytes, at * backward) for count, at in needs.gradients(recipe)]
    line = timeline(gradients, backward, cluster.ranks, cluster.network, cluster.bucket_mib * 2**20, cluster.overlap)
    step = turns * alone * slow + line.exposed  # gradients travel during the last worker's backward pass
    images = recipe.workers * recipe.batch_size
    phases = [_phase(recipe, phase, cluster, step, line.exposed, forward) for phase in recipe.phases]
    memory, disk = needs.memory_bytes(recipe, cluster.threads), needs.disk_bytes(recipe)
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
        "communication_ms": line.communication * 1e3,
        "hidden": line.hidden,
        "exposed_ms": line.exposed * 1e3,
        "step_ms": step * 1e3,
        "images_per_s": images / step,
        # against ranks that compute at their mean speed, evenly loaded, and never wait
        "efficiency": images / step / (cluster.ranks * recipe.batch_size / alone),
        "phases": phases,
        "minutes": sum(phase["minutes"] for phase in phases),
        "memory_mb": {**{name: size / MB for name, size in memory.items()}, "in all": sum(memory.values()) / MB},
        "disk_gb": {name: size / 1e9 for name, size in disk.items()},
        "buckets": [
            {"mb": b.size / MB, "ready_ms": b.ready * 1e3, "start_ms": b.start * 1e3, "end_ms": b.end * 1e3}
            for b in line.buckets
        ],
    }


def _phase(recipe, phase, cluster, step, exposed, forward):
    """A phase's iterations and tests, in minutes. A test is the forward pass of the held-out records alone."""
    iteration = phase.iter_size * (step - exposed) + exposed  # gradients of iter_size passes travel once
    tests = -(-phase.max_iter // phase.test_interval) if phase.test_interval else 1
    _, held_out = recipe.records
    batches = -(-held_out // (cluster.ranks * recipe.batch_size))
    seconds = phase.max_iter * iteration, tests * batches * forward
    return {"phase": phase.name, "iterations": phase.max_iter, "steps_min": seconds[0] / 60, "tests": tests,
            "tests_min": seconds[1] / 60, "minutes": sum(seconds) / 60}  # fmt: skip


def against_published():
    """Rows that hold the model, with all its defaults, against the published runs."""
    rows = []
    for run in published_runs.RUNS:
        cluster = Cluster(run.nodes, value_bytes=published_runs.VALUE_BYTES, bucket_mib=published_runs.BUCKET_MIB)
        if run.speed_at:
            cluster = replace(cluster, images_per_s=run.speed_at / cluster.batch_seconds(run.speed_at))
        found = predict(run.recipe, cluster)
        if run.unit == "images/s":
            value = found["images_per_s"]
        elif run.phase:
            value = next(phase["minutes"] for phase in found["phases"] if phase["phase"] == run.phase)
        else:
            value = found["minutes"]
        rows.append({"run": run.what, "unit": run.unit, "published": run.value, "predicted": value,
                     "difference": value / run.value - 1, "fitted": run.fitted})  # fmt: skip
    return rows
