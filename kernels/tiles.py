"""Register tiles: the inner loops of a convolution as straight-line vector code.

A register tile keeps its sums in registers in all its loops, which plain loops do not guarantee. Sizes that shape the
code are literals (plain ints in the closure of the calling kernel), so that each tile is found again in the cache on
disk. Arrays are flat float32; offsets and steps count floats, and steps may be negative.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kernels.layout import LANES
from kernels.registers import HELD
from kernels.vector import broadcast, fma, pointer_at, prefetch

_V16 = ir.VectorType(ir.FloatType(), LANES)
_I64 = ir.IntType(64)


def _const(value):
    """An int as an LLVM value."""
    return ir.Constant(_I64, value)


def _load(builder, pointer):
    """The vector of 16 floats at a pointer, which may lie anywhere."""
    vector = builder.load(builder.bitcast(pointer, _V16.as_pointer()))
    vector.align = 4
    return vector


def _store(builder, vector, pointer):
    """Write a vector of 16 floats to a pointer, which may lie anywhere."""
    builder.store(vector, builder.bitcast(pointer, _V16.as_pointer())).align = 4


def _broadcast(builder, pointer):
    """A vector with the float at a pointer in every lane."""
    return broadcast(builder, builder.load(pointer))


def _at(builder, pointer, *offsets):
    """The pointer, moved by the sum of offsets: ints or LLVM values, in floats."""
    for offset in offsets:
        pointer = builder.gep(pointer, [offset if isinstance(offset, ir.Value) else _const(offset)])
    return pointer


def _loop(builder, count, carried, body):
    """for i in range(count): carried = body(i, carried), all in registers. Returns the last `carried`.

    count    an LLVM integer, at least 1
    carried  a list of LLVM values before the first round
    body     Python that emits a round: (LLVM index, list of values) -> list of values
    """
    before = builder.block
    loop, after = builder.append_basic_block("loop"), builder.append_basic_block("after")
    builder.branch(loop)
    builder.position_at_end(loop)
    index = builder.phi(_I64)
    index.add_incoming(_const(0), before)
    phis = [builder.phi(value.type) for value in carried]
    for phi, value in zip(phis, carried, strict=True):
        phi.add_incoming(value, before)
    results = body(index, phis)
    last = builder.block
    for phi, value in zip(phis, results, strict=True):
        phi.add_incoming(value, last)
    following = builder.add(index, _const(1))
    index.add_incoming(following, last)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
    builder.position_at_end(after)
    return results


def _walk(builder, steps, carried, body):
    """Nested loops: returns the last `carried`, a list of LLVM values.

    steps  a list of (count, {operand: step}), the outermost loop first, as LLVM values
    body   Python that emits a round of the innermost loop: ({operand: offset}, carried) -> carried
    """
    names = list(steps[0][1])

    def nest(depth, offsets, carried):
        if depth == len(steps):
            return body(offsets, carried)
        count, step = steps[depth]

        def inner(index, carried):
            moved = {n: builder.add(offsets[n], builder.mul(index, step[n])) for n in names}
            return nest(depth + 1, moved, carried)

        return _loop(builder, count, carried, inner)

    return nest(0, {name: _const(0) for name in names}, carried)


def _ranges(count, held):
    """0 .. count - 1 as ranges of at most `held`."""
    return [range(first, min(first + held, count)) for first in range(0, count, held)]


def _literals(*kinds):
    """The ints of Numba's literal types; None if one of the types is no literal."""
    return [k.literal_value for k in kinds] if all(isinstance(k, types.IntegerLiteral) for k in kinds) else None


