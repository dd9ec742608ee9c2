"""One scale and 1, 2 or log2(3) bits per value: Q1_0, Q2_0, TQ1_0, TQ2_0.

Follows ggml-quants.c `quantize_row_q1_0_ref` and its neighbours. Nothing is searched: the scale is the mean or the
largest magnitude of the block, and the codes are the nearest ones.
"""

import numpy as np

from .blocks import largest_magnitude
from .jit import helper, kernel
from .lanes import bit_lanes, float_lanes, load_16, select, store
from .rounding import load_f16, store_f16, within_f16

HALF, ONE = np.array([0.5, 1], np.float32)
BLOCKS_ABREAST = 16  # blocks whose magnitudes are summed side by side


@helper
def safe_inverse(x):
    """1 / x, or 0 where that is not finite: for scales that float16 rounds to zero anyway."""
    inverse = np.float32(1) / x
    return inverse if inverse < np.inf else np.float32(0)


@helper
def trit(x, inverse):
    """-1, 0 or 1, the nearest (C's `roundf`) to x * inverse, which is at most 1, as 0, 1 or 2."""
    return np.int32(1) + np.int32(x * inverse >= HALF) - np.int32(x * inverse <= -HALF)


@helper
def trit_lanes(x, at, inverse):
    """The trits of x[at : at + 16]."""
    y = load_16(x, at) * inverse
    zero = bit_lanes(y) & 0
    return select(y >= HALF, zero | 2, select(y <= -HALF, zero, zero | 1))


@kernel
def pack_q1_0(blocks, out):
    """blocks f32 [n_blocks, 128] -> out u8 [n_blocks, 18]: f16 d, the mean magnitude; 128 sign bits, 1 for x >= 0."""
    n_blocks = blocks.shape[0]
    totals = np.empty(BLOCKS_ABREAST, np.float32)
    for first in range(0, n_blocks, BLOCKS_ABREAST):
        tile = blocks[first : first + BLOCKS_ABREAST]
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
            for m in range(0, 32, 16):
                bits = trit_lanes(x, 128 * half + m, inverse)
                for k in range(1, 4):
                    bits |= trit_lanes(x, 128 * half + 32 * k + m, inverse) << 2 * k
                store(data, 32 * half + m, bits)


@kernel
def unpack_tq2_0(data, out):
    """data u8 [n_blocks, 66] -> out f32 [n_blocks, 256]."""
    for block in range(data.shape[0]):
        d = load_f16(data[block], 64)
        for half in range(2):
            for m in range(0, 32, 16):
                codes = load_16(data[block], 32 * half + m)
                for k in range(4):
                    store(out[block], 128 * half + 32 * k + m, (float_lanes((codes >> 2 * k) & 3) - ONE) * d)


@helper
def fraction_of_243(number):
    """Five base-3 digits as a fraction in 256ths, rounded up: multiplying it by 3 shifts a digit out on top.

    The division by 243, rounded down, is a multiplication; exact for all numbers below 243.
    """
    return ((number * 256 + 242) * 17261) >> 22


@helper
def pack_trits(x, start, stride, inverse, data, at):
    """80 values, five each from start, start + 1... with a stride, to 16 bytes; the first is the highest digit."""
    number = trit_lanes(x, start, inverse)
    for k in range(1, 5):
        number = number * 3 + trit_lanes(x, start + stride * k, inverse)
    store(data, at, fraction_of_243(number))


@helper
def unpack_trits(data, at, d, out, start, stride):
    """16 bytes -> 80 values, five each from start, start + 1... with a stride."""
    codes = load_16(data, at)
    for k in range(5):
        store(out, start + stride * k, (float_lanes((codes * 3) >> 8) - ONE) * d)
        codes = (codes * 3) & 255


@kernel
def pack_tq1_0(blocks, out):
    """blocks f32 [n_blocks, 256] -> out u8 [n_blocks, 54]: qs[48] of five values each, qh[4] of four, f16 d."""
    for block in range(blocks.shape[0]):
        x, data = blocks[block], out[block]
        d = largest_magnitude(x)
        inverse = safe_inverse(d)
        store_f16(within_f16(d), data, 52)
        pack_trits(x, 0, 32, inverse, data, 0)
        pack_trits(x, 16, 32, inverse, data, 16)
        pack_trits(x, 160, 16, inverse, data, 32)
        for m in range(4):
            number = np.int32(0)
            for k in range(4):
                number = 3 * number + trit(x[240 + 4 * k + m], inverse)
            data[48 + m] = np.uint8(fraction_of_243(3 * number))


@kernel
def unpack_tq1_0(data, out):
    """data u8 [n_blocks, 54] -> out f32 [n_blocks, 256]."""
    for block in range(data.shape[0]):
        d = load_f16(data[block], 52)
        unpack_trits(data[block], 0, d, out[block], 0, 32)
        unpack_trits(data[block], 16, d, out[block], 16, 32)
        unpack_trits(data[block], 32, d, out[block], 160, 16)
        for m in range(4):
            code = np.int32(data[block, 48 + m])
            for k in range(4):
                out[block, 240 + 4 * k + m] = np.float32(((code * 3) >> 8) - 1) * d
                code = (code * 3) & 255
