"""The non-linear and codebook formats against slow twins and gguf-py, and where blocks are exact."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from hypothesis import given, settings
from hypothesis import strategies as st

from quanttool.formats import block_format, dequantize_rows, quantize_rows
from tests import naive_codebooks, naive_i_quants

TYPES = ["IQ4_NL", "IQ4_XS", "Q1_0", "Q2_0", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4"]
TYPES += ["IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S", "IQ1_M"]
KNOWN_TO_GGUF_PY = [name for name in TYPES if getattr(GGMLQuantizationType, name, None) in quants._type_traits]


def needs_importance(name):
    return block_format(name).importance == "required"


def naive_quantize(name, rows, importance=None):
    """rows f32 [n_rows, n_cols] -> u8 [n_rows, row_bytes], block by block."""
    size, block = (naive_codebooks.BLOCKS | naive_i_quants.BLOCKS)[name]
    out = []
    with np.errstate(all="ignore"):
        for row in rows:
            starts = range(0, len(row), size)
            weights = [None if importance is None else importance[s : s + size] for s in starts]
            out.append(np.concatenate([block(row[s : s + size], w) for s, w in zip(starts, weights, strict=True)]))
    return np.stack(out)


@pytest.mark.parametrize("name", TYPES)
def test_twin(name):
    rng = np.random.default_rng(5)
    rows = rng.standard_t(3, (3, 256)).astype(np.float32)
    rows[1, 40:170] = 0
    rows[2] = np.round(4 * rows[2]) / 8
    importance = rng.gamma(0.5, 1, 256).astype(np.float32)
    importance[::9] = 0
    if not needs_importance(name):
        np.testing.assert_array_equal(quantize_rows(rows, name), naive_quantize(name, rows))
    if block_format(name).importance != "ignored":
        expected = naive_quantize(name, rows, importance)
        np.testing.assert_array_equal(quantize_rows(rows, name, importance), expected)


@pytest.mark.parametrize("name", KNOWN_TO_GGUF_PY)
def test_values_of_any_bytes_are_those_of_gguf_py(name):
    block_bytes = block_format(name).type.block_bytes
    data = np.random.default_rng(8).integers(0, 256, (8, 4 * block_bytes), dtype=np.uint8)
    with np.errstate(all="ignore"):
        expected = quants.dequantize(data, GGMLQuantizationType[name])
    np.testing.assert_array_equal(dequantize_rows(data, name, expected.shape[1]), expected)


@pytest.mark.parametrize("name", ["Q1_0", "Q2_0", "TQ1_0", "TQ2_0"])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), d=st.floats(2.0**-14, 65504, width=16))
def test_representable_ternary_blocks_survive(name, seed, d):
    """Multiples of a float16 that use it: quantizing loses nothing."""
    rng = np.random.default_rng(seed)
    rows = rng.choice([-1, 1] if name == "Q1_0" else [-1, 0, 1], (3, 256))
    rows[:, ::64] = 1
    rows = (rows * d).astype(np.float32)
    np.testing.assert_array_equal(dequantize_rows(quantize_rows(rows, name), name, 256), rows)


@pytest.mark.parametrize(("name", "exponents"), [("MXFP4", (-120, 120)), ("NVFP4", (-6, 7))])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_representable_float4_blocks_survive(name, exponents, seed):
    """E2M1 values with a power of two as scale, the largest value used: quantizing loses nothing."""
    rng = np.random.default_rng(seed)
    groups = rng.choice(naive_codebooks.E2M1_DOUBLED, (16, 16))
    groups[:, 3] = 12
    scales = 2.0 ** rng.integers(*exponents, (8, 1)).repeat(2, 0)
    rows = (groups * scales).astype(np.float32).reshape(1, 256)
    np.testing.assert_array_equal(dequantize_rows(quantize_rows(rows, name), name, 256), rows)


@pytest.mark.parametrize("name", ["IQ4_NL", "IQ4_XS"])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), d=st.floats(2.0**-10, 4, width=16))
def test_representable_iq4_blocks_survive(name, seed, d):
    """Multiples of a float16 (and 6-bit scales) that use the lowest level: quantizing loses nothing."""
    rng = np.random.default_rng(seed)
    levels = rng.choice(naive_codebooks.IQ4_VALUES, (8, 32))
    levels[:, 7] = -127
    scales = np.ones(8)
    if name == "IQ4_XS":
        scales = rng.integers(-31, 32, 8)
        scales[rng.integers(8)] = -32
    rows = (np.float32(d) * scales[:, None].astype(np.float32) * levels.astype(np.float32)).reshape(1, 256)
    np.testing.assert_array_equal(dequantize_rows(quantize_rows(rows, name), name, 256), rows)


def test_iq3_s_keeps_the_flaw_of_the_reference():
    """After 32 zeros llama.cpp stores points and signs too early: they are read at the place of the zeros."""
    rows = np.zeros((1, 256), np.float32)
    rows[0, 32:64] = np.linspace(-3, 3, 32)
    data = quantize_rows(rows, "IQ3_S")
    np.testing.assert_array_equal(data, naive_quantize("IQ3_S", rows))
    values = dequantize_rows(data, "IQ3_S", 256)[0]
    assert np.abs(values[:32]).max() > 0
    assert np.abs(values[32:64] - rows[0, 32:64]).max() > 1
