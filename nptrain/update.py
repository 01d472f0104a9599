"""Caffe's SGDSolver and NesterovSolver: from summed gradients to new weights, one parameter after another."""

from math import isfinite, sqrt

import numpy as np

from nptrain.errors import TrainingError
from nptrain.recipes.schedule import learning_rate


def momentum_at(phase, iteration):
    """The momentum factor. With `momentum_correction`, it is scaled by rate(i) / rate(i - 1) during the warm-up,
    since the history contains rates (the original's unfused path). Not after a rate of 0, where the original divides by
    0 and continues with NaN.
    """
    before = learning_rate(phase, max(iteration - 1, 0))
    if not phase.momentum_correction or iteration >= phase.warmup_iter or before == 0:
        return phase.momentum
    return phase.momentum * learning_rate(phase, iteration) / before


def update(arena, phase, iteration, count, arrived=None, current_step=0):
    """w -= history for every parameter, in the order of the original: divide the gradients, which are sums over
    `count` batches; clip; decay; local rate; history (Nesterov: a step ahead of it). Overwrites `arena.gradients`.

    Raises TrainingError, before anything is updated, on a gradient that is not finite.

    arrived       yields slices of the gradients, each when its sum has arrived; together they cover all gradients
                  (None: all have arrived)
    current_step  as in `learning_rate`
    """
    ops, gradients = arena.ops, arena.gradients[: arena.size]
    parts = [slice(0, arena.size)] if arrived is None else list(arrived)
    square = ops.squared_norm(gradients)  # of all: half an update could be neither kept nor repeated
    if not isfinite(square):
        raise TrainingError(f"phase {phase.name}, iteration {iteration}: the gradient is not finite")
    rate, momentum = learning_rate(phase, iteration, current_step), momentum_at(phase, iteration)
    scale, lars = 1 / count, phase.local_lr_auto and phase.type == "SGD"  # the original's Nesterov has no LARS
    if phase.clip_gradients >= 0:
        norm = sqrt(square) * scale
        if norm > phase.clip_gradients:
            scale *= phase.clip_gradients / norm
    l1, nesterov = phase.regularization == "L1", phase.type == "Nesterov"
    for parameter in (p for part in parts for p in arena.parameters if part.start <= p.part.start < part.stop):
        w, g, history = (flat[parameter.part] for flat in (arena.weights, gradients, arena.history))
        decay_mult = parameter.blob.decay_mult
        if phase.decay_scale_and_shift and parameter.kind == "Scale":
            decay_mult = 1.0
        decay, local_rate = phase.weight_decay * decay_mult, rate * parameter.blob.lr_mult
        if lars and local_rate > 0:
            local_rate = rate * trust_ratio(ops, w, g, scale, decay, phase)  # instead of lr_mult
        ops.sgd_update(w, g, history, local_rate, momentum, decay, scale, l1, nesterov)


def trust_ratio(ops, w, g, scale, decay, phase):
    """The local rate of LARS (You et al., arXiv 1708.03888) as in the original: by the norm of the gradient that the
    phase's `lars_norm` says, where scale * g is the mean. 1 if w or the gradient is zero.
    """
    if phase.lars_norm == "unfused":
        g = scale * g + decay * (np.sign(w) if phase.regularization == "L1" else w)
        scale = 1.0
    else:
        scale *= phase.iter_size
    weight, gradient = sqrt(ops.squared_norm(w)), scale * sqrt(ops.squared_norm(g))
    if weight == 0 or gradient == 0:
        return 1.0
    return phase.local_gw_ratio * weight / (gradient + phase.weight_decay * weight)
