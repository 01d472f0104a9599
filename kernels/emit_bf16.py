"""LLVM code for bfloat16, the upper half of a float32: 16 bits an element, as an int of 16 bits.

A CPU with AVX512-BF16 has instructions for rounding and for the sum of two products (`vdpbf16ps`); they take
denormal numbers as zero. Elsewhere the same is done with integers and float32 FMAs on values widened in registers.
"""

from llvmlite import ir
from numba.core import cgutils

from kernels.emit import I16, I32, V16, broadcast, fma
from kernels.layout import LANES
from kernels.registers import has_bf16

B16, B32 = ir.VectorType(I16, LANES), ir.VectorType(I16, 2 * LANES)  # as stored
_WORDS = ir.VectorType(I32, LANES)


class _BFloat(ir.types.Type):
    """LLVM's type bfloat, which llvmlite does not have."""

    def _to_string(self):
        return "bfloat"

    def __eq__(self, other):
        return isinstance(other, _BFloat)

    def __hash__(self):
        return hash(_BFloat)


def _words(value):
    return ir.Constant(_WORDS, [value] * LANES)


def _intrinsic(builder, name, result, *arguments):
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def widened(builder, bits):
    """16 bf16 as float32: exact."""
    words = builder.shl(builder.zext(bits, _WORDS), _words(16))
    return builder.bitcast(words, V16)


def rounded(builder, vector):
    """16 float32 rounded to bf16: to nearest, ties to even; infinities and NaN stay what they are."""
    if has_bf16():
        half = _intrinsic(builder, "llvm.x86.avx512bf16.cvtneps2bf16.512", ir.VectorType(_BFloat(), LANES), vector)
        return builder.bitcast(half, B16)
    words = builder.bitcast(vector, _WORDS)
    upper = builder.lshr(words, _words(16))
    # the lower half carries into the upper from half a unit on; at the half itself only where that is odd
    up = builder.add(builder.add(words, _words(0x7FFF)), builder.and_(upper, _words(1)))
    nan = builder.fcmp_unordered("uno", vector, vector)
    half = builder.select(nan, builder.or_(upper, _words(0x40)), builder.lshr(up, _words(16)))
    return builder.trunc(half, B16)


def pair_broadcast(builder, pointer):
    """The two bf16 at a pointer, 16 times: 32 bf16."""
    pair = builder.load(builder.bitcast(pointer, I32.as_pointer()))
    pair.align = 2
    return builder.bitcast(broadcast(builder, pair), B32)


def in_turn(builder, first, second=None):
    """The lanes of two vectors of 16 in turn: 0 of the first, 0 of the second, 1 of the first, ...; or those of the
    halves of one vector of 32.
    """
    second = ir.Constant(first.type, ir.Undefined) if second is None else second
    lanes = [lane for place in range(LANES) for lane in (place, place + LANES)]
    return builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(I32, 2 * LANES), lanes))


def pair_products(builder, a, b, total):
    """total + a[2 i] b[2 i] + a[2 i + 1] b[2 i + 1] in each of 16 lanes i, summed in float32; a and b are 32 bf16."""
    if has_bf16():
        pairs = ir.VectorType(_BFloat(), 2 * LANES)
        a, b = builder.bitcast(a, pairs), builder.bitcast(b, pairs)
        return _intrinsic(builder, "llvm.x86.avx512bf16.dpbf16ps.512", V16, total, a, b)
    (a0, a1), (b0, b1) = _halves(builder, a), _halves(builder, b)
    return fma(builder, a1, b1, fma(builder, a0, b0, total))


def _halves(builder, pairs):
    """The first and the second of each of 16 pairs of bf16, as float32."""
    words = builder.bitcast(pairs, _WORDS)
    first, second = builder.shl(words, _words(16)), builder.and_(words, _words(0xFFFF0000))
    return builder.bitcast(first, V16), builder.bitcast(second, V16)
