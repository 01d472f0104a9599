"""A ResNet's blobs under the names that torchvision gives them, and back.

In PyTorch images are R, G, B: the first convolution's channels are the other way round. Statistics are means, not sums.
"""

from pathlib import Path

import numpy as np

from nptrain.errors import InputError
from nptrain.network.layers import DEPTHS, Architecture, blocks, stem

PROGRAM = Path(__file__).with_name("model.py")  # the network in PyTorch, which is copied beside the weights


def modules(architecture):
    """(Convolution, name of its module in PyTorch, name of its batch norm's) of every convolution."""
    yield stem(architecture), "conv1", "bn1"
    stages = {}
    for block in blocks(architecture):
        stage = int(block.name[0]) - 1  # 2a, 2b1: stage 2 is layer1
        index = stages[stage] = stages.get(stage, -1) + 1
        place = f"layer{stage}.{index}"
        for number, conv in enumerate(block.branch, 1):
            yield conv, f"{place}.conv{number}", f"{place}.bn{number}"
        if block.projection:
            yield block.projection, f"{place}.downsample.0", f"{place}.downsample.1"


def to_torch(blobs, architecture):
    """{name: float32 array}, the state_dict, of {layer: blobs} in Caffe's shapes."""
    tensors = {}
    for conv, module, norm in modules(architecture):
        weights, *bias = blobs[conv.name]
        tensors[f"{module}.weight"] = weights[:, ::-1] if conv.is_stem else weights
        if bias:
            tensors[f"{module}.bias"] = bias[0]
        tensors[f"{norm}.weight"], tensors[f"{norm}.bias"] = blobs[f"scale{conv.norm}"]
        mean, var, factor = blobs[f"bn{conv.norm}"]
        factor = float(factor[0]) or 1.0
        tensors[f"{norm}.running_mean"], tensors[f"{norm}.running_var"] = mean / factor, var / factor
    tensors["fc.weight"], tensors["fc.bias"] = blobs["fc1000"]
    return {name: values.astype(np.float32) for name, values in tensors.items()}


def from_torch(tensors, architecture, where):
    """{layer: blobs} in Caffe's shapes, of a state_dict. Raises InputError, naming the file `where`, for a tensor that
    is missing, or that the network does not have.
    """
    rest, blobs = dict(tensors), {}

    def take(name):
        if name not in rest:
            raise InputError(f"{where}: found no tensor {name}, expected that of a {architecture.name}")
        return rest.pop(name)

    for conv, module, norm in modules(architecture):
        weights = take(f"{module}.weight")
        blobs[conv.name] = [weights[:, ::-1] if conv.is_stem else weights]
        if conv.bias:
            blobs[conv.name].append(take(f"{module}.bias"))
        blobs[f"scale{conv.norm}"] = [take(f"{norm}.weight"), take(f"{norm}.bias")]
        one = np.ones(1, np.float32)
        blobs[f"bn{conv.norm}"] = [take(f"{norm}.running_mean"), take(f"{norm}.running_var"), one]
    blobs["fc1000"] = [take("fc.weight"), take("fc.bias")]
    if rest:
        raise InputError(f"{where}: found a tensor {min(rest)}, which a {architecture.name} does not have")
    return blobs


def architecture_of(tensors, downsample, where):
    """The Architecture whose tensors these are; `downsample` is not to be seen in them. Raises InputError, naming the
    file `where`, if there is none.
    """
    counts = tuple(len({name.split(".")[1] for name in tensors if name.startswith(f"layer{stage}.")})
                   for stage in (1, 2, 3, 4))  # fmt: skip
    bottleneck = "layer1.0.conv3.weight" in tensors
    depth = {shape: depth for depth, shape in DEPTHS.items()}.get((counts, bottleneck))
    width, *others = getattr(tensors.get("conv1.weight"), "shape", (0,))
    if depth is None or others != [3, 7, 7]:
        raise InputError(f"{where}: found no ResNet-{', '.join(map(str, DEPTHS))} with torchvision's names of tensors")
    projection = not bottleneck and "layer1.0.downsample.0.weight" in tensors
    return Architecture(depth, downsample, "conv1.bias" in tensors, projection, width)
