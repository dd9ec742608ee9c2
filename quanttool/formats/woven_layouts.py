"""The bit maps of the row-interleaved types and of the base types that they weave, as data.

j counts the values of a block (of 32 or 256), c = j % 32 their columns in a sub-block of 32, b sub-blocks of 16, s
sub-blocks of 32, g groups of 8, row the woven row.

Source: ik_llama.cpp ggml-common.h `block_q4_0_r8` ..., iqk_quantize.cpp `repack_q4_0` ...; llama.cpp ggml-common.h.
"""

import numpy as np
from numpy.typing import NDArray

from . import bitnet, ik_linear, iqk, iqk_s
from .layout import Layout, bits, join

j = np.arange(256)
c = j % 32
b = np.arange(16)
s = np.arange(8)
g = np.arange(32)
row = np.arange(4)[:, None]  # for types that weave 4 rows
row8 = np.arange(8)[:, None]
row16 = np.arange(16)[:, None]
j32 = c32 = np.arange(32)

SIGN_BITS = 7  # of a group of 8; the eighth makes their number even


def code_signs(signs: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """The woven types' code n of 7 sign bits: signs = n ^ (n << 1), which gives the eighth for free."""
    code = signs.copy()
    for i in range(1, SIGN_BITS):
        code ^= signs << i
    return code & 127


def decode_signs(code: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Inverse of `code_signs`."""
    return (code ^ (code << 1)) & 127


def scale_min(at: int) -> dict[str, NDArray[np.int64]]:
    """The 6-bit scales and minima of Q4_K and Q5_K in 12 bytes: those of the last four sub-blocks are split."""
    low, high = s[:4], s[4:]
    scale = join(bits(4, at + 4 + high), bits(2, at + high - 4, 6))
    minimum = join(bits(4, at + 4 + high, 4), bits(2, at + high, 6))
    return {
        "scale": np.concatenate([bits(6, at + low), scale]),
        "min": np.concatenate([bits(6, at + 4 + low), minimum]),
    }


def low_nibbles(at: int, j: NDArray[np.int64] = j) -> NDArray[np.int64]:
    """Four rows' nibbles, 64 bytes per 32 columns: columns i and i + 8 share a byte."""
    c = j % 32
    byte = 64 * (j // 32) + 4 * row + c % 4 + 16 * (c // 16) + 32 * (c // 4 % 2)
    return bits(4, at + byte, 4 * (c // 8 % 2))


def low_pairs(at: int) -> NDArray[np.int64]:
    """Four rows' low two bits, 32 bytes per 32 columns: columns i, i + 4, i + 8, i + 12 share a byte."""
    return bits(2, at + 32 * (j // 32) + 4 * row + c % 4 + 16 * (c // 16), 2 * (c // 4 % 4))


def third_bits(at: int) -> NDArray[np.int64]:
    """The bit above `low_pairs`: column i + 4 n is bit n."""
    return bits(1, at + 16 * (j // 32) + 4 * row + c % 4, c // 4)


def fifth_bits(at: int) -> NDArray[np.int64]:
    """The bit above `low_nibbles` in IQ5_K and IQ5_KS."""
    return bits(1, at + 16 * (j // 32) + 4 * row + c % 4, c // 8 + 4 * (c // 4 % 2))


def split_scales(low: int, high: int, width: int, index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Scales number `index`: nibbles in 32 bytes at `low`, their upper bits in 32 * width / 4 bytes at `high`."""
    n_high = 8 * width  # bytes of upper bits
    return join(
        bits(4, low + index % 32, 4 * (index // 32)), bits(width, high + index % n_high, width * (index // n_high))
    )


def variants(at: int) -> NDArray[np.int64]:
    """The table bits of 16 sub-blocks: a byte for the even ones of each row, then for the odd ones."""
    return bits(1, at + row + 4 * (b % 2), b // 2)


def signs_and_scale(at: int, word: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Words of 32 bits, one per sub-block: bit 0 of each byte is a bit of the scale, the others code 8 signs."""
    group_byte = at + 4 * word[:, g // 4] + g % 4
    return {"sign_code": bits(7, group_byte, 1), "scale": join(*(bits(1, at + 4 * word + i) for i in range(4)))}


NIBBLES_32 = bits(4, 2 + j32 % 16, 4 * (j32 // 16))  # after a float16, as in Q4_0
PAIRS_256 = 32 * (j // 128) + j % 32  # byte of the low two bits; their shift is 2 * (j // 32 % 4)

BASE_LAYOUTS: dict[str, Layout] = {
    "BF16": Layout(4, code=bits(16, 2 * np.arange(2))),
    "Q4_0": Layout(18, d=bits(16, 0), code=NIBBLES_32),
    "Q5_0": Layout(22, d=bits(16, 0), code=join(bits(4, 6 + j32 % 16, 4 * (j32 // 16)), bits(1, 2, j32))),
    "Q6_0": ik_linear.Q6_0.layout,
    "Q8_0": Layout(34, d=bits(16, 0), code=bits(8, 2 + j32)),
    "Q8_KV": Layout(32, code=bits(8, j32)),
    "MXFP4": Layout(17, d=bits(8, 0), code=bits(4, 1 + j32 % 16, 4 * (j32 // 16))),
    "IQ4_NL": Layout(18, d=bits(16, 0), code=NIBBLES_32),
    "Q2_K": Layout(
        84, scale=bits(8, b), code=bits(2, 16 + PAIRS_256, 2 * (j // 32 % 4)), d=bits(16, 80), dmin=bits(16, 82)
    ),
    "Q3_K": Layout(
        110,
        scale=join(bits(4, 96 + b % 8, 4 * (b // 8)), bits(2, 104 + b % 4, 2 * (b // 4))),
        code=join(bits(2, 32 + PAIRS_256, 2 * (j // 32 % 4)), bits(1, j % 32, j // 32)),
        d=bits(16, 108),
    ),
    "Q4_K": Layout(
        144,
        d=bits(16, 0),
        dmin=bits(16, 2),
        **scale_min(4),
        code=bits(4, 16 + 32 * (j // 64) + c, 4 * (j // 32 % 2)),
    ),
    "Q5_K": Layout(
        176,
        d=bits(16, 0),
        dmin=bits(16, 2),
        **scale_min(4),
        code=join(bits(4, 48 + 32 * (j // 64) + c, 4 * (j // 32 % 2)), bits(1, 16 + c, j // 32)),
    ),
    "Q6_K": Layout(
        210,
        code=join(
            bits(4, 64 * (j // 128) + j % 64, 4 * (j // 64 % 2)),
            bits(2, 128 + 32 * (j // 128) + c, 2 * (j // 32 % 4)),
        ),
        scale=bits(8, 192 + b),
        d=bits(16, 208),
    ),
    "IQ2_XXS": Layout(
        66,
        d=bits(16, 0),
        code=bits(8, 2 + 8 * (g // 4) + g % 4),
        sign_code=bits(7, 6 + 8 * (g // 4), 7 * (g % 4)),
        scale=bits(4, 6 + 8 * s, 28),
    ),
    "IQ2_XS": Layout(
        74, d=bits(16, 0), code=bits(9, 2 + 2 * g), sign_code=bits(7, 2 + 2 * g, 9), scale=bits(8, 66 + s)
    ),
    "IQ2_S": Layout(
        82, d=bits(16, 0), code=bits(8, 2 + g), sign=bits(8, 34 + g), high=bits(8, 66 + s), scale=bits(8, 74 + s)
    ),
    "IQ3_XXS": Layout(
        98,
        d=bits(16, 0),
        code=bits(8, 2 + np.arange(64)),
        sign_code=bits(7, 66 + 4 * (g // 4), 7 * (g % 4)),
        scale=bits(4, 66 + 4 * s, 28),
    ),
    "IQ3_S": Layout(
        110,
        d=bits(16, 0),
        code=bits(8, 2 + np.arange(64)),
        high=bits(8, 66 + s),
        sign=bits(1, 74, j),
        scale=bits(4, 106, 4 * s),
    ),
    "IQ4_XS": Layout(
        136,
        d=bits(16, 0),
        scale=join(bits(4, 4, 4 * s), bits(2, 2, 2 * s)),
        code=bits(4, 8 + 16 * (j // 32) + j % 16, 4 * (j // 16 % 2)),
    ),
    "IQ2_BN": bitnet.IQ2_BN.layout,
    "IQ2_K": iqk.IQ2_K.layout,
    "IQ3_K": iqk.IQ3_K.layout,
    "IQ4_K": iqk.IQ4_K.layout,
    "IQ5_K": iqk.IQ5_K.layout,
    "IQ4_KS": iqk_s.IQ4_KS.layout,
    "IQ5_KS": iqk_s.IQ5_KS.layout,
}

EIGHT_ROWS_NIBBLES = 32 * (c32 % 16 // 4) + 4 * row8 + c32 % 4  # byte; columns i and i + 16 share one
j64 = np.arange(64)

WOVEN_LAYOUTS: dict[str, Layout] = {
    "BF16_R16": Layout(4, 16, code=bits(16, 4 * row16 + 2 * np.arange(2))),
    "Q4_0_R8": Layout(18, 8, d=bits(16, 2 * row8), code=bits(4, 16 + EIGHT_ROWS_NIBBLES, 4 * (c32 // 16))),
    "Q5_0_R4": Layout(
        22,
        4,
        d=bits(16, 2 * row),
        code=join(
            low_nibbles(24, j32), bits(1, 8 + 4 * row + c32 % 4, c32 // 16 + 2 * (c32 // 4 % 2) + 4 * (c32 // 8 % 2))
        ),
    ),
    "Q6_0_R4": Layout(
        26,
        4,
        d=bits(16, 2 * row),
        code=join(
            low_nibbles(40, j32),
            bits(2, 8 + 4 * row + c32 % 4 + 16 * (c32 // 16), 2 * (c32 // 4 % 2) + 4 * (c32 // 8 % 2)),
        ),
    ),
    "Q8_0_R8": Layout(34, 8, d=bits(16, 2 * row8), code=bits(8, 16 + EIGHT_ROWS_NIBBLES + 128 * (c32 // 16))),
    "Q8_KV_R8": Layout(32, 8, code=bits(8, EIGHT_ROWS_NIBBLES + 128 * (c32 // 16))),
    "MXFP4_R8": Layout(17, 8, d=bits(8, row8), code=bits(4, 8 + EIGHT_ROWS_NIBBLES, 4 * (c32 // 16))),
    "IQ4_NL_R4": Layout(18, 4, d=bits(16, 2 * row), code=low_nibbles(8, j32)),
    "Q2_K_R4": Layout(
        84, 4, d=bits(16, 2 * row), dmin=bits(16, 8 + 2 * row), scale=bits(8, 16 + 4 * b + row), code=low_pairs(80)
    ),
    "Q3_K_R4": Layout(
        110,
        4,
        d=bits(16, 2 * row),
        scale=split_scales(24, 8, 2, 4 * b + row),
        code=join(low_pairs(184), third_bits(56)),
    ),
    "Q4_K_R4": Layout(
        144,
        4,
        d=bits(16, 2 * row),
        dmin=bits(16, 8 + 2 * row),
        scale=join(bits(4, 32 + 4 * s + row), bits(2, 16 + (4 * s + row) % 16, 4 * (s // 4))),
        min=join(bits(4, 32 + 4 * s + row, 4), bits(2, 16 + (4 * s + row) % 16, 4 * (s // 4) + 2)),
        code=low_nibbles(64),
    ),
    "Q5_K_R4": Layout(
        176,
        4,
        d=bits(16, 2 * row),
        dmin=bits(16, 8 + 2 * row),
        scale=join(bits(4, 32 + 4 * s + row), bits(2, 16 + (4 * s + row) % 16, 4 * (s // 4))),
        min=join(bits(4, 32 + 4 * s + row, 4), bits(2, 16 + (4 * s + row) % 16, 4 * (s // 4) + 2)),
        code=join(
            low_nibbles(192),
            bits(1, 64 + 16 * (j // 32) + 4 * row + c % 4, c // 8 % 2 + 2 * (c // 4 % 2) + 4 * (c // 16)),
        ),
    ),
    "Q6_K_R4": Layout(
        210,
        4,
        d=bits(16, 2 * row),
        scale=bits(8, 8 + 4 * b + row),
        code=join(
            low_nibbles(328),
            bits(2, 72 + 32 * (j // 32) + 4 * row + c % 4 + 16 * (c // 16), 2 * (c // 8 % 2) + 4 * (c // 4 % 2)),
        ),
    ),
    "IQ2_XXS_R4": Layout(
        66,
        4,
        d=bits(16, 2 * row),
        **signs_and_scale(8, 4 * s + row),
        code=bits(8, 136 + 16 * (g // 4) + 4 * row + g % 4),
    ),
    "IQ2_XS_R4": Layout(
        74,
        4,
        d=bits(16, 2 * row),
        code=bits(9, 8 + 2 * (16 * (g // 4) + 4 * row + g % 4)),
        sign_code=bits(7, 8 + 2 * (16 * (g // 4) + 4 * row + g % 4), 9),
        scale=bits(8, 264 + 4 * s + row),
    ),
    "IQ2_S_R4": Layout(
        82,
        4,
        d=bits(16, 2 * row),
        code=bits(8, 8 + 16 * (g // 4) + 4 * row + g % 4),
        high=bits(8, 136 + 4 * s + row),
        sign=bits(8, 168 + 16 * (g // 4) + 4 * row + g % 4),
        scale=bits(8, 296 + 4 * s + row),
    ),
    "IQ3_XXS_R4": Layout(
        98,
        4,
        d=bits(16, 2 * row),
        **signs_and_scale(8, 4 * s + row),
        code=bits(8, 136 + 32 * (j64 // 8) + 8 * row + j64 % 8),
    ),
    "IQ3_S_R4": Layout(
        110,
        4,
        d=bits(16, 2 * row),
        code=bits(8, 8 + 32 * (j64 // 8) + row + 8 * (j64 % 4) + 4 * (j64 // 4 % 2)),
        high=bits(8, 264 + 4 * s + row),
        sign=bits(1, 296 + 16 * (j // 32) + 4 * row + c % 4, c // 4),
        scale=bits(4, 424 + (4 * s + row) % 16, 4 * (s // 4)),
    ),
    "IQ4_XS_R8": Layout(
        136,
        8,
        d=bits(16, 2 * row8),
        scale=split_scales(32, 16, 2, 8 * s + row8),
        code=bits(4, 64 + 128 * (j // 32) + 32 * (c // 8) + 4 * row8 + c % 4, 4 * (c // 4 % 2)),
    ),
    "IQ2_BN_R4": Layout(16, 4, code=bits(2, 4 * row + j64 % 4 + 16 * (j64 // 16), 2 * (j64 // 4 % 4))),
    "IQ2_K_R4": Layout(
        76,
        4,
        d=bits(16, 2 * row),
        variant=variants(8),
        scale=bits(4, 16 + (4 * b + row) % 32, 4 * (b // 8)),
        code=low_pairs(48),
    ),
    "IQ3_K_R4": Layout(
        110,
        4,
        d=bits(16, 2 * row),
        variant=variants(8),
        scale=split_scales(24, 16, 1, 4 * b + row),
        code=join(low_pairs(56), third_bits(312)),
    ),
    "IQ4_K_R4": Layout(
        144,
        4,
        d=bits(16, 2 * row),
        variant=variants(8),
        scale=split_scales(32, 16, 2, 4 * b + row),
        code=low_nibbles(64),
    ),
    "IQ5_K_R4": Layout(
        176,
        4,
        d=bits(16, 2 * row),
        variant=variants(8),
        scale=split_scales(32, 16, 2, 4 * b + row),
        code=join(low_nibbles(64), fifth_bits(576)),
    ),
    "IQ4_KS_R4": Layout(136, 4, variant=bits(1, 4 * s + row), scale=bits(7, 4 * s + row, 1), code=low_nibbles(32)),
    "IQ5_KS_R4": Layout(
        168,
        4,
        variant=bits(1, 4 * s + row),
        scale=bits(7, 4 * s + row, 1),
        code=join(low_nibbles(32), fifth_bits(544)),
    ),
}
