"""Rounding helpers against numpy's own conversions, over floats of every exponent."""

import numpy as np
import pytest

from quanttool.kernels import rounding
from quanttool.kernels.jit import helper


def over_array(function, out_dtype):
    """A scalar helper, applied to every value of an array, as kernels do."""

    @helper
    def loop(x, out):
        for i in range(x.size):
            out[i] = function(x[i])

    def apply(x):
        out = np.empty(x.size, out_dtype)
        loop(x, out)
        return out

    return apply


@pytest.fixture(scope="module")
def floats():
    """Random bit patterns (every exponent, NaN and infinity too), all ties of float16, and neighbours of them."""
    rng = np.random.default_rng(1)
    random = rng.integers(0, 1 << 32, 1 << 18, dtype=np.uint32)
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        ties = ((halves[:-1] + halves[1:]) / 2).view(np.uint32)
    bits = np.concatenate([random, halves.view(np.uint32), ties, ties + 1, ties - 1])
    return bits.view(np.float32)


def test_f16_bits(floats):
    got = over_array(rounding.f16_bits, np.int32)(floats).astype(np.uint16)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = floats.astype(np.float16).view(np.uint16)
    nan = np.isnan(floats)
    assert np.array_equal(got[~nan], expected[~nan])
    assert np.isnan(got[nan].view(np.float16)).all()


def test_f16_value_of_every_float16():
    halves = np.arange(1 << 16, dtype=np.uint16)
    got = over_array(rounding.f16_value, np.float32)(halves.astype(np.int32))
    assert np.array_equal(got.view(np.uint32), halves.view(np.float16).astype(np.float32).view(np.uint32))


def test_store_and_load_f16():
    @helper
    def store_and_load(x, data):
        rounding.store_f16(x, data, 1)
        return rounding.load_f16(data, 1)

    data = np.zeros(4, np.uint8)
    assert store_and_load(np.float32(0.1), data) == np.float16(0.1)
    assert data.tobytes() == b"\0" + np.float16(0.1).tobytes() + b"\0"


def test_nearest_int_ties_to_even():
    x = np.concatenate([np.arange(-1000, 1000) / 8, [4194303.0, -4194303.0, 0.49999997, 0.50000006]])
    x = x.astype(np.float32)
    expected = np.rint(x.astype(np.float64))
    assert np.array_equal(over_array(rounding.nearest_int, np.int32)(x), expected)
    assert np.array_equal(over_array(rounding.nearest, np.float32)(x), expected)


def test_within_f16(floats):
    held = over_array(rounding.within_f16, np.float32)(floats)
    with np.errstate(over="ignore", invalid="ignore"):
        halves = floats.astype(np.float16)
        expected = np.where(np.isinf(halves), np.copysign(np.float16(65504), halves), halves)
        np.testing.assert_array_equal(held.astype(np.float16), expected)
        finite = np.isfinite(halves)
    np.testing.assert_array_equal(held[finite], floats[finite])
