"""Rounding the columns of many rows to levels, where codes must have an even number of set bits together in words.

All ways to share out odd and even codes in a word are tried: 8 for four columns. In each, a column takes the level that
is nearest to what is wanted of it, given those before it.
"""

import numpy as np

from .jit import helper, kernel
from .lanes import LANES, broadcast, int_lanes, load, magnitude, multiply_add, number_at, select, store

WORD = 4
N_LEVELS = 16
ODD = np.array([code.bit_count() % 2 for code in range(N_LEVELS)])


@helper
def nearest_level(x, levels, table, odd):
    """The level nearest to x of those with an odd (or even) number of set bits in their code, and the code."""
    best = broadcast(np.inf)
    code = int_lanes(broadcast(0))
    for k in range(N_LEVELS):
        if ODD[k] == odd:
            level = load(levels, table + k)
            nearer = magnitude(x - level) < magnitude(x - best)
            best = select(nearer, level, best)
            code = select(nearer, k, code)
    return best, code


@helper
def take_levels(wanted, own, weights, levels, table, ways, values, codes):
    """Give a word's columns the levels that suit them, odd where the bit in `ways` is set; what it costs.

    wanted:  f32 [WORD, LANES], if the word's values before are 0
    own:     f32 [WORD * WORD], the couplings of its columns with each other
    """
    cost = broadcast(0)
    for j in range(WORD):
        x = load(wanted, j)
        for i in range(j):
            x = multiply_add(load(values, i), -number_at(own, WORD * j + i), x)
        value, code = nearest_level(x, levels, table, (ways >> j) & 1)
        store(values, j, value)
        store(codes, j, code)
        cost = multiply_add(weights[j] * (x - value), x - value, cost)
    return cost


@kernel
def round_words(targets, shifts, couplings, weights, levels, groups, codes, errors):
    """`feedback.round_columns` for words of WORD successive columns; n_levels is N_LEVELS.

    couplings:  0 also with the columns of its word that come after it
    weights:    f32 [n_cols], of squared errors that the columns before have left
    """
    n_cols = groups.size
    n_groups = groups.max() + 1
    wanted, values, best_values = np.zeros((3, WORD, LANES), np.float32)
    new_codes, best_codes = np.zeros((2, WORD, LANES), np.int32)
    own = np.empty(WORD * WORD, np.float32)
    for first in range(0, len(targets), WORD):
        tile, column = first // n_cols, first % n_cols
        for j in range(WORD):
            own[WORD * j : WORD * (j + 1)] = couplings[column + j, column : column + WORD]
            store(errors, first + j, -load(targets, first + j))  # as if the word's values were 0
        for j in range(WORD):
            x = load(targets, first + j) + load(shifts, first + j)
            for other in range(n_cols):
                x = multiply_add(load(errors, tile * n_cols + other), -couplings[column + j, other], x)
            store(wanted, j, x)
        table = (tile * n_groups + groups[column]) * N_LEVELS
        least = broadcast(np.inf)
        for ways in range(1 << WORD):
            if ODD[ways]:
                continue
            cost = take_levels(wanted, own, weights[column:], levels, table, ways, values, new_codes)
            better = cost < least
            least = select(better, cost, least)
            for j in range(WORD):
                store(best_values, j, select(better, load(values, j), load(best_values, j)))
                store(best_codes, j, select(better, load(new_codes, j), load(best_codes, j)))
        for j in range(WORD):
            store(codes, first + j, load(best_codes, j))
            store(errors, first + j, load(best_values, j) - load(targets, first + j))
