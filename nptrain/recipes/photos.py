"""A recipe for your own photographs: the published one, scaled to any number of images."""

from dataclasses import replace

from nptrain.errors import InputError
from nptrain.recipes.published import get_recipe

NAME = "photos"
DESCRIPTION = "your own images: classes and iterations from the data, rates from the batch; --epochs"
EPOCHS, WORKERS, BATCH_SIZE = 30, 2, 16  # 28.5 epochs with warm-up and linear decay, 1.5 of the collapse
PUBLISHED = "resnet50-448nodes"
PARTS = 20  # of phase 1, each ends with a checkpoint; the collapse starts from the last but one, and is one part long


def photos(records, classes, epochs=EPOCHS, workers=WORKERS, batch_size=BATCH_SIZE):
    """The published recipe scaled to a data set.

    records  (training, held-out) images     classes  of the data set
    epochs   of both phases together         batch_size  images of each of `workers`

    Rates are proportional to the images of a step (Goyal et al., arXiv 1706.02677), lengths of warm-up, decay and
    collapse to the epochs. Raises InputError where the images do not fill a batch, or the epochs are too few.
    """
    published, batch = get_recipe(PUBLISHED), workers * batch_size
    if records[0] < batch:
        raise InputError(f"--train-data: found {records[0]} images, expected {batch} or more: {workers} workers of "
                         f"{batch_size}; --workers and --batch-size make it fewer")  # fmt: skip
    part = round(epochs * records[0] / batch / (PARTS + 1))
    if part < 1:
        raise InputError(f"--epochs: found {epochs}, expected {-(-(PARTS + 1) * batch // records[0])} or more for "
                         f"{records[0]} images")  # fmt: skip
    rates = batch / (published.workers * published.batch_size)
    first, second = published.phases
    common = {"snapshot": part, "test_interval": part, "display": 10}
    warmup = round(PARTS * part * first.warmup_iter / first.max_iter)
    first = replace(first, base_lr=_rounded(first.base_lr * rates), max_iter=PARTS * part, warmup_iter=warmup,
                    warmup_start_lr=_rounded(first.warmup_start_lr * rates), **common)  # fmt: skip
    second = replace(second, base_lr=_rounded(second.base_lr * rates), max_iter=part,
                     starts_from=(PARTS - 1) * part, **common)  # fmt: skip
    return replace(published, name=NAME, description=f"{records[0]} images of {classes} classes, {epochs:g} epochs",
                   phases=(first, second), classes=classes, workers=workers, batch_size=batch_size,
                   records=tuple(records))  # fmt: skip


def _rounded(rate):
    """A rate of three digits, which prints as it is."""
    return float(f"{rate:.3g}")
