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
    sign_bits:  per 8 values, 0: none, 7: in every 8 successive columns the number of minus signs is even. If it were
                odd, one sign of the last group changes, the one for which that costs least, and so much is added to
                the cost of the point
    """
    dim, upper = table.shape[1], inverse_factor(h, order)
    left = (weights - shifts)[:, order].astype(np.float64)
    scales = scales[:, order]
    values = np.empty_like(left)
    n_minus = np.zeros(len(left), int)
    for first in range(0, len(order), dim):
        here = slice(first, first + dim)
        settles = sign_bits == 7 and (first + dim) % 8 == 0
        chosen, minus = [], []
        for row in range(len(left)):
            tries, costs, changes = group_tries(
                left[row, here], upper[here, here], table * scales[row, first], sign_bits
            )
            odd = ((tries < 0).sum(axis=1) + n_minus[row]) % 2 == 1
            best = (costs + (changes.min(axis=1) if settles else 0) * odd).argmin()
            value = tries[best]
            if settles and odd[best]:
                value[changes[best].argmin()] *= -1
            chosen.append(value)
            minus.append((value < 0).sum())
        n_minus = np.zeros_like(n_minus) if settles else n_minus + minus
        values[:, here] = chosen
        for j in range(first, first + dim):
            left[:, j:] -= np.outer((left[:, j] - values[:, j]) / upper[j, j], upper[j, j:])
    return in_place(values, order) + shifts


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
