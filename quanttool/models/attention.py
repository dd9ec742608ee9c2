"""Attention of sequences to themselves, the innermost part of the architectures' attention layers."""

from math import ceil

import numpy as np

from ..kernels import attention, nn, products
from ..kernels.jit import processor_has
from ..kernels.register_tile import TILE_COLS
from ..parallel import for_each
from .products import Array

QUERY_BLOCK = 128  # queries whose scores are held at once: fewer waste less on keys past the diagonal
NO_SINK = np.float32(-1e30)
NO_WINDOW = 1 << 30


def attend(
    q: Array,  # [n_seq, n_ctx, n_head, head_size]
    k: Array,  # [n_seq, n_ctx, n_head_kv, head_size]
    v: Array,  # [n_seq, n_ctx, n_head_kv, head_size_v]
    scale: float,
    window: int = NO_WINDOW,  # how many keys a query sees, itself included
    soft_cap: float = 0.0,
    sinks: Array | None = None,  # [n_head]
) -> Array:  # [n_seq, n_ctx, n_head, head_size_v]
    """Causal attention of each sequence to itself; query head h looks at key-value head h // (n_head / n_head_kv)."""
    n_seq, _, n_head, _ = q.shape
    if sinks is None:
        sinks = np.full(n_head, NO_SINK)
    work = _attend_in_tiles if processor_has("avx512f") else _attend_with_blas
    heads = [(seq, head) for seq in range(n_seq) for head in range(n_head)]
    return work(q * np.float32(scale), k, v, window, np.float32(soft_cap), sinks, heads)


def _attend_in_tiles(q, k, v, window, soft_cap, sinks, heads) -> Array:
    n_seq, n_ctx, n_head_kv, _ = k.shape
    keys = np.empty((n_seq, n_head_kv, ceil(n_ctx / TILE_COLS), k.shape[3], TILE_COLS), np.float32)
    values = np.empty((n_seq, n_head_kv, ceil(v.shape[3] / TILE_COLS), n_ctx, TILE_COLS), np.float32)

    def pack(kv: tuple[int, int]) -> None:
        seq, head = kv
        products.pack(k[seq, :, head], keys[seq, head])
        products.pack(v[seq, :, head].T, values[seq, head])

    def attend_head(place: tuple[int, int]) -> None:
        seq, head = place
        kv = seq, head * n_head_kv // q.shape[2]
        attention.attend(q[seq, :, head], keys[kv], values[kv], window, soft_cap, sinks[head], out[seq, :, head])

    out = np.empty((*q.shape[:3], v.shape[3]), np.float32)
    for_each(pack, [(seq, head) for seq in range(n_seq) for head in range(n_head_kv)])
    for_each(attend_head, heads)
    return out


def _attend_with_blas(q, k, v, window, soft_cap, sinks, heads) -> Array:
    group = q.shape[2] // k.shape[2]
    out = np.empty((*q.shape[:3], v.shape[3]), np.float32)
    n_ctx = q.shape[1]

    def attend_head(place: tuple[int, int]) -> None:
        seq, head = place
        for start in range(0, n_ctx, QUERY_BLOCK):
            stop = min(start + QUERY_BLOCK, n_ctx)
            first = max(0, start + 1 - window)  # the first key that a query of the block sees
            scores = q[seq, start:stop, head] @ k[seq, first:stop, head // group].T
            nn.causal_softmax(scores, start - first, window, soft_cap, sinks[head])
            np.matmul(scores, v[seq, first:stop, head // group], out=out[seq, start:stop, head])

    for_each(attend_head, heads)
    return out
