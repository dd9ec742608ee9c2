"""Every format: finite values from any finite weights, and bytes that depend on nothing but the row."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quanttool.errors import UsageError
from quanttool.formats import available_formats, block_format, dequantize_rows, quantize_rows

BLOCK_FORMATS = [name for name in available_formats() if not block_format(name).type.is_plain]
ROW_BY_ROW = [name for name in BLOCK_FORMATS if block_format(name).type.rows_interleaved == 1]
WITH_F16_MINIMUM = ["Q4_1", "Q5_1"]  # held within 65504, it no longer is where codes begin
# Signs that cannot all be kept: 7 bits for 8 of them, a grid that lacks 6 of the 256 patterns of eight (IQ1), or 8192
# sequences of eight, where the one with all signs right may be the farther one (IQ1_KT)
ONE_SIGN_MAY_TURN = [
    *("IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ2_XXS_R4", "IQ2_XS_R4", "IQ3_XXS_R4"),
    *("IQ1_S", "IQ1_M", "IQ1_S_R4", "IQ1_M_R4", "IQ1_KT"),
]


def needs_importance(name):
    return block_format(name).importance == "required"


def awkward_rows(rng, n_cols=512):
    """Rows of all kinds that break scale searches, f32 [16, n_cols]: as many as the widest weave of rows."""
    noise = rng.standard_normal((16, n_cols)).astype(np.float32)
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


@pytest.mark.parametrize("name", BLOCK_FORMATS)
def test_awkward_rows_stay_finite(name):
    rng = np.random.default_rng(6)
    rows = awkward_rows(rng)
    for importance in [None, *awkward_importance(rng)]:
        if importance is None and needs_importance(name):
            continue
        data = quantize_rows(rows, name, importance)
        values = dequantize_rows(data, name, rows.shape[1])
        assert np.isfinite(values).all(), np.argwhere(~np.isfinite(values))[0]


@pytest.mark.parametrize("name", [name for name in BLOCK_FORMATS if name not in WITH_F16_MINIMUM])
def test_rows_too_large_for_the_scale_keep_their_signs(name):
    rng = np.random.default_rng(7)
    rows = (rng.choice([-1, 1], (8, 256)) * rng.uniform(0.8, 1, (8, 256)) * 1e30).astype(np.float32)
    values = dequantize_rows(quantize_rows(rows, name, np.ones(256, np.float32)), name, 256)
    wrong = (np.sign(values) != np.sign(rows)).reshape(-1, 8).sum(1)
    assert wrong.max() <= (1 if name in ONE_SIGN_MAY_TURN else 0)


@pytest.mark.parametrize("name", ROW_BY_ROW)
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


@pytest.mark.parametrize("name", sorted(set(BLOCK_FORMATS) - set(ROW_BY_ROW)))
def test_rows_that_do_not_fill_a_group_are_refused(name):
    n_rows = block_format(name).type.rows_interleaved
    with pytest.raises(UsageError, match=f"{name} weaves {n_rows} rows together, got {n_rows + 1}"):
        quantize_rows(np.ones((n_rows + 1, 512), np.float32), name, np.ones(512, np.float32))
