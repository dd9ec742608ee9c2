"""Lanes: numbers that go through the same scalar algorithm side by side.

A search over one block adds up in a fixed order, so its bytes leave a compiler nothing to vectorize. Many blocks do: a
kernel holds value i of all of them in one `Lanes` value and reads like the scalar algorithm, with `select` where that
has an `if`. Every lane sees the very operations of the scalar code in their order, so the result is the same to the
bit. LLVM keeps a Lanes value in as many vector registers as the machine needs for it.

Lanes hold float32 or int32; comparisons give masks. A plain number beside a Lanes value stands in all lanes, converted
to its type: no float64 can creep in. Tiles are arrays [n, LANES]; `load` and `store` move one row of them.
"""

import operator

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from .jit import helper

# Twice the widest register: the additions of one half hide behind those of the other. Q4_K ran at 288 million weights/s
# with 32 lanes and 236 with 16 (AVX-512), 173 and 155 (AVX2).
LANES = 32

LLVM_TYPES = {types.float32: ir.FloatType(), types.int32: ir.IntType(32), types.boolean: ir.IntType(1)}
FLOAT, INT, TRUTH = LLVM_TYPES


class Lanes(types.Type):
    """`count` numbers of one type: float32, int32 or truth values."""

    def __init__(self, dtype, count=LANES):
        self.dtype = dtype
        self.count = count
        super().__init__(name=f"Lanes({dtype} x {count})")

    def of(self, dtype):
        return Lanes(dtype, self.count)

    @property
    def llvm(self):
        return ir.VectorType(LLVM_TYPES[self.dtype], self.count)


@register_model(Lanes)
class LanesModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, fe_type.llvm)


def in_all_lanes(context, builder, value, from_type, lanes):
    """The LLVM vector of `value`; a plain number is converted and repeated."""
    if isinstance(from_type, Lanes):
        return value
    number = context.cast(builder, value, types.unliteral(from_type), lanes.dtype)
    nothing = ir.Constant(lanes.llvm, ir.Undefined)
    single = builder.insert_element(nothing, number, ir.IntType(32)(0))
    return builder.shuffle_vector(single, nothing, ir.Constant(ir.VectorType(ir.IntType(32), lanes.count), None))


# --- operators -------------------------------------------------------------------------------------------------------


def define_operator(function, instructions, result=None):
    """Teach numba an operator on Lanes: `instructions[dtype](builder, *vectors)`, Lanes of `result` or the same."""

    @infer_global(function)
    class Operator(AbstractTemplate):
        def generic(self, args, kws):
            lanes = next((arg for arg in args if isinstance(arg, Lanes)), None)
            fitting = all(arg == lanes or isinstance(arg, types.Number) for arg in args)
            if lanes and fitting and lanes.dtype in instructions:
                return signature(lanes.of(result) if result else lanes, *args)

    def lower(context, builder, sig, args):
        lanes = next(arg for arg in sig.args if isinstance(arg, Lanes))
        vectors = [in_all_lanes(context, builder, *pair, lanes) for pair in zip(args, sig.args, strict=True)]
        return instructions[lanes.dtype](builder, *vectors)

    for pattern in [(Lanes,), (Lanes, Lanes), (Lanes, types.Number), (types.Number, Lanes)]:
        lower_builtin(function, *pattern)(lower)


Builder = ir.IRBuilder
for names, instructions in [
    (("add", "iadd"), {FLOAT: Builder.fadd, INT: Builder.add}),
    (("sub", "isub"), {FLOAT: Builder.fsub, INT: Builder.sub}),
    (("mul", "imul"), {FLOAT: Builder.fmul, INT: Builder.mul}),
    (("truediv", "itruediv"), {FLOAT: Builder.fdiv}),
    (("and_", "iand"), {INT: Builder.and_, TRUTH: Builder.and_}),
    (("or_", "ior"), {INT: Builder.or_, TRUTH: Builder.or_}),
    (("lshift",), {INT: Builder.shl}),
    (("rshift",), {INT: Builder.ashr}),
    (("neg",), {FLOAT: Builder.fneg, INT: Builder.neg}),
    (("invert",), {TRUTH: Builder.not_}),
]:
    for name in names:
        define_operator(getattr(operator, name), instructions)


