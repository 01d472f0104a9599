"""The layer table of the ResNets: names, shapes, fillers and multipliers, in the order of the net file.

He et al., arXiv 1512.03385; names, fillers and the stride in the 3x3 convolution as in the recipe's
train_val.prototxt. The original release has the stride in the 1x1 convolution before it.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from math import sqrt

from kernels.sizes import convolved_size, pooled_size

# depth: blocks in stages 2..5, and whether a block is a bottleneck (1x1, 3x3, 1x1) or a pair of 3x3
DEPTHS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}
DOWNSAMPLE = ("3x3", "1x1")  # the convolution of a stage's first block that has its stride
STATISTICS = "BatchNorm"  # the kind of layer whose blobs are running statistics: no gradient, no update


@dataclass(frozen=True)
class Architecture:
    """Which ResNet.

    depth             18, 34, 50, 101 or 152
    downsample        the convolution of a bottleneck that has the stride, in the first blocks of stages 3 to 5: "3x3",
                      or "1x1" as in the original release
    stem_bias         conv1 has a bias; it has none in the released ResNet-101 and -152, and in many others
    first_projection  the first block has a projection in its shortcut also at depth 18 and 34, where its shapes need
                      none, as in many nets of others; deeper ones have it in any case
    width             channels of the stem and of the first stage's 3x3 convolutions; each stage doubles them
    """

    depth: int = 50
    downsample: str = "3x3"
    stem_bias: bool = True
    first_projection: bool = False
    width: int = 64

    @property
    def name(self):
        """What it is called."""
        return f"ResNet-{self.depth}" + (f" of width {self.width}" if self.width != RESNET50.width else "")


RESNET50 = Architecture()


@dataclass(frozen=True)
class Convolution:
    """A convolution with its batch norm and scale. `norm` is their name without the prefix bn or scale."""

    name: str
    inputs: int
    outputs: int
    kernel: int
    stride: int = 1
    bias: bool = False
    gamma: float = 1.0  # what the scale starts at

    @property
    def is_stem(self):
        """Whether it is the first of the network, which reads the images."""
        return self.name == "conv1"

    @property
    def pad(self):
        return self.kernel // 2

    def out(self, length):
        """The height (or width) of the result for an input of that height."""
        return convolved_size(length, self.kernel, self.stride, self.pad)

    @property
    def norm(self):
        return "_conv1" if self.is_stem else self.name.removeprefix("res")


@dataclass(frozen=True)
class Block:
    """A residual block: the convolutions of its branch, and the projection of its shortcut, if any."""

    name: str
    branch: tuple[Convolution, ...]
    projection: Convolution | None


@dataclass(frozen=True)
class Blob:
    """One array of a layer as Caffe stores it. Filled with `value`; with `std`, Gaussian around 0; with `bound`,
    uniform from -bound to bound.
    """

    shape: tuple[int, ...]
    std: float | None = None
    value: float = 0.0
    bound: float | None = None
    lr_mult: float = 1.0
    decay_mult: float = 1.0


@dataclass(frozen=True)
class Layer:
    """A layer that has blobs: its name and type in Caffe's files, and the blobs."""

    name: str
    kind: str
    blobs: tuple[Blob, ...]


STEM = Convolution("conv1", 3, 64, kernel=7, stride=2, bias=True)


def stem(architecture=RESNET50):
    """The first convolution."""
    return replace(STEM, outputs=architecture.width, bias=architecture.stem_bias)


def blocks(architecture=RESNET50):
    """The residual blocks of a ResNet, in order. Raises KeyError for a depth that has no table."""
    counts, bottleneck = DEPTHS[architecture.depth]
    inputs = architecture.width
    for stage, count in enumerate(counts):
        width, stride = architecture.width << stage, 1 if stage == 0 else 2
        for index in range(count):
            name = f"{stage + 2}{_letter(architecture.depth, index, count)}"
            block = _block(name, inputs, width, stride if index == 0 else 1, bottleneck, architecture)
            if index == count - 1:  # zero gamma: a stage starts without its last block
                block = replace(block, branch=(*block.branch[:-1], replace(block.branch[-1], gamma=0.0)))
            yield block
            inputs = block.branch[-1].outputs


def _letter(depth, index, count):
    """2a, 2b, 2c; the long stages of the deeper networks count a, b1, b2, ..."""
    return f"b{index}" if depth > 50 and count > 3 and index > 0 else "abcdef"[index]


def _block(name, inputs, width, stride, bottleneck, architecture):
    first, second = (stride, 1) if architecture.downsample == "1x1" else (1, stride)
    shapes = (
        ((1, first, width), (3, second, width), (1, 1, 4 * width))
        if bottleneck
        else ((3, stride, width), (3, 1, width))
    )
    channels = (inputs, *(outputs for _, _, outputs in shapes))
    branch = tuple(
        Convolution(f"res{name}_branch2{letter}", c, k, kernel, step)
        for letter, (c, k), (kernel, step, _) in zip("abc", pairwise(channels), shapes, strict=False)
    )
    changes = stride != 1 or inputs != channels[-1] or (name == "2a" and architecture.first_projection)
    projection = Convolution(f"res{name}_branch1", inputs, channels[-1], 1, stride) if changes else None
    return Block(name, branch, projection)


def convolutions(architecture=RESNET50):
    """Every convolution of the network, in the order of the net file: 53 for ResNet-50."""
    yield stem(architecture)
    for block in blocks(architecture):
        if block.projection:
            yield block.projection
        yield from block.branch


def walk(crop, architecture=RESNET50):
    """(Convolution, height of its input, of its output) for images of `crop` pixels a side, in the net file's order."""
    yield stem(architecture), crop, STEM.out(crop)
    at = pooled_size(STEM.out(crop))
    for block in blocks(architecture):
        if block.projection:
            yield block.projection, at, block.projection.out(at)
        for conv in block.branch:
            yield conv, at, (at := conv.out(at))


def layers(architecture=RESNET50, classes=1000, blob_overrides=()):
    """Every layer that has blobs, in the order of the net file.

    blob_overrides: (layer, index of the blob, field of Blob, value), where another net file departs from the recipe's.
    """
    changed = {}
    for name, index, field, value in blob_overrides:
        changed.setdefault((name, index), {})[field] = value
    for layer in _layers(architecture, classes):
        blobs = (replace(blob, **changed.get((layer.name, index), {})) for index, blob in enumerate(layer.blobs))
        yield replace(layer, blobs=tuple(blobs))


def _layers(architecture, classes):
    for conv in convolutions(architecture):
        yield from _convolution_layers(conv)
    weights = Blob((classes, conv.outputs), std=0.01)
    yield Layer("fc1000", "InnerProduct", (weights, Blob((classes,))))


def _convolution_layers(conv):
    fan = (conv.outputs if conv.is_stem else conv.inputs) * conv.kernel**2
    weights = Blob((conv.outputs, conv.inputs, conv.kernel, conv.kernel), std=sqrt(2 / fan))
    vector = Blob((conv.outputs,))
    yield Layer(conv.name, "Convolution", (weights, vector) if conv.bias else (weights,))
    running = replace(vector, lr_mult=0.0, decay_mult=0.0)
    yield Layer(f"bn{conv.norm}", STATISTICS, (running, running, replace(running, shape=(1,))))
    gamma = replace(vector, value=conv.gamma, decay_mult=0.0)
    yield Layer(f"scale{conv.norm}", "Scale", (gamma, replace(gamma, value=0.0)))
