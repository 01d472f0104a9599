"""Vectors of 16 lanes as values that a compiled kernel can load, combine and store.

`load` and `store` take a flat array and an offset in elements; + - * work lane by lane. float32 vectors come from
arrays of float32, or of bf16 (uint16), which are widened when they are loaded and rounded when they are stored; `widen`
turns one into float64 for long sums.
"""

import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic, models, overload, register_model

from kernels.emit import broadcast, fma, load_vector, pointer_at, store_vector
from kernels.emit_bf16 import B16, rounded, widened
from kernels.layout import LANES


class Vector(types.Type):
    """The Numba type of 16 floats of `bits` bits."""

    def __init__(self, bits):
        self.bits = bits
        super().__init__(name=f"vector16x{bits}")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, ir.VectorType(ir.FloatType() if kind.bits == 32 else ir.DoubleType(), LANES))


V32, V64 = Vector(32), Vector(64)
VECTORS = {types.float32: V32, types.float64: V64, types.uint16: V32}  # of an array's elements, by their type


def expect_array(array, allowed):
    """Raise Numba's TypingError unless `array` is the type of an array of one of the `allowed` dtypes: its memory would
    be read as numbers of another kind.
    """
    if not isinstance(array, types.Array) or array.dtype not in allowed:
        raise TypingError(f"found {array}, expected an array of {' or '.join(map(str, allowed))}")


@intrinsic
def load(ctx, array, at):
    """Elements at .. at + 15 of a flat float32, bf16 or float64 array."""
    expect_array(array, VECTORS)

    def codegen(context, builder, sig, args):
        pointer = pointer_at(context, builder, sig.args[0], *args)
        if array.dtype == types.uint16:
            return widened(builder, load_vector(builder, pointer, B16))
        return load_vector(builder, pointer, context.get_value_type(sig.return_type))

    return VECTORS[array.dtype](array, at), codegen


@intrinsic
def store(ctx, array, at, value):
    """Write a vector to elements at .. at + 15 of a flat array of its own kind; float32 also to one of bf16."""
    expect_array(array, VECTORS)
    if VECTORS[array.dtype] != value:
        raise TypingError(f"found {value} for {array}, expected {VECTORS[array.dtype]}")

    def codegen(context, builder, sig, args):
        pointer = pointer_at(context, builder, sig.args[0], args[0], args[1])
        store_vector(builder, rounded(builder, args[2]) if array.dtype == types.uint16 else args[2], pointer)
        return context.get_dummy_value()

    return types.void(array, at, value), codegen


@intrinsic
def splat(ctx, scalar):
    """A float32 in every lane."""
    return V32(types.float32), lambda context, builder, sig, args: broadcast(builder, args[0])


@intrinsic
def widen(ctx, value):
    """A float32 vector as float64."""
    return V64(V32), lambda context, builder, sig, args: builder.fpext(args[0], context.get_value_type(V64))


@intrinsic
def narrow(ctx, value):
    """A float64 vector rounded to float32."""
    return V32(V64), lambda context, builder, sig, args: builder.fptrunc(args[0], context.get_value_type(V32))


@intrinsic
def rounded_to_bf16(ctx, value):
    """A float32 vector, each value rounded to the nearest bf16."""
    return V32(V32), lambda context, builder, sig, args: widened(builder, rounded(builder, args[0]))


@intrinsic
def zero64(ctx):
    """Sixteen float64 zeros."""
    return V64(), lambda context, builder, sig, args: context.get_constant_null(V64)


def _choice(comparison, nan_counts=False):
    @intrinsic
    def choose(ctx, value, bound, then, otherwise):
        def codegen(context, builder, sig, args):
            value, bound, then, otherwise = args
            chosen = builder.fcmp_ordered(comparison, value, bound)
            if nan_counts:
                chosen = builder.or_(chosen, builder.fcmp_unordered("uno", value, value))
            return builder.select(chosen, then, otherwise)

        return V32(V32, V32, V32, V32), codegen

    return choose


# (value, bound, then, otherwise), lane by lane; comparisons with NaN choose `otherwise` ...
where_above, where_below, where_equal = _choice(">"), _choice("<"), _choice("==")
# ... but here a NaN is larger than everything
where_larger = _choice(">", nan_counts=True)


def _operator(python_operator, instruction):
    @intrinsic
    def combine(ctx, a, b):
        return a(a, b), lambda context, builder, sig, args: getattr(builder, instruction)(*args)

    @overload(python_operator)
    def _combine(a, b):
        if isinstance(a, Vector) and a == b:
            return lambda a, b: combine(a, b)


_operator(operator.add, "fadd")
_operator(operator.sub, "fsub")
_operator(operator.mul, "fmul")


@intrinsic
def fused(ctx, a, b, c):
    """a * b + c, rounded once, of float32 vectors."""
    return V32(V32, V32, V32), lambda context, builder, sig, args: fma(builder, *args)


@intrinsic
def load_if(ctx, array, at, inside):
    """Elements at .. at + 15 of a flat float32 or bf16 array, or zeros (and no access) where not `inside`."""
    expect_array(array, [types.float32, types.uint16])

    def codegen(context, builder, sig, args):
        _, at, inside = args
        bf16 = array.dtype == types.uint16
        kind = B16 if bf16 else context.get_value_type(V32)
        zeros = cgutils.global_constant(builder, "zeros", ir.Constant(kind, None))
        pointer = builder.bitcast(pointer_at(context, builder, sig.args[0], args[0], at), kind.as_pointer())
        vector = load_vector(builder, builder.select(inside, pointer, zeros), kind)
        return widened(builder, vector) if bf16 else vector

    return V32(array, at, types.boolean), codegen
