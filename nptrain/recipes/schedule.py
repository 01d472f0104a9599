"""The learning rate: a pure function of a phase's values, the iteration, counted from 0, and the drops so far.

The policies and the warm-up of Caffe's SGDSolver::GetLearningRate and the recipe's fork of it.
"""

from dataclasses import dataclass, replace
from math import exp, fsum, inf

import numpy as np

from nptrain.errors import InputError


def drops_of_multistep(phase):
    """The iterations in which multistep drops the rate: its stepvalues, but none inside the warm-up, and as in the
    original, which counts its drops, one in an iteration.
    """
    at = phase.warmup_iter - 1
    return [at := max(value, at + 1) for value in phase.stepvalue]


# policies that drop the rate in steps: the number of drops so far
STEPS = {
    "step": lambda p, i: i // p.stepsize,
    "multistep": lambda p, i: sum(i >= value for value in drops_of_multistep(p)),
}

POLICIES = {
    "fixed": lambda p, i, _: 1.0,
    "step": lambda p, i, _: p.gamma ** STEPS["step"](p, i),
    "multistep": lambda p, i, _: p.gamma ** STEPS["multistep"](p, i),
    "exp": lambda p, i, _: p.gamma**i,
    "inv": lambda p, i, _: (1 + p.gamma * i) ** -p.power,
    "poly": lambda p, i, _: (1 - i / p.max_iter) ** p.power,
    "poly_cyc": lambda p, i, _: (1 - i / p.lr_iter) ** p.power,
    "sigmoid": lambda p, i, _: 1 / (1 + exp(min(-p.gamma * (i - p.stepsize), 700))),  # exp(710) overflows
    "plateau": lambda p, i, current_step: p.gamma**current_step,
}

NEEDS = {
    "step": ("gamma", "stepsize"), "multistep": ("gamma", "stepvalue"), "exp": ("gamma",), "inv": ("gamma", "power"),
    "poly": ("power", "max_iter"), "poly_cyc": ("power", "lr_iter"), "sigmoid": ("gamma", "stepsize"),
    "plateau": ("gamma", "plateau_winsize"),
}  # fmt: skip


def learning_rate(phase, iteration, current_step=0):
    """The rate at an iteration of a phase (any object with the fields of a solver); `current_step` is that of its
    Progress, which only plateau uses.

    During the warm-up it rises linearly from warmup_start_lr to base_lr. The policy counts from iteration 0,
    not from the warm-up's end: the published run steps from 4.789 down to 4.534 there.
    """
    if iteration < phase.warmup_iter:
        rising = iteration * phase.base_lr + (phase.warmup_iter - iteration) * phase.warmup_start_lr
        return rising / phase.warmup_iter
    try:
        return phase.base_lr * POLICIES[phase.lr_policy](phase, iteration, current_step)
    except OverflowError:  # gamma above 1
        return inf if phase.base_lr else 0.0


@dataclass(frozen=True)
class Progress:
    """What a phase keeps of its losses, with the names of Caffe's solver.

    losses           the last `average_loss` losses, whose mean is the smoothed loss
    current_step     drops of the rate so far, of the policies step, multistep and plateau
    minimum_loss     the least smoothed loss that plateau has seen; single precision, as a .solverstate keeps it
    iter_last_event  the iteration of that minimum or of the last drop, if that came later
    """

    losses: tuple[float, ...] = ()
    current_step: int = 0
    minimum_loss: float = 1e38
    iter_last_event: int = 0

    @property
    def smoothed_loss(self):
        return fsum(self.losses) / len(self.losses)


def advance(progress, phase, iteration, loss):
    """The Progress that the rate of an iteration depends on: with that iteration's own loss.

    plateau drops the rate when plateau_winsize[current_step] iterations have passed since the last event, a new
    minimum or a drop, until it has been through all of plateau_winsize. As in the original, a drop leaves the
    minimum as it is, and losses of the warm-up do not count.
    """
    progress = replace(progress, losses=(*progress.losses, loss)[-phase.average_loss :])
    if iteration < phase.warmup_iter:
        return progress
    if phase.lr_policy in STEPS:
        return replace(progress, current_step=STEPS[phase.lr_policy](phase, iteration))
    if phase.lr_policy == "plateau":
        smoothed = float(np.float32(progress.smoothed_loss))
        if smoothed < progress.minimum_loss:
            progress = replace(progress, minimum_loss=smoothed, iter_last_event=iteration)
        step = progress.current_step
        if step < len(phase.plateau_winsize) and iteration >= progress.iter_last_event + phase.plateau_winsize[step]:
            progress = replace(progress, current_step=step + 1, iter_last_event=iteration)
    return progress


def check_policy(phase):
    """Raise InputError if the policy is unknown or lacks a value."""
    if phase.lr_policy not in POLICIES:
        raise InputError(f"lr_policy: found {phase.lr_policy!r}, expected one of {', '.join(POLICIES)}")
    for field in NEEDS.get(phase.lr_policy, ()):
        if getattr(phase, field) in (None, ()):
            raise InputError(f"{field}: found none, expected a value, as lr_policy is {phase.lr_policy!r}")
    if phase.lr_policy == "inv" and phase.gamma < 0:
        raise InputError(f"gamma: found {phase.gamma}, expected 0 or more, as lr_policy is 'inv'")
    if phase.lr_policy == "multistep" and sorted(phase.stepvalue) != list(phase.stepvalue):
        raise InputError(f"stepvalue: found {', '.join(map(str, phase.stepvalue))}, expected values in rising order")
    if phase.lr_policy == "step" and phase.stepsize < 1:
        raise InputError(f"stepsize: found {phase.stepsize}, expected 1 or more")
    if phase.lr_policy == "plateau" and min(phase.plateau_winsize) < 1:
        raise InputError(f"plateau_winsize: found {min(phase.plateau_winsize)}, expected 1 or more")
    if phase.lr_policy == "poly_cyc" and phase.lr_iter < phase.max_iter:
        raise InputError(f"lr_iter: found {phase.lr_iter}, expected max_iter ({phase.max_iter}) or more")
