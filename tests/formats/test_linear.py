"""The linear formats (Q4_0 to Q8_0, Q2_K to Q6_K) against slow twins and gguf-py, and where blocks are exact."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quanttool.formats import block_format, dequantize_rows, quantize_rows
from quanttool.kernels.lanes import LANES
from tests import naive

LEGACY = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
K_QUANTS = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]

# Values of very different size, many equal; below 1e-30 squares vanish and inverse scales overflow, see the
# tests of robustness.
values = st.floats(-4, 4, width=32).map(lambda x: x if abs(x) > 1e-30 else 0.0) | st.sampled_from([-1.0, 0.5, 1e-12])
importances = st.floats(0, 8, width=32)


def twin_bytes(*arguments):
    with np.errstate(all="ignore"):
        return naive.quantize(*arguments)


@pytest.mark.parametrize("name", LEGACY + K_QUANTS)
def test_twin(name):
    """More blocks than lanes, in rows whose width is no power of two."""
    rng = np.random.default_rng(5)
    rows = rng.standard_t(3, (7, 768)).astype(np.float32)
    rows[1, 40:370] = 0
    rows[2] = np.round(4 * rows[2]) / 8
    rows[3] = np.abs(rows[3])
    importance = rng.gamma(0.5, 1, 768).astype(np.float32)
    importance[::9] = 0
    for weights in (None, importance):
        np.testing.assert_array_equal(quantize_rows(rows, name, weights), twin_bytes(name, rows, weights))


@pytest.mark.parametrize("name", ["Q2_K", "Q4_K", "Q5_K"])
def test_twin_where_scales_wrap(name):
    """Weights of very different size give a few sub-blocks negative scales, whose integers wrap."""
    rng = np.random.default_rng(14)
    rows = (-1 - 10 ** rng.uniform(-6, 1, (16, 512))).astype(np.float32)
    importance = (10 ** rng.uniform(-12, 6, 512)).astype(np.float32)
    np.testing.assert_array_equal(quantize_rows(rows, name, importance), twin_bytes(name, rows, importance))


@pytest.mark.parametrize("name", LEGACY + K_QUANTS)
@given(
    row=arrays(np.float32, 256, elements=values), weights=arrays(np.float32, 256, elements=st.floats(0, 8, width=32))
)
@settings(max_examples=25, deadline=None)
def test_twin_of_any_block(name, row, weights):
    rows = row[None]
    np.testing.assert_array_equal(quantize_rows(rows, name, threads=1), twin_bytes(name, rows))
    np.testing.assert_array_equal(quantize_rows(rows, name, weights, threads=1), twin_bytes(name, rows, weights))


@pytest.mark.parametrize("name", LEGACY + K_QUANTS)
def test_values_of_any_bytes_are_those_of_gguf_py(name):
    data = np.random.default_rng(8).integers(0, 256, (40, 3 * block_format(name).type.block_bytes), dtype=np.uint8)
    with np.errstate(all="ignore"):
        expected = quants.dequantize(data, GGMLQuantizationType[name])
    np.testing.assert_array_equal(dequantize_rows(data, name, expected.shape[1]), expected)


halves = st.floats(2**-10, 2**10, width=16)


@given(d=halves, codes=arrays(np.int32, 32, elements=st.integers(-127, 127)), at=st.integers(0, 31))
def test_every_q8_0_block_with_a_full_code_survives(d, codes, at):
    codes[at] = 127
    rows = (np.float32(d) * codes.astype(np.float32))[None]
    np.testing.assert_array_equal(dequantize_rows(quantize_rows(rows, "Q8_0", threads=1), "Q8_0", 32), rows)


@pytest.mark.parametrize(("name", "n"), [("Q4_0", 8), ("Q5_0", 16)])
@given(data=st.data(), d=halves, sign=st.sampled_from([-1, 1]))
def test_every_symmetric_block_with_its_lowest_code_survives(name, n, data, d, sign):
    codes = data.draw(arrays(np.int32, 32, elements=st.integers(-n, n - 1)))
    codes[data.draw(st.integers(0, 31))] = -n
    rows = (np.float32(sign * d) * codes.astype(np.float32))[None]
    np.testing.assert_array_equal(dequantize_rows(quantize_rows(rows, name, threads=1), name, 32), rows)


@pytest.mark.parametrize(("name", "top"), [("Q4_1", 15), ("Q5_1", 31)])
@given(data=st.data(), d=st.sampled_from([0.25, 1.0, 4.0]), m=st.integers(-256, 256))
def test_every_affine_block_with_both_ends_survives(name, top, data, d, m):
    codes = data.draw(arrays(np.int32, 32, elements=st.integers(0, top)))
    low, high = data.draw(st.lists(st.integers(0, 31), min_size=2, max_size=2, unique=True))
    codes[low], codes[high] = 0, top
    rows = (np.float32(d) * codes.astype(np.float32) + np.float32(m))[None]
    np.testing.assert_array_equal(dequantize_rows(quantize_rows(rows, name, threads=1), name, 32), rows)


@pytest.mark.parametrize(
    ("name", "n_codes", "n_sub", "lowest_scale", "n_scales"),
    [("Q2_K", 4, 16, 0, 16), ("Q4_K", 16, 8, 0, 64), ("Q5_K", 32, 8, 0, 64), ("Q3_K", 8, 16, -32, 64)]
    + [("Q6_K", 64, 16, -128, 256)],
)
def test_packing_loses_nothing(name, n_codes, n_sub, lowest_scale, n_scales):
    """Any codes, any scales: packed and expanded they give what the format's formula says."""
    rng = np.random.default_rng(4)
    affine = name in ("Q2_K", "Q4_K", "Q5_K")
    codes = rng.integers(0, n_codes, (256, LANES))
    scales, mins = rng.integers(lowest_scale, lowest_scale + n_scales, (2, n_sub, LANES))
    d, dmin = rng.standard_normal((2, 1, LANES)).astype(np.float16)
    size = 256 // n_sub
    scale = np.repeat(d.astype(np.float32) * scales.astype(np.float32), size, 0)
    minimum = np.repeat(dmin.astype(np.float32) * mins.astype(np.float32), size, 0)
    expected = scale * codes.astype(np.float32) - minimum
    if not affine:
        expected = scale * (codes - n_codes // 2).astype(np.float32)

    bits = [half.view(np.uint16).astype(np.int32) for half in (d, dmin)]
    integers = [scales[None].astype(np.float32), mins[None].astype(np.float32)]
    arguments = [*integers, *bits] if affine else [integers[0], bits[0]]
    blocks = np.empty((LANES, block_format(name).type.block_bytes), np.uint8)
    type(block_format(name)).pack(codes[None].astype(np.uint8), *arguments, blocks)
    np.testing.assert_array_equal(dequantize_rows(blocks, name, 256), expected.T)
