"""The kernels of search="best" for table formats against loops over everything in float64."""

import numpy as np
import pytest

from quanttool.formats import iqk_tables as table
from quanttool.formats.iqk_s import IQ2_KL, IQ4_KSS
from quanttool.formats.tabulated import tiles_of
from quanttool.kernels.best_tables import Entries, best_levels_near, fit_curves, promising_d
from quanttool.kernels.errors import weighted_errors
from quanttool.kernels.lanes import LANES
from quanttool.kernels.tabulated import table_steps
from tests import naive_best_tables as naive
from tests.kernels.test_table_searches import even_words, nearest_pairs

N = 40  # sub-blocks: more than a tile, less than two
TARGETS = np.geomspace(0.6, 1.4, 40).astype(np.float32)
LEVELS = np.float32(-8), np.float32(1), np.float32(15)


def entries_book(tables):
    return Entries(tables[:, 0].copy(), *table_steps(tables))


def sub_blocks(size, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((N, size)).astype(np.float32)
    x[3] = 0
    return x, rng.gamma(1, 1, (N, size)).astype(np.float32)


def fitted(x, w, tables):
    fits = np.empty((3, 2 * len(tables), 2, LANES), np.float32)
    fit_curves(tiles_of(x[None]), tiles_of(w[None]), entries_book(tables), np.abs(tables).max() * TARGETS, fits)
    return fits


def of(tiles):
    """[..., n_tiles, LANES] -> [..., N]."""
    return tiles.reshape(*tiles.shape[:-2], -1)[..., :N]


def best_gain(x, w, tables):
    return max(naive.best_float_scale(x, w, entries.astype(np.float64)) for entries in tables)


@pytest.mark.parametrize("tables", [table.IQ4[..., 0], table.IQ3[..., 0]])
def test_fits_are_nearly_the_best_of_all_roundings(tables):
    x, w = sub_blocks(32, 1)
    scales, qx, _ = of(fitted(x, w, tables.copy()))
    gains = (scales.astype(np.float64) * qx).max(axis=0)
    assert gains[3] == 0
    energy = (w.astype(np.float64) * x * x).sum(axis=1)
    least = np.array([energy[i] - best_gain(x[i], w[i], tables) for i in range(N) if i != 3])
    found = np.delete(energy - gains, 3)
    assert (found >= least * (1 - 1e-3)).all()  # gains are float32
    assert found.sum() <= 1.005 * least.sum()


def test_promising_d():
    """Two sub-blocks to a unit: the three d with which the codes of fits leave least, in order."""
    x, w = sub_blocks(32, 2)
    fits = of(fitted(x, w, table.IQ4[..., 0].copy())).astype(np.float64)
    by_unit = np.zeros((3, 4, 2, LANES), np.float32)
    by_unit[..., : N // 2] = fits.reshape(3, 4, N // 2, 2).swapaxes(2, 3)
    parts = np.concatenate([np.geomspace(4, 12, 20), -np.geomspace(4, 12, 20)]).astype(np.float32)
    starts = np.empty((3, 1, LANES), np.float32)
    promising_d(by_unit, LEVELS, parts, starts)
    for unit in range(N // 2):
        scales, qx, q2 = fits[:, :, 2 * unit : 2 * unit + 2]
        best = scales[(scales * qx).argmax(axis=0), [0, 1]]
        trials = best[np.abs(best).argmax()] / parts
        totals = sum(best_of_curves(scales[:, sub], qx[:, sub], q2[:, sub], trials) for sub in range(2))
        of_starts = [totals[np.abs(trials - d).argmin()] for d in starts[:, 0, unit]]  # ties: either sign of d
        np.testing.assert_allclose(of_starts, np.sort(totals)[:-4:-1], rtol=1e-5)


def best_of_curves(scales, qx, q2, trials):
    """The largest gain with each d of the trials, every curve with its nearest level."""
    gains = []
    for d in trials:
        scale = d * (np.clip(np.floor((scales / d + 8) + 0.5), 0, 15) - 8)
        gains.append((scale * (2 * qx - scale * q2)).max())
    return np.array(gains)


def exhaustive(book, x, w, d):
    """Least error of each sub-block over all levels and tables for given d."""
    if isinstance(book, Entries):
        tables = book.lowest[:, None] + np.cumsum(np.pad(book.steps, ((0, 0), (1, 0))), axis=1)
        scales = np.float64(d) * np.arange(-8, 8)
        return [min(naive.entry_errors(*xw, t, scales).min() for t in tables) for xw in zip(x, w, strict=True)]
    if hasattr(book, "axis"):
        return [min(nearest_pairs(*xw, np.float64(d) * n)[1] for n in range(-8, 8)) for xw in zip(x, w, strict=True)]
    errors = []
    for xs, ws in zip(x.reshape(N, -1, 4), w.reshape(N, -1, 4), strict=True):
        words = [np.float64(d) * n * even_words(t) for t in table.IQ4[..., 0] for n in range(-8, 8)]
        each = [sum((b * (a - q) ** 2).sum(axis=1).min() for a, b in zip(xs, ws, strict=True)) for q in words]
        errors.append(min(each))
    return errors


@pytest.mark.parametrize("kind", ["entries", "pairs", "words"])
def test_levels_for_a_given_d(kind):
    """With all levels within reach nothing is better."""
    x, w = sub_blocks(8 if kind == "words" else 32, 3)
    d = np.float32(0.006 if kind == "entries" else 0.003)
    book = {"entries": lambda: entries_book(table.IQ3[..., 0].copy()), "pairs": IQ2_KL().book, "words": IQ4_KSS().book}
    book = book[kind]()
    tiles = tiles_of(x[None]), tiles_of(w[None])
    fits, chosen = np.zeros((3, 2 if kind == "pairs" else 4, 2, LANES), np.float32), np.empty((5, 2, LANES), np.float32)
    best_levels_near(*tiles, book, fits, np.full((2, LANES), d), LEVELS, 16, chosen)
    index, _, gain, qx, q2 = of(chosen).astype(np.float64)
    energy = (w.astype(np.float64) * x * x).sum(axis=1)
    np.testing.assert_allclose(energy - gain, exhaustive(book, x, w, d), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(d * (2 * qx - d * q2), gain, rtol=1e-4, atol=1e-5)
    assert index.min() >= 0 and index.max() <= 15


def test_weighted_errors():
    rng = np.random.default_rng(4)
    rows, values = rng.standard_normal((2, 3, 64)).astype(np.float32)
    importance = rng.gamma(1, 1, 64).astype(np.float32)
    errors = np.empty((3, 2))
    weighted_errors(rows, values, importance, errors)
    off = rows.astype(np.float64) - values
    np.testing.assert_allclose(errors, (importance * off * off).reshape(3, 2, 32).sum(axis=2), rtol=1e-12)
