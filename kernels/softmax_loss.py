"""Softmax cross-entropy and top-k on plain (N, classes) scores: small, so NumPy in float64 is fast enough."""

import numpy as np

SMALLEST = float(np.finfo(np.float32).tiny)  # Caffe clamps the probability at FLT_MIN; its gradient is not


def softmax_loss(scores, labels):
    """Mean over images of -log softmax(scores)[label]. scores (N, classes), labels int (N,).

    Returns (loss, probabilities), both float64.
    """
    scores = scores.astype(np.float64)
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    return cross_entropy(probabilities, labels), probabilities


def cross_entropy(probabilities, labels):
    """Mean over images of -log probabilities[label]. probabilities (N, classes), labels int (N,)."""
    chosen = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(chosen, SMALLEST)).mean())


def softmax_loss_backward(probabilities, labels):
    """d loss / d scores = (probabilities - one_hot(labels)) / N."""
    gradient = probabilities.copy()
    gradient[np.arange(len(labels)), labels] -= 1
    return gradient / len(labels)


def top_k(scores, labels, k):
    """How many images have fewer than k other classes scoring at least as high as their label; NaN loses."""
    chosen = scores[np.arange(len(labels)), labels][:, None]
    rivals = (scores >= chosen).sum(axis=1)
    return int(((rivals >= 1) & (rivals <= k)).sum())
