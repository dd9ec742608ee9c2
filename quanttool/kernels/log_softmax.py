"""Statistics of logits, without ever forming the probabilities. Exponentials and their sums are float64."""

import math

import numpy as np

from .jit import fast_kernel, helper
from .nn import LOWEST, in_order

LOG2_E, LN2 = 1.4426950408889634, 0.6931471805599453
SMALLEST = -708.0  # e^-708 is the last normal float64; as a part of a sum of probabilities it is nothing
F2, F3, F4, F5, F6, F7, F8, F9, F10, F11, F12, F13 = (1 / math.factorial(n) for n in range(2, 14))


@helper
def exp(x):
    """e^x for f64 x <= 0, at least e^-708: without branches or calls, so that loops become vector code.

    Taylor's series for |x| <= ln(2) / 2, times a power of two; relative error below 1e-15 * (1 + |x|).
    """
    x = SMALLEST if x < SMALLEST else x  # written so that NaN passes
    k = np.floor(x * LOG2_E + 0.5)
    r = x - k * LN2
    high = ((((((F13 * r + F12) * r + F11) * r + F10) * r + F9) * r + F8) * r + F7) * r + F6
    series = (((((high * r + F5) * r + F4) * r + F3) * r + F2) * r + 1.0) * r + 1.0
    exponent = np.int64(k if k > -1023.0 else -1023.0)  # converting a NaN would be undefined
    return series * np.int64((exponent + np.int64(1023)) << np.int64(52)).view(np.float64)


@fast_kernel
def log_sum_exp(logits, lse, top):
    """Log of the sum of exponentials, and the place of the (first) largest logit, per row.

    logits f32 [n_rows, n_vocab] -> lse f64 [n_rows], top i32 [n_rows]. A NaN logit makes its row's lse NaN.
    """
    for row in range(logits.shape[0]):
        line = logits[row]
        highest = LOWEST
        for token in range(line.shape[0]):
            highest = max(highest, in_order(line[token]))
        best = 0
        while in_order(line[best]) != highest:
            best += 1
        shift = np.float64(line[best])
        total = 0.0
        for token in range(line.shape[0]):
            total += exp(np.float64(line[token]) - shift)
        lse[row], top[row] = shift + math.log(total), best


@fast_kernel
def kl_divergence(base, base_lse, other, other_lse, divergence):
    """sum over tokens of p * (log p - log q), per row; p = softmax(base), q = softmax(other).

    base, other f32 [n_rows, n_vocab], their log_sum_exp f64 [n_rows] -> divergence f64 [n_rows], in nats.
    The logits are subtracted first: equal rows give exactly 0, and a common shift cancels.
    """
    for row in range(base.shape[0]):
        line, other_line = base[row], other[row]
        lse, offset = base_lse[row], base_lse[row] - other_lse[row]
        total = 0.0
        for token in range(line.shape[0]):
            logit = np.float64(line[token])
            term = exp(logit - lse) * (logit - np.float64(other_line[token]) - offset)
            total += 0.0 if line[token] == -np.inf else term  # -inf counts as nothing, and not as 0 * inf
        divergence[row] = total
