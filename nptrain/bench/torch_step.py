"""PyTorch's ResNet-50 from the same layer table: a training step, or an inference, for every line of stdin.

The answer is a line of JSON, {"seconds", "memory_mb"} or {"error"}. Images are float32, channels last, from the
beginning, while our own step converts them. The precision bf16 is PyTorch's autocast. With several ranks, each runs one
such process, which sums its gradients with the others' by DistributedDataParallel over gloo; it does not sum batch
statistics, as our own step does. This is the only module that imports torch; `against` runs it as a process.
"""

import json
import os
import resource
import sys
import time
from datetime import timedelta
from functools import partial
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


PATIENCE = timedelta(minutes=15)  # that ranks wait for one another, as some may have to compile


def work(training, mode, batch, crop_size, ranks, precision):
    """A function that runs the step, or the inference, once."""
    autocast = partial(torch.autocast, "cpu", torch.bfloat16, enabled=precision == "bf16")
    model = Network().to(memory_format=torch.channels_last).train(training)
    if ranks > 1:
        init_process_group("gloo", timeout=PATIENCE)  # the environment says where the others are
        model = DistributedDataParallel(model, gradient_as_bucket_view=True, forward_sync_buffers=False)
    images = torch.randn(batch, 3, crop_size, crop_size).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 1000, (batch,))
    network = torch.compile(model) if mode == "compile" else model
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-5)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with autocast():
            loss = F.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()

    def inference():
        with torch.inference_mode(), autocast():
            network(images)

    return step if training else inference


def lines(stream):
    """The lines of a stream. When it ends, the process ends, even while it waits for ranks that have ended."""
    waiting = SimpleQueue()

    def read():
        for line in stream:
            waiting.put(line)
        os._exit(0)

    Thread(target=read, daemon=True).start()
    while True:
        yield waiting.get()


def serve(settings, commands, answers):
    """Run the step once for each of `commands`. One of several ranks ends at its first error, so that the others do not
    wait for it.
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
        except Exception as error:  # anything that PyTorch or its compiler cannot do here
            answer = {"error": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"}
        print(json.dumps(answer), file=answers, flush=True)
        if ranks > 1 and "error" in answer:
            os._exit(1)


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # other output must not mix with the answers
    serve(json.loads(sys.argv[1]), lines(sys.stdin), answers)
