"""Register tiles: the inner loops of a convolution as straight-line vector code.

A register tile keeps its sums in registers in all its loops, which plain loops do not guarantee. Sizes that shape the
code are literals (plain ints in the closure of the calling kernel), so that each tile is found again in the cache on
disk. Arrays are flat; offsets and steps count elements, and steps may be negative.

Operands are float32, or bf16 in pairs, whose two products are one instruction. A pair of a convolution is two
channels, and its weights are stored as `layout.pair_weights`; one of a gradient of weights is two pixels.
"""

from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kernels.emit import (
    V16,
    broadcast,
    const,
    fma,
    if_set,
    keep_order,
    literals,
    load_vector,
    loop,
    moved,
    pointer_at,
    prefetch,
    store_vector,
    walk,
)
from kernels.emit_bf16 import B16, B32, in_turn, pair_broadcast, pair_products, rounded, widened
from kernels.layout import LANES
from kernels.registers import HELD


class _Operands(NamedTuple):
    """How products are taken of the elements of an array.

    group    elements that one product instruction takes
    vector   the LLVM type of what belongs to 16 outputs
    value    (builder, pointer) -> the group there, for all 16 outputs
    add      (builder, value, vector, sums) -> sums + products
    """

    group: int
    vector: ir.Type
    value: object
    add: object


_FLOAT32 = _Operands(1, V16, lambda builder, pointer: broadcast(builder, builder.load(pointer)), fma)
_BF16 = _Operands(2, B32, pair_broadcast, pair_products)


def _operands(array):
    return _BF16 if array.dtype == types.uint16 else _FLOAT32


def _ranges(count, held):
    """0 .. count - 1 as ranges of at most `held`."""
    return [range(first, min(first + held, count)) for first in range(0, count, held)]


def _result(builder, array, pointer):
    """The 16 sums at a pointer into an array of results, float32 or bf16."""
    if array.dtype == types.uint16:
        return widened(builder, load_vector(builder, pointer, B16))
    return load_vector(builder, pointer)


def _write(builder, array, sums, pointer):
    """Write 16 sums there, rounded as the array is."""
    store_vector(builder, rounded(builder, sums) if array.dtype == types.uint16 else sums, pointer)


