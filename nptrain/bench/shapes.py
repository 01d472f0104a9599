"""The distinct convolutions of ResNet-50, their operations and their least memory traffic."""

from collections import Counter
from dataclasses import dataclass

from nptrain.network.layers import walk

CLASSES, FEATURES = 1000, 2048
PASSES = ("forward", "data", "weights")
FLOAT = 4  # bytes


@dataclass(frozen=True)
class Shape:
    """A convolution of square inputs of `height`, padded by half its kernel, as all of ResNet's are."""

    inputs: int
    outputs: int
    kernel: int
    stride: int
    height: int

    @property
    def label(self):
        """Like 64>256 1x1/1 56: channels, kernel/stride, height of the input."""
        return f"{self.inputs}>{self.outputs} {self.kernel}x{self.kernel}/{self.stride} {self.height}"

    @property
    def pad(self):
        return self.kernel // 2

    @property
    def out(self):
        """The height of the output."""
        return (self.height - 1) // self.stride + 1

    @property
    def passes(self):
        """The passes of a training step: the images need no gradient."""
        return tuple(name for name in PASSES if name != "data" or self.inputs != 3)

    @property
    def flops(self):
        """Multiplications and additions for one image in any pass, by direct convolution."""
        return 2 * self.inputs * self.outputs * self.kernel**2 * self.out**2

    def traffic(self, name, images, itemsize=FLOAT):
        """Bytes that the pass `name` has to move for so many images, whose activations have `itemsize` bytes a number:
        every operand once, but weight gradients twice, as they are added up.
        """
        maps = images * (self.inputs * self.height**2 + self.outputs * self.out**2)
        weights = self.inputs * self.outputs * self.kernel**2
        return itemsize * maps + FLOAT * weights * (2 if name == "weights" else 1)


def inputs_of_convolutions(size):
    """(Convolution, height of its input) for every convolution of ResNet-50 at a crop of `size`."""
    return [(conv, height) for conv, height, _ in walk(size)]


def distinct_shapes(crop_size):
    """{Shape: how many convolutions have it}, in the order of the network."""
    return Counter(Shape(c.inputs, c.outputs, c.kernel, c.stride, h) for c, h in inputs_of_convolutions(crop_size))


def convolution_flops(crop_size):
    """{pass: FLOPs of one image} over all 53 convolutions."""
    shapes = distinct_shapes(crop_size)
    return {name: sum(uses * s.flops for s, uses in shapes.items() if name in s.passes) for name in PASSES}


def step_flops(crop_size):
    """FLOPs of one image's training step, by direct convolution; those of convolutions and classifier only."""
    return sum(convolution_flops(crop_size).values()) + 3 * 2 * FEATURES * CLASSES


def inference_flops(crop_size):
    """FLOPs of one image's forward pass, counted the same way."""
    return convolution_flops(crop_size)["forward"] + 2 * FEATURES * CLASSES