def define_comparison(name, symbol):
    """Comparisons are false for NaN, except `!=`."""

    def floats(builder, a, b):
        return (builder.fcmp_unordered if symbol == "!=" else builder.fcmp_ordered)(symbol, a, b)

    def ints(builder, a, b):
        return builder.icmp_signed(symbol, a, b)

    define_operator(getattr(operator, name), {FLOAT: floats, INT: ints}, TRUTH)


for name, symbol in {"lt": "<", "gt": ">", "le": "<=", "ge": ">=", "eq": "==", "ne": "!="}.items():
    define_comparison(name, symbol)


# --- memory ----------------------------------------------------------------------------------------------------------


def row_pointer(context, builder, sig, args, vector):
    """Pointer to a row of a tile (or, in a flat array, to the vector from an element on); args are array, index..."""
    data = context.make_array(sig.args[0])(context, builder, args[0]).data
    offset = context.cast(builder, args[1], types.unliteral(sig.args[1]), types.intp)
    if sig.args[0].ndim == 2:
        offset = builder.mul(offset, offset.type(LANES))
    return builder.bitcast(builder.gep(data, [offset]), ir.PointerType(vector))


def load_of(count):
    @intrinsic
    def load(typingctx, array, index):
        """Row `index` of a tile f32, i32 or u8 [n, LANES], or the elements of a flat array from there on. Unchecked.

        Bytes become ints.
        """
        is_bytes = array.dtype == types.uint8
        lanes = Lanes(INT if is_bytes else array.dtype, count)

        def codegen(context, builder, sig, args):
            vector = ir.VectorType(ir.IntType(8), count) if is_bytes else lanes.llvm
            values = builder.load(row_pointer(context, builder, sig, args, vector), align=1)
            return builder.zext(values, lanes.llvm) if is_bytes else values

        return signature(lanes, array, index), codegen

    return load


load = load_of(LANES)
load_16 = load_of(16)  # of a flat array
load_8 = load_of(8)
load_4 = load_of(4)


