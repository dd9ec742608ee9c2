"""search="best" of the formats whose values are entries of a table."""

from pathlib import Path

import numpy as np
import pytest

from quanttool.formats import available_formats, block_format, dequantize_rows, quantize_rows
from quanttool.formats import iqk_tables as table
from tests import naive_best_tables as naive
from tests.formats.test_robustness import awkward_importance, awkward_rows

GOLDEN = Path(__file__).parents[1] / "golden" / "formats"
FAMILIES = ("IQ4_NL", "IQ4_XS", "IQ2_K", "IQ3_K", "IQ4_K", "IQ5_K", "IQ6_K")
ROW_FAMILIES = ("IQ2_KS", "IQ3_KS", "IQ4_KS", "IQ5_KS", "IQ4_KSS", "IQ2_KL")
TRELLISES = ("IQ1_KT", "IQ2_KT", "IQ3_KT", "IQ4_KT")
TYPES = ["MXFP4", "NVFP4", *FAMILIES, *ROW_FAMILIES, *TRELLISES, "IQ1_S_R4", "IQ1_M_R4"]


def errors(name, data, rows, importance):
    """Weighted squared errors f64 [n_rows, n_blocks], or [n_rows, 1] where a scale belongs to the row."""
    values = dequantize_rows(data, name, rows.shape[1]).astype(np.float64)
    assert np.isfinite(values).all()
    fmt = block_format(name).type
    size = rows.shape[1] if fmt.row_meta_bytes else fmt.block_size
    weighted = importance.astype(np.float64) * (values - rows) ** 2
    return weighted.reshape(len(rows), -1, size).sum(axis=2)


def both(name, rows, importance):
    """Errors of the two searches."""
    return [errors(name, quantize_rows(rows, name, importance, s), rows, importance) for s in ("reference", "best")]


@pytest.mark.parametrize("name", TYPES)
def test_no_block_is_worse(name):
    """Golden rows and rows of all kinds that break searches, with importance that does."""
    rng = np.random.default_rng(1)
    golden = dict(np.load(GOLDEN / "input.npz"))
    cases = [(golden["rows"], golden["importance"])]
    cases += [(awkward_rows(rng), importance) for importance in awkward_importance(rng)]
    for rows, importance in cases:
        reference, best = both(name, rows, importance)
        assert (best <= reference).all(), np.argwhere(best > reference)[0]


@pytest.mark.parametrize("name", TYPES)
def test_the_error_falls(name):
    rng = np.random.default_rng(2)
    rows = rng.standard_t(5, (24, 512)).astype(np.float32)
    reference, best = both(name, rows, rng.gamma(0.5, 1, 512).astype(np.float32))
    assert best.sum() < 0.98 * reference.sum()


@pytest.mark.parametrize("name", TYPES)
def test_rows_do_not_depend_on_each_other(name):
    rng = np.random.default_rng(3)
    rows = (rng.standard_normal((36, 512)) * rng.choice([0, 1e-3, 1], (36, 1))).astype(np.float32)
    importance = rng.gamma(0.5, 1, 512).astype(np.float32)
    together = quantize_rows(rows, name, importance, "best", threads=1)
    order = rng.permutation(36)
    values = dequantize_rows(together, name, 512)
    other = dequantize_rows(quantize_rows(rows[order], name, importance, "best", threads=2), name, 512)
    np.testing.assert_array_equal(other, values[order])
    np.testing.assert_array_equal(quantize_rows(rows[4:8], name, importance, "best"), together[4:8])


@pytest.mark.parametrize("name", TYPES)
def test_without_importance_best_is_reference(name):
    rows = np.random.default_rng(4).standard_normal((4, 512)).astype(np.float32)
    expected = quantize_rows(rows, name)
    np.testing.assert_array_equal(quantize_rows(rows, name, search="best"), expected)


# name -> tables, levels, size of a sub-block, how far above the least error of all d that were tried
EXHAUSTIBLE = {
    "IQ4_NL": (table.IQ4[:1, :, 0], np.array([1.0]), 32, 1.002),
    "IQ4_XS": (table.IQ4[:1, :, 0], np.arange(-32.0, 32), 32, 1.02),
    "IQ2_K": (table.IQ2[..., 0], np.arange(-8.0, 8), 16, 1.01),
    "IQ3_K": (table.IQ3[..., 0], np.arange(-31.0, 32, 2), 16, 1.01),
}


E2M1 = np.array([[-12.0, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12]])
E8M0_HALF = 2.0 ** (np.arange(100, 150) - 128)
E4M3_HALF = [m / 1024 for m in range(8)] + [(1 + m / 8) * 2.0 ** (e - 8) for e in range(1, 16) for m in range(8)]


@pytest.mark.parametrize(("name", "scales", "size"), [("MXFP4", E8M0_HALF, 32), ("NVFP4", E4M3_HALF[:127], 16)])
def test_the_least_error_of_four_bit_floats(name, scales, size):
    rng = np.random.default_rng(6)
    rows = (rng.standard_t(5, (6, 64)) * np.geomspace(0.01, 10, 6)[:, None]).astype(np.float32)
    importance = rng.gamma(0.5, 1, 64).astype(np.float32)
    found = errors(name, quantize_rows(rows, name, importance, "best"), rows, importance).sum(axis=1)
    weights = importance.reshape(-1, size)
    one = np.ones(1)
    least = [naive.least_error(row.reshape(-1, size), weights, E2M1, np.array(scales), one) for row in rows]
    np.testing.assert_allclose(found, least, rtol=1e-5)


@pytest.mark.parametrize("name", EXHAUSTIBLE)
def test_near_the_least_error_there_is(name):
    tables, levels, size, bound = EXHAUSTIBLE[name]
    rng = np.random.default_rng(5)
    n = block_format(name).type.block_size
    rows = rng.standard_t(5, (4, n)).astype(np.float32)
    importance = rng.gamma(0.5, 1, n).astype(np.float32)
    found = errors(name, quantize_rows(rows, name, importance, "best"), rows, importance)[:, 0]
    least = []
    for row in rows:
        top = np.abs(row).max() / np.abs(tables).max() / np.abs(levels).max()
        ds = naive.float16_between(0.5 * top, 2 * top)[:: 1 if len(levels) == 1 else 16]
        weights = importance.reshape(-1, size)
        both_signs = np.concatenate([ds, -ds])
        least.append(naive.least_error(row.reshape(-1, size), weights, tables.astype(float), levels, both_signs))
    assert (found >= 0.98 * np.array(least)).all()  # of the float16 every 16th was tried
    assert found.sum() <= bound * np.sum(least), found / least


def test_types_with_best_are_listed():
    """So that no type gets the search without these tests."""
    families = ("float4", "iq4", "iqk", "iqk_s", "iqkt", "iq1_r4")
    modules = [f"quanttool.formats.{family}" for family in families]
    named = {n for n in available_formats() if type(block_format(n)).__module__ in modules}
    assert named == set(TYPES)
    assert all(block_format(name).has_best for name in TYPES)