@intrinsic(prefer_literal=True)
def product_tile(ctx, pixels, blocks, lanes, pitch, x, x0, x_block, x_row, x_col,
                 w, w0, w_k, w_block, w_row, w_col, y, y0, y_k, c_blocks, rows, cols, accumulate):  # fmt: skip
    """y[k, pixel, 16] (+)= sum over c_blocks, rows, cols, lanes of x[pixel, lane] * w[k, lane, 16].

    pixels, blocks, lanes  literals: pixels and blocks k of the tile, channels in a block of x
    pitch                  a literal: from a pixel to the next in x; in y that is 16
    x, x0                  the input, and the offset of the first pixel's first tap in its first block
    x_block, x_row, x_col  steps from a block to the next, and from a tap to the next of a column or row of the kernel
    w, w0, w_k, w_block, w_row, w_col   the same of the weights, and the step from an output's block to the next
    y, y0, y_k             the result, the offset of the first pixel, and the step from a block to the next
    c_blocks, rows, cols   blocks of x, and rows and columns of taps, each at least 1
    accumulate             a boolean: begin the sums with y instead of zero
    """
    sizes = literals(pixels, blocks, lanes, pitch)
    if sizes is None:
        return None
    P, B, L, pitch_ = sizes
    signature = types.void(pixels, blocks, lanes, pitch, x, x0, x_block, x_row, x_col,
                           w, w0, w_k, w_block, w_row, w_col, y, y0, y_k, c_blocks, rows, cols, accumulate)  # fmt: skip
    kind, result = _operands(x), y

    def codegen(context, builder, sig, args):
        (_, _, _, _, x, x0, x_block, x_row, x_col,
         w, w0, w_k, w_block, w_row, w_col, y, y0, y_k, c_blocks, rows, cols, accumulate) = args  # fmt: skip
        x = pointer_at(context, builder, sig.args[4], x, x0)
        w = pointer_at(context, builder, sig.args[9], w, w0)
        y = pointer_at(context, builder, sig.args[15], y, y0)
        block = [moved(builder, y, builder.mul(const(k), y_k)) for k in range(B)]
        if P > 1 and kind is _FLOAT32:  # where the next tile's sums will go: stores would wait for these lines
            for start in block:
                for p in range(P):
                    prefetch(builder, moved(builder, start, (P + p) * LANES), write=True)

        steps = [(c_blocks, {"x": x_block, "w": w_block}), (rows, {"x": x_row, "w": w_row}),
                 (cols, {"x": x_col, "w": w_col})]  # fmt: skip
        for held in _ranges(P, max(1, HELD.products // B)):
            out = [moved(builder, start, p * LANES) for p in held for start in block]

            def tap(offset, sums, held=held):
                sums = list(sums)
                xt = moved(builder, x, offset["x"])
                wt = [moved(builder, w, offset["w"], builder.mul(const(k), w_k)) for k in range(B)]
                for lane in range(0, L, kind.group):
                    weights = [load_vector(builder, moved(builder, at, lane * LANES), kind.vector) for at in wt]
                    for i, p in enumerate(held):
                        value = kind.value(builder, moved(builder, xt, p * pitch_ + lane))
                        for k in range(B):
                            sums[i * B + k] = kind.add(builder, value, weights[k], sums[i * B + k])
                    if B > 1:
                        keep_order(builder)  # or LLVM loads for many lanes ahead, and runs out of registers
                return sums

            zeros = [ir.Constant(V16, None)] * len(out)
            sums = if_set(builder, accumulate, lambda out=out: [_result(builder, result, at) for at in out], zeros)
            for total, at in zip(walk(builder, steps, sums, tap), out, strict=True):
                _write(builder, result, total, at)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)
def outer_tile(ctx, lanes, blocks, pitch, x, x0, x_col, dy, dy0, dy_k, dy_col, dw, dw0, dw_k, cols, pixels):
    """dw[k, lane, 16] += sum over cols, pixels of x[pixel, lane] * dy[k, pixel, 16].

    lanes, blocks    literals: channels in a block of x, and blocks k of dy
    pitch            a literal: from a pixel to the next of a column in x; in dy that is 16
    x, x0, x_col     the input, the offset of the first pixel, and the step from a column to the next
    dy, dy0, dy_k, dy_col   the same of the gradient of the result, and the step from a block to the next
    dw, dw0, dw_k    the gradient of weights, float32, the offset of the (lanes, 16) that are added to, and that step
    cols, pixels     columns, and pixels of each, at least 1; of bf16 pairs of pixels, stored as `pair_pixels`
    """
    sizes = literals(lanes, blocks, pitch)
    if sizes is None:
        return None
    L, B, pitch_ = sizes
    signature = types.void(lanes, blocks, pitch, x, x0, x_col, dy, dy0, dy_k, dy_col, dw, dw0, dw_k, cols, pixels)
    kind = _operands(x)

    def codegen(context, builder, sig, args):
        _, _, _, x, x0, x_col, dy, dy0, dy_k, dy_col, dw, dw0, dw_k, cols, pixels = args
        x = pointer_at(context, builder, sig.args[3], x, x0)
        dy = pointer_at(context, builder, sig.args[6], dy, dy0)
        dw = pointer_at(context, builder, sig.args[10], dw, dw0)
        step = {"x": const(pitch_ * kind.group), "dy": const(LANES * kind.group)}
        steps = [(cols, {"x": x_col, "dy": dy_col}), (pixels, step)]

        def prepare(number, at, offset):
            prefetch(builder, moved(builder, at, x_col))  # the next column's pixel, which may lie far away

        _add_products(builder, kind, L, B, steps, x, (dy, dy_k), (dw, dw_k), lambda vector: vector, prepare)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)
def stored_tile(ctx, blocks, x, x0, dy, dy0, dy_k, dw, dw0, dw_k, pairs, next_dy0, image, next_x0):
    """The same of `pairs` of pixels in bf16, of 16 lanes, where dy has the two pixels of a pair 16 apart, as it is
    stored. Memory of which the next call reads is asked for on the way: as many pixels of dy and of `image`, the input
    as stored, from their offsets on.
    """
    sizes = literals(blocks)
    if sizes is None:
        return None
    signature = types.void(blocks, x, x0, dy, dy0, dy_k, dw, dw0, dw_k, pairs, next_dy0, image, next_x0)

    def codegen(context, builder, sig, args):
        _, x, x0, dy, dy0, dy_k, dw, dw0, dw_k, pairs, next_dy0, image, next_x0 = args
        asked = [pointer_at(context, builder, sig.args[place], array, at)
                 for place, array, at in ((3, dy, next_dy0), (11, image, next_x0))]  # fmt: skip
        x = pointer_at(context, builder, sig.args[1], x, x0)
        dy = pointer_at(context, builder, sig.args[3], dy, dy0)
        dw = pointer_at(context, builder, sig.args[6], dw, dw0)
        step = const(LANES * _BF16.group)

        def prepare(number, at, offset):
            for pointer in asked[number : number + 1]:  # one in each of the first rounds, which spreads them in time
                prefetch(builder, moved(builder, pointer, offset["dy"]), level=2)

        _add_products(builder, _BF16, LANES, *sizes, [(pairs, {"x": step, "dy": step})], x, (dy, dy_k), (dw, dw_k),
                      lambda vector: in_turn(builder, vector), prepare)  # fmt: skip
        return context.get_dummy_value()

    return signature, codegen


