"""Lanes against numpy: every operation, with zeros, infinities and NaN among the numbers."""

import operator

import numpy as np
import pytest

from quanttool.kernels import lanes
from quanttool.kernels.jit import helper
from quanttool.kernels.lanes import LANES

SPECIAL = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-45, 3e38, 2.5]
FLOATS = np.array([SPECIAL + [7.0, -3.0, 0.1, 1e-3, -2.5, 8.0], SPECIAL[::-1] + [7.0, 3.0, -0.1, 1e3, 0.5, -8.0]])
FLOATS = np.tile(FLOATS.astype(np.float32), LANES // 16)
INTS = np.random.default_rng(2).integers(-1000, 1000, (2, LANES)).astype(np.int32)


def bits(values):
    return values.view(np.uint32)


def check(function, values, expected):
    """`function(a, b)` of the two rows of `values` gives `expected`, to the bit (any NaN for NaN)."""

    @helper
    def run(values, out):
        lanes.store(out, 0, function(lanes.load(values, 0), lanes.load(values, 1)))

    out = np.empty((1, LANES), expected.dtype)
    run(values, out)
    nan = np.isnan(expected)
    assert np.array_equal(bits(out[0])[~nan], bits(expected)[~nan])
    assert np.isnan(out[0][nan]).all()


@pytest.mark.parametrize("name", ["add", "sub", "mul", "truediv"])
def test_float_arithmetic(name):
    function = getattr(operator, name)
    with np.errstate(all="ignore"):
        check(helper(lambda a, b: function(a, b)), FLOATS, function(*FLOATS))


@pytest.mark.parametrize("name", ["add", "sub", "mul", "and_", "or_"])
def test_int_arithmetic(name):
    function = getattr(operator, name)
    check(helper(lambda a, b: function(a, b)), INTS, function(*INTS))


def test_shifts_and_negation():
    check(helper(lambda a, b: (-a << 3) + (b >> 2)), INTS, (-INTS[0] << 3) + (INTS[1] >> 2))
    check(helper(lambda a, b: -a), FLOATS, -FLOATS[0])


@pytest.mark.parametrize("name", ["lt", "gt", "le", "ge", "eq", "ne"])
def test_comparisons(name):
    function = getattr(operator, name)
    for values in (FLOATS, INTS):
        chosen = helper(lambda a, b: lanes.select(function(a, b), a, b))
        check(chosen, values, np.where(function(*values), *values))


def test_masks():
    a, b = FLOATS
    expected = np.where(((a > b) | (a < -2)) & ~(b == 7), a, np.float32(5))
    check(helper(lambda a, b: lanes.select(((a > b) | (a < -2)) & ~(b == 7), a, 5)), FLOATS, expected)


def test_larger_and_smaller_give_the_second_for_nan():
    a, b = FLOATS
    check(lanes.larger, FLOATS, np.where(a > b, a, b))
    check(lanes.smaller, FLOATS, np.where(a < b, a, b))


def test_a_number_stands_in_all_lanes_as_float32():
    with np.errstate(all="ignore"):
        check(helper(lambda a, b: a * 0.1 + 3), FLOATS, FLOATS[0] * np.float32(0.1) + np.float32(3))
    check(helper(lambda a, b: lanes.broadcast(0.1) - 1), FLOATS, np.full(LANES, np.float32(0.1) - np.float32(1)))


def test_functions_of_one():
    with np.errstate(all="ignore"):
        check(helper(lambda a, b: lanes.square_root(a)), FLOATS, np.sqrt(FLOATS[0]))
    check(helper(lambda a, b: lanes.magnitude(a)), FLOATS, np.abs(FLOATS[0]))
    halves = (INTS / 2).astype(np.float32)
    check(helper(lambda a, b: lanes.int_lanes(a)), halves, np.trunc(halves[0]).astype(np.int32))
    check(helper(lambda a, b: lanes.float_lanes(a)), INTS, INTS[0].astype(np.float32))


def test_over_all_lanes():
    @helper
    def run(values):
        a = lanes.load(values, 0)
        return lanes.largest_lane(a), lanes.smallest_lane(a), lanes.any_lane(a > 7.5), lanes.any_lane(a > 8.5)

    values = np.arange(8, 8 - LANES, -1, dtype=np.float32)[None]
    assert run(values) == (8, 9 - LANES, True, False)


def test_mask_bits_begin_with_lane_0():
    @helper
    def run(values):
        return lanes.mask_bits(lanes.load(values, 0) > 0)

    assert run(np.eye(1, LANES, 5, dtype=np.float32)) == 1 << 5


def test_parts_of_flat_arrays_and_bytes():
    @helper
    def run(values, out):
        lanes.store(out, 3, lanes.int_lanes(lanes.load_16(values, 1)))
        return lanes.largest_lane(lanes.float_lanes(lanes.load_16(out, 3)))

    values = np.arange(20, dtype=np.float32) * 17
    out = np.zeros(20, np.uint8)
    assert run(values, out) == 255
    np.testing.assert_array_equal(out, [0, 0, 0, *(values[1:17].astype(np.int32) & 255), 0])


def test_bits_and_smallest_of_ints():
    check(helper(lambda a, b: lanes.bit_lanes(a)), FLOATS, FLOATS[0].view(np.int32))

    @helper
    def run(values):
        return lanes.smallest_int_lane(lanes.load(values, 1))

    assert run(INTS) == INTS[1].min()


@pytest.mark.parametrize(("load", "count"), [(lanes.load_4, 4), (lanes.load_8, 8), (lanes.load_16, 16)])
def test_lookup_and_numbers_of_flat_arrays(load, count):
    table = np.random.default_rng(3).standard_normal(16).astype(np.float32)
    codes = np.arange(20, dtype=np.int32)[::-1] % 16

    @helper
    def run(codes, table, out):
        lanes.store(out, 0, lanes.lookup(load(codes, 3), table) * lanes.number_at(table, 5))

    out = np.empty(count, np.float32)
    run(codes.copy(), table, out)
    np.testing.assert_array_equal(out, table[codes[3 : 3 + count]] * table[5])
