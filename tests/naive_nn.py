"""Slow twins of kernels/nn.py, in float64 and as close to the textbook as possible."""

import numpy as np


def rms_norm(x, weight, eps):
    x = x.astype(np.float64)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def rope(x, angles, style):
    """x [n_tokens, n_head, head_size], angles [n_tokens, n_rot / 2]: each pair is a complex number to be turned."""
    x = x.astype(np.float64)
    half = angles.shape[1]
    first = slice(0, 2 * half, 2) if style == "pairs" else slice(0, half)
    second = slice(1, 2 * half, 2) if style == "pairs" else slice(half, 2 * half)
    turned = (x[:, :, first] + 1j * x[:, :, second]) * np.exp(1j * angles)[:, None]
    out = x.copy()
    out[:, :, first], out[:, :, second] = turned.real, turned.imag
    return out


def softmax(scores):
    e = np.exp(scores.astype(np.float64) - scores.max())
    return e / e.sum()


def attention(q, k, v, scale):
    """One sequence: q [n_ctx, n_head, size], k [n_ctx, n_head_kv, size], v [n_ctx, n_head_kv, size_v]."""
    n_ctx, n_head, _ = q.shape
    out = np.zeros((n_ctx, n_head, v.shape[2]))
    for head in range(n_head):
        kv = head // (n_head // k.shape[1])
        for query in range(n_ctx):
            scores = np.array([scale * (q[query, head].astype(np.float64) @ k[key, kv]) for key in range(query + 1)])
            out[query, head] = softmax(scores) @ v[: query + 1, kv]
    return out.reshape(n_ctx, -1)


def silu(x):
    x = x.astype(np.float64)
    return x / (1 + np.exp(-x))
