"""Slow twins of IQ1, IQ2 and IQ3: one block at a time, numpy float32 scalars in source order.

Written from ggml-quants.c alone: neighbours by sorting all points, tries one after another.
"""

from functools import cache
from pathlib import Path

import numpy as np

from quanttool import formats
from tests.naive_codebooks import f16_bytes, f32, nearest_int, sum_of_squares

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


def shifted_levels(up):
    return [f32(level + (0.125 if up else -0.125)) for level in (-1, 0, 1)]


def iq1_choose(x, weights, codes, ups, scale):
    """Points of groups of 8 codes 0, 1, 2, and the scale, fitted again if a group was off the grid."""
    points, numbers = grid("iq1")
    chosen = []
    for k, up in enumerate(ups):
        part = slice(8 * k, 8 * k + 8)
        target = tuple(2 * code + 1 for code in codes[part])
        if target in numbers:
            chosen.append(numbers[target])
            continue
        levels = np.array(shifted_levels(up))
        candidates = neighbours("iq1", target, 3)
        error = np.zeros(len(candidates), f32)
        for i, (value, weight) in enumerate(zip(x[part], weights[part], strict=True)):
            off = scale * levels[(points[candidates, i] - 1) // 2] - value
            error += weight * off * off
        chosen.append(candidates[np.argmin(error)])
    q = [shifted_levels(up)[(v - 1) // 2] for n, up in zip(chosen, ups, strict=True) for v in points[n]]
    if any((points[n].tolist()) != [2 * c + 1 for c in codes[8 * k : 8 * k + 8]] for k, n in enumerate(chosen)):
        qx, qq = f32(0), f32(0)
        for value, weight, level in zip(x, weights, q, strict=True):
            qx += weight * level * value
            qq += weight * level * level
        if qx > 0 and qq > 0:
            scale = qx / qq
    return [int(number) for number in chosen], scale, q


def iq1_s_splits(x, weights, order):
    """All splits and shifts of 32 sorted values: (qx, qq, low, high, (up,) * 4)."""
    sx, sw = [f32(0)], [f32(0)]
    for i in order:
        sx.append(sx[-1] + weights[i] * x[i])
        sw.append(sw[-1] + weights[i])
    for low in range(33):
        for high in range(low, 33):
            for up in (True, False):
                q = shifted_levels(up)
                qx = sx[low] * q[0] + (sx[high] - sx[low]) * q[1] + (sx[32] - sx[high]) * q[2]
                qq = sw[low] * q[0] * q[0] + (sw[high] - sw[low]) * q[1] * q[1] + (sw[32] - sw[high]) * q[2] * q[2]
                yield qx, qq, low, high, (up,) * 4


def iq1_m_splits(x, weights, order):
    """All splits and pairs of shifts of 16 sorted values, from prefix sums of each half."""
    sx, sw = [[f32(0)], [f32(0)]], [[f32(0)], [f32(0)]]
    for i in order:
        for half in range(2):
            sx[half].append(sx[half][-1] + (weights[i] * x[i] if i // 8 == half else f32(0)))
            sw[half].append(sw[half][-1] + (weights[i] if i // 8 == half else f32(0)))

    def half_sums(half, up, low, high):
        q = shifted_levels(up)
        qx = sx[half][16] * q[2] - (sx[half][low] + sx[half][high])
        first, second = q[0] * q[0] - q[1] * q[1], q[1] * q[1] - q[2] * q[2]
        return qx, sw[half][16] * q[2] * q[2] + sw[half][low] * first + sw[half][high] * second

    for low in range(17):
        for high in range(low, 17):
            for ups in ((True, True), (True, False), (False, True), (False, False)):
                (qx0, qq0), (qx1, qq1) = (half_sums(half, ups[half], low, high) for half in range(2))
                yield qx0 + qx1, qq0 + qq1, low, high, ups


def iq1_search(x, weights, splits, smallest):
    """Scale, points, ups and levels of a sub-block; None if it is stored as zeros."""
    if max(abs(value) for value in x) < f32(smallest):
        return None
    order = sorted(range(len(x)), key=lambda i: x[i])
    score, best = f32(-3.4028235e38), None
    for qx, qq, low, high, ups in splits(x, weights, order):
        if qq > 0 and qx * qx > score * qq:
            scale = qx / qq
            score, best = scale * qx, (scale, low, high, ups)
    if best is None:
        return None
    scale, low, high, ups = best
    codes = [0] * len(x)
    for place, i in enumerate(order):
        codes[i] = (place >= low) + (place >= high)
    if scale < 0:
        scale, codes, ups = -scale, [2 - code for code in codes], [not up for up in ups]
    numbers, scale, q = iq1_choose(x, weights, codes, ups, scale)
    return scale, numbers, ups, q


def iq1_parts(x, importance, size, splits, smallest):
    sigma2 = f32(2) * sum_of_squares(x) / f32(256)
    if importance is None:
        weights = [value * value for value in x]
    else:
        weights = [w * np.sqrt(sigma2 + v * v) for v, w in zip(x, importance, strict=True)]
    parts = [slice(start, start + size) for start in range(0, 256, size)]
    n = size // 8
    nothing = (f32(0), [0] * n, [True] * n, [shifted_levels(True)[0]] * size)
    return [iq1_search(x[part], weights[part], splits, smallest) or nothing for part in parts], weights


def iq1_code(scale, d):
    return max(0, min(7, nearest_int(f32(0.5) * (f32(1) / d * scale - f32(1)))))


def iq1_s_block(x, importance):
    parts, _ = iq1_parts(x, importance, 32, iq1_s_splits, 1e-12)
    d = max(scale for scale, *_ in parts) / f32(15)
    high = []
    for scale, numbers, ups, _ in parts:
        word = sum(number >> 8 << 3 * k for k, number in enumerate(numbers))
        if d:
            word |= iq1_code(scale, d) << 12 | (not ups[0]) << 15
        high.append(word)
    low = bytes(number & 255 for _, numbers, *_ in parts for number in numbers)
    return np.frombuffer(f16_bytes(d * f32(1.125)) + low + np.array(high, "<u2").tobytes(), np.uint8)


def iq1_m_block(x, importance=None):
    parts, weights = iq1_parts(x, importance, 16, iq1_m_splits, 1e-7)
    d = max(scale for scale, *_ in parts) / f32(15)
    low = bytes(number & 255 for _, numbers, *_ in parts for number in numbers)
    if not d:
        return np.frombuffer(
            low + bytes(sum(n >> 8 << 4 * k for k, n in enumerate(p[1])) for p in parts) + bytes(8), "u1"
        )
    codes = [iq1_code(scale, d) for scale, *_ in parts]
    qx, qq = f32(0), f32(0)
    levels = [level * f32(2 * code + 1) for (*_, q), code in zip(parts, codes, strict=True) for level in q]
    for value, weight, q in zip(x, weights, levels, strict=True):
        qx += weight * q * value
        qq += weight * q * q
    d = qx / qq if qq > 0 else d
    bits = int(np.float16(d * f32(1.1125)).view(np.uint16))
    words = [sum(codes[4 * k + i] << 3 * i for i in range(4)) | (bits >> 4 * k & 15) << 12 for k in range(4)]
    high = bytes(
        sum((n >> 8 | (not up) << 3) << 4 * k for k, (n, up) in enumerate(zip(*p[1:3], strict=True))) for p in parts
    )
    return np.frombuffer(low + high + np.array(words, "<u2").tobytes(), np.uint8)


BLOCKS = {  # values in a block, and its twin
    "IQ2_XXS": (256, iq2_xxs_block),
    "IQ2_XS": (256, iq2_xs_block),
    "IQ2_S": (256, iq2_s_block),
    "IQ3_XXS": (256, iq3_xxs_block),
    "IQ3_S": (256, iq3_s_block),
    "IQ1_S": (256, iq1_s_block),
    "IQ1_M": (256, iq1_m_block),
}