@intrinsic(prefer_literal=True)
def product_tile(ctx, pixels, lanes, pitch, x, x0, x_block, x_row, x_col,
                 w, w0, w_block, w_row, w_col, y, y0, c_blocks, rows, cols, accumulate):  # fmt: skip
    """y[pixel, 16] (+)= sum over c_blocks, rows, cols, lanes of x[pixel, lane] * w[lane, 16].

    pixels, lanes          literals: pixels of the tile (as many at a time as registers hold), channels in a block of x
    pitch                  a literal: from a pixel to the next in x; in y that is 16
    x, x0                  the input, and the offset of the first pixel's first tap in its first block
    x_block, x_row, x_col  steps from a block to the next, and from a tap to the next of a column or row of the kernel
    w, w0, w_block, w_row, w_col   the same of the weights, of which a tap of a block has (lanes, 16)
    y, y0                  the result, and the offset of the first pixel
    c_blocks, rows, cols   blocks of x, and rows and columns of taps, each at least 1
    accumulate             a boolean: begin the sums with y instead of zero
    """
    sizes = _literals(pixels, lanes, pitch)
    if sizes is None:
        return None
    P, L, pitch_ = sizes
    signature = types.void(pixels, lanes, pitch, x, x0, x_block, x_row, x_col,
                           w, w0, w_block, w_row, w_col, y, y0, c_blocks, rows, cols, accumulate)  # fmt: skip

    def codegen(context, builder, sig, args):
        (_, _, _, x, x0, x_block, x_row, x_col,
         w, w0, w_block, w_row, w_col, y, y0, c_blocks, rows, cols, accumulate) = args  # fmt: skip
        x = pointer_at(context, builder, sig.args[3], x, x0)
        w = pointer_at(context, builder, sig.args[8], w, w0)
        y = pointer_at(context, builder, sig.args[13], y, y0)
        out = [_at(builder, y, p * LANES) for p in range(P)]
        if P > 1:  # where the next tile's sums will go: stores would wait for these lines
            for p in range(P):
                prefetch(builder, _at(builder, y, (P + p) * LANES), write=True)

        walk = [(c_blocks, {"x": x_block, "w": w_block}), (rows, {"x": x_row, "w": w_row}),
                (cols, {"x": x_col, "w": w_col})]  # fmt: skip
        for held in _ranges(P, HELD.pixels):
            start = builder.block
            with builder.if_then(builder.icmp_signed("!=", accumulate, ir.Constant(accumulate.type, 0))):
                loaded = [_load(builder, out[p]) for p in held]
                load_block = builder.block
            sums = [builder.phi(_V16) for _ in held]
            for phi, value in zip(sums, loaded, strict=True):
                phi.add_incoming(ir.Constant(_V16, None), start)
                phi.add_incoming(value, load_block)

            def tap(offset, sums, held=held):
                sums = list(sums)
                xt, wt = _at(builder, x, offset["x"]), _at(builder, w, offset["w"])
                for lane in range(L):
                    weights = _load(builder, _at(builder, wt, lane * LANES))
                    for i, p in enumerate(held):
                        value = _broadcast(builder, _at(builder, xt, p * pitch_ + lane))
                        sums[i] = fma(builder, value, weights, sums[i])
                return sums

            for value, p in zip(_walk(builder, walk, sums, tap), held, strict=True):
                _store(builder, value, out[p])
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)
def outer_tile(ctx, lanes, pitch, x, x0, x_col, dy, dy0, dy_col, dw, dw0, cols, pixels):
    """dw[lane, 16] += sum over cols, pixels of x[pixel, lane] * dy[pixel, 16].

    lanes            a literal: channels in a block of x (as many at a time as registers hold)
    pitch            a literal: from a pixel to the next of a column in x; in dy that is 16
    x, x0, x_col     the input, the offset of the first pixel, and the step from a column to the next
    dy, dy0, dy_col  the same of the gradient of the result
    dw, dw0          the gradient of weights, and the offset of the (lanes, 16) that are added to
    cols, pixels     columns, and pixels of each, at least 1
    """
    sizes = _literals(lanes, pitch)
    if sizes is None:
        return None
    L, pitch_ = sizes
    signature = types.void(lanes, pitch, x, x0, x_col, dy, dy0, dy_col, dw, dw0, cols, pixels)

    def codegen(context, builder, sig, args):
        _, _, x, x0, x_col, dy, dy0, dy_col, dw, dw0, cols, pixels = args
        x = pointer_at(context, builder, sig.args[2], x, x0)
        dy = pointer_at(context, builder, sig.args[5], dy, dy0)
        dw = pointer_at(context, builder, sig.args[8], dw, dw0)
        out = [_at(builder, dw, lane * LANES) for lane in range(L)]

        walk = [(cols, {"x": x_col, "dy": dy_col}), (pixels, {"x": _const(pitch_), "dy": _const(LANES)})]
        for held in _ranges(L, HELD.channels):

            def pixel(offset, sums, held=held):
                xp, gradient = _at(builder, x, offset["x"]), _load(builder, _at(builder, dy, offset["dy"]))
                prefetch(builder, _at(builder, xp, x_col))  # the next column's pixel, which may lie far away
                values = [_broadcast(builder, _at(builder, xp, lane)) for lane in held]
                return [fma(builder, value, gradient, total) for value, total in zip(values, sums, strict=True)]

            sums = _walk(builder, walk, [_load(builder, out[lane]) for lane in held], pixel)
            for value, lane in zip(sums, held, strict=True):
                _store(builder, value, out[lane])
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def fma_chain(ctx, count):
    """count * 4 * HELD.pixels vector FMAs, that many independent: nothing but the FMA peak. Returns their sum."""

    def codegen(context, builder, sig, args):
        factor, term = (ir.Constant(_V16, [value] * LANES) for value in (1.0000001, 1e-9))

        def body(_, sums):
            for _ in range(4):
                sums = [fma(builder, value, factor, term) for value in sums]
            return sums

        sums = _loop(builder, args[0], [ir.Constant(_V16, [float(k)] * LANES) for k in range(HELD.pixels)], body)
        total = sums[0]
        for value in sums[1:]:
            total = builder.fadd(total, value)
        return builder.extract_element(total, ir.Constant(ir.IntType(32), 0))

    return types.float32(types.int64), codegen
