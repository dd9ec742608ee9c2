"""Slow twins of IQ4, the ternary types and 4-bit floats: one block at a time, numpy float32 scalars in source order.

Written from ggml-quants.c alone, value by value, without the kernels' thresholds, lanes or tables.
"""

import numpy as np

f32 = np.float32
IQ4_VALUES = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]


def nearest_int(x):
    return int(np.rint(f32(x)))


def iq4_code(x):
    """Binary search between two levels, then the nearer one; the upper one of a tie."""
    if x <= IQ4_VALUES[0]:
        return 0
    if x >= IQ4_VALUES[15]:
        return 15
    low, high = 0, 15
    while high - low > 1:
        middle = (low + high) // 2
        if x < IQ4_VALUES[middle]:
            high = middle
        else:
            low = middle
    return high - 1 if x - f32(IQ4_VALUES[high - 1]) < f32(IQ4_VALUES[high]) - x else high


def iq4_scale(x, weights):
    """The best scale of 32 values, by 16 tries."""
    largest = max(x, key=abs)  # the first of equals
    if abs(largest) < f32(1e-15):
        return f32(0)

    def sums(inverse):
        qx, qq = f32(0), f32(0)
        for value, weight in zip(x, weights, strict=True):
            level = f32(IQ4_VALUES[iq4_code(inverse * value)])
            qx += weight * level * value
            qq += weight * level * level
        return qx, qq

    qx, qq = sums(f32(1) / (-largest / f32(-127)))
    scale = qx / qq if qq > 0 else f32(0)
    best = scale * qx
    for step in range(-7, 8):
        qx, qq = sums(f32(step - 127) / largest)
        if qq > 0 and qx * qx > best * qq:
            scale = qx / qq
            best = scale * qx
    return scale


def iq4_weights(x, importance, sigma2):
    return [
        v * v if importance is None else w * np.sqrt(sigma2 + v * v)
        for v, w in zip(x, x if importance is None else importance, strict=True)
    ]


def sum_of_squares(x):
    total = f32(0)
    for value in x:
        total += value * value
    return total


def iq4_nibbles(codes):
    return [codes[j] | codes[j + 16] << 4 for j in range(16)]


def iq4_nl_block(x, importance=None):
    """f32 [32] -> u8 [18]."""
    sigma2 = sum_of_squares(x) * f32(2 / 32)
    scale = iq4_scale(x, iq4_weights(x, importance, sigma2))
    inverse = f32(1) / scale if scale else f32(0)
    head = np.float16(scale).tobytes()
    return np.frombuffer(head + bytes(iq4_nibbles([iq4_code(inverse * value) for value in x])), np.uint8)


