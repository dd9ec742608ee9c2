"""Attention of one head out of register tiles, with no more than a block of scores at a time. Needs AVX-512."""

import numpy as np

from .jit import fast_kernel, helper
from .nn import exp
from .register_tile import TILE_COLS, TILE_ROWS, add_product

BLOCK_ROWS = 4 * TILE_ROWS  # queries at a time: their scores stay in the cache, and few of them are only masked
ZERO, ONE, TWO = np.float32(0), np.float32(1), np.float32(2)
LOWEST = np.int32(-(1 << 31))


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
            weigh(scores[row, first:stop], max(0, after - window - first), after - first, cap, sink)
        for panel in range(values.shape[0]):
            column = panel * TILE_COLS
            for row in range(0, stop - start, TILE_ROWS):
                mixed[row : row + TILE_ROWS, column : column + TILE_COLS] = ZERO
                add_product(scores[row:, first:], values[panel, first:], stop - first, mixed[row:, column:])
        out[start:stop] = mixed[: stop - start, : out.shape[1]]


@fast_kernel
def weigh(scores, start, stop, cap, sink):
    """Softmax of scores[start:stop] in place; the others become 0. f32 [n]"""
    seen = scores[start:stop]
    if cap > ZERO:
        for i in range(seen.shape[0]):
            seen[i] = cap - TWO * cap / (ONE + exp(seen[i] * (TWO / cap)))
    highest = LOWEST
    for i in range(seen.shape[0]):
        highest = max(highest, in_order(seen[i]))
    top = max(float_in_order(highest), sink)
    total = exp(sink - top)
    for i in range(seen.shape[0]):
        seen[i] = exp(seen[i] - top)
        total += seen[i]
    for i in range(seen.shape[0]):
        seen[i] *= ONE / total
    scores[:start] = ZERO
    scores[stop:] = ZERO


@helper
def in_order(x):
    """The bits of f32 x as an i32 that is ordered as the numbers are: LLVM makes vector code of its maximum only."""
    bits = np.float32(x).view(np.int32)
    return np.int32(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@helper
def float_in_order(key):
    """The f32 whose `in_order` is i32 `key`."""
    return np.int32(key ^ ((key >> np.int32(31)) & np.int32(0x7FFFFFFF))).view(np.float32)
