"""Lists of the points that may be best, against all points at many scales."""

import numpy as np
import pytest

from quanttool.formats.i_quants import IQ1_VALUES, IQ2_VALUES, IQ3_S_VALUES, codebook_values, tiled_points
from quanttool.kernels.envelopes import Lines, Points, Scratch, find_lines, find_losses, weigh_points
from quanttool.kernels.jit import kernel

CODEBOOKS = [("iq2_s", IQ2_VALUES, 0, False), ("iq3_s", IQ3_S_VALUES, 0, True), ("iq1", IQ1_VALUES, -0.125, False)]


@kernel
def lines_of_group(weight, wx, low, high, flip, points, scratch, lines):
    """The lists of a single group; gives how many points they have."""
    weigh_points(weight, points)
    find_losses(wx, 0, flip, points, scratch.losses)
    shift_loss = np.float32(-2) * points.shifts[0] * wx.sum()
    return find_lines(low, high, 3, shift_loss, 0, points, scratch.losses, scratch.kept, lines, 0)


@pytest.mark.parametrize(("name", "values", "shift", "flip"), CODEBOOKS)
def test_the_best_point_is_kept_at_every_scale(name, values, shift, flip):
    rng = np.random.default_rng(1)
    book = codebook_values(name, values)
    n_points, dim = book.shape
    tiles = tiled_points(name, values)
    for _ in range(20):
        weight = rng.gamma(0.5, 1, dim).astype(np.float32)
        x = rng.standard_t(5, dim).astype(np.float32)
        wx = weight * (x if shift else np.abs(x))
        points = Points((1,) * dim, tiles, np.array([shift], np.float32), np.empty((n_points // 32, 32), np.float32))
        scratch = Scratch(np.empty((n_points // 32, 32), np.float32), np.empty(n_points // 32, np.int64))
        lines = Lines(*np.empty((2, n_points), np.float32), np.empty(n_points, np.int32), *np.zeros((2, 1), np.int64))
        top = np.abs(book + shift).max()
        low, high = np.float32(0.9 / top), np.float32(3 / top)
        n = lines_of_group(weight, wx, low, high, flip, points, scratch, lines)
        assert 0 < n < n_points // 4
        g, w = (book + shift).astype(np.float64), weight.astype(np.float64)
        products = w * (x if shift else np.abs(x)) * g
        losses = -2 * (products.sum(axis=1) - (2 * products.min(axis=1) if flip else 0))
        squares = (w * g * g).sum(axis=1)
        for scale in np.geomspace(low, high, 100):
            errors = scale * (scale * squares + losses)
            slack = 1e-6 * np.abs(scale * losses).max()
            assert errors[lines.point[:n]].min() <= errors.min() + slack
            kept = scale * (scale * lines.squares[:n].astype(np.float64) + lines.losses[:n])
            np.testing.assert_allclose(kept, errors[lines.point[:n]], atol=slack)