def iq4_xs_block(x, importance=None):
    """f32 [256] -> u8 [136]."""
    sigma2 = sum_of_squares(x) * f32(2 / 256)
    parts = [slice(32 * i, 32 * i + 32) for i in range(8)]
    scales = []
    for part in parts:
        weights = iq4_weights(x[part], None if importance is None else importance[part], sigma2)
        scales.append(iq4_scale(x[part], weights))
    d = -max(scales, key=abs) / f32(32)
    inverse_d = f32(1) / d if d else f32(0)
    high, low, qs = 0, [0] * 4, []
    for i, (part, scale) in enumerate(zip(parts, scales, strict=True)):
        l = max(-32, min(31, nearest_int(inverse_d * scale)))
        step = d * f32(l)
        inverse = f32(1) / step if step else f32(0)
        qs += iq4_nibbles([iq4_code(inverse * value) for value in x[part]])
        low[i // 2] |= ((l + 32) & 15) << 4 * (i % 2)
        high |= (l + 32) >> 4 << 2 * i
    head = np.float16(d).tobytes() + high.to_bytes(2, "little")
    return np.frombuffer(head + bytes(low) + bytes(qs), np.uint8)


def f16_bytes(x):
    return np.float16(x).tobytes()


def round_away(x):
    """C's roundf, exact in float64."""
    return int(np.sign(x) * np.floor(np.abs(np.float64(x)) + 0.5))


def trits(x):
    """The largest magnitude, and every value as 0, 1 or 2."""
    d = max(abs(value) for value in x)
    inverse = f32(1) / d if d else f32(0)
    return d, [round_away(value * inverse) + 1 for value in x]


def q1_0_block(x, importance=None):
    total = f32(0)
    for value in x:
        total += abs(value)
    bits = sum(1 << j for j, value in enumerate(x) if value >= 0)
    return np.frombuffer(f16_bytes(total / f32(128)) + bits.to_bytes(16, "little"), np.uint8)


def q2_0_block(x, importance=None):
    d, codes = trits(x)
    bits = sum(code << 2 * j for j, code in enumerate(codes))
    return np.frombuffer(f16_bytes(d) + bits.to_bytes(16, "little"), np.uint8)


def tq2_0_block(x, importance=None):
    d, codes = trits(x)
    qs = [sum(codes[128 * h + m + 32 * k] << 2 * k for k in range(4)) for h in range(2) for m in range(32)]
    return np.frombuffer(bytes(qs) + f16_bytes(d), np.uint8)


def tq1_0_block(x, importance=None):
    d, codes = trits(x)
    groups = [codes[m:160:32] for m in range(32)] + [codes[160 + m : 240 : 16] for m in range(16)]
    groups += [[*codes[240 + m :: 4], 0] for m in range(4)]
    numbers = [int("".join(map(str, group)), 3) for group in groups]
    return np.frombuffer(bytes(-(-256 * number // 243) for number in numbers) + f16_bytes(d), np.uint8)


E2M1_DOUBLED = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12]


def e2m1_code(x, scale):
    """The nearest of 16 values, the first of equals."""
    distances = [abs(f32(value) * scale - x) for value in E2M1_DOUBLED]
    return distances.index(min(distances))


def mxfp4_block(x, importance=None):
    largest = max(abs(value) for value in x)
    exponent = int(np.floor(f32(np.log2(np.float64(largest))))) - 2 + 127 if largest else 0
    scale = f32(2.0 ** (exponent - 128))
    codes = [e2m1_code(value, scale) for value in x]
    return np.frombuffer(bytes([exponent, *iq4_nibbles(codes)]), np.uint8)


def ue4m3_value(code):
    exponent, mantissa = code >> 3, code & 7
    return mantissa * 2.0**-9 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)


def ue4m3_code(x):
    """Round half up in the mantissa; the largest exponent is never written except as 448."""
    if x >= 256:
        return 0x7E
    if x < 2.0**-6:
        return min(int(x * 512 + 0.5), 7)
    exponent = int(np.floor(np.log2(np.float64(x))))
    code = (exponent + 7) * 8 + int((np.float64(x) / 2.0**exponent - 1) * 8 + 0.5)
    return 0x7E if code >= 15 * 8 else code


def nvfp4_block(x, importance=None):
    scales, qs = [], []
    for part in x.reshape(4, 16):
        code = ue4m3_code(max(abs(value) for value in part) / f32(6))
        codes = [e2m1_code(value, f32(ue4m3_value(code) / 2)) for value in part]
        scales.append(code)
        qs += [codes[j] | codes[j + 8] << 4 for j in range(8)]
    return np.frombuffer(bytes(scales + qs), np.uint8)


BLOCKS = {  # values in a block, and its twin
    "IQ4_NL": (32, iq4_nl_block),
    "IQ4_XS": (256, iq4_xs_block),
    "Q1_0": (128, q1_0_block),
    "Q2_0": (64, q2_0_block),
    "TQ1_0": (256, tq1_0_block),
    "TQ2_0": (256, tq2_0_block),
    "MXFP4": (32, mxfp4_block),
    "NVFP4": (64, nvfp4_block),
}
