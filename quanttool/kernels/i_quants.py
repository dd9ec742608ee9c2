"""Blocks of the codebook types to values and back: where each bit of IQ1, IQ2 and IQ3 blocks lies.

Follows ggml-quants.c `dequantize_row_iq*`. All kernels take blocks of 256 values: data u8 [n_blocks, block_bytes],
grid f32 [n_points * dim] with the values of the codebook, point by point, out f32 [n_blocks, 256].
"""

import numpy as np

from .jit import helper, kernel
from .lanes import load_4, load_8, store
from .rounding import f16_bits, f16_value, load_f16, nearest_int, within_f16

# Factors of 8 values by their sign byte, f32 [256 * 8]; where only 7 bits are stored, the eighth makes the number of
# minus signs even.
SIGN_BITS = np.unpackbits(np.arange(256, dtype=np.uint8), bitorder="little")
SIGNS = np.float32(1) - np.float32(2) * SIGN_BITS
EVEN_SIGNS = SIGNS.reshape(256, 8)[[code | (code.bit_count() % 2 << 7) for code in range(128)]].ravel()

IQ1_DELTA = np.float32(0.125)


@helper
def load_u16(data, at):
    """Two little-endian bytes of data u8 [...] at index `at`, as i32."""
    return np.int32(data[at] | (np.int32(data[at + 1]) << 8))


@helper
def expand_8(scale, grid, index, signs, code, out, at):
    """8 values, out[at + j] = scale * grid[index][j] * signs[code][j]."""
    store(out, at, load_8(grid, 8 * np.int64(index)) * scale * load_8(signs, 8 * np.int64(code)))


@helper
def expand_4_and_4(scale, grid, first, second, signs, code, out, at):
    """8 values from two points of 4."""
    at_signs = 8 * np.int64(code)
    store(out, at, load_4(grid, 4 * np.int64(first)) * scale * load_4(signs, at_signs))
    store(out, at + 4, load_4(grid, 4 * np.int64(second)) * scale * load_4(signs, at_signs + 4))


@helper
def expand_shifted(scale, grid, index, delta, out, at):
    """8 values, out[at + j] = scale * (grid[index][j] + delta)."""
    store(out, at, (load_8(grid, 8 * np.int64(index)) + delta) * scale)


@kernel
def unpack_iq2_xxs(data, grid, out):
    """66 bytes: f16 d; per 32 values four point numbers, then 4 x 7 sign bits and a 4-bit scale."""
    for block in range(data.shape[0]):
        d = load_f16(data[block], 0)
        for sub in range(8):
            at = 2 + 8 * sub
            high = np.uint32(load_u16(data[block], at + 4) | (load_u16(data[block], at + 6) << 16))
            scale = d * (np.float32(0.5) + np.float32(high >> 28)) * np.float32(0.25)
            for k in range(4):
                code = (high >> (7 * k)) & 127
                expand_8(scale, grid, data[block, at + k], EVEN_SIGNS, code, out[block], 32 * sub + 8 * k)


