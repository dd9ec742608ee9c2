"""Slow twins of the linear block formats: one block at a time, numpy float32 in the order of ggml-quants.c.

Written from ggml-quants.c alone. `quantize(name, rows, importance)` gives whole rows of bytes.
"""

import numpy as np

f32 = np.float32


def total(values):
    """Sum in order, as a loop would."""
    return np.cumsum(values, dtype=f32)[-1]


def rounded(x, lowest, highest):
    """Nearest integers within bounds, as float32; ties to even."""
    return np.clip(np.rint(np.asarray(x, f32)), lowest, highest).astype(f32)


def half(x):
    """Rounded to float16."""
    return f32(np.float16(x))


def half_bytes(x):
    return list(np.array([x], "<f2").tobytes())


# --- searches --------------------------------------------------------------------------------------------------------


def affine_search(x, w, max_code, start, step, n_steps, absolute=False):
    """make_qkx2_quants, make_qkx3_quants: scale, -minimum, codes."""
    low, high = min(f32(0), x.min()), x.max()
    if low == high:
        return f32(0), -low, np.zeros(len(x), f32)

    def error_of(codes, scale, minimum):
        difference = scale * codes + minimum - x
        return total(w * (np.abs(difference) if absolute else difference * difference))

    sum_w, sum_x = total(w), total(w * x)
    inverse = f32(max_code) / (high - low)
    best_codes = rounded(inverse * (x - low), 0, max_code)
    scale = f32(1) / inverse
    best = error_of(best_codes, scale, low)
    for k in range(n_steps + 1):
        inverse = (f32(start) + f32(step) * f32(k) + f32(max_code)) / (high - low)
        codes = rounded(inverse * (x - low), 0, max_code)
        sum_l, sum_l2, sum_xl = total(w * codes), total(w * codes * codes), total(w * codes * x)
        determinant = sum_w * sum_l2 - sum_l * sum_l
        if not determinant > 0:
            continue
        this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
        this_low = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
        if this_low > 0:
            this_low, this_scale = f32(0), sum_xl / sum_l2
        error = error_of(codes, this_scale, this_low)
        if error < best:
            best, scale, low, best_codes = error, this_scale, this_low, codes
    return scale, -low, best_codes


def symmetric_search(x, w, n):
    """make_qx_quants with rmse_type 1: scale, codes."""
    largest = max(x, key=abs)  # the first of equals
    if abs(largest) < f32(1e-15):
        return f32(0), np.zeros(len(x), f32)
    scale = best = None
    for k in [0, *range(-9, 0), *range(1, 10)]:
        integers = rounded(-(f32(n) + f32(0.1) * f32(k)) / largest * x, -n, n - 1)
        sum_lx, sum_l2 = total(w * x * integers), total(w * integers * integers)
        if scale is None:
            scale = sum_lx / sum_l2 if sum_l2 != 0 else f32(0)
        elif sum_l2 > 0 and sum_lx * sum_lx > best * sum_l2:
            scale = sum_lx / sum_l2
        else:
            continue
        best, codes = scale * sum_lx, integers + n
    return scale, codes


def descent(x, w, integers, highest, stored, lowest=None):
    """Up to five sweeps that move one integer at a time: the scale, and the integers as `stored` by the program."""
    sum_lx, sum_l2 = total(w * x * integers), total(w * integers * integers)
    integers = stored(integers)
    for _ in range(5):
        before = integers.copy()
        for i in range(len(x)):
            lx = sum_lx - w[i] * x[i] * integers[i]
            l2 = sum_l2 - w[i] * integers[i] * integers[i]
            if not (lx > 0 and (lowest is not None or l2 > 0)):
                continue
            new = rounded(x[i] * l2 / lx, lowest, highest)
            if new == integers[i]:
                continue
            lx, l2 = lx + w[i] * x[i] * new, l2 + w[i] * new * new
            if l2 > 0 and lx * lx * sum_l2 > sum_lx * sum_lx * l2:
                integers[i], sum_lx, sum_l2 = stored(new), lx, l2
        if (integers == before).all():
            break
    return sum_lx / sum_l2 if sum_l2 > 0 else f32(0), integers


def descent_search(x, n):
    """make_q3_quants: scale, codes."""
    largest = max(x, key=abs)
    if abs(largest) < f32(1e-15):
        return f32(0), np.zeros(len(x), f32)
    integers = rounded(f32(-n) / largest * x, -n, n - 1)
    scale, integers = descent(x, x * x, integers, n - 1, lambda integers: integers, -n)
    return scale, integers + n


def positive_search(x, w, max_code):
    """make_qp_quants: scale, integers, kept in unsigned bytes (a negative one wraps)."""

    def stored(integers):
        return np.mod(integers, f32(256))

    if x.max() < f32(1e-15):
        return f32(0), np.zeros(len(x), f32)
    best = None
    for k in [0, *range(-4, 0), *range(1, 5)]:
        inverse = (f32(0.1) * f32(k) + f32(max_code)) / x.max()
        integers = rounded(inverse * x, None, max_code)
        difference = x - f32(1) / inverse * (stored(integers) if k == 0 else integers)
        error = total(w * difference * difference)
        if best is None or error < best:
            best, best_inverse = error, inverse
    return descent(x, w, rounded(best_inverse * x, None, max_code), max_code, stored)


