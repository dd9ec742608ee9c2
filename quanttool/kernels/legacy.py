"""The formats of 32 values: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 (ggml-common.h `block_q4_0` and its neighbours).

Low nibbles hold the first 16 values, high nibbles the second 16; fifth bits are one 32-bit word, bit j for value j.
"""

import numpy as np

from .jit import helper, kernel
from .rounding import load_f16


@helper
def fifth_bits(block, at):
    """The four little-endian bytes of `qh` at index `at`, as one word."""
    low = np.uint32(block[at]) | (np.uint32(block[at + 1]) << 8)
    return np.uint32(low | (np.uint32(block[at + 2]) << 16) | (np.uint32(block[at + 3]) << 24))


@kernel
def q4_0_unpack(data, out):
    """data u8 [n_blocks, 18]: f16 d, qs[16] -> out f32 [n_blocks, 32]."""
    for b in range(data.shape[0]):
        d = load_f16(data[b], 0)
        for j in range(16):
            q = np.int32(data[b, 2 + j])
            out[b, j] = np.float32((q & 15) - 8) * d
            out[b, j + 16] = np.float32((q >> 4) - 8) * d


@kernel
def q4_1_unpack(data, out):
    """data u8 [n_blocks, 20]: f16 d, f16 m, qs[16] -> out f32 [n_blocks, 32]."""
    for b in range(data.shape[0]):
        d, m = load_f16(data[b], 0), load_f16(data[b], 2)
        for j in range(16):
            q = np.int32(data[b, 4 + j])
            out[b, j] = np.float32(q & 15) * d + m
            out[b, j + 16] = np.float32(q >> 4) * d + m


@kernel
def q5_0_unpack(data, out):
    """data u8 [n_blocks, 22]: f16 d, qh[4], qs[16] -> out f32 [n_blocks, 32]."""
    for b in range(data.shape[0]):
        d, qh = load_f16(data[b], 0), fifth_bits(data[b], 2)
        for j in range(16):
            q = np.int32(data[b, 6 + j])
            out[b, j] = np.float32(((q & 15) | ((qh >> j) & 1) << 4) - 16) * d
            out[b, j + 16] = np.float32(((q >> 4) | ((qh >> (j + 16)) & 1) << 4) - 16) * d


@kernel
def q5_1_unpack(data, out):
    """data u8 [n_blocks, 24]: f16 d, f16 m, qh[4], qs[16] -> out f32 [n_blocks, 32]."""
    for b in range(data.shape[0]):
        d, m, qh = load_f16(data[b], 0), load_f16(data[b], 2), fifth_bits(data[b], 4)
        for j in range(16):
            q = np.int32(data[b, 8 + j])
            out[b, j] = np.float32((q & 15) | ((qh >> j) & 1) << 4) * d + m
            out[b, j + 16] = np.float32((q >> 4) | ((qh >> (j + 16)) & 1) << 4) * d + m


@kernel
def q8_0_unpack(data, out):
    """data u8 [n_blocks, 34]: f16 d, i8 qs[32] -> out f32 [n_blocks, 32]."""
    for b in range(data.shape[0]):
        d = load_f16(data[b], 0)
        for j in range(32):
            out[b, j] = np.float32(np.int8(data[b, 2 + j])) * d