@kernel
def unpack_iq2_xs(data, grid, out):
    """74 bytes: f16 d; per 8 values u16, 9 bits of point number and 7 sign bits; a 4-bit scale per 16 values."""
    for block in range(data.shape[0]):
        d = load_f16(data[block], 0)
        for group in range(32):
            code = load_u16(data[block], 2 + 2 * group)
            scale_code = (data[block, 66 + group // 4] >> (4 * (group // 2 % 2))) & 15
            scale = d * (np.float32(0.5) + np.float32(scale_code)) * np.float32(0.25)
            expand_8(scale, grid, code & 511, EVEN_SIGNS, code >> 9, out[block], 8 * group)


@kernel
def unpack_iq2_s(data, grid, out):
    """82 bytes: f16 d; 32 low bytes of point numbers, 32 sign bytes, 2 high bits each; a 4-bit scale per 16 values."""
    for block in range(data.shape[0]):
        d = load_f16(data[block], 0)
        for group in range(32):
            high = (data[block, 66 + group // 4] >> (2 * (group % 4))) & 3
            index = data[block, 2 + group] | (np.int32(high) << 8)
            scale_code = (data[block, 74 + group // 4] >> (4 * (group // 2 % 2))) & 15
            scale = d * (np.float32(0.5) + np.float32(scale_code)) * np.float32(0.25)
            expand_8(scale, grid, index, SIGNS, data[block, 34 + group], out[block], 8 * group)


@kernel
def unpack_iq3_xxs(data, grid, out):
    """98 bytes: f16 d; 64 point numbers of 4 values; per 32 values 4 x 7 sign bits and a 4-bit scale."""
    for block in range(data.shape[0]):
        d = load_f16(data[block], 0)
        for sub in range(8):
            at = 66 + 4 * sub
            high = np.uint32(load_u16(data[block], at) | (load_u16(data[block], at + 2) << 16))
            scale = d * (np.float32(0.5) + np.float32(high >> 28)) * np.float32(0.5)
            for k in range(4):
                code = (high >> (7 * k)) & 127
                first, second = data[block, 2 + 8 * sub + 2 * k], data[block, 3 + 8 * sub + 2 * k]
                expand_4_and_4(scale, grid, first, second, EVEN_SIGNS, code, out[block], 32 * sub + 8 * k)


@kernel
def unpack_iq3_s(data, grid, out):
    """110 bytes: f16 d; 64 low bytes of point numbers, their ninth bits, 32 sign bytes; a 4-bit scale per 32 values."""
    for block in range(data.shape[0]):
        d = load_f16(data[block], 0)
        for k in range(32):
            high = np.int32(data[block, 66 + k // 4] >> (2 * (k % 4)))
            first = data[block, 2 + 2 * k] | (high & 1) << 8
            second = data[block, 3 + 2 * k] | (high & 2) << 7
            scale_code = (data[block, 106 + k // 8] >> (4 * (k // 4 % 2))) & 15
            scale = d * np.float32(1 + 2 * np.int32(scale_code))
            expand_4_and_4(scale, grid, first, second, SIGNS, data[block, 74 + k], out[block], 8 * k)


@kernel
def unpack_iq1_s(data, grid, out):
    """50 bytes: f16 d; 32 low bytes of point numbers; for 32 values 12 high bits, 3-bit scale, sign of the shift."""
    for block in range(data.shape[0]):
        d = load_f16(data[block], 0)
        for sub in range(8):
            high = load_u16(data[block], 34 + 2 * sub)
            scale = d * np.float32(2 * ((high >> 12) & 7) + 1)
            delta = -IQ1_DELTA if high & 0x8000 else IQ1_DELTA
            for k in range(4):
                index = data[block, 2 + 4 * sub + k] | (((high >> (3 * k)) & 7) << 8)
                expand_shifted(scale, grid, index, delta, out[block], 32 * sub + 8 * k)


@kernel
def unpack_iq1_m(data, grid, out):
    """56 bytes: 32 low bytes of point numbers; per 8 values 3 high bits and the sign of the shift; scales.

    The scales are four u16, each with 3 bits for 16 values four times, and a quarter of the float16 d on top.
    """
    for block in range(data.shape[0]):
        d_bits = np.int32(0)
        for k in range(4):
            d_bits |= (load_u16(data[block], 48 + 2 * k) >> 12) << (4 * k)
        d = f16_value(np.int32(d_bits))
        for group in range(32):
            sub = group // 2
            scale_code = (load_u16(data[block], 48 + 2 * (sub // 4)) >> (3 * (sub % 4))) & 7
            high = (data[block, 32 + sub] >> (4 * (group % 2))) & 15
            index = data[block, group] | (np.int32(high & 7) << 8)
            delta = -IQ1_DELTA if high & 8 else IQ1_DELTA
            expand_shifted(d * np.float32(2 * scale_code + 1), grid, index, delta, out[block], 8 * group)


@kernel
def scale_codes(scales, highest, fudge, d, codes):
    """scales f32 [n_blocks, n_sub], not negative -> d u16 [n_blocks, 1], float16 bits; codes u8 [n_blocks, n_sub].

    A code c stands for (2 c + 1) d, c up to `highest`; d is stored times `fudge`.
    """
    for block in range(scales.shape[0]):
        unit = scales[block].max() / np.float32(2 * highest + 1)
        d[block, 0] = np.uint16(f16_bits(within_f16(unit * fudge)))
        inverse = np.float32(1) / unit if unit > 0 else np.float32(0)
        for sub in range(scales.shape[1]):
            code = nearest_int(np.float32(0.5) * (inverse * scales[block, sub] - np.float32(1)))
            codes[block, sub] = np.uint8(min(max(code, 0), highest))
