"""Scales for integers -n .. n - 1, tried from both ends. Tiles as in `scales`."""

import numpy as np

from .jit import kernel
from .lanes import broadcast, int_lanes, load, select, store
from .scales import TENTH, first_largest, signed_code_of, symmetric_sums

REFITS = 2


@kernel
def two_sided_search(x, weight, size, n, codes, scale):
    """Scale and codes 0 .. 2 n - 1 (ik_llama.cpp ggml-quants.c `make_qx_quants`); scale 0 where nothing fits.

    The value of largest magnitude goes to -n and to n - 1, give or take 0.1 k for k up to 9, each followed by the
    least-squares scale; the best of them is refitted and its codes chosen anew (where the original moves one code at
    a time).
    """
    for sub in range(len(scale)):
        first = size * sub
        largest = first_largest(x, first, size)
        best = best_scale = broadcast(0)
        for trial in range(38 + REFITS):
            offset = TENTH * np.float32(trial // 2 - 9)
            target = -(n + offset) if trial % 2 == 0 else n - 1 + offset
            inverse = np.float32(target) / largest if trial < 38 else 1 / best_scale
            sum_lx, sum_l2 = symmetric_sums(x, weight, first, size, inverse, n)
            better = sum_lx * sum_lx > best * sum_l2
            best_scale = select(better, sum_lx / sum_l2, best_scale)
            best = select(better, best_scale * sum_lx, best)
        store(scale, sub, best_scale)
        inverse = select(best_scale == 0, 0, 1 / best_scale)
        for i in range(first, first + size):
            store(codes, i, int_lanes(signed_code_of(inverse * load(x, i), n)) + n)
