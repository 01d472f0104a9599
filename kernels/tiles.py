"""Register tiles: the inner loops of a convolution as straight-line vector code.

A tile keeps its sums in registers while it walks over its operands, which plain loops do not guarantee.
Sizes that shape the code are literals (plain ints in the closure of the calling kernel), so that each
tile is found again in the cache on disk. Offsets and steps count floats, and steps may be negative.
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
    return ir.Constant(_I64, value)


def _load(builder, pointer):
    vector = builder.load(builder.bitcast(pointer, _V16.as_pointer()))
    vector.align = 4
    return vector


def _store(builder, vector, pointer):
    builder.store(vector, builder.bitcast(pointer, _V16.as_pointer())).align = 4


def _broadcast(builder, pointer):
    return broadcast(builder, builder.load(pointer))


def _at(builder, pointer, *offsets):
    for offset in offsets:
        pointer = builder.gep(pointer, [offset if isinstance(offset, ir.Value) else _const(offset)])
    return pointer


def _loop(builder, count, carried, body):
    """for i in range(count): carried = body(i, carried), all in registers. `count` is at least 1."""
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
    """Nested loops over `steps`, a list of (count, {name: step}); body gets the offsets by name."""
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
    return [k.literal_value for k in kinds] if all(isinstance(k, types.IntegerLiteral) for k in kinds) else None


@intrinsic(prefer_literal=True)
def product_tile(ctx, pixels, lanes, pitch, x, x0, x_block, x_row, x_col,
                 w, w0, w_block, w_row, w_col, y, y0, c_blocks, rows, cols, accumulate):  # fmt: skip
    """y[pixel, 16] (+)= sum over c_blocks, rows, cols, lanes of x[pixel, lane] * w[lane, 16].

    As many pixels at a time as the registers hold. `pitch` separates x's pixels, y's lie 16 apart.
    `pixels`, `pitch` and `lanes` (channels in a block) are literals. `accumulate` starts from y instead of from zero.
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
    """dw[lane, 16] += sum over cols, pixels of x[pixel, lane] * dy[pixel, 16]. lanes, pitch: literals."""
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
