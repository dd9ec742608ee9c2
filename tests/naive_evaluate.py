"""Slow twins of the evaluation: one token at a time, float64 throughout, formulas written out."""

import math

import numpy as np


def log_softmax(logits):
    """f64 [n_vocab] of one row, shifted so that nothing overflows."""
    logits = [float(x) for x in logits]
    largest = max(logits)
    total = math.fsum(math.exp(x - largest) for x in logits)
    return [x - largest - math.log(total) for x in logits]


def token_statistics(base, other, target):
    """(nll of base, nll, kld, same top) of one position, from the logits of both models."""
    log_p, log_q = log_softmax(base), log_softmax(other)
    kld = math.fsum(math.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True) if p > -math.inf)
    return -log_p[target], -log_q[target], kld, int(np.argmax(base)) == int(np.argmax(other))


def overlap(base, other):
    """Sum of min(p, q) of one position."""
    pairs = zip(log_softmax(base), log_softmax(other), strict=True)
    return math.fsum(math.exp(min(pair)) for pair in pairs)


def mean_and_uncertainty(values):
    """As perplexity.cpp does it: from the sums of values and of squares."""
    n = len(values)
    mean = math.fsum(values) / n
    variance = math.fsum(v * v for v in values) / n - mean * mean
    return mean, math.sqrt(variance / (n - 1)) if variance > 0 and n > 10 else 0.0


def covariance(a, b):
    n = len(a)
    return (math.fsum(x * y for x, y in zip(a, b, strict=True)) / n - math.fsum(a) / n * math.fsum(b) / n) / (n - 1)


def quantile(values, fraction):
    """Linear interpolation on the sorted list."""
    values = sorted(values)
    place = fraction * (len(values) - 1)
    low = int(place)
    return values[low] + (place - low) * (values[min(low + 1, len(values) - 1)] - values[low])


def sums_of_squares(rows):
    """f64 [n_cols] of f32 [n_rows, n_cols]."""
    return np.array([math.fsum(float(x) ** 2 for x in column) for column in np.asarray(rows).T])


def gram(x):
    """x^T x, row by row in float64."""
    total = np.zeros((x.shape[1], x.shape[1]))
    for row in x.astype(np.float64):
        total += np.outer(row, row)
    return total


def gram_blocks(x):
    """The 256 x 256 blocks on the diagonal of x^T x, filled up with zeros: [n_blocks, 256, 256]."""
    padded = np.concatenate([x, np.zeros((len(x), -x.shape[1] % 256), x.dtype)], axis=1)
    return np.array([gram(padded[:, start : start + 256]) for start in range(0, padded.shape[1], 256)])
