"""Loss, top-1 and top-5 over records, each exactly once, on any number of ranks."""

import numpy as np

from nptrain.data.loader import TestLoader
from nptrain.inference import Inference


def evaluate(network, dataset, transform, recipe, world, threads, records=None):
    """The first `records` of the data set, or all. Each rank takes a contiguous share of them; the last, shorter
    batch is filled up with zeros.

    Returns {"loss", "top1", "top5", "records"}: means over these records, the same on every rank.
    """
    ops, size = network.ops, recipe.test_batch_size or recipe.batch_size
    total = len(dataset) if records is None else min(records, len(dataset))
    first, stop = (total * r // world.size for r in (world.rank, world.rank + 1))
    sums, infer = np.zeros(3), Inference(network)
    with TestLoader(dataset, transform, size, first, stop, threads) as loader:
        for batch in loader:
            count = len(batch.labels)
            pixels = np.zeros((size, *batch.images.shape[1:]), np.uint8)
            pixels[:count] = batch.images
            scores = infer(network.pack_images(pixels, recipe.mean_bgr, recipe.scale))[:count]
            loss, _ = ops.softmax_loss(scores, batch.labels)
            hits = [ops.top_k(scores, batch.labels, k) for k in (1, 5)]
            sums += (loss * count, *hits)
    loss, top1, top5 = (value / total for value in world.sum_scalars(list(sums)))
    return {"loss": loss, "top1": top1, "top5": top5, "records": total}
