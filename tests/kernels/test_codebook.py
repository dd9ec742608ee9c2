"""Codebooks: every key has its point, or the neighbours that sorting all points by distance gives."""

import numpy as np
import pytest

from quanttool.formats.i_quants import prepared_codebook
from quanttool.kernels.codebook import OFF_GRID
from tests import naive_i_quants

CODEBOOKS = [("iq2_xxs", 8, 2), ("iq2_xs", 8, 2), ("iq2_s", 8, 1), ("iq1", 8, 3), ("iq3_xxs", 4, 2), ("iq3_s", 4, 3)]


@pytest.mark.parametrize(("name", "dim", "n_distances"), CODEBOOKS)
def test_keys(name, dim, n_distances):
    book = prepared_codebook(name, n_distances)
    n_levels, bits = (3, 2) if dim == 8 else (8, 3)
    points, numbers = naive_i_quants.grid(name)
    rng = np.random.default_rng(4)
    chosen = np.concatenate(
        [points[rng.integers(len(points), size=20)], 2 * rng.integers(n_levels, size=(60, dim)) + 1]
    )
    for target in map(tuple, chosen.tolist()):
        key = sum((value - 1) // 2 << bits * i for i, value in enumerate(target))
        assert book.point_of_key[key] == numbers.get(target, OFF_GRID)
        expected = [] if target in numbers else naive_i_quants.neighbours(name, target, n_distances)
        expected_keys = [np.flatnonzero(book.point_of_key == number)[0] for number in expected]
        first = book.first[key]
        np.testing.assert_array_equal(book.neighbours[first : first + book.n_neighbours[key]], expected_keys)


def test_neighbours_fill_whole_vectors():
    """Sixteen at a time are read: the list of the last key too must end in its last neighbour, repeated."""
    book = prepared_codebook("iq3_s", 3)
    last = np.argmax(book.first)
    start, count = book.first[last], book.n_neighbours[last]
    assert len(book.neighbours) == start + -(-count // 16) * 16
    assert (book.neighbours[start + count :] == book.neighbours[start + count - 1]).all()
