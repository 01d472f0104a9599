"""PyTorch's ResNet-50 from the same layer table: a training step, or an inference, at every line of stdin.

The answer is a line of JSON, {"seconds", "memory_mb"} or {"error"}. Images are ready as floats, channels last,
which is less than our own step begins with. Of several ranks each runs one such process, which sums its gradients
with the others' by DistributedDataParallel over gloo; batch statistics stay its own, which is less than ours, too.
The only module that imports torch, run by `against` as a process.
"""

import json
import os
import resource
import sys
import time
from datetime import timedelta
from queue import SimpleQueue
from threading import Thread

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed import init_process_group
from torch.nn.parallel import DistributedDataParallel

from nptrain.network.layers import STEM, blocks


class ConvolutionNorm(nn.Module):
    """A convolution and its batch norm."""

    def __init__(self, conv):
        super().__init__()
        self.conv = nn.Conv2d(conv.inputs, conv.outputs, conv.kernel, conv.stride, conv.pad, bias=conv.bias)
        self.norm = nn.BatchNorm2d(conv.outputs)

    def forward(self, x):
        return self.norm(self.conv(x))


class Block(nn.Module):
    """y = relu(branch(x) + shortcut(x))."""

    def __init__(self, block):
        super().__init__()
        self.branch = nn.ModuleList(ConvolutionNorm(conv) for conv in block.branch)
        self.projection = ConvolutionNorm(block.projection) if block.projection else nn.Identity()

    def forward(self, x):
        shortcut, *_, last = self.projection(x), *self.branch
        for layer in self.branch[:-1]:
            x = F.relu(layer(x), inplace=True)
        return F.relu(last(x) + shortcut, inplace=True)


class Network(nn.Module):
    """Images (N, 3, H, W) to scores (N, classes)."""

    def __init__(self, classes=1000):
        super().__init__()
        self.stem = ConvolutionNorm(STEM)
        self.blocks = nn.Sequential(*map(Block, blocks()))
        self.classifier = nn.Linear(2048, classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.stem(x), inplace=True), 3, 2, ceil_mode=True)
        return self.classifier(self.blocks(x).mean((2, 3)))


PATIENCE = timedelta(minutes=15)  # with other ranks, which may have to compile


def work(training, mode, batch, crop_size, ranks):
    """The function that does it once."""
    model = Network().to(memory_format=torch.channels_last).train(training)
    if ranks > 1:
        init_process_group("gloo", timeout=PATIENCE)  # who and where the others are is in the environment
        model = DistributedDataParallel(model, gradient_as_bucket_view=True, forward_sync_buffers=False)
    images = torch.randn(batch, 3, crop_size, crop_size).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 1000, (batch,))
    network = torch.compile(model) if mode == "compile" else model
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-5)

    def step():
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()

    def inference():
        with torch.inference_mode():
            network(images)

    return step if training else inference


def lines(stream):
    """The lines of a stream, at whose end the process ends, even while it waits for ranks that are gone."""
    waiting = SimpleQueue()

    def read():
        for line in stream:
            waiting.put(line)
        os._exit(0)

    Thread(target=read, daemon=True).start()
    while True:
        yield waiting.get()


def serve(settings, commands, answers):
    """Do it once for every one of `commands`. One of several ranks ends with its first error, so that the others do
    not wait for it.
    """
    torch.set_num_threads(settings.pop("threads"))
    call, ranks = None, settings["ranks"]
    for _ in commands:
        try:
            call = call or work(**settings)
            start = time.perf_counter()
            call()
            took = time.perf_counter() - start
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
            answer = {"seconds": took, "memory_mb": memory}
        except Exception as error:  # whatever PyTorch or its compiler cannot do here
            answer = {"error": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"}
        print(json.dumps(answer), file=answers, flush=True)
        if ranks > 1 and "error" in answer:
            os._exit(1)


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed must not come between
    serve(json.loads(sys.argv[1]), lines(sys.stdin), answers)
