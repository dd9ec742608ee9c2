"""Lanes: 16 numbers that go through the same scalar algorithm side by side.

A search over one block adds up in a fixed order, so its bytes leave a compiler nothing to vectorize. Sixteen blocks do:
a kernel holds value i of all of them in one `Lanes` value and reads like the scalar algorithm, with `select` where that
has an `if`. Every lane sees the very operations of the scalar code in their order, so the result is the same to the
bit. LLVM keeps a Lanes value in one AVX-512 register, or in two or four registers of other machines.

Lanes hold float32 or int32; comparisons give masks. A plain number beside a Lanes value stands in all lanes, converted
to its type: no float64 can creep in. Tiles are arrays [n, LANES]; `load` and `store` move one row of them.
"""

import operator

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from .jit import helper

LANES = 16

F32, I32, I8, BIT = ir.FloatType(), ir.IntType(32), ir.IntType(8), ir.IntType(1)
LLVM_TYPE = {types.float32: F32, types.int32: I32, types.boolean: BIT}


class Lanes(types.Type):
    """LANES numbers of one type."""

    def __init__(self, dtype):
        self.dtype = dtype
        super().__init__(name=f"Lanes({dtype})")


FLOATS = Lanes(types.float32)
INTS = Lanes(types.int32)
MASK = Lanes(types.boolean)


PLACE = types.UniTuple(types.intp, 2)


def vector(element):
    return ir.VectorType(element, LANES)


@register_model(Lanes)
class LanesModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, vector(LLVM_TYPE[fe_type.dtype]))


def in_all_lanes(context, builder, value, from_type, lanes):
    """The LLVM vector of `value`; a plain number is converted and repeated."""
    if isinstance(from_type, Lanes):
        return value
    number = context.cast(builder, value, types.unliteral(from_type), lanes.dtype)
    nothing = ir.Constant(vector(number.type), ir.Undefined)
    single = builder.insert_element(nothing, number, I32(0))
    return builder.shuffle_vector(single, nothing, ir.Constant(vector(I32), None))


def define_operator(function, instructions, result=None):
    """Teach numba an operator on Lanes: `instructions[type](builder, *vectors)`, giving `result` or the same type."""

    @infer_global(function)
    class Operator(AbstractTemplate):
        def generic(self, args, kws):
            lanes = next((arg for arg in args if isinstance(arg, Lanes)), None)
            if lanes in instructions and all(arg == lanes or isinstance(arg, types.Number) for arg in args):
                return signature(result or lanes, *args)

    def lower(context, builder, sig, args):
        lanes = next(arg for arg in sig.args if isinstance(arg, Lanes))
        vectors = [in_all_lanes(context, builder, *pair, lanes) for pair in zip(args, sig.args, strict=True)]
        return instructions[lanes](builder, *vectors)

    lower_builtin(function, Lanes)(lower)
    for pair in [(Lanes, Lanes), (Lanes, types.Number), (types.Number, Lanes)]:
        lower_builtin(function, *pair)(lower)


Builder = ir.IRBuilder
for names, instructions in [
    (("add", "iadd"), {FLOATS: Builder.fadd, INTS: Builder.add}),
    (("sub", "isub"), {FLOATS: Builder.fsub, INTS: Builder.sub}),
    (("mul", "imul"), {FLOATS: Builder.fmul, INTS: Builder.mul}),
    (("truediv", "itruediv"), {FLOATS: Builder.fdiv}),
    (("and_", "iand"), {INTS: Builder.and_, MASK: Builder.and_}),
    (("or_", "ior"), {INTS: Builder.or_, MASK: Builder.or_}),
    (("lshift",), {INTS: Builder.shl}),
    (("rshift",), {INTS: Builder.ashr}),
    (("neg",), {FLOATS: Builder.fneg, INTS: Builder.neg}),
    (("invert",), {MASK: Builder.not_}),
]:
    for name in names:
        define_operator(getattr(operator, name), instructions)


def define_comparison(function, symbol):
    """Comparisons are false for NaN, except `!=`."""

    def floats(builder, a, b):
        return (builder.fcmp_unordered if symbol == "!=" else builder.fcmp_ordered)(symbol, a, b)

    def ints(builder, a, b):
        return builder.icmp_signed(symbol, a, b)

    define_operator(function, {FLOATS: floats, INTS: ints}, MASK)


for function, symbol in [
    (operator.lt, "<"),
    (operator.gt, ">"),
    (operator.le, "<="),
    (operator.ge, ">="),
    (operator.eq, "=="),
    (operator.ne, "!="),
]:
    define_comparison(function, symbol)


