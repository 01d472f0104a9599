"""The needs of a recipe: operations and gradients of each layer, memory of a rank, disk of a run."""

from dataclasses import dataclass
from math import prod

from kernels import scratch_sizes
from kernels.layout import STORED, activation_shape, vector_shape, weights_shape
from nptrain.network.layers import STATISTICS, Convolution, blocks, layers, walk
from nptrain.network.slots import inference_slots, training_slots
from nptrain.recipes.recipe import IMAGENET
from nptrain.reduction.plain_sum import sum_dtype

FLOAT = 4  # bytes
RECORD_BYTES = 42e9 / IMAGENET[0]  # of the published LMDB: JPEG, shorter side 256, for crops of 224
PROCESS_BYTES = 0.26e9  # Python, NumPy, Numba and its compiled kernels, MPI


@dataclass(frozen=True)
class Step:
    """A convolution of the network, the heights of its input and output, and its operations for one image."""

    conv: Convolution
    height: int
    out: int

    @property
    def flops(self):
        """FLOPs of one pass: forward, gradient of data, or gradient of weights."""
        return 2 * prod((self.conv.inputs, self.conv.outputs, self.conv.kernel**2, self.out**2))

    @property
    def backward_flops(self):
        """FLOPs of both gradients; the images need none."""
        return self.flops * (1 if self.conv.is_stem else 2)


def steps_of(recipe):
    """A Step for each convolution of the network, in the order of the net file."""
    return [Step(*convolution) for convolution in walk(recipe.crop_size, recipe.architecture)]


def classifier_flops(recipe):
    """FLOPs of one pass of the last layer for one image."""
    last = steps_of(recipe)[-1]
    return 2 * last.conv.outputs * recipe.classes


def forward_share(recipe):
    """The forward pass's share of a step's operations."""
    steps = steps_of(recipe)
    forward = sum(step.flops for step in steps) + classifier_flops(recipe)
    backward = sum(step.backward_flops for step in steps) + 2 * classifier_flops(recipe)
    return forward / (forward + backward)


def gradients(recipe):
    """[(values, share of backward after which they are ready)] for each layer of the network, in backward order.

    Values are the gradients of weights, bias, gamma and beta, and the two batch statistics, which are sent with them.
    Time is divided in proportion to operations: batch norm, ReLU and sums run with the convolution that they follow.
    """
    steps = steps_of(recipe)
    *convolutions, classifier = layers(recipe.architecture, recipe.classes)
    sizes = [_trained([classifier])]
    flops = [2 * classifier_flops(recipe)]
    for index in reversed(range(len(steps))):
        three = convolutions[3 * index : 3 * index + 3]  # convolution, batch norm, scale
        sizes.append(_trained(three) + 2 * steps[index].conv.outputs)
        flops.append(steps[index].backward_flops)
    done, total, ready = 0, sum(flops), []
    for size, layer_flops in zip(sizes, flops, strict=True):
        done += layer_flops
        ready.append((size, done / total))
    return ready


def _trained(table):
    return sum(prod(blob.shape) for layer in table if layer.kind != STATISTICS for blob in layer.blobs)


def parameter_bytes(recipe):
    """{what: bytes} of the flat arrays that every rank holds."""
    table = list(layers(recipe.architecture, recipe.classes))
    trained = FLOAT * _trained(table)
    statistics = FLOAT * sum(2 * layer.blobs[0].shape[0] for layer in table if layer.kind == STATISTICS)
    return {"weights": trained + statistics, "history": trained, "gradients": trained + statistics}


def activation_bytes(recipe):
    """{what: bytes} of the activations of one worker's batch: those of a training step, and those of tests only."""
    crop, architecture = recipe.crop_size, recipe.architecture
    training, testing = training_slots(crop, crop, architecture), inference_slots(crop, crop, architecture)
    only_testing = [size for name, size in testing.items() if name not in training]
    return {
        "activations": _stored(training.values(), recipe.batch_size, recipe.precision),
        "tests": _stored(only_testing, recipe.test_batch_size or recipe.batch_size, recipe.precision),
    }


def _stored(sizes, images, precision):
    """Bytes of activations of (channels, height, width) as the fast kernels store them."""
    return STORED[precision].itemsize * sum(prod(activation_shape(images, *size)) for size in sizes)


