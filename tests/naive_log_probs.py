"""Slow twin of llama.cpp's 16-bit log-probabilities: one token at a time, in numpy float32 scalars."""

import math

import numpy as np

F = np.float32


def encode(logits, window):
    """u16 [4 + n_vocab, rounded up to even] of one row of logits."""
    logits = [F(x) for x in logits]
    largest = max(logits)
    smallest = max(min(logits), F(largest - F(window)))
    log_sum = F(math.log(math.fsum(math.exp(float(x) - float(largest)) for x in logits)))
    scale = F(F(largest - smallest) / F(65535))
    codes = []
    for x in logits:
        # np.rint: to nearest, ties to even
        codes.append(int(np.rint(F(F(F(1) / scale) * F(x - smallest)))) if scale and x > smallest else 0)
    header = np.array([scale, F(F(smallest - largest) - log_sum)], np.float32).view(np.uint16)
    return np.array([*header, *codes, *[0] * (len(codes) % 2)], np.uint16)


def decode(row, n_vocab):
    """f32 [n_vocab]"""
    scale, smallest = np.asarray(row[:4], np.uint16).view(np.float32)
    return np.array([F(F(scale) * F(code)) + F(smallest) for code in row[4 : 4 + n_vocab]], np.float32)
