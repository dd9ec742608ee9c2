"""What a forward pass needs beside matrix products: norms, rotary positions, attention's softmax, activations.

All work on float32, in one thread, on the rows they are given; sums may be reordered (`fast_kernel`), so results are
compared with a tolerance.
"""

import numpy as np

from .jit import fast_kernel, helper

ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)

LOG2_E = np.float32(1.4426950408889634)
LN2_HIGH = np.float32(0.693359375)  # ln 2 in two parts: the first has few bits, so its product with an integer is exact
LN2_LOW = np.float32(-2.12194440e-4)
EXP_MIN, EXP_MAX = np.float32(-87.0), np.float32(88.0)  # beyond, 2^k leaves the normal float32 numbers
# exp(r) = 1 + r + r^2 p(r) for |r| <= ln(2) / 2 (Cephes, expf.c): relative error below 2e-7
EXP_5, EXP_4, EXP_3 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
EXP_2, EXP_1 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1)


@helper
def exp(x):
    """e^x for f32 without branches or calls, so that a loop of it becomes vector code; clamped to [e^-87, e^88]."""
    x = max(min(x, EXP_MAX), EXP_MIN)
    k = np.floor(x * LOG2_E + HALF)
    r = x - k * LN2_HIGH - k * LN2_LOW
    p = (((EXP_5 * r + EXP_4) * r + EXP_3) * r + EXP_2) * r + EXP_1
    power_of_two = np.int32((np.int32(k) + np.int32(127)) << 23).view(np.float32)
    return ((p * r + HALF) * r * r + r + ONE) * power_of_two


@fast_kernel
def rms_norm(x, weight, eps, out):
    """out = x / rms(x) * weight; x, out f32 [n_rows, n], weight f32 [n]."""
    for row in range(x.shape[0]):
        total = ZERO
        for i in range(x.shape[1]):
            total += x[row, i] * x[row, i]
        factor = ONE / np.sqrt(total / np.float32(x.shape[1]) + eps)
        for i in range(x.shape[1]):
            out[row, i] = x[row, i] * factor * weight[i]


@fast_kernel
def rope_pairs(x, cos, sin):
    """Rotate neighbours (2i, 2i+1) of each head in place: ggml's "normal" rope.

    x f32 [n_tokens, n_head, head_size], cos and sin f32 [n_ctx, n_rot / 2]; token t stands at t % n_ctx.
    """
    for t in range(x.shape[0]):
        c, s = cos[t % cos.shape[0]], sin[t % cos.shape[0]]
        for head in range(x.shape[1]):
            for i in range(cos.shape[1]):
                a, b = x[t, head, 2 * i], x[t, head, 2 * i + 1]
                x[t, head, 2 * i] = a * c[i] - b * s[i]
                x[t, head, 2 * i + 1] = a * s[i] + b * c[i]


@fast_kernel
def rope_halves(x, cos, sin):
    """Rotate (i, i + n_rot/2) of each head in place: ggml's "neox" rope. Shapes as in `rope_pairs`."""
    half = cos.shape[1]
    for t in range(x.shape[0]):
        c, s = cos[t % cos.shape[0]], sin[t % cos.shape[0]]
        for head in range(x.shape[1]):
            for i in range(half):
                a, b = x[t, head, i], x[t, head, i + half]
                x[t, head, i] = a * c[i] - b * s[i]
                x[t, head, i + half] = a * s[i] + b * c[i]


@fast_kernel
def causal_softmax(scores, first_query, scale):
    """Softmax of scale * scores in place, row by row, over the keys that a query may see; the others become 0.

    scores f32 [n_queries, n_keys]; row r is the query at position first_query + r and sees keys 0 ... first_query + r.
    """
    for row in range(scores.shape[0]):
        n_seen = min(first_query + row + 1, scores.shape[1])
        top = scores[row, 0]
        for i in range(n_seen):
            top = max(top, scores[row, i])
        total = ZERO
        for i in range(n_seen):
            scores[row, i] = exp((scores[row, i] - top) * scale)
            total += scores[row, i]
        factor = ONE / total
        for i in range(n_seen):
            scores[row, i] *= factor
        for i in range(n_seen, scores.shape[1]):
            scores[row, i] = ZERO


@fast_kernel
def silu_times(gate, up):
    """gate = silu(gate) * up, in place; both f32 [n_rows, n]."""
    for row in range(gate.shape[0]):
        for i in range(gate.shape[1]):
            gate[row, i] = gate[row, i] / (ONE + exp(-gate[row, i])) * up[row, i]
