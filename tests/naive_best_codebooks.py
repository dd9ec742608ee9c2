"""The least weighted error of IQ1, IQ2 and IQ3 blocks by trying every point, sign, shift and code, in float64."""

from itertools import product
from pathlib import Path

import numpy as np

from quanttool import formats

TABLES = Path(formats.__file__).parent / "tables"
IQ2_LEVELS = (8, 25, 43)
IQ3_XXS_LEVELS = (4, 12, 20, 28, 36, 44, 52, 62)

# name: codebook, what its levels stand for, factor of d, number of codes, values with one code
TYPES = {
    "IQ2_XXS": ("iq2_xxs", IQ2_LEVELS, 1 / 8, 16, 32),
    "IQ2_XS": ("iq2_xs", IQ2_LEVELS, 1 / 8, 16, 16),
    "IQ2_S": ("iq2_s", IQ2_LEVELS, 1 / 8, 16, 16),
    "IQ3_XXS": ("iq3_xxs", IQ3_XXS_LEVELS, 1 / 4, 16, 32),
    "IQ3_S": ("iq3_s", (1, 3, 5, 7, 9, 11, 13, 15), 1, 16, 32),
    "IQ1_S": ("iq1", (-1, 0, 1), 1, 8, 32),
    "IQ1_M": ("iq1", (-1, 0, 1), 1, 8, 16),
}
EVEN_SIGNS = ("IQ2_XXS", "IQ2_XS", "IQ3_XXS")
SIGNS = np.array(list(product([1, -1], repeat=8)))
EVEN = SIGNS[(SIGNS < 0).sum(axis=1) % 2 == 0]


def points_of(name):
    codebook, levels, *_ = TYPES[name]
    return np.array(levels, np.float64)[np.load(TABLES / f"{codebook}.npy")]


def errors_of_points(x, w, points, scale):
    """Error of a group with each of the points."""
    return ((x - scale * points) ** 2 * w).sum(axis=1)


def eight_error(name, x, w, scale):
    """Least error of 8 values."""
    points = points_of(name)
    dim = points.shape[1]
    parts = [(x[k : k + dim], w[k : k + dim]) for k in range(0, 8, dim)]
    if name not in EVEN_SIGNS:
        return sum(errors_of_points(np.abs(a), b, points, scale).min() for a, b in parts)
    totals = np.zeros(len(EVEN))
    for k, (a, b) in zip(range(0, 8, dim), parts, strict=True):
        patterns, which = np.unique(EVEN[:, k : k + dim], axis=0, return_inverse=True)
        totals += np.array([errors_of_points(a * signs, b, points, scale).min() for signs in patterns])[which.ravel()]
    return totals.min()


def shifted_error(x, w, scale, size):
    """Least error of values whose shift, one for each `size` of them, is an eighth up or down."""
    points = points_of("IQ1_S")
    total = 0
    for start in range(0, len(x), size):
        groups = [slice(k, k + 8) for k in range(start, start + size, 8)]
        total += min(
            sum(errors_of_points(x[group], w[group], points + shift, scale).min() for group in groups)
            for shift in (0.125, -0.125)
        )
    return total


def sub_block_error(name, x, w, scale):
    """Least error of the values that share a code, at a scale."""
    if name.startswith("IQ1"):
        return shifted_error(x, w, scale, 32 if name == "IQ1_S" else 8)
    return sum(eight_error(name, x[k : k + 8], w[k : k + 8], scale) for k in range(0, len(x), 8))


def block_error(name, x, w, d):
    """Least error of 256 values x with importance w, given d."""
    _, _, unit, n_codes, size = TYPES[name]
    x, w = x.astype(np.float64), w.astype(np.float64)
    total = 0
    for k in range(0, 256, size):
        part = slice(k, k + size)
        total += min(sub_block_error(name, x[part], w[part], d * unit * (2 * code + 1)) for code in range(n_codes))
    return total
