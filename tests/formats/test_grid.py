"""Levels and codes of types on a grid: what they say is what `dequantize` reads from the bytes."""

import numpy as np
import pytest

from quanttool.formats import block_format, dequantize_rows, quantize_rows
from quanttool.formats.grid import has_grid, levels, n_codes, write_codes

BITS = {
    **{"Q4_0": 4, "Q4_1": 4, "Q5_0": 5, "Q5_1": 5, "Q8_0": 8, "Q2_K": 2, "Q3_K": 3, "Q4_K": 4, "Q5_K": 5, "Q6_K": 6},
    **{"IQ4_NL": 4, "IQ4_XS": 4, "IQ2_K": 2, "IQ3_K": 3, "IQ4_K": 4, "IQ5_K": 5, "IQ6_K": 6},
    **{"IQ2_KS": 2, "IQ3_KS": 3, "IQ4_KS": 4, "IQ5_KS": 5, "MXFP4": 4, "NVFP4": 4, "Q1_0": 1},
}
N_CODES = {**{name: 1 << bits for name, bits in BITS.items()}, "Q2_0": 3, "TQ2_0": 3, "IQ2_BN": 3, "IQ4_KSS": 16}


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def settle(codes, words):
    """Give codes u8 [n_rows, n_cols] an even number of set bits in every word: the last code's lowest bit changes."""
    blocks = codes.reshape(-1, words.size)
    odd = np.bitwise_count(blocks[:, words]).sum(axis=2) % 2
    blocks[:, words[:, -1]] ^= odd.astype(np.uint8)


@pytest.mark.parametrize("name", N_CODES)
def test_any_codes_are_read_back_as_their_levels(name, rng):
    fmt = block_format(name)
    assert has_grid(fmt) and n_codes(fmt) == N_CODES[name]
    data = quantize_rows(rng.standard_normal((3, 512)).astype(np.float32), name)
    tables = levels(fmt, data, 512)
    codes = rng.integers(0, n_codes(fmt), (3, 512)).astype(np.uint8)
    if fmt.words is not None:
        settle(codes, fmt.words)
    write_codes(fmt, codes, data)
    expected = [[tables[row, column // 16, codes[row, column]] for column in range(512)] for row in range(3)]
    assert np.array_equal(dequantize_rows(data, name, 512), np.array(expected, np.float32))


@pytest.mark.parametrize("name", N_CODES)
def test_the_codes_that_reproduce_the_values_reproduce_the_bytes(name, rng):
    fmt = block_format(name)
    data = quantize_rows(rng.standard_normal((3, 512)).astype(np.float32), name)
    values = dequantize_rows(data, name, 512)
    tables = np.repeat(levels(fmt, data, 512), 16, axis=1)  # [n_rows, n_cols, n_codes]
    codes = (tables == values[:, :, None]).argmax(axis=2).astype(np.uint8)
    again = data.copy()
    write_codes(fmt, codes, again)
    assert np.array_equal(dequantize_rows(again, name, 512), values)
    write_codes(fmt, np.zeros_like(codes), again)
    write_codes(fmt, codes, again)
    assert np.array_equal(dequantize_rows(again, name, 512), values)


def test_some_types_have_none():
    assert not any(has_grid(block_format(name)) for name in ("TQ1_0", "IQ1_BN", "F16", "BF16_R16"))
