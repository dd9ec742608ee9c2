"""Slow twins of kernels/nn.py and of attention and routing, in float64 and as close to the textbook as possible."""

import numpy as np


def rms_norm(x, weight, eps):
    x = x.astype(np.float64)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def layer_norm(x, weight, bias, eps):
    x = x.astype(np.float64)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * weight + bias


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


def attention(q, k, v, scale, window=None, soft_cap=0.0, sinks=None):
    """One sequence: q [n_ctx, n_head, size], k [n_ctx, n_head_kv, size], v [n_ctx, n_head_kv, size_v]."""
    n_ctx, n_head, _ = q.shape
    out = np.zeros((n_ctx, n_head, v.shape[2]))
    for head in range(n_head):
        kv = head // (n_head // k.shape[1])
        for query in range(n_ctx):
            first = 0 if window is None else max(0, query + 1 - window)
            scores = scale * (k[first : query + 1, kv].astype(np.float64) @ q[query, head])
            if soft_cap:
                scores = soft_cap * np.tanh(scores / soft_cap)
            if sinks is not None:
                scores = np.append(scores, sinks[head])
            weights = softmax(scores)[: query + 1 - first]
            out[query, head] = weights @ v[first : query + 1, kv]
    return out


def silu(x):
    x = x.astype(np.float64)
    return x / (1 + np.exp(-x))


def gelu(x):
    x = x.astype(np.float64)
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * x * (1 + 0.044715 * x**2)))
