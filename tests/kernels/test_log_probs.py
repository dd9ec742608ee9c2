"""16-bit log-probabilities against a slow twin."""

import numpy as np
import pytest

from quanttool.kernels.log_probs import decode_log_probs, encode_log_probs
from tests import naive_log_probs as naive


def encoded(logits, window):
    largest, smallest = logits.max(axis=1), logits.min(axis=1)
    total = np.exp(logits - largest[:, None].astype(np.float64)).sum(axis=1)
    n = logits.shape[1]
    rows = np.full((len(logits), 4 + n + n % 2), 0xAAAA, np.uint16)
    encode_log_probs(logits, largest, smallest, total, np.float32(window), rows)
    return rows


@pytest.mark.parametrize("window", [16, 24])
@pytest.mark.parametrize(("n_vocab", "scale"), [(101, 1), (100, 8), (33, 40)])
def test_rows(n_vocab, scale, window):
    logits = (np.random.default_rng(1).standard_normal((6, n_vocab)) * scale).astype(np.float32)
    logits[4] = 2.5  # all equal: no scale
    logits[5, 3] = -np.inf
    rows = encoded(logits, window)
    for row, line in zip(rows, logits, strict=True):
        np.testing.assert_array_equal(row, naive.encode(line, window))
    out = np.empty((6, n_vocab), np.float32)
    decode_log_probs(rows, out)
    expected = [naive.decode(row, n_vocab) for row in rows]
    np.testing.assert_array_equal(out, expected)


def test_decoded_values_are_within_half_a_step_of_log_softmax():
    logits = (np.random.default_rng(2).standard_normal((3, 500)) * 2).astype(np.float32)
    out = np.empty((3, 500), np.float32)
    decode_log_probs(encoded(logits, 16), out)
    expected = logits - np.logaddexp.reduce(logits.astype(np.float64), axis=1)[:, None]
    np.testing.assert_allclose(out, expected, atol=0.5 * 16 / 65535 + 1e-5)
