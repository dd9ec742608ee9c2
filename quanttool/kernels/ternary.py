"""One scale and 1, 2 or log2(3) bits per value: Q1_0, Q2_0, TQ1_0, TQ2_0.

Follows ggml-quants.c `quantize_row_q1_0_ref` and its neighbours. Nothing is searched: the scale is the mean or the
largest magnitude of the block, and the codes are the nearest ones.
"""

import numpy as np

from .blocks import largest_magnitude
from .jit import helper, kernel
from .rounding import load_f16, round_half_away, store_f16, within_f16

LANES = 16  # blocks whose magnitudes are summed side by side


@helper
def safe_inverse(x):
    """1 / x, or 0 where that is not finite: for scales that float16 rounds to zero anyway."""
    inverse = np.float32(1) / x
    return inverse if inverse < np.inf else np.float32(0)


@helper
def trit(x, inverse):
    """-1, 0 or 1 as 0, 1 or 2, i32."""
    return np.int32(round_half_away(x * inverse)) + 1


@kernel
def pack_q1_0(blocks, out):
    """blocks f32 [n_blocks, 128] -> out u8 [n_blocks, 18]: f16 d, the mean magnitude; 128 sign bits, 1 for x >= 0."""
    n_blocks = blocks.shape[0]
    totals = np.empty(LANES, np.float32)
    for first in range(0, n_blocks, LANES):
        tile = blocks[first : first + LANES]
        totals[:] = 0
        for j in range(128):
            for lane in range(tile.shape[0]):
                totals[lane] += abs(tile[lane, j])
        for lane in range(tile.shape[0]):
            data = out[first + lane]
            store_f16(within_f16(totals[lane] / np.float32(128)), data, 0)
            for byte in range(16):
                bits = np.int32(0)
                for bit in range(8):
                    bits |= np.int32(tile[lane, 8 * byte + bit] >= 0) << bit
                data[2 + byte] = np.uint8(bits)


@kernel
def unpack_q1_0(data, out):
    """data u8 [n_blocks, 18] -> out f32 [n_blocks, 128]."""
    for block in range(data.shape[0]):
        d = load_f16(data[block], 0)
        for byte in range(16):
            for bit in range(8):
                out[block, 8 * byte + bit] = d if (data[block, 2 + byte] >> bit) & 1 else -d


@kernel
def pack_q2_0(blocks, out):
    """blocks f32 [n_blocks, 64] -> out u8 [n_blocks, 18]: f16 d, the largest magnitude; four 2-bit codes a byte."""
    for block in range(blocks.shape[0]):
        d = largest_magnitude(blocks[block])
        inverse = safe_inverse(d)
        store_f16(within_f16(d), out[block], 0)
        for byte in range(16):
            bits = np.int32(0)
            for k in range(4):
                bits |= trit(blocks[block, 4 * byte + k], inverse) << (2 * k)
            out[block, 2 + byte] = np.uint8(bits)


@kernel
def unpack_q2_0(data, out):
    """data u8 [n_blocks, 18] -> out f32 [n_blocks, 64]; the fourth code stands for 2 d."""
    for block in range(data.shape[0]):
        d = load_f16(data[block], 0)
        for byte in range(16):
            for k in range(4):
                out[block, 4 * byte + k] = np.float32(np.int32((data[block, 2 + byte] >> (2 * k)) & 3) - 1) * d


@kernel
def pack_tq2_0(blocks, out):
    """blocks f32 [n_blocks, 256] -> out u8 [n_blocks, 66]: qs[64], f16 d; byte 32 h + m is values 128 h + m + 32 k."""
    for block in range(blocks.shape[0]):
        x, data = blocks[block], out[block]
        d = largest_magnitude(x)
        inverse = safe_inverse(d)
        store_f16(within_f16(d), data, 64)
        for half in range(2):
            for m in range(32):
                bits = np.int32(0)
                for k in range(4):
                    bits |= trit(x[128 * half + 32 * k + m], inverse) << (2 * k)
                data[32 * half + m] = np.uint8(bits)


@kernel
def unpack_tq2_0(data, out):
    """data u8 [n_blocks, 66] -> out f32 [n_blocks, 256]."""
    for block in range(data.shape[0]):
        d = load_f16(data[block], 64)
        for half in range(2):
            for k in range(4):
                for m in range(32):
                    code = np.int32((data[block, 32 * half + m] >> (2 * k)) & 3)
                    out[block, 128 * half + 32 * k + m] = np.float32(code - 1) * d


@helper
def pack_trits(x, inverse, n_digits, data):
    """x f32 [n_digits * n] -> data u8 [n]: byte m holds values m + n k, the first as the highest of five base-3 digits.

    Digits are stored as a fraction of 243 in 256ths, rounded up: so multiplying a byte by 3 shifts a digit out on top.
    """
    n = data.size
    for m in range(n):
        number = np.int32(0)
        for k in range(n_digits):
            number = 3 * number + trit(x[n * k + m], inverse)
        for _ in range(5 - n_digits):
            number = 3 * number
        data[m] = np.uint8((number * 256 + 242) // 243)


@helper
def unpack_trits(data, d, n_digits, out):
    """data u8 [n] -> out f32 [n_digits * n]."""
    n = data.size
    power = np.uint8(1)
    for k in range(n_digits):
        for m in range(n):
            digit = np.uint16(np.uint8(data[m] * power) * np.uint16(3)) >> 8
            out[n * k + m] = np.float32(np.int32(digit) - 1) * d
        power = np.uint8(3 * power)


@kernel
def pack_tq1_0(blocks, out):
    """blocks f32 [n_blocks, 256] -> out u8 [n_blocks, 54]: qs[48] of five values each, qh[4] of four, f16 d."""
    for block in range(blocks.shape[0]):
        x, data = blocks[block], out[block]
        d = largest_magnitude(x)
        inverse = safe_inverse(d)
        store_f16(within_f16(d), data, 52)
        pack_trits(x[:160], inverse, 5, data[:32])
        pack_trits(x[160:240], inverse, 5, data[32:48])
        pack_trits(x[240:], inverse, 4, data[48:52])


@kernel
def unpack_tq1_0(data, out):
    """data u8 [n_blocks, 54] -> out f32 [n_blocks, 256]."""
    for block in range(data.shape[0]):
        d = load_f16(data[block], 52)
        unpack_trits(data[block, :32], d, 5, out[block, :160])
        unpack_trits(data[block, 32:48], d, 5, out[block, 160:240])
        unpack_trits(data[block, 48:52], d, 4, out[block, 240:])