def row_pointer(context, builder, array_type, array, index_type, index, element):
    """Pointer to row `index` of a tile [n, LANES], or to place (row, column) of another array, as vector pointer."""
    struct = context.make_array(array_type)(context, builder, array)
    data = struct.data
    if isinstance(index_type, types.BaseTuple):
        row, column = cgutils.unpack_tuple(builder, context.cast(builder, index, index_type, PLACE))
        offset = builder.add(builder.mul(row, cgutils.unpack_tuple(builder, struct.shape)[1]), column)
    else:
        offset = context.cast(builder, index, types.unliteral(index_type), types.intp)
        offset = builder.mul(offset, offset.type(LANES))
    return builder.bitcast(builder.gep(data, [offset]), ir.PointerType(vector(element)))


@intrinsic
def load(typingctx, array, index):
    """Row `index` of a tile f32, i32 or u8 [n, LANES]; bytes become ints. Unchecked.

    With index (row, column): LANES consecutive elements of any other C-contiguous array.
    """
    lanes = INTS if array.dtype == types.uint8 else Lanes(array.dtype)

    def codegen(context, builder, sig, args):
        element = I8 if array.dtype == types.uint8 else LLVM_TYPE[array.dtype]
        pointer = row_pointer(context, builder, sig.args[0], args[0], sig.args[1], args[1], element)
        values = builder.load(pointer, align=1)
        return builder.zext(values, vector(I32)) if element == I8 else values

    return signature(lanes, array, index), codegen


@intrinsic
def store(typingctx, array, index, values):
    """Write Lanes where `load` would read them; ints lose their upper bits in an array u8. Unchecked."""

    def codegen(context, builder, sig, args):
        value = args[2]
        if array.dtype == types.uint8:
            value = builder.trunc(value, vector(I8))
        pointer = row_pointer(context, builder, sig.args[0], args[0], sig.args[1], args[1], value.type.element)
        builder.store(value, pointer, align=1)
        return context.get_dummy_value()

    return signature(types.void, array, index, values), codegen


@intrinsic
def broadcast(typingctx, number):
    """A number in all lanes as float32, or a truth value as a mask."""
    lanes = MASK if isinstance(number, types.Boolean) else FLOATS

    def codegen(context, builder, sig, args):
        return in_all_lanes(context, builder, args[0], sig.args[0], lanes)

    return signature(lanes, number), codegen


@intrinsic
def select(typingctx, mask, then, otherwise):
    """`then` in the lanes where `mask` is set, else `otherwise`; floats, unless one of the two is Lanes of ints."""
    lanes = INTS if INTS in (then, otherwise) else FLOATS

    def codegen(context, builder, sig, args):
        values = [in_all_lanes(context, builder, args[k], sig.args[k], lanes) for k in (1, 2)]
        return builder.select(args[0], *values)

    return signature(lanes, mask, then, otherwise), codegen


def unary(codegen_one, result=None):
    """An intrinsic of one Lanes argument."""

    def typed(typingctx, values):
        def codegen(context, builder, sig, args):
            return codegen_one(builder, args[0])

        return signature(result or values, values), codegen

    return typed


def llvm_function(name, result, flags=()):
    """Call of an LLVM intrinsic that takes one vector, by its full name."""

    def call(builder, values):
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, [values.type]), name)
        return builder.call(function, [values], fastmath=flags)

    return call


square_root = intrinsic(unary(llvm_function(f"llvm.sqrt.v{LANES}f32", vector(F32))))
magnitude = intrinsic(unary(llvm_function(f"llvm.fabs.v{LANES}f32", vector(F32))))
largest_lane = intrinsic(unary(llvm_function(f"llvm.vector.reduce.fmax.v{LANES}f32", F32, ("nnan",)), types.float32))
smallest_lane = intrinsic(unary(llvm_function(f"llvm.vector.reduce.fmin.v{LANES}f32", F32, ("nnan",)), types.float32))
mask_bits = intrinsic(
    unary(lambda builder, mask: builder.zext(builder.bitcast(mask, ir.IntType(LANES)), I32), types.int32)
)
any_lane = intrinsic(unary(llvm_function(f"llvm.vector.reduce.or.v{LANES}i1", BIT), types.boolean))
float_lanes = intrinsic(unary(lambda builder, values: builder.sitofp(values, vector(F32)), FLOATS))
int_lanes = intrinsic(unary(lambda builder, values: builder.fptosi(values, vector(I32)), INTS))


@helper
def larger(a, b):
    """`a` where it is larger, else `b`: also where either is NaN."""
    return select(a > b, a, b)


@helper
def smaller(a, b):
    """`a` where it is smaller, else `b`: also where either is NaN."""
    return select(a < b, a, b)
