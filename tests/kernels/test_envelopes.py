"""Lists of the points that may be best, against all points at many scales."""

import numpy as np
import pytest

from quanttool.formats.i_quants import (
    IQ1_VALUES,
    IQ2_VALUES,
    IQ3_S_VALUES,
    all_points,
    codebook_values,
    halved_points,
    with_room,
)
from quanttool.kernels.envelopes import Lines, Scratch, find_losses, keep_lines, weigh_points
from quanttool.kernels.halves import choose_rows, find_class_losses, name_points, weigh_halves
from quanttool.kernels.jit import kernel

GROUP = 3  # of a block's groups, the one that is looked at


@kernel
def lines_of_all(weight, wx, scales, flip, points, scratch, lines):
    """The lists of one group; gives how many points they have."""
    dim = len(points.shape)
    n = points.values.shape[0] // dim
    weigh_points(weight, points)
    find_losses(wx, dim * GROUP, n, flip, points, scratch.losses)
    return keep_lines(scales, n, scratch.losses, points.squares, GROUP * n, scratch, lines, 0)


@kernel
def lines_of_halves(weight, wx, scales, table, points, scratch, lines):
    """The same for points with a shift; gives, too, how many rows of points were looked at."""
    dim = len(points.shape)
    weigh_halves(weight, points)
    find_class_losses(wx, dim * GROUP, points.leading[GROUP], points)
    n = choose_rows(scales[0], scales[-1], wx, GROUP, table, points, scratch.losses)
    end = keep_lines(scales, n, scratch.losses, points.chosen, 0, scratch, lines, 0)
    shift_loss = np.float32(-2) * points.shifts[table] * wx[dim * GROUP : dim * (GROUP + 1)].sum()
    name_points(points, GROUP, shift_loss, lines, 0, end)
    return end, n


def room(n_points, n_probes):
    n_rows = n_points // 8
    scratch = Scratch(
        np.empty((n_rows, 32), np.float32),
        np.empty(n_rows, np.int64),
        np.empty(n_probes, np.int64),
        *np.empty((2, n_probes), np.float32),
    )
    return scratch, Lines(
        *np.empty((2, n_points), np.float32), np.empty(n_points, np.int32), *np.zeros((2, 1), np.int64)
    )


def check(book, weight, x, flip, scales, lines, n):
    """No point is better than the listed ones at any scale, and these are what they should be."""
    g, w = book.astype(np.float64), weight.astype(np.float64)
    products = w * x * g
    losses = -2 * (products.sum(axis=1) - (2 * products.min(axis=1) if flip else 0))
    squares = (w * g * g).sum(axis=1)
    for scale in np.geomspace(scales[0], scales[-1], 100):
        errors = scale * (scale * squares + losses)
        slack = 1e-6 * np.abs(scale * losses).max()
        assert errors[lines.point[:n]].min() <= errors.min() + slack
        kept = scale * (scale * lines.squares[:n].astype(np.float64) + lines.losses[:n])
        np.testing.assert_allclose(kept, errors[lines.point[:n]], atol=slack)


def random_block(rng, dim):
    """Weights and values of a block, and its group as a slice."""
    weight, x = rng.gamma(0.5, 1, 256).astype(np.float32), rng.standard_t(5, 256).astype(np.float32)
    return weight, x, slice(dim * GROUP, dim * (GROUP + 1))


@pytest.mark.parametrize(("name", "values", "flip"), [("iq2_s", IQ2_VALUES, False), ("iq3_s", IQ3_S_VALUES, True)])
def test_the_best_point_is_kept_at_every_scale(name, values, flip):
    rng = np.random.default_rng(1)
    book, points = codebook_values(name, values), with_room(all_points(name, values))
    n_points, dim = book.shape
    scales = np.geomspace(0.9 / book.max(), 3 / book.max(), 8).astype(np.float32)
    scratch, lines = room(n_points, 8)
    for _ in range(20):
        weight, x, group = random_block(rng, dim)
        x = np.abs(x)
        n = lines_of_all(weight, weight * x, scales, flip, points, scratch, lines)
        assert 0 < n < n_points // 8
        check(book, weight[group], x[group], flip, scales, lines, n)


@pytest.mark.parametrize("table", [0, 1])
def test_the_best_point_is_kept_though_few_are_looked_at(table):
    rng = np.random.default_rng(2)
    book, shift = codebook_values("iq1", IQ1_VALUES), (0.125, -0.125)
    points = with_room(halved_points("iq1", IQ1_VALUES, shift))
    scales = np.geomspace(1 / 1.125, 2 / 1.125, 4).astype(np.float32)
    scratch, lines = room(len(book), 4)
    rows = []
    for _ in range(50):
        weight, x, group = random_block(rng, 8)
        n, n_rows = lines_of_halves(weight, weight * x, scales, table, points, scratch, lines)
        assert 0 < n < 100
        rows.append(n_rows)
        check(book + np.float32(shift[table]), weight[group], x[group], False, scales, lines, n)
    assert np.mean(rows) < 16  # of 64 that hold all points
