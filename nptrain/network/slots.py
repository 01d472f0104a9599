"""The table of a network's buffers: which there are, and how large each is.

A training step keeps the activations that its backward pass needs; the results of batch norms within a branch are
not among them. The gradients of activations share few slots, each as large as its largest use.
`buffers.Buffers` allocates what stands here, `plan.needs` predicts memory from it.
"""

from math import prod

from kernels.sizes import pooled_size
from nptrain.network.layers import RESNET50, STEM, blocks, convolutions, stem, walk

IMAGES, POOLED, WINNER, DZ = "images", "pool", "winner", "dz"


def activation_slots(conv, inner=False):
    """The names of a convolution's result, before and after its batch norm; of an `inner` one of a branch, which is
    not its last, only before.
    """
    return (f"{conv.name} z",) if inner else (f"{conv.name} z", f"{conv.name} y")


def inner_gradient_slot(place):
    """The name of the gradient of the input of a branch's convolution, by its place from 1 on."""
    return f"dx {place}"


def block_gradient_slots(table):
    """For each Block of a table the name of the slot in which the gradient of its input is. Along a shortcut without
    projection it stays where the gradient of the block's result is; a projection needs both at once, in two slots.
    """
    place, found = 0, []
    for block in reversed(table):
        place ^= block.projection is not None
        found.append(f"block gradient {place}")
    return found[::-1]


LAST_GRADIENT = "block gradient 0"  # of the last block's result: where `block_gradient_slots` begins


def training_slots(height, width, architecture=RESNET50):
    """{name: (channels, height, width)} of all that a training step on images of this size holds, for one image."""
    sizes = _sizes(height, width, architecture)
    slots = _shared_slots(height, width, architecture)
    table = list(blocks(architecture))
    inner = {conv for block in table for conv in block.branch[:-1]}
    for conv in convolutions(architecture):
        for name in activation_slots(conv, conv in inner):
            _grow(slots, name, sizes[conv.name][1])
    _grow(slots, DZ, sizes[STEM.name][1])
    for block, dx in zip(table, block_gradient_slots(table), strict=True):
        _grow(slots, DZ, sizes[block.branch[-1].name][1])
        for place, conv in enumerate(block.branch[1:], 1):
            _grow(slots, inner_gradient_slot(place), sizes[conv.name][0])
        if block.projection:
            _grow(slots, dx, sizes[block.projection.name][0])
    _grow(slots, LAST_GRADIENT, sizes[table[-1].branch[-1].name][1])
    return slots


def inference_slots(height, width, architecture=RESNET50):
    """The same of an inference. Of a block's results only the last two are held at once."""
    sizes = _sizes(height, width, architecture)
    slots = _shared_slots(height, width, architecture) | {"inference stem": sizes[STEM.name][1]}
    for index, block in enumerate(blocks(architecture)):
        for place, conv in enumerate(block.branch[:-1]):
            _grow(slots, f"inference inner {place}", sizes[conv.name][1])
        _grow(slots, f"inference block {index % 2}", sizes[block.branch[-1].name][1])
        if block.projection:
            _grow(slots, "inference shortcut", sizes[block.projection.name][1])
    return slots


def _sizes(height, width, architecture):
    """{convolution: ((channels, height, width) of its input, of its result)}."""
    tall, wide = (walk(side, architecture) for side in (height, width))
    return {conv.name: ((conv.inputs, h, w), (conv.outputs, h_out, w_out))
            for (conv, h, h_out), (_, w, w_out) in zip(tall, wide, strict=True)}  # fmt: skip


def _shared_slots(height, width, architecture):
    pool = (stem(architecture).outputs, pooled_size(STEM.out(height)), pooled_size(STEM.out(width)))
    return {IMAGES: (3, height, width), POOLED: pool, WINNER: pool}


def _grow(slots, name, size):
    slots[name] = max(slots.get(name, size), size, key=prod)
