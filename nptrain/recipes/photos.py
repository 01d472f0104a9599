"""A recipe for your own photographs: the published one, scaled to any number of images."""

from dataclasses import replace

from nptrain.errors import InputError
from nptrain.recipes.published import get_recipe

NAME = "photos"
DESCRIPTION = "your own images: classes and iterations from the data, rates from the batch; --epochs"
EPOCHS, WORKERS, BATCH_SIZE = 30, 2, 16  # 28.5 epochs with warm-up and linear decay, 1.5 of the collapse
PUBLISHED = "resnet50-448nodes"
PARTS = (
    20  # of phase 1, at most; each ends with a checkpoint. The collapse is one part long, and starts that much before
)
DROP = 0.1  # of the rate, with decay_epochs


def photos(records, classes, epochs=EPOCHS, workers=WORKERS, batch_size=BATCH_SIZE, decay_epochs=None):
    """The published recipe scaled to a data set.

    records       (training, held-out) images
    classes       of the data set
    epochs        of both phases together
    batch_size    images of each of `workers`
    decay_epochs  epochs of phase 1 after which its rate drops to a tenth, again and again (None: it falls linearly)

    Rates are proportional to the images of a step (Goyal et al., arXiv 1706.02677), lengths of warm-up, decay and
    collapse to the epochs. In the collapse, too, the shorter side is resized before the crop: stored images may have
    any size. Raises InputError where the images do not fill a batch, or the epochs are too few.
    """
    published, batch = get_recipe(PUBLISHED), workers * batch_size
    if records[0] < batch:
        raise InputError(f"--train-data: found {records[0]} images, expected {batch} or more: {workers} workers of "
                         f"{batch_size}; --batch-size makes it fewer")  # fmt: skip
    steps = round(epochs * records[0] / batch)
    if steps < 2:
        raise InputError(f"--epochs: found {epochs:g}, expected {-(-2 * batch // records[0])} or more for "
                         f"{records[0]} images and a batch of {batch}")  # fmt: skip
    collapse = max(1, round(steps / (PARTS + 1)))
    decay = steps - collapse
    part = -(-decay // PARTS)
    rates = batch / (published.workers * published.batch_size)
    first, second = published.phases
    common = {"snapshot": part, "test_interval": part, "display": 10}
    warmup = round(decay * first.warmup_iter / first.max_iter)
    first = replace(first, base_lr=_rounded(first.base_lr * rates), max_iter=decay, warmup_iter=warmup,
                    warmup_start_lr=_rounded(first.warmup_start_lr * rates), **common)  # fmt: skip
    if decay_epochs is not None:
        size = max(1, round(decay_epochs * records[0] / batch))
        first = replace(first, lr_policy="step", gamma=DROP, stepsize=size)
    second = replace(second, base_lr=_rounded(second.base_lr * rates), max_iter=collapse, resize=published.test_resize,
                     starts_from=max(1, (decay - collapse) // part) * part, **common)  # fmt: skip
    return replace(published, name=NAME, description=f"{records[0]} images of {classes} classes, {epochs:g} epochs",
                   phases=(first, second), classes=classes, workers=workers, batch_size=batch_size,
                   records=tuple(records))  # fmt: skip


def shares(batch, workers=None):
    """(workers, images of each) of a step of `batch` images. Without a number of workers, they are the fewest, but
    WORKERS at least, with at most BATCH_SIZE images each. Raises InputError if they cannot have the same number.
    """
    if workers is None:
        fewest = min(batch, max(WORKERS, -(-batch // BATCH_SIZE)))
        workers = next((n for n in range(fewest, 2 * fewest) if batch % n == 0), fewest)
    if batch % workers:
        less, more = batch // workers * workers, -(-batch // workers) * workers
        near = f"{less} or {more}" if less else f"{more}"
        raise InputError(f"--batch-size: found {batch}, expected the same number for each of {workers} workers, as "
                         f"{near}; or --workers")  # fmt: skip
    return workers, batch // workers


def _rounded(rate):
    """A rate of three digits, which prints as it is."""
    return float(f"{rate:.3g}")
