"""Blocks whose values are a scale times entries of a table: expanding them, and finding their scales and codes.

Searches take tiles, one (sub-)block per lane (see `tiles`): x and weight f32 [n_subs * size, LANES], and for each
sub-block one row of scales f32 [n_subs, LANES].
"""

import numpy as np

from .jit import helper, kernel
from .lanes import broadcast, load, select, store
from .scales import first_largest

LARGEST = -1  # in place of a value's number: the one of largest magnitude
NOTICEABLE = np.float32(1 + 3e-7)  # a fit has to be better by more than rounding errors
ZERO = np.float32(0)
ONE = np.float32(1)
TWO = np.float32(2)
HALF = np.float32(0.5)


@kernel
def expand(codes, variants, scales, tables, out):
    """out = scale * tables[variant][code], for each block of each row.

    codes:     u16 [n_rows, n_codes]
    variants:  u16 [n_rows, n_blocks], which table a block uses
    scales:    f32 [n_rows, n_blocks]
    tables:    f32 [n_variants, table_size, dim], dim values per code
    out:       f32 [n_rows, n_codes * dim]
    """
    per_block = codes.shape[1] // scales.shape[1]
    dim = tables.shape[2]
    for row in range(len(codes)):
        for block in range(scales.shape[1]):
            scale = scales[row, block]
            table = tables[variants[row, block]]
            for i in range(block * per_block, (block + 1) * per_block):
                code = codes[row, i]
                for k in range(dim):
                    out[row, i * dim + k] = scale * table[code, k]


@helper
def steps_of(tables):
    """Middles between neighbouring entries and the steps between them, f32 [n_variants, n_codes - 1] each."""
    low, high = tables[:, :-1], tables[:, 1:]
    return HALF * (low + high), high - low


@helper
def nearest_entry(y, lowest, middles, steps, v):
    """The entry of table v that is nearest to y: 122 M weights/s with 8 entries and 44 trials, 46 M with 16 and 60."""
    entry = broadcast(lowest)
    for k in range(middles.shape[1]):
        entry += select(y >= middles[v, k], broadcast(steps[v, k]), 0)
    return entry


@helper
def entry_sums(x, weight, first, size, inverse, lowest, middles, steps, v):
    """The weighted sums of q x and q^2, q the entries nearest to x * inverse."""
    sum_qx = sum_q2 = broadcast(0)
    for i in range(first, first + size):
        value = load(x, i)
        q = nearest_entry(value * inverse, lowest, middles, steps, v)
        wq = load(weight, i) * q
        sum_qx += wq * value
        sum_q2 += wq * q
    return sum_qx, sum_q2


@helper
def trial_inverse(target, which, x, first, largest, scale):
    """The inverse scale that takes value `which` (or the largest) to `target`, or 1 / scale if that is 0."""
    if target == ZERO:
        return ONE / scale
    if which == LARGEST:
        return target / largest
    return target / load(x, first + which)


@kernel
def best_scales(x, weight, tables, trials, scales, variants):
    """Of all trial scales and tables those whose nearest entries fit best, refitted: max (sum w q x)^2 / sum w q^2.

    tables:    f32 [n_variants, n_codes], ascending
    trials:    f32 [n_trials, 3]: table, what the value is scaled to (0: the best scale so far, again), which value
    scales:    f32 [n_subs, LANES], written; 0 where nothing fits
    variants:  f32 [n_subs, LANES], written: the table
    """
    size = len(x) // len(scales)
    middles, steps = steps_of(tables)
    for sub in range(len(scales)):
        first = size * sub
        largest = first_largest(x, first, size)
        scale = variant = best = broadcast(0)
        for t in range(len(trials)):
            v = np.int64(trials[t, 0])
            inverse = trial_inverse(trials[t, 1], np.int64(trials[t, 2]), x, first, largest, scale)
            sum_qx, sum_q2 = entry_sums(x, weight, first, size, inverse, tables[v, 0], middles, steps, v)
            better = sum_qx * sum_qx > best * sum_q2 * NOTICEABLE
            scale = select(better, sum_qx / sum_q2, scale)
            best = select(better, scale * sum_qx, best)
            variant = select(better, trials[t, 0], variant)
        store(scales, sub, scale)
        store(variants, sub, variant)


@kernel
def best_levels(x, weight, tables, levels, d, chosen, variants, gains):
    """For given d, of all levels and tables those whose nearest entries leave the smallest error; of equals the first.

    tables:    f32 [n_variants, n_codes], ascending
    levels:    f32 [n_levels]; the scale is d times a level
    d:         f32 [n_subs, LANES]
    chosen:    f32 [n_subs, LANES], written: which level
    variants:  f32 [n_subs, LANES], written: which table
    gains:     f32 [n_subs, LANES], written: by how much the error is below sum w x^2
    """
    size = len(x) // len(d)
    middles, steps = steps_of(tables)
    for sub in range(len(d)):
        level = variant = broadcast(0)
        best = broadcast(-np.inf)
        for i in range(len(levels)):
            scale = load(d, sub) * levels[i]
            inverse = select(scale == ZERO, ZERO, ONE / scale)
            for v in range(len(tables)):
                sum_qx, sum_q2 = entry_sums(x, weight, size * sub, size, inverse, tables[v, 0], middles, steps, v)
                gain = scale * (TWO * sum_qx - scale * sum_q2)
                better = gain > best
                best = select(better, gain, best)
                level = select(better, i, level)
                variant = select(better, v, variant)
        store(chosen, sub, level)
        store(variants, sub, variant)
        store(gains, sub, best)


@kernel
def encode(x, weights, scales, levels, variants, tables, codes, sums):
    """Nearest codes for given scales, and what is needed to refit the unit's one float.

    x, weights:  f32 [n_units, n_blocks, size]
    scales:      f32 [n_units, n_blocks]; codes of a scale 0 are those of the value 0
    levels:      f32 [n_units, n_blocks], what the unit's float is multiplied with
    variants:    u16 [n_units, n_blocks]
    tables:      f32 [n_variants, n_codes], ascending
    codes:       u16 [n_units, n_blocks, size], written
    sums:        f32 [n_units, 2], written: sum w x q and sum w q^2, q the level times the table entry
    """
    n_units, n_blocks, size = x.shape
    middles, _ = steps_of(tables)
    partial = np.empty((2, size), np.float32)
    for unit in range(n_units):
        partial[:] = ZERO
        for block in range(n_blocks):
            v = variants[unit, block]
            inverse = ONE / scales[unit, block] if scales[unit, block] != ZERO else ZERO
            codes[unit, block] = 0
            for k in range(middles.shape[1]):
                for j in range(size):
                    codes[unit, block, j] += np.uint16(x[unit, block, j] * inverse >= middles[v, k])
            for j in range(size):
                q = tables[v, codes[unit, block, j]] * levels[unit, block]
                partial[0, j] += weights[unit, block, j] * x[unit, block, j] * q
                partial[1, j] += weights[unit, block, j] * q * q
        sums[unit, 0] = partial[0].sum()
        sums[unit, 1] = partial[1].sum()


@kernel
def table_steps(tables):
    """`steps_of`, for callers outside of kernels."""
    return steps_of(tables)
