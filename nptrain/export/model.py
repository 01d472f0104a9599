"""A ResNet trained by nptrain, in PyTorch. Needs torch, safetensors and pillow.

    python model.py photos.safetensors cat.jpg dog.jpg

prints the likeliest classes. In a program:

    network, description = load("photos.safetensors")
    scores = network(preprocess(Image.open("cat.jpg"), description)[None])

Names of parameters are torchvision's. Its networks differ in the first max pool, which has padding there.
"""

import json
import sys

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors import safe_open
from torch import nn

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class Block(nn.Module):
    """A residual block of convolutions of these (kernel, stride, channels)."""

    def __init__(self, inputs, shapes, project, eps):
        super().__init__()
        self.count, outputs, strides = len(shapes), shapes[-1][2], 1
        channels = inputs
        for number, (kernel, stride, width) in enumerate(shapes, 1):
            setattr(self, f"conv{number}", nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False))
            setattr(self, f"bn{number}", nn.BatchNorm2d(width, eps))
            channels, strides = width, strides * stride
        self.downsample = None
        if project:
            projection = nn.Conv2d(inputs, outputs, 1, strides, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(outputs, eps))

    def forward(self, x):
        y = x
        for number in range(1, self.count + 1):
            y = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(y))
            if number < self.count:
                y = y.relu()
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class ResNet(nn.Module):
    """Scores (N, classes) of images (N, 3, H, W), R, G, B, as `preprocess` makes them.

    depth             18, 34, 50, 101 or 152
    downsample        the convolution of a bottleneck that has the stride: "3x3" or "1x1"
    stem_bias         whether the first convolution has a bias
    first_projection  whether the first block has a projection in its shortcut
    width             channels of the first convolution
    """

    def __init__(self, depth, classes, downsample="3x3", stem_bias=False, first_projection=False, eps=1e-5, width=64):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=stem_bias)
        self.bn1 = nn.BatchNorm2d(width, eps)
        self.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True)  # as Caffe's; torchvision's has padding=1 instead
        inputs = width
        for stage, count in enumerate(BLOCKS[depth]):
            layer, width = nn.Sequential(), self.bn1.num_features << stage
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                if depth < 50:
                    shapes = (3, stride, width), (3, 1, width)
                else:
                    first, second = (stride, 1) if downsample == "1x1" else (1, stride)
                    shapes = (1, first, width), (3, second, width), (1, 1, 4 * width)
                project = index == 0 and (stage > 0 or depth >= 50 or first_projection)
                layer.append(Block(inputs, shapes, project, eps))
                inputs = shapes[-1][2]
            setattr(self, f"layer{stage + 1}", layer)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x):
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


def load(path):
    """(the network, ready for inference, its description, a dictionary) of a .safetensors file of `bin/export`."""
    with safe_open(path, framework="pt") as file:
        description = {name: json.loads(text) for name, text in file.metadata().items() if name not in
                       ("network", "channels", "format")}  # fmt: skip
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    network = ResNet(description["depth"], len(tensors["fc.bias"]), description["downsample"], "conv1.bias" in tensors,
                     "layer1.0.downsample.0.weight" in tensors, description["bn_eps"],
                     len(tensors["bn1.weight"]))  # fmt: skip
    network.load_state_dict(tensors)
    return network.eval(), description


def preprocess(image, description):
    """A PIL image as the network's input (3, size, size): upright, shorter side resized, cropped in the middle."""
    image, size = ImageOps.exif_transpose(image).convert("RGB"), description["crop_size"]
    if shorter := description["test_resize"]:
        scale = shorter / min(image.size)
        shape = tuple(max(shorter, round(side * scale)) for side in image.size)
        image = image.resize(shape, Image.Resampling.BICUBIC)
    if min(image.size) < size:
        raise ValueError(f"found an image of {image.width}x{image.height}, smaller than the crop of {size}x{size}")
    x, y = (image.width - size) // 2, (image.height - size) // 2
    pixels = torch.from_numpy(np.array(image.crop((x, y, x + size, y + size)))).permute(2, 0, 1)
    return (pixels - torch.tensor(description["mean"])[:, None, None]) * description["scale"]


def main(path, *images):
    network, description = load(path)
    for name in images:
        with torch.inference_mode(), Image.open(name) as image:
            probabilities = network(preprocess(image, description)[None]).softmax(1)[0]
        best = probabilities.topk(min(5, len(probabilities)))
        names = description.get("classes", range(len(probabilities)))
        print(name, *(f"{names[label]} {p:.1%}" for p, label in zip(best.values, best.indices, strict=True)), sep="  ")


if __name__ == "__main__":
    main(*sys.argv[1:])
