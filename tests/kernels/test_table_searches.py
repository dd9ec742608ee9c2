"""The searches behind ik_llama.cpp's formats against plain loops over everything that they choose from."""

import itertools

import numpy as np
import pytest

from quanttool.formats import iqk_tables as table
from quanttool.formats.layout import Layout, bits, join
from quanttool.formats.tabulated import all_crossings, from_tiles, trials_around
from quanttool.kernels.lanes import LANES
from quanttool.kernels.linear import two_sided_search
from quanttool.kernels.pairs import best_pair_scales, encode_pairs
from quanttool.kernels.parity import best_even_scales, encode_even
from quanttool.kernels.tabulated import best_levels, best_scales, encode
from quanttool.kernels.tiles import as_tiles
from quanttool.kernels.trellis import make_book, nearest_points

N = 21  # blocks: more than a tile, less than two


def blocks(size, seed=1):
    """Values and weights f32 [N, size], some of them zero."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((N, size)).astype(np.float32)
    x[3, : size // 2] = 0
    return x, rng.gamma(1, 1, (N, size)).astype(np.float32)


def per_block(n):
    """Room for n numbers per block, f32 [n, n_tiles, LANES]."""
    return np.zeros((n, -(-N // LANES), LANES), np.float32)


def of_blocks(tile):
    return tile.reshape(-1)[:N]


def as_tile(numbers):
    return as_tiles(np.asarray(numbers, np.float32).reshape(-1, 1))


def score(x, w, q):
    """How much of sum w x^2 the best multiple of q explains, and that multiple."""
    x, w, q = x.astype(np.float64), w.astype(np.float64), q.astype(np.float64)
    return (w * q * x).sum() ** 2 / (w * q * q).sum(), (w * q * x).sum() / (w * q * q).sum()


def nearest(entries, y):
    """Of the entries those nearest to y, [n_entries] and [n] -> [n]."""
    return entries[np.abs(y[:, None] - entries).argmin(axis=1)]


def test_best_scales():
    tables = table.IQ3[..., 0].copy()
    x, w = blocks(32)
    scales, variants = per_block(2)
    best_scales(as_tiles(x), as_tiles(w), tables, trials_around(table.IQ3, 5), scales, variants)
    for i in range(N):
        largest = x[i, np.abs(x[i]).argmax()]
        expected = 0
        for v, step, sign in itertools.product((0, 1), range(-5, 6), (1, -1)):
            y = x[i].astype(np.float64) * sign * (tables[v, 0] + step) / largest
            expected = max(expected, score(x[i], w[i], nearest(tables[v], y))[0])
        found = nearest(tables[int(of_blocks(variants)[i])], x[i] / of_blocks(scales)[i])
        np.testing.assert_allclose(score(x[i], w[i], found)[0], expected, rtol=0.01)  # a refit may find better codes
        assert score(x[i], w[i], found)[0] >= expected * (1 - 1e-5)


def test_crossings_find_the_best_of_all_splits():
    """Whatever is split off a sorted block for each entry, of either table, in either direction: nothing is better."""
    tables = table.IQ2[..., 0].copy()
    x, w = blocks(8, seed=2)
    scales, variants = per_block(2)
    best_scales(as_tiles(x), as_tiles(w), tables, all_crossings(table.IQ2, 8), scales, variants)
    for i in range(N):
        order = np.argsort(x[i])
        expected = 0
        for cuts in itertools.combinations_with_replacement(range(9), 3):
            codes = np.repeat(np.arange(4), np.diff([0, *cuts, 8]))
            for entries in (*tables, *tables[:, ::-1]):
                expected = max(expected, score(x[i, order], w[i, order], entries[codes])[0])
        found = nearest(tables[int(of_blocks(variants)[i])], x[i] / of_blocks(scales)[i])
        np.testing.assert_allclose(score(x[i], w[i], found)[0], expected, rtol=1e-5)


def test_best_levels():
    tables, levels = table.IQ2[..., 0].copy(), np.arange(-8, 8, dtype=np.float32)
    x, w = blocks(16, seed=3)
    d = np.linspace(-0.02, 0.03, N).astype(np.float32)
    chosen, variants, gains = per_block(3)
    best_levels(as_tiles(x), as_tiles(w), tables, levels, as_tile(d), chosen, variants, gains)
    for i in range(N):
        errors = {}
        for level, v in itertools.product(levels, (0, 1)):
            scale = np.float64(d[i] * level)
            q = nearest(tables[v], x[i] / scale) if scale else np.zeros(16)
            errors[level, v] = (w[i] * (x[i] - scale * q) ** 2).sum()
        found = errors[levels[int(of_blocks(chosen)[i])], int(of_blocks(variants)[i])]
        np.testing.assert_allclose(found, min(errors.values()), rtol=1e-4)
        np.testing.assert_allclose((w[i] * x[i] ** 2).sum() - of_blocks(gains)[i], found, rtol=1e-3)


def test_encode():
    tables = table.IQ4[..., 0].copy()
    x, w = (a.reshape(3, 7, 16) for a in blocks(16, seed=4))
    rng = np.random.default_rng(5)
    d, levels = np.float32([0.01, -0.02, 0.03]), rng.integers(-4, 5, (3, 7)).astype(np.float32)
    variants = rng.integers(0, 2, (3, 7)).astype(np.uint16)
    codes, sums = np.empty(x.shape, np.uint16), np.empty((3, 2), np.float32)
    encode(x, w, d[:, None] * levels, levels, variants, tables, codes, sums)
    for unit, block in itertools.product(range(3), range(7)):
        scale = np.float64(d[unit] * levels[unit, block])
        y = x[unit, block] / scale if scale else np.zeros(16)
        entries = tables[variants[unit, block]]
        np.testing.assert_array_equal(entries[codes[unit, block]], nearest(entries, y))
    q = levels[..., None] * np.take_along_axis(tables[variants], codes.astype(np.int64), axis=2)
    np.testing.assert_allclose(sums, np.stack([(w * q * x).sum((1, 2)), (w * q * q).sum((1, 2))], axis=1), rtol=1e-4)


def nearest_pairs(x, w, scale):
    """The points of IQ2_KL nearest to the pairs of x / scale, by weight: their numbers, and the error."""
    points = table.IQ2_KL[0].astype(np.float64)
    off = x.reshape(-1, 1, 2) - scale * points
    errors = (w.reshape(-1, 1, 2) * off * off).sum(axis=2)
    return errors.argmin(axis=1), errors.min(axis=1).sum()


def test_pairs():
    axis = table.IQ3[0, :, 0].copy()
    x, w = blocks(32, seed=6)
    (scales,) = per_block(1)
    targets = np.array([-60, 63, -66], np.float32)
    best_pair_scales(as_tiles(x), as_tiles(w), axis, table.IQ2_KL_PLACES, targets, scales)
    for i in range(N):
        largest = np.float64(x[i, np.abs(x[i]).argmax()])
        codes = [nearest_pairs(x[i], w[i], largest / target)[0] for target in targets]
        fits = [score(x[i], w[i], table.IQ2_KL[0, code].ravel()) for code in codes]
        np.testing.assert_allclose(of_blocks(scales)[i], max(fits)[1], rtol=1e-4)

    d, start = np.float32(0.003), np.clip(np.rint(of_blocks(scales) / np.float32(0.003)), -8, 7)
    levels, sums = as_tile(start), per_block(2)
    found = np.empty((16 * len(levels), LANES), np.uint8)
    bounds = np.float32(-8), np.float32(7)
    places = axis, table.IQ2_KL_PLACES
    encode_pairs(as_tiles(x), as_tiles(w), *places, as_tile(np.full(N, d)), *bounds, levels, found, sums)
    found = from_tiles(found, N)
    for i in range(N):
        near = [start[i] + step for step in (0, -1, 1) if -8 <= start[i] + step <= 7]
        errors = [nearest_pairs(x[i], w[i], np.float64(d) * level)[1] for level in near]
        level = of_blocks(levels)[i]
        off = x[i] - d * level * table.IQ2_KL[0, found[i]].ravel()
        np.testing.assert_allclose((w[i] * off * off).sum(), min(errors), rtol=1e-3)
        q = level * table.IQ2_KL[0, found[i]].ravel()
        np.testing.assert_allclose(of_blocks(sums[1])[i], (w[i] * q * q).sum(), rtol=1e-4)


def even_words(entries):
    """All words of four entries whose codes have an even number of set bits between them, [n, 4]."""
    codes = np.array(list(itertools.product(range(16), repeat=4)))
    parity = np.array([code.bit_count() % 2 for code in range(16)])[codes].sum(axis=1) % 2
    return entries[codes[parity == 0]].astype(np.float64)


def test_parity():
    parity = np.array([code.bit_count() % 2 for code in range(16)])
    sets = [table.IQ4[:, parity == p, 0].copy() for p in (0, 1)]
    words = [even_words(entries) for entries in table.IQ4[..., 0]]
    x, w = blocks(8, seed=7)
    (scales,) = per_block(1)
    trials = trials_around(table.IQ4, 0)
    best_even_scales(as_tiles(x), as_tiles(w), *sets, trials, scales)

    def best_word(i, at, v, scale):
        errors = w[i, at : at + 4] * (x[i, at : at + 4] / scale - words[v]) ** 2
        return words[v][errors.sum(axis=1).argmin()]

    for i in range(0, N, 4):
        largest = np.float64(x[i, np.abs(x[i]).argmax()])
        fits = []
        for v, target, _ in trials:
            q = np.concatenate([best_word(i, at, int(v), largest / target) for at in (0, 4)])
            fits.append(score(x[i], w[i], q))
        np.testing.assert_allclose(of_blocks(scales)[i], max(fits)[1], rtol=1e-4)

    d, levels = np.float32(0.0005), np.rint(of_blocks(scales) / np.float32(0.0005))
    variants, sums = per_block(1)[0], per_block(2)
    entries = np.empty(as_tiles(x).shape, np.float32)
    encode_even(as_tiles(x), as_tiles(w), *sets, as_tile(np.full(N, d)), as_tile(levels), variants, entries, sums)
    entries = from_tiles(entries, N)
    for i in range(0, N, 4):
        scale = np.float64(d * levels[i])
        errors = []
        for v in (0, 1):
            q = np.concatenate([best_word(i, at, v, scale) for at in (0, 4)])
            errors.append((w[i] * (x[i] - scale * q) ** 2).sum())
        assert of_blocks(variants)[i] == np.argmin(errors)
        np.testing.assert_allclose((w[i] * (x[i] - scale * entries[i]) ** 2).sum(), min(errors), rtol=1e-3)


def test_two_sided_search():
    x, w = blocks(32, seed=8)
    codes, (scales,) = np.empty(as_tiles(x).shape, np.uint8), per_block(1)
    two_sided_search(as_tiles(x), as_tiles(w), 32, 32, codes, scales)
    codes = from_tiles(codes, N).astype(int) - 32
    for i in range(N):
        largest = np.float64(x[i, np.abs(x[i]).argmax()])
        expected = 0
        for k in range(-9, 10):
            for target in (-(32 + 0.1 * k), 31 + 0.1 * k):
                q = np.clip(np.rint(x[i] * target / largest), -32, 31)
                expected = max(expected, score(x[i], w[i], q)[0])
        assert score(x[i], w[i], codes[i])[0] >= expected * (1 - 1e-6)
        np.testing.assert_array_equal(codes[i], np.clip(np.rint(x[i] / of_blocks(scales)[i]), -32, 31))


@pytest.mark.parametrize(("length", "n_bins", "n_points"), [(8, 2, 1 << 13), (8, 2, 4096), (4, 3, 1 << 12)])
def test_nearest_points(length, n_bins, n_points):
    points = table.sequences(n_points, length)
    rng = np.random.default_rng(9)
    x = (40 * rng.standard_normal((60, length))).astype(np.float32)
    w = rng.gamma(1, 1, x.shape).astype(np.float32)
    inverses = np.linspace(-1.5, 2, 60).astype(np.float32)
    found = np.empty(60, np.int32)
    for reach in (1.0, 0.5):
        nearest_points(x, w, inverses, np.float32(reach), *make_book(points, n_bins), found)
        for i in range(60):
            errors = (w[i] * (x[i] * inverses[i] - points.astype(np.float64)) ** 2).sum(axis=1)
            bound = 1.001 if reach == 1 else 1.5
            assert errors[found[i]] <= bound * errors.min()


def test_layouts_move_bits():
    """Two elements of 5 bits, scattered, woven over two rows; the rest of the block belongs to another field."""
    row = np.arange(2)[:, None]
    layout = Layout(
        2, 2, a=join(bits(3, row, 3 * np.arange(2)), bits(2, 2, 4 * row + 2 * np.arange(2))), b=bits(2, row, 6)
    )
    layout = Layout(2, 2, **layout.fields, c=bits(4, 3, 4 * row))
    data = np.random.default_rng(10).integers(0, 256, (4, 6), dtype=np.uint8)
    fields = layout.unpack(data)
    for r, block, i in itertools.product(range(4), range(3), range(2)):
        b = data[r // 2 * 2 : r // 2 * 2 + 2].ravel()[4 * block :]
        low = int(b[r % 2]) >> 3 * i & 7
        high = int(b[2]) >> 4 * (r % 2) + 2 * i & 3
        assert fields["a"][r, block, i] == low | high << 3
        assert fields["b"][r, block, 0] == b[r % 2] >> 6
    out = np.zeros_like(data)
    layout.pack(fields, out)
    np.testing.assert_array_equal(out, data)
