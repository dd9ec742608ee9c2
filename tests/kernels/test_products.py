"""Products out of register tiles, against float64."""

import numpy as np
import pytest

from quanttool.kernels import products
from quanttool.kernels.jit import processor_has
from tests import naive_products as naive

needs_avx512 = pytest.mark.skipif(not processor_has("avx512f"), reason="register tiles are made for AVX-512")
needs_bf16 = pytest.mark.skipif(not processor_has("avx512bf16"), reason="this processor has no bfloat16 products")


def normal(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def as_pairs(x):
    """f32 [n, k] -> u32 [n, k / 2]"""
    out = np.empty(x.shape, np.uint16)
    products.round_to_bf16(x, out)
    return out.view(np.uint32)


def multiply(left, weight, panels=None):
    n_panels = -(-len(weight) // 32)
    right = np.empty((n_panels, weight.shape[1], 32), weight.dtype)
    products.pack(weight, right)
    out = np.full((len(left), 32 * n_panels), np.nan, np.float32)
    products.multiply(left, right, *(panels or (0, n_panels)), out)
    return out


@needs_avx512
@pytest.mark.parametrize("shape", [(12, 32, 1), (24, 64, 7), (12, 70, 768), (36, 32, 2000)])
def test_f32(shape):
    n_rows, n_out, k = shape
    a, b = normal(n_rows, k), normal(n_out, k, seed=2)
    exact = a.astype(np.float64) @ b.astype(np.float64).T
    found = multiply(a, b)
    assert (np.abs(found[:, :n_out] - exact) <= naive.error_bound(a, b)).all()
    assert (found[:, n_out:] == 0).all()


@needs_bf16
@pytest.mark.parametrize("shape", [(12, 32, 2), (24, 64, 14), (12, 70, 768), (36, 32, 4000)])
def test_bf16(shape):
    n_rows, n_out, k = shape
    a, b = normal(n_rows, k), normal(n_out, k, seed=2)
    rounded_a, rounded_b = naive.bf16(a), naive.bf16(b)
    found = multiply(as_pairs(a), as_pairs(b))
    assert (np.abs(found[:, :n_out] - rounded_a @ rounded_b.T) <= naive.error_bound(rounded_a, rounded_b)).all()
    assert (found[:, n_out:] == 0).all()


@needs_avx512
def test_only_the_panels_that_are_asked_for_are_written():
    a, b = normal(12, 40), normal(96, 40, seed=2)
    some = multiply(a, b, panels=(1, 2))
    np.testing.assert_array_equal(some[:, 32:64], multiply(a, b)[:, 32:64])
    assert np.isnan(some[:, :32]).all() and np.isnan(some[:, 64:]).all()


@needs_bf16
def test_not_a_number_and_infinity_pass():
    a = np.ones((12, 2), np.float32)
    a[0, 0], a[1, 1], a[2, 0] = np.nan, np.inf, -np.inf
    found = multiply(as_pairs(a), as_pairs(np.ones((32, 2), np.float32)))[:4, 0]
    np.testing.assert_array_equal(found, [np.nan, np.inf, -np.inf, 2])


def test_rounding_to_bf16():
    rng = np.random.default_rng(3)
    numbers = rng.integers(0, 1 << 32, 100_000, dtype=np.uint32).view(np.float32)
    ties = (rng.integers(0, 1 << 16, 1000, dtype=np.uint32) << 16 | 0x8000).view(np.float32)
    x = np.concatenate([numbers, ties, np.array([0.0, -0.0, 1e-45, -1e-40, 1.0, 3.3e38], np.float32)])
    x = x[np.isfinite(x) & (np.abs(x) < 3.38e38)][None]
    out = np.empty(x.shape, np.uint16)
    products.round_to_bf16(x, out)
    values = (out.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(values, naive.bf16(x).astype(np.float32))
    np.testing.assert_array_equal(np.signbit(values), np.signbit(x))


def test_rounding_to_bf16_keeps_what_is_not_finite_and_fills_up_with_zeros():
    bits = np.array([[0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7F800000, 0xFF800000]], np.uint32)
    out = np.full((2, 6), 9, np.uint16)
    products.round_to_bf16(bits.view(np.float32), out)
    values = (out.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(values[0], [np.nan, np.nan, np.nan, np.inf, -np.inf, 0])
    np.testing.assert_array_equal(values[1], np.zeros(6))
