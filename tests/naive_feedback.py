"""Error feedback by definition, in float64: GPTQ with the Cholesky factor of H's inverse, column by column.

arXiv 2210.17323, algorithm 1, without blocks: errors are pushed into what is left, divided by the factor's diagonal.
"""

import numpy as np


def inverse_factor(h, order):
    """Upper U with U^T U = H^-1, columns in the order in which they are rounded."""
    return np.linalg.cholesky(np.linalg.inv(h[np.ix_(order, order)])).T


def gptq(weights, h, tables, order):
    """Values f64 [n_rows, n_cols]; tables f32 [n_rows, n_cols, n_levels]."""
    upper = inverse_factor(h, order)
    left = weights[:, order].astype(np.float64)
    values = np.empty_like(left)
    for j, column in enumerate(order):
        nearest = np.abs(tables[:, column] - left[:, j : j + 1]).argmin(axis=1)
        values[:, j] = tables[np.arange(len(left)), column, nearest]
        left[:, j:] -= np.outer((left[:, j] - values[:, j]) / upper[j, j], upper[j, j:])
    return in_place(values, order)


def gptq_points(weights, h, table, scales, shifts, order, sign_bits):
    """Values f64 [n_rows, n_cols], groups of columns rounded to the points of a table.

    Every point is tried, each with the sign for every column that is nearest to what is left of it then.
    table:   f32 [n_points, dim]
    scales, shifts: f32 [n_rows, n_cols], of the columns
    order:   i64 [n_cols], columns of a group successive
    sign_bits:  per 8 values, 0: none; 7: in every 8 successive columns the number of minus signs is even; 8
    """
    upper, word = inverse_factor(h, order), 8 if sign_bits == 7 else table.shape[1]
    values = np.empty(weights.shape)
    for row, left in enumerate((weights - shifts)[:, order].astype(np.float64)):
        points = table * scales[row, order][::word, None, None]
        for n, first in enumerate(range(0, len(order), word)):
            ways = range(word // table.shape[1])  # two groups: both have an even number, or both an odd one
            tries = [round_word(left.copy(), first, word, points[n], upper, sign_bits, odd) for odd in ways]
            _, left, values[row, first : first + word] = min(tries, key=lambda way: way[0])
    return in_place(values, order) + shifts


def round_word(left, first, word, points, upper, sign_bits, odd):
    """Cost, what is then left [n_cols], and values [word], of successive columns.

    With sign_bits 7 each group has an odd number of minus signs, or an even one. If the signs that suit it are not so,
    one of them changes, the one for which that costs least, and so much is added to the cost of the point.
    """
    total, chosen = 0, []
    for start in range(first, first + word, points.shape[1]):
        here = slice(start, start + points.shape[1])
        tries, costs, changes = group_tries(left[here], upper[here, here], points, sign_bits)
        wrong = ((tries < 0).sum(axis=1) % 2 != odd) & (sign_bits == 7)
        costs += changes.min(axis=1) * wrong
        best = costs.argmin()
        total += costs[best]
        if wrong[best]:
            tries[best, changes[best].argmin()] *= -1
        for j, value in enumerate(tries[best], start):
            left[j:] -= (left[j] - value) / upper[j, j] * upper[j, j:]
        chosen.extend(tries[best])
    return total, left, chosen


def group_tries(left, upper, points, sign_bits):
    """Values and what a change of each sign costs [n_points, dim], and costs [n_points], if a group takes a point."""
    left = np.repeat(left[None], len(points), axis=0)
    values, costs, changes = points.astype(np.float64), np.zeros(len(points)), np.empty(points.shape)
    for j in range(points.shape[1]):
        if sign_bits:
            values[:, j] *= np.where(left[:, j] < 0, -1, 1)
        off = (left[:, j] - values[:, j]) / upper[j, j]
        costs += off**2
        changes[:, j] = 4 * np.abs(left[:, j] * values[:, j]) / upper[j, j] ** 2
        left[:, j:] -= np.outer(off, upper[j, j:])
    return values, costs, changes


def in_place(values, order):
    out = np.empty_like(values)
    out[:, order] = values
    return out


def gptq_words(weights, h, tables, order):
    """`gptq` with 16 levels, the codes of every 4 successive columns with an even number of set bits together.

    Of the 8 ways to share them out the one that costs least, each column nearest to what is left of it then.
    """
    upper, odd = inverse_factor(h, order), np.array([code.bit_count() % 2 for code in range(16)])
    ways = [way for way in np.ndindex(2, 2, 2, 2) if sum(way) % 2 == 0]
    values = np.empty(weights.shape)
    for row, left in enumerate(weights[:, order].astype(np.float64)):
        for first in range(0, len(order), 4):
            tries = []
            for way in ways:
                cost, trial, chosen = 0, left.copy(), []
                for j, is_odd in enumerate(way, first):
                    allowed = tables[row, order[j]][odd == is_odd]
                    value = allowed[np.abs(allowed - trial[j]).argmin()]
                    off = (trial[j] - value) / upper[j, j]
                    cost += off**2
                    trial[j:] -= off * upper[j, j:]
                    chosen.append(value)
                tries.append((cost, trial, chosen))
            _, left, values[row, first : first + 4] = min(tries, key=lambda one: one[0])
    return in_place(values, order)


def gptq_sequences(weights, h, table, scales, order):
    """`gptq` with groups of columns that take the point nearest to what is left of them, weighed column by column.

    The weights are the diagonal of their covariance given all later columns: the inverse of their block in H's inverse.
    """
    dim, upper = table.shape[1], inverse_factor(h, order)
    values = np.empty(weights.shape)
    for row, left in enumerate(weights[:, order].astype(np.float64)):
        for first in range(0, len(order), dim):
            here = slice(first, first + dim)
            form = np.linalg.inv(upper[here, here].T @ upper[here, here])
            points = table * scales[row, order[first]]
            values[row, here] = points[((points - left[here]) ** 2 @ np.diagonal(form)).argmin()]
            for j in range(first, first + dim):
                left[j:] -= (left[j] - values[row, j]) / upper[j, j] * upper[j, j:]
    return in_place(values, order)
