"""Slow twins of the searches for the least weighted error, in float64, block by block."""

import numpy as np


def best_symmetric_error(x, weight, n):
    """Least weighted squared error of x [size] as scale * q, q integers -n .. n - 1, over every distinct rounding.

    For each sign of the scale, all inverse scales at which a rounding changes are tried, a little below and above.
    """
    x, weight = np.asarray(x, np.float64), np.asarray(weight, np.float64)
    breaks = np.concatenate([(k + 0.5) / np.abs(x[x != 0]) for k in range(n)] + [[1e-300]])
    best = (weight * x**2).sum()
    for inverse in np.concatenate([breaks * (1 - 1e-9), breaks * (1 + 1e-9)]):
        for signed in (inverse, -inverse):
            q = np.clip(np.round(x * signed), -n, n - 1)
            if (weight * q**2).sum() > 0:
                scale = (weight * q * x).sum() / (weight * q**2).sum()
                best = min(best, (weight * (x - scale * q) ** 2).sum())
    return best
