"""What a forward pass needs beside matrix products: norms, rotary positions, attention's softmax, activations.

All work on float32, in one thread, on the rows they are given; sums may be reordered (`fast_kernel`), so results are
compared with a tolerance. NaN in gives NaN out.
"""

import numpy as np

from .jit import fast_kernel, helper

ZERO, HALF, ONE, TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)

LOG2_E = np.float32(1.4426950408889634)
LN2_HIGH = np.float32(0.693359375)  # ln 2 in two parts: the first has few bits, so its product with an integer is exact
LN2_LOW = np.float32(-2.12194440e-4)
EXP_MIN, EXP_MAX = np.float32(-87.0), np.float32(88.0)  # beyond, 2^k leaves the normal float32 numbers
MIN_EXPONENT = np.float32(-127.0)
LOWEST = np.int32(-(1 << 31))
# exp(r) = 1 + r + r^2 p(r) for |r| <= ln(2) / 2 (Cephes, expf.c): relative error below 3e-7
EXP_5, EXP_4, EXP_3 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
EXP_2, EXP_1 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1)

# GELU's tanh argument is sqrt(2 / pi) * x * (1 + 0.044715 x^2)
GELU_SCALE, GELU_CUBIC = np.float32(0.7978845608028654), np.float32(0.044715)
# gpt-oss: silu with a steeper slope, its inputs clamped (llama.cpp src/llama-graph.cpp, LLM_FFN_SWIGLU_OAI_MOE)
OAI_SLOPE, OAI_LIMIT = np.float32(1.702), np.float32(7.0)


@helper
def exp(x):
    """e^x for f32 without branches or calls, so that a loop of it becomes vector code; clamped to [e^-87, e^88]."""
    x = EXP_MIN if x < EXP_MIN else x  # written so that NaN passes
    x = EXP_MAX if x > EXP_MAX else x
    k = np.floor(x * LOG2_E + HALF)
    r = x - k * LN2_HIGH - k * LN2_LOW
    p = (((EXP_5 * r + EXP_4) * r + EXP_3) * r + EXP_2) * r + EXP_1
    exponent = np.int32(k if k > MIN_EXPONENT else MIN_EXPONENT)  # converting a NaN would be undefined
    power_of_two = np.int32((exponent + np.int32(127)) << 23).view(np.float32)
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
def layer_norm(x, weight, bias, eps, out):
    """out = (x - mean) / deviation * weight + bias; x, out f32 [n_rows, n].

    Row r uses row r % k of weight and bias, f32 [k, n].
    """
    n = np.float32(x.shape[1])
    for row in range(x.shape[0]):
        w, b = weight[row % weight.shape[0]], bias[row % weight.shape[0]]
        total = ZERO
        for i in range(x.shape[1]):
            total += x[row, i]
        mean = total / n
        squares = ZERO
        for i in range(x.shape[1]):
            squares += (x[row, i] - mean) * (x[row, i] - mean)
        factor = ONE / np.sqrt(squares / n + eps)
        for i in range(x.shape[1]):
            out[row, i] = (x[row, i] - mean) * factor * w[i] + b[i]


@fast_kernel
def rope_pairs(x, cos, sin):
    """Rotate neighbours (2i, 2i+1) of each head in place: ggml's "normal" rope.

    x f32 [n_tokens, n_head, head_size], cos and sin f32 [n_ctx, n_rot / 2]; token t stands at position t % n_ctx.
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


@helper
def in_order(x):
    """The bits of f32 x as an i32 that is ordered as the numbers are: LLVM makes vector code of its maximum only."""
    bits = np.float32(x).view(np.int32)
    return np.int32(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@helper
def float_in_order(key):
    """The f32 whose `in_order` is i32 `key`."""
    return np.int32(key ^ ((key >> np.int32(31)) & np.int32(0x7FFFFFFF))).view(np.float32)


@helper
def softmax(scores, cap, sink):
    """Softmax in place of f32 [n]; unless cap is 0, of cap * tanh(score / cap).

    `sink` is one more score, of something that has no place in the result; a very small one does nothing. Pass a slice
    where only some scores count: a range of indices would keep LLVM from making vector code.
    """
    if cap > ZERO:
        for i in range(scores.shape[0]):
            scores[i] = cap - TWO * cap / (ONE + exp(scores[i] * (TWO / cap)))
    highest = LOWEST
    for i in range(scores.shape[0]):
        highest = max(highest, in_order(scores[i]))
    top = max(float_in_order(highest), sink)
    total = exp(sink - top)
    for i in range(scores.shape[0]):
        scores[i] = exp(scores[i] - top)
        total += scores[i]
    for i in range(scores.shape[0]):
        scores[i] *= ONE / total


@fast_kernel
def causal_softmax(scores, offset, window, cap, sink):
    """`softmax` row by row over the keys that a query may see; the others become 0.

    scores f32 [n_queries, n_keys]: row r sees the `window` keys that end with key offset + r.
    """
    for row in range(scores.shape[0]):
        stop = min(offset + row + 1, scores.shape[1])
        start = max(0, stop - window)
        scores[row, :start] = ZERO
        softmax(scores[row, start:stop], cap, sink)
        scores[row, stop:] = ZERO


@fast_kernel
def add_rows(x, scale, rows, out):
    """out[rows[i]] += scale[i] * x[i] for each i; x f32 [n, n_cols], scale f32 [n], rows i64 [n]."""
    for i in range(x.shape[0]):
        row = rows[i]
        for column in range(x.shape[1]):
            out[row, column] += scale[i] * x[i, column]


@fast_kernel
def silu_times(gate, up):
    """gate = silu(gate) * up, in place; both f32 [n_rows, n]."""
    for row in range(gate.shape[0]):
        for i in range(gate.shape[1]):
            gate[row, i] = gate[row, i] / (ONE + exp(-gate[row, i])) * up[row, i]


@fast_kernel
def gelu(x):
    """x = gelu(x), in place, by the tanh formula: x / (1 + e^-2u) is x * (1 + tanh(u)) / 2; f32 [n_rows, n]."""
    for row in range(x.shape[0]):
        for i in range(x.shape[1]):
            u = GELU_SCALE * x[row, i] * (ONE + GELU_CUBIC * x[row, i] * x[row, i])
            x[row, i] /= ONE + exp(-TWO * u)


@fast_kernel
def clamped_silu_times(gate, up):
    """gate = gate * sigmoid(1.702 gate) * (up + 1), both clamped to 7 and up to -7, in place; f32 [n_rows, n]."""
    for row in range(gate.shape[0]):
        for i in range(gate.shape[1]):
            g = OAI_LIMIT if gate[row, i] > OAI_LIMIT else gate[row, i]
            u = OAI_LIMIT if up[row, i] > OAI_LIMIT else up[row, i]
            u = -OAI_LIMIT if u < -OAI_LIMIT else u
            gate[row, i] = g / (ONE + exp(-OAI_SLOPE * g)) * (u + ONE)
