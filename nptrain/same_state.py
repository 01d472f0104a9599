"""Whether weights, momentum and running statistics are finite, and the same on all ranks: a check for silent errors.

All ranks compute the same update from the same sums, so their bits are the same. A fault of memory, of a core or of the
network can change that without any error, and then the ranks drift apart.
"""

import hashlib
from collections import Counter
from math import isfinite

from nptrain.errors import TrainingError


def expect_finite(arena, phase, iteration):
    """Raise TrainingError unless all numbers in the arena are finite after so many updates of a phase."""
    numbers = {"weights": arena.weights, "momentum": arena.history, "running statistics": arena.statistics}
    for name, array in numbers.items():
        if not isfinite(arena.ops.squared_norm(array)):
            raise TrainingError(f"phase {phase.name}, iteration {iteration - 1}: after the update the {name} are not "
                                f"finite")  # fmt: skip


def expect_same_state(arena, phase, iteration, world):
    """Raise TrainingError on all ranks unless all have the same bits in the arena after so many updates of a phase. The
    message names the first rank that differs from most others, its host, and the first layer; of two ranks, or where no
    state is that of most, two that differ. All ranks call it.
    """
    mine = (iteration, _digest(arena.weights, arena.history, arena.statistics, arena.factors))
    found = world.allgather(mine)
    ((right, count),) = Counter(found).most_common(1)
    if count == len(found):
        return
    odd, one = next(rank for rank, state in enumerate(found) if state != right), found.index(right)
    layers, names = world.allgather(_digests(arena)), world.allgather(f"rank {world.rank} on {world.host}")
    place = next((name for name, digest in layers[one].items() if layers[odd][name] != digest), "the iteration")
    if 2 * count > len(found):
        who = f"{names[odd]} differs from most others"
    else:
        who = " and ".join(names[rank] for rank in sorted((odd, one))) + " differ"
    raise TrainingError(f"phase {phase.name}, iteration {iteration - 1}: after the update {who}: {place}")


def _digest(*arrays):
    state = hashlib.sha256()
    for array in arrays:
        state.update(memoryview(array).cast("B"))
    return state.hexdigest()


def _digests(arena):
    """{what and of which layer: digest}, in the order of the layers; running statistics last."""
    found = {}
    for parameter in arena.parameters:
        shape = "x".join(map(str, parameter.blob.shape))
        for name, flat in (("weights", arena.weights), ("momentum", arena.history)):
            found[f"{name} of layer {parameter.layer}, blob {shape}"] = _digest(flat[parameter.part])
    for name, norm in arena.norms.items():
        found[f"running statistics of layer {name}"] = _digest(norm.mean, norm.var, norm.factor)
    return found
