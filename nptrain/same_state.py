"""Whether weights, momentum and running statistics are finite, and the same on all ranks: a check for silent errors.

All ranks compute the same update from the same sums, so their bits are the same. A fault of memory, of a core or of the
network can change that without any error, and then the ranks drift apart.
"""

import hashlib
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
    message names the first rank that differs from rank 0, its host, and the first layer. All ranks call it.
    """
    mine = (iteration, _digest(arena.weights, arena.history, arena.statistics, arena.factors))
    found = world.allgather(mine)
    other = next((rank for rank, state in enumerate(found) if state != found[0]), None)
    if other is None:
        return
    layers, hosts = world.allgather(_digests(arena)), world.allgather(world.host)
    place = next((name for name, digest in layers[0].items() if layers[other][name] != digest), "its iteration")
    raise TrainingError(f"phase {phase.name}, iteration {iteration - 1}: after the update rank {other} on "
                        f"{hosts[other]} differs from rank 0: {place}")  # fmt: skip


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
