"""Slow twins of the non-linear and codebook formats: one block at a time, numpy float32 scalars in source order.

Written from ggml-quants.c alone, value by value, without the kernels' thresholds, lanes or tables.
"""

from functools import cache
from pathlib import Path

import numpy as np

from quanttool import formats

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


TABLES = Path(formats.__file__).parent / "tables"


@cache
def grid(name):
    """Points of a codebook as odd numbers, i32 [n_points, dim], and their numbers by tuple."""
    points = 2 * np.load(TABLES / f"{name}.npy").astype(np.int32) + 1
    return points, {tuple(point.tolist()): number for number, point in enumerate(points)}


@cache
def neighbours(name, target, n_distances):
    """Numbers of the points within the smallest n_distances distances to target, by distance, then number."""
    distances = ((grid(name)[0] - np.array(target)) ** 2).sum(1)
    order = sorted(range(len(distances)), key=lambda number: (distances[number], number))
    last = np.unique(distances)[n_distances - 1]
    return np.array([number for number in order if distances[number] <= last])


def closest(name, n_distances, target, x, weights, scale):
    """The point for rounded values: itself if on the grid, else the neighbour with the least error."""
    points, numbers = grid(name)
    if target in numbers:
        return numbers[target], True
    candidates = neighbours(name, target, n_distances)
    error = np.zeros(len(candidates), f32)
    for i, (value, weight) in enumerate(zip(x, weights, strict=True)):
        off = scale * points[candidates, i].astype(f32) - value
        error += weight * off * off
    return candidates[np.argmin(error)], False


