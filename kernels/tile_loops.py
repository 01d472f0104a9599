"""Register tiles alone, with all operands in the L1 cache: the most that each can reach, and its assembly."""

import functools
import re
import time

import numpy as np

from kernels.jit import uncached_jit
from kernels.layout import BF16
from kernels.registers import HELD
from kernels.tiles import outer_tile, product_tile, stored_tile

C_BLOCKS, PIXELS = 4, 64  # of a call: blocks of the input of a convolution, pixels of a gradient of weights
FLOPS = 2e8  # of a measurement, about
PRODUCTS = ("vfmadd", "vdpbf16ps")  # instructions of x86


class ProductLoop:
    """`product_tile` of pixels x blocks of outputs."""

    def __init__(self, pixels, blocks, dtype):
        self.name, self.rounds = f"{pixels}x{blocks}", -(-pixels * blocks // HELD.products)
        self.flops = 2 * pixels * blocks * 256 * C_BLOCKS
        x, w = np.zeros(pixels * 16 * C_BLOCKS, dtype), np.zeros(blocks * 256 * C_BLOCKS, dtype)
        self.kernel = _products_for(pixels, blocks)
        self.arguments = x, w, np.zeros(pixels * 16 * blocks, np.float32), pixels * 16, C_BLOCKS * 256


class OuterLoop:
    """`outer_tile` of all 16 inputs x blocks of outputs, or in bf16 `stored_tile`."""

    def __init__(self, blocks, dtype, stored=False):
        self.name, self.rounds = f"16x{blocks}-dw{'-1x1' * stored}", -(-16 * blocks // HELD.outer)
        self.flops = 2 * blocks * 256 * PIXELS
        x, dy = np.zeros(PIXELS * 16, dtype), np.zeros(blocks * PIXELS * 16, dtype)
        self.kernel = _stored_for(blocks) if stored else _outers_for(blocks)
        self.arguments = x, dy, np.zeros(blocks * 256, np.float32), PIXELS // 2 if dtype == BF16 else PIXELS, 256


# What a convolution knows only when it runs is an argument here, too, or LLVM would make other code of it.
@functools.cache
def _products_for(pixels, blocks):
    @uncached_jit
    def _products(x, w, y, pixel_step, block_step, repeats):
        """A 1x1 convolution of a few pixels, `repeats` times. Arrays are flat, steps in elements."""
        for _ in range(repeats):
            product_tile(pixels, blocks, 16, 16, x, 0, pixel_step, 0, 0, w, 0, block_step, 256, 0, 0,
                         y, 0, pixel_step, C_BLOCKS, 1, 1, False)  # fmt: skip

    return _products


@functools.cache
def _outers_for(blocks):
    @uncached_jit
    def _outers(x, dy, dw, pixels, block_step, repeats):
        """The gradient of 16 x 16 blocks weights from so many pixels, in bf16 pairs of them, `repeats` times."""
        row = x.size
        for _ in range(repeats):
            outer_tile(16, blocks, 16, x, 0, row, dy, 0, row, row, dw, 0, block_step, 1, pixels)

    return _outers


@functools.cache
def _stored_for(blocks):
    @uncached_jit
    def _stored(x, dy, dw, pixels, block_step, repeats):
        """The same with dy as it is stored."""
        row = x.size
        for _ in range(repeats):
            stored_tile(blocks, x, 0, dy, 0, row, dw, 0, block_step, pixels, 0, x, 0)

    return _stored


def loops(bf16=False):
    """All loops that are compared, a list; operands in float32, or bf16."""
    dtype = BF16 if bf16 else np.float32
    products = ((16, 1), (8, 2), (12, 2), (8, 3), (4, 4), (6, 4))
    outers = [OuterLoop(blocks, dtype) for blocks in (1, 2, 4)] + [OuterLoop(4, dtype, stored=True)] * bf16
    return [*(ProductLoop(*tile, dtype) for tile in products), *outers]


def speed(loop):
    """FLOPs a second on one core, once."""
    repeats = int(FLOPS / loop.flops)
    start = time.perf_counter()
    loop.kernel(*loop.arguments, repeats)
    return loop.flops * repeats / (time.perf_counter() - start)


def assembly(loop):
    """The x86 code of the innermost loop with the most products, without its jump's label: what `llvm-mca` reads."""
    loop.kernel(*loop.arguments, 1)
    (text,) = loop.kernel.inspect_asm().values()
    lines, starts, found = text.splitlines(), {}, []
    for number, line in enumerate(lines):
        if label := re.match(r"(\.\w+):", line):
            starts[label[1]] = number
        elif (jump := re.match(r"\s+j\w+\s+(\.\w+)", line)) and jump[1] in starts:
            body = lines[starts[jump[1]] + 1 : number]
            if not any(part.startswith(".") for part in body):
                found.append([part for part in body if not part.strip().startswith(("#", "."))])
    return "\n".join(max(found, key=lambda body: sum(any(name in part for name in PRODUCTS) for part in body)))
