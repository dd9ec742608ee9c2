"""Statistics of logits, a part of the vocabulary at a time. Exponentials and their sums are float64.

A sum of exponentials is kept relative to the largest logit so far, and scaled down when a larger one comes: so nothing
overflows, and no row of logits ever has to exist as a whole.
"""

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
def add_logits(logits, first_token, highest, total, top):
    """Add the logits of tokens from `first_token` on to what is known of each row: tokens come a part at a time.

    logits f32 [n_rows, n_tokens]; per row, so far: highest f64, the largest logit (-inf at the start); total f64, the
    sum of e^(logit - highest); top i32, the (first) token of the largest. A NaN or +inf makes its row's total NaN.
    """
    for row in range(logits.shape[0]):
        line = logits[row]
        key = LOWEST
        for token in range(line.shape[0]):
            key = max(key, in_order(line[token]))
        best = 0
        while in_order(line[best]) != key:
            best += 1
        shift = highest[row]
        if not np.float64(line[best]) <= shift:
            shift = np.float64(line[best])
            total[row] *= exp(highest[row] - shift)
            highest[row], top[row] = shift, first_token + best
        if shift == -np.inf:
            continue
        part = 0.0
        for token in range(line.shape[0]):
            part += exp(np.float64(line[token]) - shift)
        total[row] += part


@fast_kernel
def add_divergence(base, other, floor, highest, shift, weighted, mass):
    """Add the same part of two models' logits to sums over tokens with w = e^(base logit - highest).

    base, other f32 [n_rows, n_tokens]; highest f64 [n_rows], the base's largest logit so far (`add_logits`). Per row:
    weighted f64, sum of w * (base logit - other logit); mass f64, sum of w; shift f64, the highest that both are
    relative to. Tokens whose base logit is not above `floor` count as nothing: -inf leaves out forbidden tokens.
    Equal rows add exactly 0 to `weighted`.
    """
    for row in range(base.shape[0]):
        line, other_line = base[row], other[row]
        if highest[row] == -np.inf:
            continue
        if shift[row] != highest[row]:
            factor = exp(shift[row] - highest[row])
            weighted[row] *= factor
            mass[row] *= factor
            shift[row] = highest[row]
        largest, sum_weighted, sum_mass = highest[row], 0.0, 0.0
        for token in range(line.shape[0]):
            logit = np.float64(line[token])
            w = exp(logit - largest)
            counts = logit > floor
            sum_weighted += w * (logit - np.float64(other_line[token])) if counts else 0.0
            sum_mass += w if counts else 0.0
        weighted[row] += sum_weighted
        mass[row] += sum_mass


@fast_kernel
def add_overlap(base, base_lse, other, other_lse, overlap):
    """Add min(p, q) of a part of the tokens to overlap f64 [n_rows]; p = e^(base - base_lse), q likewise.

    base, other f32 [n_rows, n_tokens]; base_lse, other_lse f64 [n_rows], over all tokens.
    """
    for row in range(base.shape[0]):
        line, other_line = base[row], other[row]
        lse, other_offset = base_lse[row], base_lse[row] - other_lse[row]
        part = 0.0
        for token in range(line.shape[0]):
            log_p = np.float64(line[token]) - lse
            log_q = np.float64(other_line[token]) - lse + other_offset
            part += exp(log_p if log_p < log_q else log_q)
        overlap[row] += part
