"""bf16 in pairs, as values that a compiled kernel can load, combine and store.

The product instruction of bf16 multiplies and adds neighbouring lanes. So what is to be summed has to lie side by side:
two inputs of a convolution, or two pixels.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from kernels.emit import load_vector, pointer_at, store_vector
from kernels.emit_bf16 import B32, in_turn, pair_products, rounded
from kernels.layout import LANES
from kernels.vector import V32, expect_array


class Pairs(types.Type):
    """The Numba type of 16 pairs of bf16."""

    def __init__(self):
        super().__init__(name="pairs16")


@register_model(Pairs)
class _PairsModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, B32)


P16 = Pairs()


@intrinsic
def load_pixels(ctx, array, at):
    """Two pixels (2, 16) of a flat bf16 array from element `at` on, as 16 pairs."""
    expect_array(array, [types.uint16])

    def codegen(context, builder, sig, args):
        return in_turn(builder, load_vector(builder, pointer_at(context, builder, sig.args[0], *args), B32))

    return P16(array, at), codegen


@intrinsic
def pair_of(ctx, first, second):
    """Two float32 vectors, rounded, as 16 pairs."""

    def codegen(context, builder, sig, args):
        return in_turn(builder, *(rounded(builder, vector) for vector in args))

    return P16(V32, V32), codegen


@intrinsic
def pair_sums(ctx, a, b, total):
    """total + a[2 i] b[2 i] + a[2 i + 1] b[2 i + 1] in each of 16 lanes i, summed in float32."""
    return V32(P16, P16, V32), lambda context, builder, sig, args: pair_products(builder, *args)


@intrinsic
def ones(ctx):
    """Pairs of ones: their products are sums."""
    return P16(), lambda context, builder, sig, args: ir.Constant(B32, [0x3F80] * 2 * LANES)


@intrinsic
def store_pairs(ctx, array, at, value):
    """Write 16 pairs to elements at .. at + 31 of a flat bf16 array."""
    expect_array(array, [types.uint16])

    def codegen(context, builder, sig, args):
        store_vector(builder, args[2], pointer_at(context, builder, sig.args[0], args[0], args[1]))
        return context.get_dummy_value()

    return types.void(array, at, P16), codegen
