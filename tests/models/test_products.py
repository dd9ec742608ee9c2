"""Products with weights of any type, in both precisions and by every way of computing them."""

import numpy as np
import pytest

from quanttool.formats import dequantize_rows, quantize_rows
from quanttool.kernels.jit import processor_has
from quanttool.models import products
from quanttool.models.products import BlasWeight, TiledWeight
from tests import naive_products as naive

WAYS = [(BlasWeight, "f32"), (BlasWeight, "bf16 in f32")]
if processor_has("avx512f"):
    WAYS += [(TiledWeight, "f32"), (TiledWeight, "bf16 in f32")]
if processor_has("avx512bf16"):
    WAYS += [(TiledWeight, "bf16 pairs")]


def normal(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def within_bound(found, a, b, packing):
    """Whether a product is as near to the exact one as float32 sums of (rounded) operands must be."""
    if packing != "f32":
        a, b = naive.bf16(a), naive.bf16(b)
    a, b = a.astype(np.float64), b.astype(np.float64)
    return found.shape == (len(a), len(b)) and (np.abs(found - a @ b.T) <= naive.error_bound(a, b)).all()


@pytest.mark.parametrize("kind, packing", WAYS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (13, 33, 31), (5, 200, 64), (500, 40, 300)])
def test_every_way_is_within_its_bound(kind, packing, shape):
    n, n_out, n_in = shape
    x, weight = normal(n, n_in), normal(n_out, n_in, seed=2)
    found = kind(weight.view(np.uint8), "F32", n_in, packing)(x)
    assert within_bound(found, x, weight, packing) and found.flags.c_contiguous


@pytest.mark.parametrize("kind, packing", WAYS)
@pytest.mark.parametrize("type_name", ["BF16", "F16", "IQ4_NL"])
def test_weights_of_other_types(kind, packing, type_name):
    data = quantize_rows(normal(70, 64), type_name)
    x = normal(9, 64, seed=2)
    assert within_bound(kind(data, type_name, 64, packing)(x), x, dequantize_rows(data, type_name, 64), packing)


@pytest.mark.parametrize("kind, packing", [way for way in WAYS if way[0] is TiledWeight])
def test_threads_and_rows_do_not_change_results(kind, packing):
    x, weight = normal(1000, 900), normal(100, 900, seed=2)
    product = kind(weight.view(np.uint8), "F32", 900, packing)
    expected = product(x)
    for threads in (2, 3, 7):
        np.testing.assert_array_equal(product(x, threads), expected)
        np.testing.assert_array_equal(product(x[:20], threads), expected[:20])  # split by columns
    np.testing.assert_array_equal(product(x[5:30]), expected[5:30])


@pytest.mark.parametrize("kind, packing", WAYS)
def test_no_rows(kind, packing):
    assert kind(normal(40, 8).view(np.uint8), "F32", 8, packing)(normal(0, 8)).shape == (0, 40)


@pytest.mark.parametrize("features, expected", [
    ({"avx512f", "avx512bf16"}, (TiledWeight, "bf16 pairs")),
    ({"avx512f"}, (TiledWeight, "bf16 in f32")),
    (set(), (BlasWeight, "bf16 in f32")),
])  # fmt: skip
def test_the_processor_decides(monkeypatch, features, expected):
    if expected not in WAYS:
        pytest.skip("this processor cannot run it")
    monkeypatch.setattr(products, "processor_has", lambda feature: feature in features)
    product = products.weight_for_products(normal(3, 4).view(np.uint8), "F32", 4, "bf16")
    assert (type(product), product.packing) == expected
