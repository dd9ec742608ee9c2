"""Slow twins of the non-linear and codebook formats: one block at a time, numpy float32 scalars in source order.

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


BLOCKS = {"IQ4_NL": (32, iq4_nl_block), "IQ4_XS": (256, iq4_xs_block)}


def quantize(name, rows, importance=None):
    """rows f32 [n_rows, n_cols] -> u8 [n_rows, row_bytes], block by block."""
    size, block = BLOCKS[name]
    out = []
    with np.errstate(all="ignore"):
        for row in rows:
            starts = range(0, len(row), size)
            weights = [None if importance is None else importance[s : s + size] for s in starts]
            out.append(np.concatenate([block(row[s : s + size], w) for s, w in zip(starts, weights, strict=True)]))
    return np.stack(out)
