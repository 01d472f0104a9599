"""The learning rate: a pure function of a phase's values and the iteration, counted from 0.

The policies and the warm-up of Caffe's SGDSolver::GetLearningRate and the recipe's fork of it.
"""

from math import exp

from nptrain.errors import InputError

POLICIES = {
    "fixed": lambda p, i: 1.0,
    "step": lambda p, i: p.gamma ** (i // p.stepsize),
    "multistep": lambda p, i: p.gamma ** sum(i >= value for value in p.stepvalue),
    "exp": lambda p, i: p.gamma**i,
    "inv": lambda p, i: (1 + p.gamma * i) ** -p.power,
    "poly": lambda p, i: (1 - i / p.max_iter) ** p.power,
    "poly_cyc": lambda p, i: (1 - i / p.lr_iter) ** p.power,
    "sigmoid": lambda p, i: 1 / (1 + exp(min(-p.gamma * (i - p.stepsize), 700))),  # exp(710) overflows
}

NEEDS = {
    "step": ("gamma", "stepsize"), "multistep": ("gamma", "stepvalue"), "exp": ("gamma",), "inv": ("gamma", "power"),
    "poly": ("power", "max_iter"), "poly_cyc": ("power", "lr_iter"), "sigmoid": ("gamma", "stepsize"),
}  # fmt: skip


def learning_rate(phase, iteration):
    """The rate at an iteration of a phase (any object with the fields of a solver).

    During the warm-up it rises linearly from warmup_start_lr to base_lr. The policy counts from iteration 0,
    not from the warm-up's end: the published run steps from 4.789 down to 4.534 there.
    """
    if iteration < phase.warmup_iter:
        rising = iteration * phase.base_lr + (phase.warmup_iter - iteration) * phase.warmup_start_lr
        return rising / phase.warmup_iter
    return phase.base_lr * POLICIES[phase.lr_policy](phase, iteration)


def check_policy(phase):
    """Raise InputError if the policy is unknown or lacks a value."""
    if phase.lr_policy not in POLICIES:
        raise InputError(f"lr_policy: found {phase.lr_policy!r}, expected one of {', '.join(POLICIES)}")
    for field in NEEDS.get(phase.lr_policy, ()):
        if getattr(phase, field) in (None, ()):
            raise InputError(f"{field}: found none, expected a value, as lr_policy is {phase.lr_policy!r}")
    if phase.lr_policy == "step" and phase.stepsize < 1:
        raise InputError(f"stepsize: found {phase.stepsize}, expected 1 or more")
    if phase.lr_policy == "poly_cyc" and phase.lr_iter < phase.max_iter:
        raise InputError(f"lr_iter: found {phase.lr_iter}, expected max_iter ({phase.max_iter}) or more")
