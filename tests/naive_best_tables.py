"""The least weighted error that a block of a table format can have, by trying everything, in float64."""

import numpy as np


def entry_errors(x, w, entries, scales):
    """Errors f64 [n_scales] of a sub-block with the nearest of `entries` for each scale."""
    errors = np.empty(len(scales))
    for i, scale in enumerate(scales):
        off = np.abs(x[:, None] - scale * entries).min(axis=1)
        errors[i] = (w * off * off).sum()
    return errors


def least_error(x, w, tables, levels, ds):
    """Least error of a block x [n_subs, size] over the given d, all levels and all tables.

    Given d, sub-blocks have nothing more to do with each other.
    """
    totals = np.zeros(len(ds))
    for values, weights in zip(x.astype(np.float64), w.astype(np.float64), strict=True):
        scales = np.outer(ds, levels).ravel()
        distinct, back = np.unique(scales, return_inverse=True)
        errors = np.min([entry_errors(values, weights, entries, distinct) for entries in tables], axis=0)
        totals += errors[back].reshape(len(ds), -1).min(axis=1)
    return totals.min()


def float16_between(low, high):
    """All positive float16 from low to high, f64."""
    bits = np.arange(*np.array([low, high], np.float16).view(np.uint16), dtype=np.uint16)
    return bits.view(np.float16).astype(np.float64)


def best_float_scale(x, w, entries):
    """(sum w q x)^2 / sum w q^2 of the best of all distinct roundings, both signs: sorted thresholds, one by one."""
    x, w = x.astype(np.float64), w.astype(np.float64)
    middles = (entries[1:] + entries[:-1]) / 2
    with np.errstate(divide="ignore"):
        crossings = np.unique((middles / x[x != 0][:, None]).ravel())
    best = 0.0
    for inverse in np.concatenate([(crossings[1:] + crossings[:-1]) / 2, crossings[[0, -1]] * 1.01]):
        q = entries[np.searchsorted(middles, x * inverse)]
        best = max(best, (w * q * x).sum() ** 2 / (w * q * q).sum())
    return best
