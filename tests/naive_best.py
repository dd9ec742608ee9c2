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


def best_affine_error(x, weight, max_code, n_starts=48, rounds=30):
    """Least weighted squared error of scale * q + minimum, q 0 .. max_code, that many starts lead to.

    Every start lets q begin at one and end at another place of a fine grid over (and beyond) the range of x, and
    alternates nearest integers with weighted least squares.
    """
    x, weight = np.asarray(x, np.float64), np.asarray(weight, np.float64)
    span = x.max() - x.min()
    shifts = np.linspace(-0.1, 0.4, n_starts) * span
    low, high = np.meshgrid(x.min() + shifts, x.max() - shifts)
    low, high = low[low < high][:, None], high[low < high][:, None]
    scale, minimum, best = (high - low) / max_code, low, np.inf
    for _ in range(rounds):
        q = np.clip(np.round((x - minimum) / scale), 0, max_code)
        best = min(best, (weight * (scale * q + minimum - x) ** 2).sum(axis=1).min())
        w, wx, wq, wqq, wqx = (
            (weight * term).sum(axis=1, keepdims=True) for term in (np.ones_like(q), x + 0 * q, q, q * q, q * x)
        )
        determinant = w * wqq - wq * wq
        fits = determinant > 1e-12 * w * wqq
        with np.errstate(all="ignore"):
            scale = np.where(fits, (w * wqx - wx * wq) / determinant, scale)
            minimum = np.where(fits, (wqq * wx - wq * wqx) / determinant, minimum)
        scale = np.where(scale == 0, 1e-300, scale)
    return best


def best_symmetric_super_block_error(x, weight, n, n_scales, steps=600):
    """Least weighted squared error of d * scale * q for 16 sub-blocks of 16, over a fine grid of d and all integers.

    q is -n .. n - 1, scale -n_scales .. n_scales - 1. The grid goes from where the largest scale just covers the
    largest value to twice that.
    """
    x, weight = (np.asarray(a, np.float64).reshape(16, 1, 16) for a in (x, weight))
    scales = np.arange(-n_scales, n_scales)[:, None]
    best = np.inf
    for d in np.geomspace(0.5, 2, steps) * np.abs(x).max() / (n * n_scales):
        with np.errstate(all="ignore"):
            q = np.clip(np.round(np.nan_to_num(x / (d * scales))), -n, n - 1)
        errors = (weight * (d * scales * q - x) ** 2).sum(axis=2)
        best = min(best, errors.min(axis=1).sum())
    return best


def best_affine_super_block_error(x, weight, how, around, steps=24, width=0.1):
    """Least weighted squared error of d * scale * q - dmin * minimum, near d and dmin `around`, over all integers.

    how: size of sub-blocks, largest q, largest scale and minimum.
    """
    size, max_code, max_scale = how
    x, weight = (np.asarray(a, np.float64).reshape(-1, 1, 1, size) for a in (x, weight))
    integers = np.arange(max_scale + 1.0)
    scale, minimum = integers[:, None, None], integers[None, :, None]
    best = np.inf
    for d in around[0] * np.linspace(1 - width, 1 + width, steps):
        for dmin in around[1] * np.linspace(1 - width, 1 + width, steps):
            with np.errstate(all="ignore"):
                q = np.clip(np.round(np.nan_to_num((x + dmin * minimum) / (d * scale))), 0, max_code)
            errors = (weight * (d * scale * q - dmin * minimum - x) ** 2).sum(axis=3)
            best = min(best, errors.min(axis=(1, 2)).sum())
    return best
