"""Statistics of logits, without ever forming the probabilities. Sums are float64, in the order of the vocabulary."""

import math

import numpy as np

from .jit import kernel


@kernel
def log_sum_exp(logits, lse, top):
    """Log of the sum of exponentials, and the place of the (first) largest logit, per row.

    logits f32 [n_rows, n_vocab] -> lse f64 [n_rows], top i32 [n_rows]. A NaN logit makes its row's lse NaN.
    """
    for row in range(logits.shape[0]):
        best, largest = 0, logits[row, 0]
        for token in range(logits.shape[1]):
            if logits[row, token] > largest:
                best, largest = token, logits[row, token]
        shift = np.float64(largest)
        total = 0.0
        for token in range(logits.shape[1]):
            total += math.exp(np.float64(logits[row, token]) - shift)
        lse[row], top[row] = shift + math.log(total), best


@kernel
def kl_divergence(base, base_lse, other, other_lse, divergence):
    """sum over tokens of p * (log p - log q), per row; p = softmax(base), q = softmax(other).

    base, other f32 [n_rows, n_vocab], their log_sum_exp f64 [n_rows] -> divergence f64 [n_rows], in nats.
    The logits are subtracted first: equal rows give exactly 0, and a common shift cancels.
    """
    for row in range(base.shape[0]):
        offset = base_lse[row] - other_lse[row]
        total = 0.0
        for token in range(base.shape[1]):
            logit = np.float64(base[row, token])
            p = math.exp(logit - base_lse[row])
            if p > 0.0:  # a logit of -inf counts as nothing, and not as 0 * inf
                total += p * (logit - np.float64(other[row, token]) - offset)
        divergence[row] = total