# --- formats: from the values of a block to bytes --------------------------------------------------------------------

AFFINE = {"Q2_K": (16, 3, 15, -0.5, 15), "Q4_K": (32, 15, 63, -1, 20), "Q5_K": (32, 31, 63, -0.5, 15)}


def affine_super_block(name, x, importance):
    """d, dmin, bytes of scales and mins, codes of 256 values."""
    size, max_code, max_scale, start, n_steps = AFFINE[name]
    found = []
    for sub in range(0, 256, size):
        v = x[sub : sub + size]
        if importance is not None:
            sigma2 = f32(1 if name == "Q2_K" else 2) * total(x * x) / f32(256)
            w = importance[sub : sub + size] * np.sqrt(sigma2 + v * v)
            found.append((*affine_search(v, w, max_code, -0.9, 0.05, 36), total(w)))
        elif name == "Q2_K":
            found.append((*affine_search(v, np.abs(v), max_code, start, 0.1, n_steps, True), None))
        else:
            w = np.sqrt(total(v * v) / f32(size)) + np.abs(v)
            found.append((*affine_search(v, w, max_code, start, 0.1, n_steps), None))
    scales, mins, codes, sums = zip(*found, strict=True)
    codes = np.concatenate(codes)

    def scale_of_scales(values):
        values = np.array(values, f32)
        if importance is not None:
            return positive_search(values, np.array(sums, f32), max_scale)
        if not values.max() > 0:
            return f32(0), np.zeros(len(values), f32)
        return values.max() / f32(max_scale), rounded(f32(max_scale) / values.max() * values, 0, max_scale)

    (d, scales), (dmin, mins) = scale_of_scales(scales), scale_of_scales(mins)
    scales, mins = scales.astype(int), mins.astype(int)
    if name == "Q5_K":
        scales, mins = np.minimum(scales, 63), np.minimum(mins, 63)
    packed = q2_k_pairs(scales, mins) if name == "Q2_K" else six_bit_pairs(scales, mins)
    scales, mins = q2_k_values(packed) if name == "Q2_K" else six_bit_values(packed)
    for sub, (scale, minimum) in enumerate(
        zip(half(d) * scales.astype(f32), half(dmin) * mins.astype(f32), strict=True)
    ):
        if scale != 0:
            part = slice(size * sub, size * (sub + 1))
            codes[part] = rounded((x[part] + minimum) / scale, 0, max_code)
    return d, dmin, packed, codes.astype(int)


def q2_k_pairs(scales, mins):
    return (scales | mins << 4) & 255


def q2_k_values(packed):
    return packed & 15, packed >> 4


def six_bit_pairs(scales, mins):
    first, second = scales[:4] | (scales[4:] >> 4) << 6, mins[:4] | (mins[4:] >> 4) << 6
    return np.concatenate([first, second, (scales[4:] & 15) | (mins[4:] & 15) << 4]) & 255


def six_bit_values(packed):
    """get_scale_min_k4 for all eight."""
    first, second, third = packed.reshape(3, 4)
    scales = [first & 63, (third & 15) | (first >> 6) << 4]
    return np.concatenate(scales), np.concatenate([second & 63, (third >> 4) | (second >> 6) << 4])


def nibble_pairs(codes):
    """Low nibbles of pairs of 32-value sub-blocks."""
    pairs = codes.reshape(-1, 2, 32) & 15
    return list((pairs[:, 0] | pairs[:, 1] << 4).reshape(-1))


