"""Slow twins of ik_llama.cpp's formats: one value at a time, straight from the description of each block.

Each decoder takes a block's bytes b, the number j of a value in it and, where rows have one, their scale d; it gives
the scale and the entry whose product is the value.
"""

import struct
from functools import cache

import numpy as np

IQ2 = [-31, -13, 1, 17]
IQ3 = [-63, -40, -23, -10, 1, 13, 28, 47]
IQ4 = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
IQ5 = [-126, -114, -103, -92, -83, -74, -65, -57, -50, -43, -36, -30, -24, -18, -12, -6]
IQ5 += [-1, 5, 11, 17, 23, 29, 36, 43, 51, 59, 68, 77, 87, 97, 109, 121]
# ggml-common.h iq2kl_values: two signed bytes each, the first value in the low byte
IQ2_KL = [
    0xE9C1,
    0x0DC1,
    0xC1D8,
    0xF6D8,
    0x0DD8,
    0x2FD8,
    0xD8E9,
    0xE9E9,
    0x01E9,
    0x0DE9,
    0x1CE9,
    0xC1F6,
    0x01F6,
    0x0DF6,
]
IQ2_KL += [
    0x2FF6,
    0xE901,
    0xF601,
    0x0101,
    0x0D01,
    0x1C01,
    0xD80D,
    0xE90D,
    0xF60D,
    0x010D,
    0x0D0D,
    0xC11C,
    0xE91C,
    0x011C,
]
IQ2_KL += [0x1C1C, 0x2F1C, 0xE92F, 0x0D2F]


def half(data, at):
    return struct.unpack_from("<e", data, at)[0]


def single(data, at):
    return struct.unpack_from("<f", data, at)[0]


def word(data, at):
    return struct.unpack_from("<H", data, at)[0]


def bit(number, i):
    return number >> i & 1


def nibble(byte, upper):
    return byte >> 4 if upper else byte & 15