def _add_products(builder, kind, lanes, blocks, steps, x, gradients, weights, ordered, prepare):
    """The code of a gradient of weights, in as many rounds as its sums need registers.

    kind       `_Operands`
    steps      of the loops over pixels, as `walk` takes them
    x          the pointer to the input
    gradients, weights   (pointer, step from a block to the next) of the gradient of the result, and of what is added to
    ordered    vector of the gradient, as loaded -> the operand
    prepare    (number of the round, pointer to the pixel of x, its offset) emits what comes before a pixel's products
    """
    dy, dw = ([moved(builder, start, builder.mul(const(k), step)) for k in range(blocks)]
              for start, step in (gradients, weights))  # fmt: skip
    for number, held in enumerate(_ranges(lanes, max(1, HELD.outer // blocks))):
        out = [moved(builder, start, lane * LANES) for lane in held for start in dw]

        def pixel(offset, sums, number=number, held=held):
            sums, at = list(sums), moved(builder, x, offset["x"])
            vectors = [ordered(load_vector(builder, moved(builder, start, offset["dy"]), kind.vector)) for start in dy]
            prepare(number, at, offset)
            for i, lane in enumerate(held):
                value = kind.value(builder, moved(builder, at, lane * kind.group))
                for k in range(blocks):
                    sums[i * blocks + k] = kind.add(builder, value, vectors[k], sums[i * blocks + k])
            return sums

        found = walk(builder, steps, [load_vector(builder, at) for at in out], pixel)
        for total, at in zip(found, out, strict=True):
            store_vector(builder, total, at)


@intrinsic
def add_transposed_tile(ctx, source, at, out, to):
    """Add the transpose of 16 x 16 floats from an offset in one flat array to those from an offset in another."""

    def codegen(context, builder, sig, args):
        source = pointer_at(context, builder, sig.args[0], args[0], args[1])
        out = pointer_at(context, builder, sig.args[2], args[2], args[3])
        rows = [load_vector(builder, moved(builder, source, i * LANES)) for i in range(LANES)]
        for step in (1, 2, 4, 8):  # swaps the squares of that size off the diagonal, in pairs of rows
            masks = [[lane + (LANES - step if lane & step else 0) for lane in range(LANES)],
                     [lane + (LANES if lane & step else step) for lane in range(LANES)]]  # fmt: skip
            masks = [ir.Constant(ir.VectorType(ir.IntType(32), LANES), mask) for mask in masks]
            for i in range(LANES):
                if not i & step:
                    both = rows[i], rows[i + step]
                    rows[i], rows[i + step] = (builder.shuffle_vector(*both, mask) for mask in masks)
        for i, row in enumerate(rows):
            target = moved(builder, out, i * LANES)
            store_vector(builder, builder.fadd(load_vector(builder, target), row), target)
        return context.get_dummy_value()

    return types.void(source, at, out, to), codegen


@intrinsic
def fma_chain(ctx, count):
    """count * 4 * HELD.products vector FMAs, that many independent: nothing but the FMA peak. Returns their sum."""
    return types.float32(types.int64), _chain(lambda builder, total: fma(builder, total, *_constants(1.0000001, 1e-9)))


@intrinsic
def pair_chain(ctx, count):
    """The same of bf16: products of pairs, added to float32."""
    ones = ir.Constant(B32, [0x3F80] * 2 * LANES)
    return types.float32(types.int64), _chain(lambda builder, total: pair_products(builder, ones, ones, total))


def _constants(*values):
    return [ir.Constant(V16, [value] * LANES) for value in values]


def _chain(add):
    def codegen(context, builder, sig, args):
        def body(_, sums):
            for _ in range(4):
                sums = [add(builder, total) for total in sums]
            return sums

        start = _constants(*(float(k) for k in range(HELD.products)))
        total, *others = loop(builder, args[0], start, body)
        for other in others:
            total = builder.fadd(total, other)
        return builder.extract_element(total, ir.Constant(ir.IntType(32), 0))

    return codegen
