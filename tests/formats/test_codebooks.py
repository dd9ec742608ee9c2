"""The non-linear and codebook formats against slow twins, and on rows that make scales degenerate."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from hypothesis import given, settings
from hypothesis import strategies as st

from quanttool.formats import block_format, dequantize_rows, quantize_rows
from tests import naive_codebooks, naive_i_quants

TYPES = ["IQ4_NL", "IQ4_XS", "Q1_0", "Q2_0", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4"]
TYPES += ["IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S", "IQ1_M"]
EVEN_SIGNS = ["IQ2_XXS", "IQ2_XS", "IQ3_XXS"]  # 7 bits for 8 signs
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


def awkward_rows(rng, n_cols=512):
    """Rows of all kinds that break scale searches, f32 [n, n_cols]."""
    noise = rng.standard_normal((12, n_cols)).astype(np.float32)
    rows = noise.copy()
    rows[0] = 0
    rows[1] = 0
    rows[1, n_cols // 3] = -2
    rows[2] = 0.37
    rows[3] = -1
    rows[4] *= np.float32(1e-30)
    rows[5] *= np.float32(1e30)
    rows[6] *= np.float32(1e-41)
    rows[7, ::3] *= np.float32(1e-30)
    rows[8, ::5] *= np.float32(1e30)
    rows[9] = np.float32(3e38) * np.sign(noise[9])
    rows[10] = np.round(noise[10])
    rows[11, 64:] = 0
    return rows


def awkward_importance(rng, n_cols=512):
    """Importance with zeros and extremes, f32 [n, n_cols]."""
    importance = rng.gamma(1, 1, (6, n_cols)).astype(np.float32)
    importance[0] = 0
    importance[1, ::2] = 0
    importance[2, ::3] = np.float32(1e-30)
    importance[3] = np.float32(1e-42)
    importance[4, 32:300] = 0
    importance[5, ::7] = np.float32(3e38)
    return importance


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


@pytest.mark.parametrize("name", TYPES)
def test_awkward_rows_stay_finite(name):
    rng = np.random.default_rng(6)
    rows = awkward_rows(rng)
    for importance in [None, *awkward_importance(rng)]:
        if importance is None and needs_importance(name):
            continue
        data = quantize_rows(rows, name, importance)
        values = dequantize_rows(data, name, rows.shape[1])
        assert np.isfinite(values).all(), np.argwhere(~np.isfinite(values))[0]


@pytest.mark.parametrize("name", TYPES)
def test_rows_too_large_for_the_scale_keep_their_signs(name):
    rng = np.random.default_rng(7)
    rows = (rng.choice([-1, 1], (2, 256)) * rng.uniform(0.8, 1, (2, 256)) * 1e30).astype(np.float32)
    values = dequantize_rows(quantize_rows(rows, name, np.ones(256, np.float32)), name, 256)
    wrong = (np.sign(values) != np.sign(rows)).reshape(-1, 8).sum(1)
    assert wrong.max() <= (1 if name in EVEN_SIGNS else 0)


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


@pytest.mark.parametrize("name", TYPES)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n_rows=st.integers(1, 40))
def test_bytes_depend_on_the_row_alone(name, seed, n_rows):
    rng = np.random.default_rng(seed)
    rows = (rng.standard_normal((n_rows, 512)) * rng.choice([0, 1e-3, 1], (n_rows, 1))).astype(np.float32)
    importance = rng.gamma(1, 1, 512).astype(np.float32)
    together = quantize_rows(rows, name, importance)
    order = rng.permutation(n_rows)
    np.testing.assert_array_equal(quantize_rows(rows[order], name, importance), together[order])
    one = rng.integers(n_rows)
    np.testing.assert_array_equal(quantize_rows(rows[one : one + 1], name, importance)[0], together[one])