@intrinsic
def number_at(typingctx, array, index):
    """The number at the flat `index` of an array. Unchecked: without numba's provision for negative indices."""

    def codegen(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        offset = context.cast(builder, args[1], types.unliteral(sig.args[1]), types.intp)
        return builder.load(builder.gep(data, [offset]))

    return signature(array.dtype, array, index), codegen


@intrinsic
def lowest_bit(typingctx, bits):
    """Number of the lowest bit that is set in an int64, not zero: the first lane of a `mask_bits`."""

    def codegen(context, builder, sig, args):
        return builder.cttz(args[0], ir.IntType(1)(1))

    return signature(types.int64, types.int64), codegen


@intrinsic
def store(typingctx, array, index, values):
    """Write Lanes where `load` would read them; ints lose their upper bits in an array u8. Unchecked."""

    def codegen(context, builder, sig, args):
        value = args[2]
        if array.dtype == types.uint8:
            value = builder.trunc(value, ir.VectorType(ir.IntType(8), values.count))
        builder.store(value, row_pointer(context, builder, sig, args, value.type), align=1)
        return context.get_dummy_value()

    return signature(types.void, array, index, values), codegen


# --- functions -------------------------------------------------------------------------------------------------------


@intrinsic
def broadcast(typingctx, number):
    """A number in all lanes as float32, or a truth value as a mask."""
    lanes = Lanes(TRUTH if isinstance(number, types.Boolean) else FLOAT)

    def codegen(context, builder, sig, args):
        return in_all_lanes(context, builder, args[0], sig.args[0], lanes)

    return signature(lanes, number), codegen


@intrinsic
def select(typingctx, mask, then, otherwise):
    """`then` in the lanes where `mask` is set, else `otherwise`; floats, unless one of the two is Lanes of ints."""
    lanes = mask.of(INT if mask.of(INT) in (then, otherwise) else FLOAT)

    def codegen(context, builder, sig, args):
        values = [in_all_lanes(context, builder, args[k], sig.args[k], lanes) for k in (1, 2)]
        return builder.select(args[0], *values)

    return signature(lanes, mask, then, otherwise), codegen


@intrinsic
def multiply_add(typingctx, a, b, c):
    """a * b + c with a single rounding; at least one of the three is Lanes of float32."""
    lanes = next(arg for arg in (a, b, c) if isinstance(arg, Lanes))

    def codegen(context, builder, sig, args):
        vectors = [in_all_lanes(context, builder, *pair, lanes) for pair in zip(args, sig.args, strict=True)]
        function_type = ir.FunctionType(lanes.llvm, [lanes.llvm] * 3)
        function = cgutils.get_or_insert_function(builder.module, function_type, f"llvm.fma.v{lanes.count}f32")
        return builder.call(function, vectors)

    return signature(lanes, a, b, c), codegen


def function_of_one(result, instruction):
    """An intrinsic of one Lanes argument: `instruction(builder, vector, LLVM type of the result)`.

    result: a type, or what makes one of the argument's.
    """

    @intrinsic
    def function(typingctx, values):
        result_type = result if isinstance(result, types.Type) else result(values)

        def codegen(context, builder, sig, args):
            return instruction(builder, args[0], context.get_value_type(result_type))

        return signature(result_type, values), codegen

    return function


def call_llvm(name, flags=()):
    """An LLVM intrinsic, by its name without the suffix for the type of vector."""

    def call(builder, values, result):
        element = values.type.element
        suffix = f".v{values.type.count}{'f32' if element == ir.FloatType() else element}"
        function_type = ir.FunctionType(result, [values.type])
        function = cgutils.get_or_insert_function(builder.module, function_type, name + suffix)
        return builder.call(function, [values], fastmath=flags)

    return call


def call_sum(builder, values, result):
    name = f"llvm.vector.reduce.fadd.v{values.type.count}f32"
    function_type = ir.FunctionType(result, [result, values.type])
    function = cgutils.get_or_insert_function(builder.module, function_type, name)
    return builder.call(function, [result(-0.0), values], fastmath=("reassoc",))  # in whatever order is quick


def bits_of_mask(builder, mask, result):
    return builder.zext(builder.bitcast(mask, ir.IntType(mask.type.count)), result)


square_root = function_of_one(lambda lanes: lanes, call_llvm("llvm.sqrt"))
magnitude = function_of_one(lambda lanes: lanes, call_llvm("llvm.fabs"))
float_lanes = function_of_one(lambda lanes: lanes.of(FLOAT), Builder.sitofp)
int_lanes = function_of_one(lambda lanes: lanes.of(INT), Builder.fptosi)
any_lane = function_of_one(types.boolean, call_llvm("llvm.vector.reduce.or"))
sum_lanes = function_of_one(types.float32, call_sum)
largest_lane = function_of_one(types.float32, call_llvm("llvm.vector.reduce.fmax", ("nnan",)))  # no NaN, please
smallest_lane = function_of_one(types.float32, call_llvm("llvm.vector.reduce.fmin", ("nnan",)))
smallest_int_lane = function_of_one(types.int32, call_llvm("llvm.vector.reduce.smin"))
bit_lanes = function_of_one(lambda lanes: lanes.of(INT), Builder.bitcast)  # the bits of floats
lanes_of_bits = function_of_one(lambda lanes: lanes.of(FLOAT), Builder.bitcast)
mask_bits = function_of_one(types.int64, bits_of_mask)  # bit k is lane k


@helper
def larger(a, b):
    """`a` where it is larger, else `b`: also where either is NaN."""
    return select(a > b, a, b)


@helper
def smaller(a, b):
    """`a` where it is smaller, else `b`: also where either is NaN."""
    return select(a < b, a, b)


@helper
def lookup(codes, table):
    """table[codes] for a table of 16 floats, by a tree of selections: several times as fast as reading one by one."""
    bit_0, bit_1 = (codes & 1) != 0, (codes & 2) != 0
    bit_2, bit_3 = (codes & 4) != 0, (codes & 8) != 0
    t0, t2 = select(bit_0, table[1], table[0]), select(bit_0, table[3], table[2])
    t4, t6 = select(bit_0, table[5], table[4]), select(bit_0, table[7], table[6])
    t8, t10 = select(bit_0, table[9], table[8]), select(bit_0, table[11], table[10])
    t12, t14 = select(bit_0, table[13], table[12]), select(bit_0, table[15], table[14])
    low = select(bit_2, select(bit_1, t6, t4), select(bit_1, t2, t0))
    high = select(bit_2, select(bit_1, t14, t12), select(bit_1, t10, t8))
    return select(bit_3, high, low)
