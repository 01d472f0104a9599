"""LLVM code that the vector kernels are made of: addresses, loops that hold their values in registers, and vectors.

A pointer has the type of its array's elements; offsets count elements. Functions take the LLVM builder first.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils

from kernels.layout import LANES

I16, I32, I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
V16 = ir.VectorType(ir.FloatType(), LANES)  # 16 float32


def const(value):
    """An int as an LLVM value."""
    return ir.Constant(I64, value)


def pointer_at(context, builder, array_type, array, offset):
    """The address of element `offset` of a flat array."""
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [offset])


def moved(builder, pointer, *offsets):
    """The pointer, moved by the sum of offsets: ints or LLVM values, in elements."""
    for offset in offsets:
        pointer = builder.gep(pointer, [offset if isinstance(offset, ir.Value) else const(offset)])
    return pointer


def load_vector(builder, pointer, kind=V16):
    """The vector at a pointer, which may lie anywhere."""
    vector = builder.load(builder.bitcast(pointer, kind.as_pointer()))
    vector.align = 2 if kind.element == I16 else 4
    return vector


def store_vector(builder, vector, pointer):
    """Write a vector to a pointer, which may lie anywhere."""
    kind = vector.type
    builder.store(vector, builder.bitcast(pointer, kind.as_pointer())).align = 2 if kind.element == I16 else 4


def broadcast(builder, scalar):
    """A vector with `scalar` in every lane."""
    kind = ir.VectorType(scalar.type, LANES)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(I32, LANES), [0] * LANES))


def fma(builder, a, b, c):
    """a * b + c in one instruction."""
    kind = ir.FunctionType(a.type, [a.type] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.fma.v16f32"), [a, b, c])


def prefetch(builder, pointer, write=False, level=1):
    """Ask for the cache line at `pointer`, into the L1 or L2 cache, before it is needed. No address faults."""
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [builder.bitcast(pointer, byte)] + [ir.Constant(I32, v) for v in (int(write), 4 - level, 1)])


def keep_order(builder):
    """Loads above this stay above it, and those below stay below: LLVM takes this for code that may write any memory.
    It is no instruction.
    """
    builder.asm(ir.FunctionType(ir.VoidType(), []), "", "~{memory}", [], True)


def loop(builder, count, carried, body):
    """for i in range(count): carried = body(i, carried), all in registers. Returns the last `carried`.

    count    an LLVM integer, at least 1
    carried  a list of LLVM values before the first round
    body     Python that emits a round: (LLVM index, list of values) -> list of values
    """
    before = builder.block
    start, after = builder.append_basic_block("loop"), builder.append_basic_block("after")
    builder.branch(start)
    builder.position_at_end(start)
    index = builder.phi(I64)
    index.add_incoming(const(0), before)
    phis = [builder.phi(value.type) for value in carried]
    for phi, value in zip(phis, carried, strict=True):
        phi.add_incoming(value, before)
    results = body(index, phis)
    last = builder.block
    for phi, value in zip(phis, results, strict=True):
        phi.add_incoming(value, last)
    following = builder.add(index, const(1))
    index.add_incoming(following, last)
    builder.cbranch(builder.icmp_signed("<", following, count), start, after)
    builder.position_at_end(after)
    return results


def walk(builder, steps, carried, body):
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
            further = {n: builder.add(offsets[n], builder.mul(index, step[n])) for n in names}
            return nest(depth + 1, further, carried)

        return loop(builder, count, carried, inner)

    return nest(0, {name: const(0) for name in names}, carried)


def if_set(builder, condition, emit, otherwise):
    """The list of LLVM values emit() where a boolean is set, else the list `otherwise`."""
    start = builder.block
    with builder.if_then(builder.icmp_signed("!=", condition, ir.Constant(condition.type, 0))):
        values = emit()
        block = builder.block
    phis = [builder.phi(value.type) for value in values]
    for phi, value, other in zip(phis, values, otherwise, strict=True):
        phi.add_incoming(other, start)
        phi.add_incoming(value, block)
    return phis


def literals(*kinds):
    """The ints of Numba's literal types; None if one of the types is no literal."""
    return [k.literal_value for k in kinds] if all(isinstance(k, types.IntegerLiteral) for k in kinds) else None