def strided_bits(codes, bits, at):
    """`bits` bits, from bit `at`, of the codes: byte l of a group holds those of values l, l + 32, l + 64..."""
    groups = ((codes >> at) & ((1 << bits) - 1)).reshape(-1, 8 // bits, 32)
    return list(sum(groups[:, k] << (bits * k) for k in range(8 // bits)).reshape(-1))


def q2_k(x, importance):
    d, dmin, packed, codes = affine_super_block("Q2_K", x, importance)
    return [*packed, *strided_bits(codes, 2, 0), *half_bytes(d), *half_bytes(dmin)]


def q4_k(x, importance):
    d, dmin, packed, codes = affine_super_block("Q4_K", x, importance)
    return [*half_bytes(d), *half_bytes(dmin), *packed, *nibble_pairs(codes)]


def q5_k(x, importance):
    d, dmin, packed, codes = affine_super_block("Q5_K", x, importance)
    fifth = strided_bits(codes, 1, 4)
    return [*half_bytes(d), *half_bytes(dmin), *packed, *fifth, *nibble_pairs(codes)]


def symmetric_codes(x, scales, codes, n):
    for sub, scale in enumerate(scales):
        if scale != 0:
            part = slice(16 * sub, 16 * (sub + 1))
            codes[part] = rounded(x[part] / scale, -n, n - 1) + n
    return codes.astype(int)


def q3_k(x, importance):
    subs = x.reshape(16, 16)
    if importance is None:
        scales, codes = zip(*[descent_search(v, 4) for v in subs], strict=True)
        largest = max(scales, key=abs)
        d, integers = f32(0), np.full(16, -32)
        if largest != 0:
            d, integers = f32(1) / (f32(-32) / largest), rounded(f32(-32) / largest * np.array(scales), -32, 31)
    else:
        w = (importance * np.sqrt(f32(2) * total(x * x) / f32(256) + x * x)).reshape(16, 16)
        scales, codes = zip(*[symmetric_search(v, u, 4) for v, u in zip(subs, w, strict=True)], strict=True)
        d, integers = symmetric_search(np.array(scales, f32), np.array([total(u) for u in w], f32), 32)
        integers = integers - 32
    codes = symmetric_codes(x, half(d) * integers.astype(f32), np.concatenate(codes), 4)
    stored = integers.astype(int) + 32
    low = (stored[:8] & 15) | (stored[8:] & 15) << 4
    upper = sum((stored[4 * k : 4 * k + 4] >> 4) << (2 * k) for k in range(4))
    return [*strided_bits(codes, 1, 2), *strided_bits(codes, 2, 0), *low, *upper, *half_bytes(d)]


def q6_k(x, importance):
    w = (x * x if importance is None else importance).reshape(16, 16)
    found = [symmetric_search(v, u, 32) for v, u in zip(x.reshape(16, 16), w, strict=True)]
    scales, codes = zip(*found, strict=True)
    largest = max(scales, key=abs)
    if abs(largest) < f32(1e-15):
        return [0] * 210
    d = f32(1) / (f32(-128) / largest)
    integers = rounded(f32(-128) / largest * np.array(scales, f32), -128, 127)
    codes = symmetric_codes(x, half(d) * integers, np.concatenate(codes), 32)
    halves = (codes & 15).reshape(2, 4, 32)
    low = np.concatenate([halves[:, 0] | halves[:, 2] << 4, halves[:, 1] | halves[:, 3] << 4], 1).reshape(-1)
    return [*low, *strided_bits(codes, 2, 4), *(integers.astype(int) & 255), *half_bytes(d)]


def small_block(name, x, w):
    """Q4_0, Q4_1, Q5_0, Q5_1: 32 values; weights w or None."""
    n_bits, affine = int(name[1]), name.endswith("_1")
    top = (1 << n_bits) - 1
    if affine and w is None:
        m, d = x.min(), (x.max() - x.min()) / f32(top)
        codes = np.minimum(((x - m) * (f32(1) / d if d else f32(0)) + f32(0.5)).astype(int), top)
    elif affine:
        d, minimum, codes = affine_search(x, w, top, -0.9, 0.05, 36)
        m = -minimum
    elif w is None:
        n = 1 << (n_bits - 1)
        d = max(x, key=abs) / f32(-n)
        codes = np.minimum((x * (f32(1) / d if d else f32(0)) + f32(n + 0.5)).astype(int), top)
    else:
        d, codes = symmetric_search(x, w, 1 << (n_bits - 1))
    codes = codes.astype(int)
    fifth = list(np.packbits(codes >> 4, bitorder="little")) if n_bits == 5 else []
    halves = (codes & 15).reshape(2, 16)
    return [*half_bytes(d), *(half_bytes(m) if affine else []), *fifth, *(halves[0] | halves[1] << 4)]


def q8_0(x):
    d = np.abs(x).max() / f32(127)
    scaled = (x * (f32(1) / d if d else f32(0))).astype(np.float64)
    codes = np.sign(scaled) * np.floor(np.abs(scaled) + 0.5)
    return [*half_bytes(d), *(codes.astype(int) & 255)]


K_QUANTS = {"Q2_K": q2_k, "Q3_K": q3_k, "Q4_K": q4_k, "Q5_K": q5_k, "Q6_K": q6_k}


def quantize(name, rows, importance=None):
    """rows f32 [n_rows, n_cols], importance f32 [n_cols] or None -> u8 [n_rows, row_bytes]."""
    size = 256 if name in K_QUANTS else 32
    data = []
    for row in rows:
        weights = importance
        if importance is not None and name not in K_QUANTS:
            weights = importance * np.sqrt(total(row * row) / f32(len(row)) + row * row)
        for first in range(0, len(row), size):
            x = row[first : first + size]
            w = None if weights is None else weights[first : first + size]
            if name in K_QUANTS:
                data += K_QUANTS[name](x, w)
            else:
                data += q8_0(x) if name == "Q8_0" else small_block(name, x, w)
    return np.array(data, np.uint8).reshape(len(rows), -1)
