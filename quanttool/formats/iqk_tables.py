"""Value tables of ik_llama.cpp's non-linear types, f32 [n_variants, n_codes, dim].

Numbers from ik_llama.cpp ggml-common.h: `iq2nl_values`, `iq2kl_values`, `iq3nl_values`, `iq4k_values`, `iq5nl_values`,
`iq6nl_values`; the cubic from iqk_quantize.cpp `dequantize_row_iq6_k`; the sequences from `QuantizerIQKT::set_values`.
"""

from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Table = NDArray[np.float32]


def integers(start: int, stop: int, step: int = 1) -> Table:
    """A range as float32."""
    return np.arange(start, stop, step, dtype=np.float32)


def shifted(values: ArrayLike, shift: int) -> Table:
    """A table and its twin, moved up by `shift`: f32 [2, n, 1]."""
    values = np.array(values, np.float32)
    return np.stack([values, values + np.float32(shift)])[..., None]


IQ2 = shifted([-31, -13, 1, 17], 5)
IQ3 = shifted([-63, -40, -23, -10, 1, 13, 28, 47], 4)
IQ4 = shifted([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], 4)
IQ5 = shifted(
    [-126, -114, -103, -92, -83, -74, -65, -57, -50, -43, -36, -30, -24, -18, -12, -6]
    + [-1, 5, 11, 17, 23, 29, 36, 43, 51, 59, 68, 77, 87, 97, 109, 121],
    2,
)
IQ6 = shifted(
    [-127, -121, -115, -109, -104, -98, -93, -88, -84, -79, -74, -70, -66, -62, -58, -54]
    + [-51, -47, -44, -40, -37, -34, -31, -28, -25, -22, -19, -16, -13, -11, -8, -5]
    + [-2, 0, 3, 6, 9, 12, 14, 17, 20, 23, 27, 30, 33, 36, 40, 44]
    + [47, 51, 55, 59, 63, 68, 72, 77, 82, 87, 92, 98, 103, 109, 115, 121],
    1,
)

# The 32 pairs of IQ2_KL, each as two places in the table of IQ3.
IQ2_KL_PLACES = np.array(
    [(0, 2), (0, 5), (1, 0), (1, 3), (1, 5), (1, 7), (2, 1), (2, 2), (2, 4), (2, 5), (2, 6)]
    + [(3, 0), (3, 4), (3, 5), (3, 7), (4, 2), (4, 3), (4, 4), (4, 5), (4, 6)]
    + [(5, 1), (5, 2), (5, 3), (5, 4), (5, 5), (6, 0), (6, 2), (6, 4), (6, 6), (6, 7), (7, 2), (7, 5)],
    np.int32,
)
IQ2_KL = IQ3[0, :, 0][IQ2_KL_PLACES][None]


def _cubic() -> Table:
    """-127 + 6.2568 q - 0.11218 q^2 + 0.0011972 q^3 by Horner's rule, one rounding per step (fused multiply-add).

    The program's builds contract these steps; their values are met to the bit only so.
    """
    q = np.arange(64, dtype=np.float64)
    values = np.float64(np.float32(0.0011972))
    for coefficient in (-0.11218, 6.2568, -127.0):  # float64 holds each product exactly
        values = (np.float64(np.float32(coefficient)) + q * values).astype(np.float32).astype(np.float64)
    return shifted(values, 1)


IQ6_CUBIC = _cubic()


@cache
def sequences(n_codes: int, length: int, offset: int = 4096) -> Table:
    """The values that a linear congruential generator draws from each seed, f32 [n_codes, length], -126 ... 126.

    Each draw is the sum of the low six bits of the state's four bytes, less 126.
    """
    state = np.arange(offset, offset + n_codes, dtype=np.uint32)
    out = np.empty((n_codes, length), np.float32)
    for k in range(length):
        state = state * np.uint32(0xCBAC1FED)
        out[:, k] = (state & np.uint32(0x3F3F3F3F)).view(np.uint8).reshape(-1, 4).sum(axis=1) - 126.0
    return out


@cache
def magnitudes(n_codes: int, length: int) -> Table:
    """Absolute values of `sequences`."""
    return np.abs(sequences(n_codes, length))