def odd(value, inverse, top):
    return 2 * max(0, min((top - 1) // 2, nearest_int(f32(0.5) * (inverse * value - f32(1))))) + 1


def fit(x, weights, q):
    qx, qq = f32(0), f32(0)
    for value, weight, level in zip(x, weights, q, strict=True):
        qx += weight * value * f32(level)
        qq += weight * f32(level) * f32(level)
    return qx, qq


def qp_scale(x, weights, top):
    """`make_qp_quants`, with levels in unsigned bytes."""
    largest = max(x)

    def error(inverse, code):
        total = f32(0)
        for value, weight in zip(x, weights, strict=True):
            off = value - f32(1) / inverse * f32(code(nearest_int(inverse * value)))
            total += weight * off * off
        return total

    inverse = f32(top) / largest
    least = error(inverse, lambda l: l % 256)
    for step in (-4, -3, -2, -1, 1, 2, 3, 4):
        other = (f32(0.1) * f32(step) + f32(top)) / largest
        this = error(other, lambda l: min(l, top))
        if this < least:
            least, inverse = this, other
    codes = [min(nearest_int(inverse * value), top) for value in x]
    lx, l2 = fit(x, weights, codes)
    codes = [code % 256 for code in codes]
    for _ in range(5):
        before = list(codes)
        for i, (value, weight) in enumerate(zip(x, weights, strict=True)):
            less_lx = lx - weight * value * f32(codes[i])
            less_l2 = l2 - weight * f32(codes[i]) * f32(codes[i])
            if less_lx > 0 and less_l2 > 0:
                new = min(nearest_int(value * less_l2 / less_lx), top)
                if new != codes[i]:
                    new_lx = less_lx + weight * value * f32(new)
                    new_l2 = less_l2 + weight * f32(new) * f32(new)
                    if new_lx * new_lx * l2 > lx * lx * new_l2:
                        codes[i], lx, l2 = new % 256, new_lx, new_l2
        if codes == before:
            break
    return lx / l2 if l2 > 0 else f32(0)


def search(x, weights, kind):
    """Scale and points of a sub-block; x are magnitudes. None if it is stored as zeros."""
    name, n_distances, dim, top = kind["grid"], kind["n_distances"], kind["dim"], kind["top"]
    groups = [slice(dim * k, dim * (k + 1)) for k in range(len(x) // dim)]
    roots = [np.sqrt(weight) for weight in weights]
    points = grid(name)[0]

    def choose(inverse, scale):
        targets = [tuple(odd(value, inverse, top) for value in x[group]) for group in groups]
        found = [
            closest(name, n_distances, target, x[group], roots[group], scale)
            for target, group in zip(targets, groups, strict=True)
        ]
        return [number for number, _ in found], [on for _, on in found]

    largest = max(x)
    if largest < f32(kind["smallest"]):
        return None
    scale, reach = largest / f32(top), largest
    if kind["refit"] == "always":
        scale = qp_scale(x, weights, 4)
        reach = scale * f32(3)
        if reach <= 0:
            return None
    best, numbers = f32(0), [0] * len(groups)
    on_grid = [kind["refit"] == "off grid"] * len(groups)
    for step in range(-kind["tries"], kind["tries"] + 1):
        inverse = (f32(top) + f32(step) * f32(kind["step"])) / reach
        tried, on = choose(inverse, f32(1) / inverse)
        qx, qq = fit(x, weights, points[tried].ravel())
        if qq > 0 and qx * qx > best * qq:
            scale = qx / qq
            best, numbers, on_grid = scale * qx, tried, on
    if scale > 0 and (kind["refit"] == "always" or not all(on_grid)):
        again, _ = choose(f32(1) / scale, scale)
        keep = on_grid if kind["refit"] == "off grid" else [False] * len(groups)
        numbers = [old if kept else new for old, new, kept in zip(numbers, again, keep, strict=True)]
        qx, qq = fit(x, weights, points[numbers].ravel())
        scale = qx / qq if qq > 0 else scale
    return scale, numbers


def magnitudes_and_signs(x, weights, even):
    signs = []
    x = list(x)
    for start in range(0, len(x), 8):
        part = range(start, start + 8)
        cost = [weights[i] * x[i] * x[i] for i in part]
        negative = [x[i] < 0 for i in part]
        for i in part:
            x[i] = abs(x[i])
        if even and sum(negative) % 2:
            wrong = cost.index(min(cost))
            negative[wrong] = not negative[wrong]
            x[start + wrong] = -x[start + wrong]
        bits = sum(1 << i for i, minus in enumerate(negative) if minus)
        signs.append(bits & 127 if even else bits)
    return x, signs


def codebook_parts(x, importance, kind):
    """d as bytes, scale codes, and for each sub-block either None or (points, sign bytes)."""
    sigma2 = f32(kind["sigma2"]) * sum_of_squares(x) / f32(256)
    scales, parts = [], []
    for start in range(0, 256, kind["size"]):
        part = slice(start, start + kind["size"])
        if importance is None:
            weights = [f32(kind["plain"]) * sigma2 + value * value for value in x[part]]
        else:
            weights = [w * np.sqrt(sigma2 + v * v) for v, w in zip(x[part], importance[part], strict=True)]
        positive, signs = magnitudes_and_signs(x[part], weights, kind["even"])
        found = search(positive, weights, kind)
        scale, numbers = found or (f32(0), None)
        if scale < 0:
            scale, signs = -scale, [~bits & (127 if kind["even"] else 255) for bits in signs]
        scales.append(scale)
        parts.append(None if found is None else ([int(number) for number in numbers], signs))
    d = max(scales) / f32(31)
    if not d:
        return bytes(2), [0] * len(scales), [None] * len(scales)
    codes = [max(0, min(15, nearest_int(f32(0.5) * (f32(1) / d * scale - f32(1))))) for scale in scales]
    return f16_bytes(d * f32(kind["fudge"])), codes, parts


IQ2 = {"dim": 8, "top": 5, "step": 0.1, "size": 16, "plain": 0.25, "tries": 9, "refit": "off grid", "fudge": 1}
IQ3 = {"dim": 4, "top": 15, "step": 0.2, "size": 32, "plain": 0, "sigma2": 2}
KINDS = {
    "IQ2_XXS": IQ2 | {"grid": "iq2_xxs", "n_distances": 2, "even": True, "smallest": 1e-15, "sigma2": 1}
    | {"size": 32, "tries": 6, "refit": "always"},
    "IQ2_XS": IQ2 | {"grid": "iq2_xs", "n_distances": 2, "even": True, "smallest": 1e-15, "sigma2": 1},
    "IQ2_S": IQ2 | {"grid": "iq2_s", "n_distances": 1, "even": False, "smallest": 1e-8, "sigma2": 2, "fudge": 0.9875},
    "IQ3_XXS": IQ3 | {"grid": "iq3_xxs", "n_distances": 2, "even": True, "smallest": 1e-8, "fudge": 1.0125}
    | {"tries": 15, "refit": "off grid"},
    "IQ3_S": IQ3 | {"grid": "iq3_s", "n_distances": 3, "even": False, "smallest": 1e-45, "fudge": 1.033}
    | {"tries": 9, "refit": "block"},
}  # fmt: skip


def pairs(codes):
    return bytes(codes[i] | codes[i + 1] << 4 for i in range(0, len(codes), 2))


def seven_bits(signs, code):
    return (sum(bits << 7 * k for k, bits in enumerate(signs)) | code << 28).to_bytes(4, "little")


def iq2_xxs_block(x, importance=None):
    d, codes, parts = codebook_parts(x, importance, KINDS["IQ2_XXS"])
    parts = [part or ([0] * 4, [0] * 4) for part in parts]
    rest = b"".join(bytes(p) + seven_bits(s, c) for (p, s), c in zip(parts, codes, strict=True))
    return np.frombuffer(d + rest, np.uint8)


def iq2_xs_block(x, importance=None):
    d, codes, parts = codebook_parts(x, importance, KINDS["IQ2_XS"])
    parts = [part or ([0] * 2, [0] * 2) for part in parts]
    qs = b"".join((p | s << 9).to_bytes(2, "little") for part in parts for p, s in zip(*part, strict=True))
    return np.frombuffer(d + qs + pairs(codes), np.uint8)


def iq2_s_block(x, importance=None):
    d, codes, parts = codebook_parts(x, importance, KINDS["IQ2_S"])
    points = [p for part in parts for p in (part[0] if part else [0] * 2)]
    signs = [s for part in parts for s in (part[1] if part else [0] * 2)]
    high = [sum(points[4 * k + i] >> 8 << 2 * i for i in range(4)) for k in range(8)]
    return np.frombuffer(d + bytes(p & 255 for p in points) + bytes(signs) + bytes(high) + pairs(codes), np.uint8)


def iq3_xxs_block(x, importance=None):
    d, codes, parts = codebook_parts(x, importance, KINDS["IQ3_XXS"])
    parts = [part or ([0] * 8, [0] * 4) for part in parts]
    rest = b"".join(seven_bits(s, c) for (_, s), c in zip(parts, codes, strict=True))
    return np.frombuffer(d + b"".join(bytes(p) for p, _ in parts) + rest, np.uint8)


def iq3_s_block(x, importance=None):
    """Points and signs of all-zero sub-blocks are not stepped over, their high bits are: as the reference does."""
    d, codes, parts = codebook_parts(x, importance, KINDS["IQ3_S"])
    low, signs, high = [], [], [0] * 8
    for k, part in enumerate(parts):
        if part:
            low += [p & 255 for p in part[0]]
            signs += part[1]
            high[k] = sum(p >> 8 << i for i, p in enumerate(part[0]))
    low += [0] * (64 - len(low))
    signs += [0] * (32 - len(signs))
    return np.frombuffer(d + bytes(low) + bytes(high) + bytes(signs) + pairs(codes), np.uint8)


BLOCKS = {
    "IQ4_NL": (32, iq4_nl_block),
    "IQ4_XS": (256, iq4_xs_block),
    "Q1_0": (128, q1_0_block),
    "Q2_0": (64, q2_0_block),
    "TQ1_0": (256, tq1_0_block),
    "TQ2_0": (256, tq2_0_block),
    "MXFP4": (32, mxfp4_block),
    "NVFP4": (64, nvfp4_block),
    "IQ2_XXS": (256, iq2_xxs_block),
    "IQ2_XS": (256, iq2_xs_block),
    "IQ2_S": (256, iq2_s_block),
    "IQ3_XXS": (256, iq3_xxs_block),
    "IQ3_S": (256, iq3_s_block),
}


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
