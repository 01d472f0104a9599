"""The lines of a run's log before its first iteration: what runs, on what, and what may be a mistake."""

from dataclasses import replace
from itertools import groupby

from bin.common.data_sets import classes_line
from nptrain.recipes import photos
from nptrain.recipes.published import RECIPES
from nptrain.report.hosts import host_table


def beginning(recipe, data, hosts, resumed):
    """The lines of the log before the first iteration, for a RunData; `resumed` is the Checkpoint from which the run
    continues, or None.
    """
    size = recipe.crop_size
    precision = "" if recipe.precision == "float32" else f", {recipe.precision}"
    yield f"{recipe.name}: {recipe.architecture.name}, {recipe.classes} classes, images of {size}x{size}{precision}"
    plain = replace(recipe, precision="float32")
    if recipe.name != photos.NAME and plain == RECIPES.get(recipe.name, plain):
        yield recipe.description
    tested = f", {data.val.records} to test on" if data.val else ""
    yield f"{_steps(recipe)}; {data.train.records} images to train on{tested}"
    yield classes_line(data.names, recipe.classes)
    yield from (_phase(recipe, phase, data.train.records) for phase in recipe.phases)
    yield from data.unknown(recipe.classes)
    yield from _doubts(recipe, data.train.records, len(hosts))
    yield host_table(hosts)
    if resumed:
        yield f"resumes at phase {resumed.phase}, iteration {resumed.iteration}"


def _steps(recipe):
    """The images of a step: of each worker, and of all."""
    sizes = [size for size, _ in groupby(recipe.batch_of(phase) for phase in recipe.phases)]
    each, all_ = (
        ", then ".join(str(size) for size in values) for values in (sizes, [recipe.workers * s for s in sizes])
    )
    return f"{recipe.workers} workers x {each} images = global batch {all_}"


def epochs(recipe, phase, records):
    """How often a phase sees each record."""
    return phase.max_iter * recipe.images_of(phase) / records


def _phase(recipe, phase, records):
    warmup = f", after {phase.warmup_iter} iterations of warm-up" if phase.warmup_iter else ""
    count = epochs(recipe, phase, records)
    return (f"phase {phase.name}: {phase.max_iter} iterations, {count:{'.3g' if count < 100 else '.0f'}} epochs; "
            f"lr {phase.base_lr:.4g}{warmup}, {phase.lr_policy}")  # fmt: skip


def _doubts(recipe, records, ranks):
    """What is possible, but seldom meant."""
    batch = recipe.workers * max(recipe.batch_of(phase) for phase in recipe.phases)
    if recipe.workers > records:
        yield f"more workers than images: {recipe.workers} workers, {records} images"
    elif batch > records:
        yield f"the batch is larger than the data set, a step has images more than once: {batch} of {records} images"
    total = sum(epochs(recipe, phase, records) for phase in recipe.phases)
    if total < 1:
        yield f"less than one epoch: {total:.2g} of the {records} images are seen in all phases"
    if ranks > recipe.workers:
        yield f"{ranks - recipe.workers} of {ranks} ranks have nothing to compute: there are {recipe.workers} workers"
