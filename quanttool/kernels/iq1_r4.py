"""The search of `iq1` for sub-blocks with given weights."""

import numpy as np

from .iq1 import DELTA, LANES, find_splits, make_split, make_tile, store_lane
from .jit import kernel


@kernel
def search_weighted(x, weights, book, scales, keys, deltas):
    """Scale, points and shifts of sub-blocks of 32 values (one shift) or 16 (one for each 8).

    x, weights:  f32 [n_subs, size]
    scales:      f32 [n_subs], written; 0 where x or the weights are all zero
    keys:        i32 [n_subs, size / 8], written: the points, as keys of the codebook
    deltas:      f32 [n_subs, size / 8], written
    """
    n_subs, size = x.shape
    tile, split = make_tile(size), make_split()
    sums = np.empty((4 * (size + 1), LANES), np.float32)
    values, weight, codes = np.empty(size, np.float32), np.empty(size, np.float32), np.empty(size, np.uint8)
    scales[:] = 0
    deltas[:] = DELTA
    for first in range(0, n_subs, LANES):
        n_lanes = min(LANES, n_subs - first)
        for lane in range(n_lanes):
            tile.largest[lane] = 0
            for j in range(size):
                tile.values[j, lane] = x[first + lane, j]
                tile.weights[j, lane] = weights[first + lane, j]
                tile.places[j, lane] = j
                tile.largest[lane] = max(tile.largest[lane], abs(x[first + lane, j]))
        find_splits(tile, sums, split)
        for lane in range(n_lanes):
            sub = first + lane
            if split.low[0, lane] >= 0 and tile.largest[lane] > 0:
                scales[sub] = store_lane(split, tile, lane, book, values, weight, codes, deltas[sub], keys[sub])
