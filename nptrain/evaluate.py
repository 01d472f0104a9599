"""Loss, top-1 and top-5 of one network or several over a data set, on any number of ranks."""

import numpy as np

from nptrain.data.loader import TestLoader
from nptrain.network.inference import Inference


def evaluate(network, dataset, transform, recipe, world, threads, records=None, initializer=None):
    """The result of a network: {"loss", "top1", "top5", "records", "classes"}, means over the data set, or over its
    first `records` records; the same on every rank.
    """
    return evaluate_members([Inference(network)], dataset, transform, recipe, world, threads, records, initializer)[0]


def evaluate_members(members, dataset, transform, recipe, world, threads, records=None, initializer=None,
                     per_class=None):  # fmt: skip
    """The results of `members`, Inferences of one network. If there are several, a last result is that of their
    ensemble, whose probabilities are the mean of the members'.

    Each rank evaluates a contiguous range of the records, each record once. The last batch is padded with zeros. Each
    batch is decoded once for all members, by `threads` threads, which call `initializer` first. To `per_class`, zeros
    (classes, 2), the records of each class are added, and how many of them the last result has right.
    """
    network, size = members[0].network, recipe.test_batch_size or recipe.batch_size
    ops, several = network.ops, len(members) > 1
    total = len(dataset) if records is None else min(records, len(dataset))
    first, stop = (total * r // world.size for r in (world.rank, world.rank + 1))
    sums = np.zeros((len(members) + several, 3))
    with TestLoader(dataset, transform, size, first, stop, threads, initializer=initializer) as loader:
        for batch in loader:
            labels, count = batch.labels, len(batch.labels)
            pixels = np.zeros((size, *batch.images.shape[1:]), np.uint8)
            pixels[:count] = batch.images
            x = network.pack_images(pixels, recipe.mean_bgr, recipe.scale)
            together = 0.0
            for row, infer in zip(sums, members, strict=False):
                with np.errstate(over="ignore", invalid="ignore"):  # scores that are not finite give a loss of NaN
                    scores = infer(x)[:count]
                    loss, probabilities = ops.softmax_loss(scores, labels)
                row += (loss * count, *_hits(ops, scores, labels))
                together = together + probabilities / len(members)
            if several:
                sums[-1] += (ops.cross_entropy(together, labels) * count, *_hits(ops, together, labels))
            if per_class is not None:
                _count(per_class, ops, together if several else scores, labels)
    means = _sum(world, sums) / total
    if per_class is not None:
        per_class[:] = _sum(world, per_class)
    return [dict(zip(("loss", "top1", "top5"), map(float, row), strict=True), records=total, classes=network.classes)
            for row in means]  # fmt: skip


def _sum(world, array):
    """The sum of an array over all ranks."""
    return np.reshape(world.allreduce_scalars(array.reshape(-1)), array.shape)


def _count(per_class, ops, scores, labels):
    for place, label in enumerate(labels):
        one = slice(place, place + 1)
        per_class[label] += 1, ops.top_k(scores[one], labels[one], 1)


def probabilities(members, pixels, recipe):
    """The mean of the members' probabilities, float64 (N, classes), of test images: uint8 (N, 3, size, size), BGR."""
    network, ops = members[0].network, members[0].ops
    x = network.pack_images(pixels, recipe.mean_bgr, recipe.scale)
    labels, together = np.zeros(len(pixels), np.int64), 0.0
    with np.errstate(over="ignore", invalid="ignore"):  # the caller looks for what is not finite
        for infer in members:
            together = together + ops.softmax_loss(infer(x), labels)[1] / len(members)
    return together


def evaluate_batches(infer, dataset, transform, recipe, world, threads, batches, initializer=None):
    """(loss, top-1, top-5) of an Inference on each of so many batches, an array (batches, 3), the same on every rank.
    As `caffe test` takes them: full, in key order from the first record on, and again from there after the last.
    """
    network, size, ops = infer.network, recipe.test_batch_size or recipe.batch_size, infer.ops
    first, stop = (batches * r // world.size for r in (world.rank, world.rank + 1))
    rows = np.zeros((batches, 3))
    with TestLoader(dataset, transform, size, first * size, stop * size, threads, initializer=initializer) as loader:
        for row, batch in zip(rows[first:stop], loader, strict=True):
            scores = infer(network.pack_images(batch.images, recipe.mean_bgr, recipe.scale))
            loss, _ = ops.softmax_loss(scores, batch.labels)
            row[:] = loss, *(hits / size for hits in _hits(ops, scores, batch.labels))
    return _sum(world, rows)


def _hits(ops, scores, labels):
    return [ops.top_k(scores, labels, k) for k in (1, 5)]
