"""What a network predicts for the images of a data set: for the table of confusions, and its mistakes."""

from dataclasses import dataclass

import numpy as np

from nptrain.data.loader import TestLoader


class Spread:
    """`count` records of a data set, evenly spread over it; all of them, if it has no more or if `count` is None."""

    def __init__(self, dataset, count=None):
        self.dataset, size = dataset, len(dataset)
        self.indices = np.arange(size) if count is None or count >= size else np.arange(count) * size // count

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, index):
        return self.dataset[int(self.indices[index])]

    def where(self, index):
        return self.dataset.where(int(self.indices[index]))


@dataclass(frozen=True)
class Predictions:
    """Of n images: their labels, the classes predicted, and the probabilities of the latter; (n,) each."""

    labels: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray

    def confusion(self, classes):
        """The number of images of each class (row) that were predicted as each class (column)."""
        pairs = np.bincount(self.labels * classes + self.predicted, minlength=classes**2)
        return pairs.reshape(classes, classes)

    def mistakes(self, count):
        """The places of the `count` wrong ones of highest probability, in its order."""
        wrong = np.flatnonzero(self.labels != self.predicted)
        return wrong[np.argsort(-self.probabilities[wrong], kind="stable")][:count]


def predict(infer, records, recipe, threads, initializer=None, progress=iter):
    """The Predictions of an Inference for all records of a Spread (or another data set), preprocessed as by the recipe
    for tests. Images are decoded by `threads` threads, which call `initializer` first; `progress` is given the loader.
    """
    network, ops, size = infer.network, infer.ops, recipe.test_batch_size or recipe.batch_size
    found = [], [], []
    transform = recipe.test_transform()
    with TestLoader(records, transform, size, 0, len(records), threads, initializer=initializer) as loader:
        for batch in progress(loader):
            count = len(batch.labels)
            pixels = np.zeros((size, *batch.images.shape[1:]), np.uint8)
            pixels[:count] = batch.images
            with np.errstate(over="ignore", invalid="ignore"):
                scores = infer(network.pack_images(pixels, recipe.mean_bgr, recipe.scale))[:count]
                _, probabilities = ops.softmax_loss(scores, batch.labels)
            best = probabilities.argmax(1)
            for rows, values in zip(found, (batch.labels, best, probabilities[np.arange(count), best]), strict=True):
                rows.append(values)
    return Predictions(*(np.concatenate(rows) for rows in found))
