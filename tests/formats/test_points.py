"""Points and signs of codebook types: what they say is what `dequantize` reads from the bytes."""

import numpy as np
import pytest

from quanttool.formats import block_format, dequantize_rows, quantize_rows
from quanttool.formats.grid import has_grid
from quanttool.formats.points import n_sign_bits, scales_and_shifts, write_points

# Points, values of a point, bits for the signs of 8 values.
TYPES = {
    **{"IQ1_S": (2048, 8, 0), "IQ1_M": (4096, 8, 0), "IQ2_XXS": (256, 8, 7), "IQ2_XS": (512, 8, 7)},
    **{"IQ2_S": (1024, 8, 8), "IQ3_XXS": (256, 4, 7), "IQ3_S": (512, 4, 8), "IQ2_KL": (32, 2, 0)},
}


@pytest.mark.parametrize("name", TYPES)
def test_any_points_and_signs_are_read_back(name):
    rng, fmt = np.random.default_rng(5), block_format(name)
    n_points, dim, n_bits = TYPES[name]
    assert has_grid(fmt) and fmt.point_values.shape == (n_points, dim) and n_sign_bits(fmt) == n_bits
    weights, importance = rng.standard_normal((3, 512)).astype(np.float32), np.ones(512, np.float32)
    data = quantize_rows(weights, name, importance)
    scales, shifts = scales_and_shifts(fmt, data, 512)
    points = rng.integers(0, n_points, (3, 512 // dim))
    negative = rng.random((3, 512)) < (0.5 if n_bits else 0)
    if n_bits == 7:
        words = negative.reshape(-1, 8)
        words[:, 7] = words[:, :7].sum(axis=1) % 2
    write_points(fmt, points, negative, data)
    expected = fmt.point_values[points] * scales[:, :, None] + shifts[:, :, None]
    expected = expected.reshape(3, 512) * np.where(negative, -1, 1)
    assert np.allclose(dequantize_rows(data, name, 512), expected, rtol=1e-5, atol=1e-6)
    assert np.ptp(scales) > 0 and np.array_equal(np.any(shifts > 1e-3), name == "IQ1_S")


@pytest.mark.parametrize("name", ["IQ1_KT", "IQ2_KT", "IQ3_KT", "IQ4_KT"])
def test_any_sequences_are_read_back(name):
    rng, fmt = np.random.default_rng(5), block_format(name)
    n_points, dim = fmt.tables.shape[1:]
    data = quantize_rows(rng.standard_normal((2, 512)).astype(np.float32), name)
    scales, tables = fmt.scales_and_tables(data)
    points = rng.integers(0, n_points, (2, 512 // dim))
    negative = rng.random((2, 512)) < (0.5 if n_sign_bits(fmt) else 0)
    write_points(fmt, points, negative, data)
    expected = (fmt.tables[tables, points] * scales[:, :, None]).reshape(2, 512) * np.where(negative, -1, 1)
    assert np.allclose(dequantize_rows(data, name, 512), expected, rtol=1e-5, atol=1e-6)
