"""What --dry-run prints: what a run would do, need and take."""

import shutil
import time
from pathlib import Path

import numpy as np

from bin.common.memory import available_bytes, needed_bytes
from nptrain.plan.needs import forward_share, parameter_bytes
from nptrain.recipes.schedule import drops_of_multistep, learning_rate
from nptrain.report.table import table
from nptrain.run.log import duration

GB = 1e9
ENOUGH = 5  # s of a measurement; a batch that takes longer is measured once


def dry_run(recipe, phases, args, network, threads, sizes, run_dir, world, head):
    """Print it, on rank 0, below the lines `head`. All ranks call it, and measure at the same time.

    phases   names of those that are run      sizes    (training, held-out) records
    threads  of this rank's kernels           run_dir  folder of the run
    network  a ResNet, whose gradients are spoilt
    """
    lines = [*head, *_lines(recipe, phases, args, network, threads, sizes, run_dir, world)]
    if world.rank == 0:
        print(*lines, sep="\n")


def _lines(recipe, phases, args, network, threads, sizes, run_dir, world):
    chosen = [(phase, min(args.iterations or phase.max_iter, phase.max_iter))
              for phase in recipe.phases if phase.name in phases]  # fmt: skip
    yield table([{"phase": phase.name, "iterations": stop, "images a step": recipe.images_of(phase),
                  "epochs": f"{stop * recipe.images_of(phase) / sizes[0]:.2f}", "tests": tests(phase, stop, sizes),
                  "checkpoints": checkpoints(phase, stop)} for phase, stop in chosen])  # fmt: skip
    for phase, stop in chosen:
        yield f"phase {phase.name}: lr {', '.join(rates(phase, stop))}"
    ranks = world.allgather(world.host).count(world.host)
    need = needed_bytes(recipe, threads)
    yield (f"memory: {need / GB:.2f} GB a rank, {ranks * need / GB:.2f} GB on this host, which has "
           f"{available_bytes() / GB:.1f} GB available")  # fmt: skip
    yield disk(recipe, chosen, args.keep, run_dir)
    yield time_needed(recipe, chosen, sizes, max(world.allgather(batch_seconds(recipe, network))), world.size)


def tests(phase, stop, sizes):
    """Tests of a phase up to an iteration."""
    if not sizes[1]:
        return 0
    regular = -(-stop // phase.test_interval) if phase.test_interval else 1
    return regular + phase.test_initialization


def checkpoints(phase, stop):
    """Checkpoints of a phase up to an iteration."""
    regular = stop // phase.snapshot if phase.snapshot else 0
    return regular + (phase.snapshot_after_train and (not phase.snapshot or stop % phase.snapshot > 0))


def rates(phase, stop):
    """The learning rate at landmarks of a phase, as texts."""
    marks = {0, phase.warmup_iter, stop // 4, stop // 2, 3 * stop // 4, stop - 1}
    if phase.lr_policy == "multistep":
        marks |= {*drops_of_multistep(phase)}
    for at in sorted(mark for mark in marks if 0 <= mark < stop):
        yield f"{learning_rate(phase, at):.4g} at {at}"


def disk(recipe, chosen, keep, run_dir):
    """The disk that checkpoints take, and what is free."""
    count, place = sum(checkpoints(phase, stop) for phase, stop in chosen), Path(run_dir).absolute()
    count = min(count, keep + 1 + len(chosen)) if keep else count  # besides them the best, and where phases start
    need = count * 2 * parameter_bytes(recipe)["weights"]
    free = shutil.disk_usage(next(folder for folder in (place, *place.parents) if folder.exists())).free
    line = f"disk: {count} checkpoints of {need / max(1, count) / GB:.2f} GB in {run_dir}: {need / GB:.1f} GB"
    return f"{line}, of {free / GB:.1f} GB free" + ("" if need < free else ": NOT ENOUGH; --keep N keeps fewer")


def batch_seconds(recipe, network):
    """Seconds of a worker's forward and backward pass, measured."""
    batch, rng = max(recipe.batch_of(phase) for phase in recipe.phases), np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, 3, recipe.crop_size, recipe.crop_size), np.uint8)
    taken, begin = 0.0, time.perf_counter()
    for _ in range(3):  # the first one touches all memory for the first time
        start = time.perf_counter()
        x = network.pack_images(images, recipe.mean_bgr, recipe.scale)
        network.forward(x, np.zeros(batch, np.int64))
        network.backward()
        taken = min(taken or np.inf, time.perf_counter() - start)
        if time.perf_counter() - begin > ENOUGH:
            break
    return taken


def time_needed(recipe, chosen, sizes, seconds, ranks):
    """The time of the run, from that of a batch on the slowest rank."""
    turns, batch = -(-recipe.workers // ranks), max(recipe.batch_of(phase) for phase in recipe.phases)
    steps = sum(stop * turns * phase.iter_size * seconds * recipe.batch_of(phase) / batch for phase, stop in chosen)
    a_test = -(-sizes[1] // ranks) * seconds / batch * forward_share(recipe)
    total = steps + a_test * sum(tests(phase, stop, sizes) for phase, stop in chosen)
    return (f"time: about {duration(total)}, from {seconds:.2f} s for a batch of {batch}, measured just now; without "
            "waiting for images and for other ranks")  # fmt: skip