def iq2_k(b, j):
    s = j // 16
    code = b[12 + 32 * (j // 128) + j % 32] >> 2 * (j % 128 // 32) & 3
    return half(b, 0) * (nibble(b[4 + s // 2], s % 2) - 8), (IQ2[code] + 5 * bit(word(b, 2), s))


def iq3_k(b, j):
    s = j // 16
    code = b[14 + 32 * (j // 128) + j % 32] >> 2 * (j % 128 // 32) & 3 | bit(b[78 + j % 32], j // 32) << 2
    scale = (2 * nibble(b[6 + s // 2], s % 2) + 1) * (-1 if bit(word(b, 4), s) else 1)
    return half(b, 0) * scale, (IQ3[code] + 4 * bit(word(b, 2), s))


def six_bit_scale(b, s):
    return (nibble(b[8 + s // 2], s % 2) | (b[4 + s // 4] >> 2 * (s % 4) & 3) << 4) - 32


def iq4_k(b, j):
    s = j // 16
    code = nibble(b[16 + 16 * (j // 32) + j % 16], j % 32 >= 16)
    return half(b, 0) * six_bit_scale(b, s), (IQ4[code] + 4 * bit(word(b, 2), s))


def iq5_k(b, j):
    s = j // 16
    code = nibble(b[16 + 32 * (j // 64) + j % 32], j % 64 >= 32) | bit(b[144 + j % 32], j // 32) << 4
    return half(b, 0) * six_bit_scale(b, s), (IQ5[code] + 2 * bit(word(b, 2), s))


def iq6_k(b, j):
    s = j // 16
    high = b[148 + 32 * (j // 128) + j % 32] >> 2 * (j % 128 // 32) & 3
    q = nibble(b[20 + 32 * (j // 64) + j % 32], j % 64 >= 32) | high << 4
    scale = struct.unpack_from("<b", b, 4 + s)[0]
    value = float(np.float32(0.0011972))
    for coefficient in (-0.11218, 6.2568, -127):
        value = float(np.float32(float(np.float32(coefficient)) + q * value))
    return half(b, 0) * scale, value + bit(word(b, 2), s)


def iq2_ks(b, j, d):
    s = j // 32
    code = b[6 + 32 * (j // 128) + j % 32] >> 2 * (j % 128 // 32) & 3
    scale = (nibble(b[2 + s // 2], s % 2) | bit(word(b, 0), 8 + s) << 4) - 16
    return d * scale, (IQ2[code] + 5 * bit(word(b, 0), s))


def iq3_ks(b, j, d):
    s = j // 32
    code = b[6 + 32 * (j // 128) + j % 32] >> 2 * (j % 128 // 32) & 3 | bit(b[70 + j % 32], s) << 2
    scale = (nibble(b[2 + s % 4], s // 4) | bit(word(b, 0), s) << 4) - 16
    return d * scale, (IQ3[code] + 4 * bit(word(b, 0), 8 + s))


def iq4_ks(b, j, d):
    s = j // 32
    code = nibble(b[8 + 16 * s + j % 16], j % 32 >= 16)
    return d * ((b[s] & 254) - 127), (IQ4[code] + 4 * bit(b[s], 0))


def iq5_ks(b, j, d):
    s = j // 32
    code = nibble(b[8 + 32 * (j // 64) + j % 32], s % 2) | bit(b[136 + j % 32], s) << 4
    return d * ((b[s] & 254) - 127), (IQ5[code] + 2 * bit(b[s], 0))


def iq4_kss(b, j, d):
    s = j // 32
    words = [word(b, 16 * s + 2 * k) for k in range(8)]
    scale = sum(bit(w, 0) << k for k, w in enumerate(words))
    u = words[j % 16 // 2] & 0xFFFE
    byte = (u ^ u >> 1) >> 8 * (j % 2) & 255
    return d * ((scale & 254) - 127), (IQ4[nibble(byte, j % 32 >= 16)] + 4 * bit(scale, 0))


def iq2_kl(b, j, d):
    s, pair = j // 32, j % 32 // 2
    code = nibble(b[6 + 16 * (s // 2) + pair], s % 2) | bit(b[70 + pair], s) << 4
    scale = (nibble(b[2 + s % 4], s // 4) | (word(b, 0) >> 2 * s & 3) << 4) - 32
    return d * scale, struct.unpack("<bb", struct.pack("<H", IQ2_KL[code]))[j % 2]


@cache
def sequence(seed, length):
    """The pseudo-random values of a seed (iqk_quantize.cpp `QuantizerIQKT::set_values`)."""
    values = []
    for _ in range(length):
        seed = seed * 0xCBAC1FED & 0xFFFFFFFF
        values.append(sum(seed >> 8 * k & 0x3F for k in range(4)) - 126)
    return values


def iq1_kt(b, j, d):
    s, g = j // 32, j // 8
    seed = b[8 + g] | nibble(b[40 + g % 16], g // 16) << 8 | bit(b[s], 4 + g % 4) << 12
    return d * IQ4[b[s] & 15], sequence(seed + 4096, 8)[j % 8]


def iq2_kt(b, j, d):
    s = j // 32
    return d * IQ4[nibble(b[s % 4], s // 4)], sequence(word(b, 4 + 2 * (j // 8)) + 4096, 8)[j % 8]


def iq3_kt(b, j, d):
    s = j // 32
    sign = -1 if bit(b[68 + j % 32], s) else 1
    return d * nibble(b[s % 4], s // 4), sign * abs(sequence(word(b, 4 + 2 * (j // 8)) + 4096, 8)[j % 8])


def iq4_kt(b, j, d):
    s, g = j // 32, j // 4
    head = struct.unpack_from("<I", b, 4 * s)[0]
    seed = b[32 + g] | nibble(b[96 + g % 32], g // 32) << 8 | (head >> 8 + 3 * (g % 8) & 7) << 12
    return d * ((head >> 1 & 127) - 64), sequence(seed + 4096 + 32768 * (head & 1), 4)[j % 4]


def iq1_bn(b, j, d):
    group, i = j // 16, j % 16
    byte, place = (b[12], group) if i == 15 else (b[3 * group + i // 5], i % 5)
    return d, ((byte * 3 ** (4 - place) % 256 * 3 >> 8) - 1)


def iq2_bn(b, j, d):
    return d, ((b[j % 16] >> 2 * (j // 16) & 3) - 1)


def q6_0(b, j):
    high = b[2 + j % 8] >> 4 * (j % 16 // 8) + 2 * (j // 16) & 3
    return half(b, 0), ((nibble(b[10 + j % 16], j // 16) | high << 4) - 32)


def q8_kv(b, j, d):
    return d, struct.unpack_from("<b", b, j)[0]


# name -> decoder, values and bytes of a block, reader of the row's scale, bytes before the first block
FORMATS = {
    "IQ2_K": (iq2_k, 256, 76, None, 0),
    "IQ3_K": (iq3_k, 256, 110, None, 0),
    "IQ4_K": (iq4_k, 256, 144, None, 0),
    "IQ5_K": (iq5_k, 256, 176, None, 0),
    "IQ6_K": (iq6_k, 256, 212, None, 0),
    "IQ2_KS": (iq2_ks, 256, 70, half, 2),
    "IQ3_KS": (iq3_ks, 256, 102, half, 2),
    "IQ4_KS": (iq4_ks, 256, 136, single, 4),
    "IQ5_KS": (iq5_ks, 256, 168, single, 4),
    "IQ4_KSS": (iq4_kss, 256, 128, single, 4),
    "IQ2_KL": (iq2_kl, 256, 86, half, 2),
    "IQ1_KT": (iq1_kt, 256, 56, single, 4),
    "IQ2_KT": (iq2_kt, 256, 68, single, 4),
    "IQ3_KT": (iq3_kt, 256, 100, single, 4),
    "IQ4_KT": (iq4_kt, 256, 128, single, 4),
    "IQ1_BN": (iq1_bn, 64, 13, half, 2),
    "IQ2_BN": (iq2_bn, 64, 16, single, 4),
    "Q6_0": (q6_0, 32, 26, None, 0),
    "Q8_KV": (q8_kv, 32, 32, single, 8),
}


def dequantize(name, row, n_cols):
    """A row of bytes -> its values, f32 [n_cols]."""
    decode, size, block_bytes, read_scale, first = FORMATS[name]
    row = bytes(row)
    scale = () if read_scale is None else (read_scale(row, 0),)
    blocks = [row[at : at + block_bytes] for at in range(first, len(row), block_bytes)]
    factors = np.array([decode(blocks[i // size], i % size, *scale) for i in range(n_cols)], np.float32)
    return factors[:, 0] * factors[:, 1]


def iq1_s_r4(group, row, j, points):
    """Value j of one of four woven rows; group is the bytes of all four, points i8 [2048, 8]."""
    b = group[8 + 24 * (j // 32) :]
    g = j % 32 // 8
    h = word(b, 16 + 2 * row)
    point = b[4 * g + row] | (h >> 3 * g & 7) << 8
    return half(group, 2 * row) * (2 * (h >> 12 & 7) + 1), points[point][j % 8] + (-0.125 if h >> 15 else 0.125)


def iq1_m_r4(group, row, j, points):
    b = group[8 + 28 * (j // 32) :]
    g = j % 32 // 8
    h = nibble(b[16 + 4 * (g // 2) + row], g % 2)
    point = b[4 * g + row] | (h & 7) << 8
    return half(group, 2 * row) * nibble(b[24 + row], g // 2), points[point][j % 8] + (-0.125 if h >> 3 else 0.125)


WOVEN_FORMATS = {"IQ1_S_R4": iq1_s_r4, "IQ1_M_R4": iq1_m_r4}


def dequantize_woven(name, rows, n_cols, points):
    """Four rows of bytes -> their values, f32 [4, n_cols]."""
    group = bytes(np.ascontiguousarray(rows))
    decode = WOVEN_FORMATS[name]
    factors = [[decode(group, row, j, points) for j in range(n_cols)] for row in range(4)]
    factors = np.array(factors, np.float32)
    return factors[..., 0] * factors[..., 1]
