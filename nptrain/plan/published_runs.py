"""The two published runs (Codreanu, Podareanu, Saletore, arXiv 1711.04291, and the files released with it), and
what they imply for the speed of one rank.

Both ran on nodes of two Xeon Platinum 8160, 48 cores, with two ranks each and two of a rank's 24 cores
reserved for communication, on Omni-Path of 100 Gb/s.
"""

from dataclasses import dataclass

from nptrain.errors import InputError
from nptrain.recipes.published import get_recipe

NETWORK = "ResNet-50 at 224"  # what all of them trained
RANKS_PER_NODE, CORES, COMMUNICATION_CORES = 2, 48, 2
BANDWIDTH_GBIT = 100.0  # of a node's link
LATENCY_US = 5.0  # of a message in an Allreduce, software included; not published
VALUE_BYTES, BUCKET_MIB = 4, 8e6 / 2**20  # gradients in float32; a bucket's size was not published, and hardly matters
SPREAD = 0.03  # of ranks' step times: with 896 ranks, 90 % efficiency, the lowest value that the paper states
# A step of one rank with 22 cores, alone: STEP_SECONDS + images * IMAGE_SECONDS. Two unknowns, fitted to the two
# rows of RUNS that say so. No speed of a single node was published.
STEP_SECONDS, IMAGE_SECONDS = 0.208, 0.01228
FITTED_CORES = CORES // RANKS_PER_NODE - COMMUNICATION_CORES


@dataclass(frozen=True)
class Run:
    """A published value: `unit` is images/s of the whole cluster, or minutes of the whole recipe or a phase of it."""

    what: str
    recipe_name: str
    unit: str
    value: float
    phase: str | None = None
    fitted: bool = False  # the speed of a rank was fitted to this value
    speed_at: int | None = None  # predicted with the images/s of a batch of this size

    @property
    def recipe(self):
        return get_recipe(self.recipe_name)

    @property
    def nodes(self):
        return self.recipe.workers // RANKS_PER_NODE


_64, _448 = RECIPES = ("resnet50-64nodes-cyclic", "resnet50-448nodes")
RUNS = (
    Run("64 nodes", _64, "images/s", 6303, fitted=True),
    Run("64 nodes, all 5 parts", _64, "minutes", 240),
    Run("448 nodes, part 1", _448, "minutes", 60, phase="1", fitted=True),
    Run("448 nodes, part 2", _448, "minutes", 5, phase="2"),
    Run("448, by 64 nodes' speed", _448, "minutes", 60, phase="1", speed_at=32),
)


def batch_seconds(images, cores, ranks_per_node):
    """Seconds of a rank for forward and backward of `images`, by the fit; inversely proportional to the cores that
    compute.

    cores  of a node

    Raises InputError if no core is left to compute.
    """
    computing = cores / ranks_per_node - COMMUNICATION_CORES
    if computing <= 0:
        least = COMMUNICATION_CORES * ranks_per_node
        raise InputError(f"--cores: found {cores}, expected more than the {least} for communication, "
                         f"{COMMUNICATION_CORES} per rank")  # fmt: skip
    return (STEP_SECONDS + images * IMAGE_SECONDS) * FITTED_CORES / computing
