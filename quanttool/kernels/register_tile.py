"""The innermost loop of matrix products: a tile of 12 x 32 sums that stays in registers, for AVX-512.

numba cannot be told in Python to keep 24 vectors in registers through a loop, so this loop is built out of LLVM's
instructions. Each step loads two vectors of the right matrix and one value of each of 12 rows of the left one, and does
24 multiply-adds with them. What a value is, its type says:

    float32  one number; fused multiply-add
    uint32   two bfloat16 numbers, side by side in k: the sum of two products is added to a float32 sum (vdpbf16ps),
             for which subnormal numbers are zero; needs the processor's avx512_bf16

Sums are float32 and taken in the order of k, wherever in a tile an element is: results do not depend on how a product
is cut up. On one Zen 5 core it runs at 250 (float32) and 500 (bfloat16) GFLOP/s, near what the multipliers can do.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

TILE_ROWS = 12
TILE_COLS = 32  # two vectors
LANES = 16


class _BFloat(ir.Type):
    """LLVM's bfloat, for which llvmlite has no name."""

    def _to_string(self):
        return "bfloat"

    def __eq__(self, other):
        return isinstance(other, _BFloat)

    def __hash__(self):
        return hash(_BFloat)


FLOAT, INT, INDEX = ir.FloatType(), ir.IntType(32), ir.IntType(64)
FLOATS, INTS, BFLOATS = ir.VectorType(FLOAT, LANES), ir.VectorType(INT, LANES), ir.VectorType(_BFloat(), 2 * LANES)


@intrinsic
def add_product(typing_context, a, b, n_steps, c):
    """c += a @ b for one tile: a [12, n_steps], b [n_steps, 32], c f32 [12, 32], at the start of the given arrays.

    Rows of a and c lie as far apart as their arrays' strides say, those of b one behind the other. n_steps > 0. Nothing
    is checked: the arrays must reach that far.
    """
    multiply_add = {types.float32: _multiply_add_f32, types.uint32: _multiply_add_bf16}[a.dtype]
    operands = FLOATS if a.dtype == types.float32 else BFLOATS

    def build(context, builder, signature, arguments):
        def array(i, element):
            """Pointer to the first element, and how many elements lie between rows."""
            struct = context.make_array(signature.args[i])(context, builder, value=arguments[i])
            stride = builder.sdiv(cgutils.unpack_tuple(builder, struct.strides)[0], INDEX(4))
            return builder.bitcast(struct.data, element.as_pointer()), stride

        def at(pointer, row, stride, column, kind):
            place = builder.add(builder.mul(row, stride), column)
            return builder.bitcast(builder.gep(pointer, [place]), kind.as_pointer())

        (a_start, a_stride), (b_start, _), (c_start, c_stride) = array(0, INT), array(1, INT), array(3, FLOAT)
        places = [(row, half) for row in range(TILE_ROWS) for half in (0, 1)]
        out = {(row, half): at(c_start, INDEX(row), c_stride, INDEX(LANES * half), FLOATS) for row, half in places}
        before = {place: builder.load(out[place], align=4) for place in places}
        entry, loop, done = builder.block, builder.append_basic_block("step"), builder.append_basic_block("done")
        builder.branch(loop)

        builder.position_at_end(loop)
        step = builder.phi(INDEX)
        total = {place: builder.phi(FLOATS) for place in places}
        vectors = [at(b_start, step, INDEX(TILE_COLS), INDEX(LANES * half), operands) for half in (0, 1)]
        right = [builder.load(vector, align=4) for vector in vectors]
        after = {}
        for row in range(TILE_ROWS):
            value = builder.load(at(a_start, INDEX(row), a_stride, step, INT))
            left = builder.bitcast(_broadcast(builder, value), operands)
            for half in (0, 1):
                after[row, half] = multiply_add(builder, left, right[half], total[row, half])
        next_step = _opaque(builder, builder.add(step, INDEX(1)))
        builder.cbranch(builder.icmp_signed("<", next_step, arguments[2]), loop, done)
        step.add_incoming(INDEX(0), entry)
        step.add_incoming(next_step, loop)
        for place in places:
            total[place].add_incoming(before[place], entry)
            total[place].add_incoming(after[place], loop)

        builder.position_at_end(done)
        for place in places:
            builder.store(after[place], out[place], align=4)
        return context.get_dummy_value()

    return types.void(a, b, n_steps, c), build


def _multiply_add_f32(builder, a, b, total):
    signature = ir.FunctionType(FLOATS, [FLOATS, FLOATS, FLOATS])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, "llvm.fma.v16f32"), [a, b, total])


def _multiply_add_bf16(builder, a, b, total):
    signature = ir.FunctionType(FLOATS, [FLOATS, BFLOATS, BFLOATS])
    name = "llvm.x86.avx512bf16.dpbf16ps.512"
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), [total, a, b])


def _broadcast(builder, value):
    """A vector with i32 `value` in all lanes."""
    vector = builder.insert_element(ir.Constant(INTS, ir.Undefined), value, INT(0))
    return builder.shuffle_vector(vector, vector, ir.Constant(INTS, None))


def _opaque(builder, value):
    """The same number, but LLVM cannot tell: else it unrolls the loop, and then there are not enough registers."""
    return builder.asm(ir.FunctionType(INDEX, [INDEX]), "", "=r,0", [value], side_effect=False)