def kernel_bytes(recipe, threads):
    """{purpose: bytes} of the fast kernels' working memory on so many threads: of each the most that a convolution of a
    training step or of a test needs. The classifier is a convolution of one pixel.
    """
    images, images_of_test = recipe.batch_size, recipe.test_batch_size or recipe.batch_size
    how = {"bf16": recipe.precision == "bf16"}
    table = list(blocks(recipe.architecture))
    projections, normed = {block.projection for block in table}, {conv for block in table for conv in block.branch[1:]}
    found = []
    for step in steps_of(recipe):
        conv, where = step.conv, (step.conv.stride, step.conv.pad, threads)
        w = weights_shape(conv.outputs, conv.inputs, conv.kernel, conv.kernel)
        x, y = _map(images, conv.inputs, step.height), _map(images, conv.outputs, step.out)
        found.append(scratch_sizes.forward(w, y, *where, **how))
        found.append(scratch_sizes.forward(w, _map(images_of_test, conv.outputs, step.out), *where, sums=False, **how))
        found.append(scratch_sizes.backward_weights(w, y, conv.stride, conv.pad, threads=threads, **how))
        if conv in normed:
            found.append(scratch_sizes.normalised_input(w, x, y, conv.stride, conv.pad, **how))
        if not conv.is_stem:  # a projection's gradient is not the last that its input gets: no ReLU and sums yet
            found.append(scratch_sizes.backward_data(w, x, *where, sums=conv not in projections, **how))
    w = weights_shape(recipe.classes, conv.outputs, 1, 1)
    x, y = (_map(images, channels, 1) for channels in (conv.outputs, recipe.classes))
    found.append(scratch_sizes.forward(w, y, 1, 0, threads, sums=False, **how))
    found.append(scratch_sizes.backward_weights(w, y, 1, 0, threads=threads, **how))
    found.append(scratch_sizes.backward_data(w, x, 1, 0, threads, sums=False, **how))
    return scratch_sizes.largest(found)


def inference_bytes(recipe, threads):
    """Bytes of the weights of tests: copies, into which batch norms are folded, and what kernels make of them."""
    images, bf16, total = recipe.test_batch_size or recipe.batch_size, recipe.precision == "bf16", 0
    for step in steps_of(recipe):
        conv = step.conv
        w, y = weights_shape(conv.outputs, conv.inputs, conv.kernel, conv.kernel), _map(images, conv.outputs, step.out)
        need = scratch_sizes.forward(w, y, conv.stride, conv.pad, threads, sums=False, bf16=bf16)
        kept = scratch_sizes.largest([{purpose: need[purpose] for purpose in scratch_sizes.KEPT if purpose in need}])
        total += FLOAT * (prod(w) + vector_shape(conv.outputs)[0]) + sum(kept.values())
    w = weights_shape(recipe.classes, conv.outputs, 1, 1)
    return total + FLOAT * (prod(w) + vector_shape(recipe.classes)[0])


def _map(images, channels, height):
    return activation_shape(images, channels, height, height)


def memory_bytes(recipe, threads):
    """{what: bytes} of one rank, whose kernels have so many threads. A rank with several workers runs them one after
    another, in the same memory.
    """
    prefetched = max(phase.prefetch for phase in recipe.phases) + 1
    pixels = recipe.batch_size * 3 * recipe.crop_size**2  # one byte each
    parameters = parameter_bytes(recipe)
    apart = value_bytes(recipe) > FLOAT
    return {
        **parameters,
        **({"float64 sums": 2 * parameters["gradients"]} if apart else {}),
        **activation_bytes(recipe),
        "weights of tests": inference_bytes(recipe, threads),
        "kernels": sum(kernel_bytes(recipe, threads).values()),
        "images ahead": prefetched * pixels,
        "process": int(PROCESS_BYTES),
    }


def value_bytes(recipe):
    """Bytes of a gradient as it is sent without compression."""
    return sum_dtype(recipe.workers * max(phase.iter_size for phase in recipe.phases)).itemsize


def disk_bytes(recipe):
    """{what: bytes}: the two LMDBs, on each node, and all checkpoints, in one place.

    The size of a record is assumed to be proportional to the pixels of a crop. A checkpoint is weights, running
    statistics and momentum.
    """
    record = RECORD_BYTES * (recipe.crop_size / 224) ** 2
    training, held_out = recipe.records
    parameters = parameter_bytes(recipe)
    checkpoint = 2 * parameters["weights"]  # the momentum file has zeros where the other has statistics
    return {
        "training": int(training * record),
        "held-out": int(held_out * record),
        "checkpoints": checkpoint * sum(map(checkpoints, recipe.phases)),
    }


def checkpoints(phase):
    """The checkpoints of a phase: every `snapshot` iterations, and at its end."""
    return -(-phase.max_iter // phase.snapshot) if phase.snapshot else 1
