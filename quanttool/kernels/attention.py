"""Attention of one head out of register tiles, with no more than a block of scores at a time. Needs AVX-512."""

import numpy as np

from .jit import fast_kernel
from .nn import softmax
from .register_tile import TILE_COLS, TILE_ROWS, add_product

BLOCK_ROWS = 4 * TILE_ROWS  # queries at a time: their scores stay in the cache, and few of them are only masked
ZERO = np.float32(0)


@fast_kernel
def attend(q, keys, values, window, cap, sink, out):
    """Causal attention: out = softmax(q @ keys) @ values, each query on the `window` keys that end with its own.

    q f32 [n_ctx, size]; keys f32 [n_panels, size, 32]: key 32 p + j is column j of panel p; values f32 [n_panels_v,
    n_ctx, 32]: the same of their columns; out f32 [n_ctx, size_v]. cap: scores become cap * tanh(score / cap) unless it
    is 0. sink: one more score, of a key without a value; a very small one has no effect.
    """
    queries = np.zeros((BLOCK_ROWS, q.shape[1]), np.float32)
    scores = np.empty((BLOCK_ROWS, keys.shape[0] * TILE_COLS), np.float32)
    mixed = np.empty((BLOCK_ROWS, values.shape[0] * TILE_COLS), np.float32)
    for start in range(0, q.shape[0], BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, q.shape[0])
        first = max(0, start + 1 - window) // TILE_COLS * TILE_COLS  # the keys that some query of the block sees
        queries[: stop - start] = q[start:stop]
        for key in range(first, stop, TILE_COLS):
            for row in range(0, stop - start, TILE_ROWS):
                scores[row : row + TILE_ROWS, key : key + TILE_COLS] = ZERO
                add_product(queries[row:], keys[key // TILE_COLS], q.shape[1], scores[row:, key:])
        for row in range(stop - start):
            after = start + row + 1
            seen = max(first, after - window)
            scores[row, first:seen] = ZERO
            softmax(scores[row, seen:after], cap, sink)
            scores[row, after:stop] = ZERO
        for panel in range(values.shape[0]):
            column = panel * TILE_COLS
            for row in range(0, stop - start, TILE_ROWS):
                mixed[row : row + TILE_ROWS, column : column + TILE_COLS] = ZERO
                add_product(scores[row:, first:], values[panel, first:], stop - first, mixed[row:, column:])
        out[start:stop] = mixed[: stop - start, : out.shape[1]]
