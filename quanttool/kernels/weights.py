"""How much an error in each value counts, as tiles f32 [n, LANES] beside the values x (ggml-quants.c)."""

import numpy as np

from .jit import kernel
from .lanes import broadcast, load, magnitude, square_root, store


@kernel
def mean_squares(x, size, out):
    """Mean of the squares of each `size` rows, a power of two, summed in order; out f32 [n / size, LANES]."""
    for sub in range(out.shape[0]):
        total = broadcast(0)
        for i in range(size * sub, size * (sub + 1)):
            total += load(x, i) * load(x, i)
        store(out, sub, total / size)


@kernel
def row_mean_squares(rows, out):
    """Mean of the squares of each row, summed in order; rows f32 [n_rows, n_cols], out f32 [n_rows]."""
    for row in range(rows.shape[0]):
        total = np.float32(0)
        for i in range(rows.shape[1]):
            total += rows[row, i] * rows[row, i]
        out[row] = total / np.float32(rows.shape[1])


@kernel
def weigh_by_importance(x, sigma2, weight):
    """Importance in `weight` becomes importance * sqrt(sigma2 + x^2); sigma2 f32 [n / size, LANES]."""
    size = x.shape[0] // sigma2.shape[0]
    for sub in range(sigma2.shape[0]):
        s = load(sigma2, sub)
        for i in range(size * sub, size * (sub + 1)):
            v = load(x, i)
            store(weight, i, load(weight, i) * square_root(s + v * v))


@kernel
def weigh_by_magnitude(x, mean_square, weight):
    """Without importance: root mean square of the sub-block + |x|; mean_square f32 [n / size, LANES]."""
    size = x.shape[0] // mean_square.shape[0]
    for sub in range(mean_square.shape[0]):
        rms = square_root(load(mean_square, sub))
        for i in range(size * sub, size * (sub + 1)):
            store(weight, i, rms + magnitude(load(x, i)))


@kernel
def sums(weight, size, out):
    """Sum of each `size` rows, in order; out f32 [n / size, LANES]."""
    for sub in range(out.shape[0]):
        total = broadcast(0)
        for i in range(size * sub, size * (sub + 1)):
            total += load(weight, i)
        store(out, sub, total)
