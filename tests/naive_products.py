"""Slow twins of kernels/products.py, and how far float32 sums may be from exact ones."""

import numpy as np


def bf16(x):
    """Nearest number with 8 significant bits, ties to even, as f64: f32 -> f64. Subnormal steps are 2^-133."""
    x = x.astype(np.float64)
    _, exponent = np.frexp(x)  # |x| is in [2^(exponent - 1), 2^exponent)
    step = np.exp2(np.maximum(exponent - 8, -133))
    return np.rint(x / step) * step


def error_bound(a, b):
    """What a float32 sum of k products, in any order and with any rounding of the products, stays within of a @ b.T.

    Higham, Accuracy and Stability, section 3.1: gamma_k * |a| |b|, here with one rounding more per product.
    """
    unit = 2.0**-24
    k = a.shape[1] + 1
    return k * unit / (1 - k * unit) * (np.abs(a) @ np.abs(b).T)
