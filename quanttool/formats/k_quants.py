"""Q2_K to Q6_K: super-blocks of 256 values, whose sub-blocks' scales are integers with a scale of their own."""

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from ..kernels import k_quants as layout
from ..kernels import scales, tiles, weights
from ..kernels.lanes import LANES
from .base import BlockFormat

# Inverse scales tried with importance: start, step, number of steps (ggml-quants.c `quantize_row_q4_K_impl`).
IMPORTANCE_GRID = (-0.9, 0.05, 36)
F16_LARGEST = 65504.0


class KQuant(BlockFormat):
    """What the five have in common; `size` is values per sub-block, pack and unpack are in kernels/k_quants.py."""

    size: ClassVar[int]
    pack: ClassVar[Callable]
    unpack: ClassVar[Callable]

    def dequantize(self, data, out):
        type(self).unpack(data.reshape(-1, self.type.block_bytes), out.reshape(-1, 256))


def rounded_to_f16(scale):
    """Scales of super-blocks f32, rounded to what float16 can hold (never infinity), and their float16 bits i32."""
    half = np.clip(scale, -F16_LARGEST, F16_LARGEST).astype(np.float16)
    return half.astype(np.float32), half.view(np.uint16).astype(np.int32)


def times_integers(d, integers):
    """Scales of sub-blocks [n_tiles * n_sub, LANES]: the super-block's scale [n_tiles, LANES] times their integers."""
    return (d[:, None] * integers.reshape(len(d), -1, LANES)).reshape(-1, LANES)


def importance_tiles(x, importance):
    """Importance f32 [n_cols] beside the values x [n_tiles * 256, LANES]."""
    return tiles.as_tiles(importance.reshape(-1, 256), len(x) // 256 * LANES)


def weights_by_importance(x, importance, sigma2_factor):
    """importance * sqrt(sigma2_factor * mean square of the super-block + x^2), f32 like x."""
    sigma2 = np.empty((len(x) // 256, LANES), np.float32)
    weights.mean_squares(x, 256, sigma2)
    weight = importance_tiles(x, importance)
    weights.weigh_by_importance(x, sigma2 * np.float32(sigma2_factor), weight)
    return weight


class AffineKQuant(KQuant):
    """A scale and a minimum per sub-block: value = d * scale * code - dmin * minimum."""

    max_code: ClassVar[int]
    max_scale: ClassVar[int]  # the largest integer of a sub-block's scale or minimum
    grid: ClassVar[tuple[float, float, int]]  # inverse scales tried without importance
    absolute: ClassVar[bool] = False  # without importance: weights |x|, absolute errors
    sigma2_factor: ClassVar[float] = 2

    def quantize(self, rows, importance, search, out):
        x = tiles.as_tiles(rows.reshape(-1, 256))  # [n_tiles * 256, LANES]
        codes = np.empty(x.shape, np.uint8)
        found = np.empty((3, len(x) // self.size, LANES), np.float32)  # scale, minimum, sum of weights
        weight = self.weights(x, importance)
        grid = self.grid if importance is None else IMPORTANCE_GRID
        absolute = self.absolute and importance is None
        scales.affine_search(x, weight, self.size, self.max_code, grid, absolute, codes, found)

        d, scale_integers = self.scale_of_scales(found[0], None if importance is None else found[2])
        dmin, min_integers = self.scale_of_scales(found[1], None if importance is None else found[2])
        d, d_bits = rounded_to_f16(d)
        dmin, dmin_bits = rounded_to_f16(dmin)
        scale, minimum = times_integers(d, scale_integers), times_integers(dmin, min_integers)
        scales.affine_codes(x, self.size, self.max_code, scale, minimum, codes)

        packed = np.empty((len(d) * self.type.block_bytes, LANES), np.uint8)
        type(self).pack(codes, scale_integers, min_integers, d_bits, dmin_bits, packed)
        tiles.store_tiles(packed, out.reshape(-1, self.type.block_bytes))

    def weights(self, x, importance):
        """How much an error in each value counts, f32 like x."""
        if importance is not None:
            return weights_by_importance(x, importance, self.sigma2_factor)
        if self.absolute:
            return np.abs(x)
        weight = np.empty_like(x)
        mean_square = np.empty((len(x) // self.size, LANES), np.float32)
        weights.mean_squares(x, self.size, mean_square)
        weights.weigh_by_magnitude(x, mean_square, weight)
        return weight

    def scale_of_scales(self, values, weight):
        """Scale f32 [n_tiles, LANES] and integers f32 like values for non-negative values [n_tiles * n_sub, LANES]."""
        n_sub = 256 // self.size
        integers = np.empty_like(values)
        scale = np.empty((len(values) // n_sub, LANES), np.float32)
        if weight is None:
            scales.largest_to_max_code(values, n_sub, self.max_scale, integers, scale)
        else:
            scales.positive_search(values, weight, n_sub, self.max_scale, integers, scale)
        return scale, integers


class Q2_K(AffineKQuant):
    name = "Q2_K"
    size, max_code, max_scale = 16, 3, 15
    grid = (-0.5, 0.1, 15)
    absolute = True
    sigma2_factor = 1
    pack, unpack = layout.q2_k_pack, layout.q2_k_unpack


class Q4_K(AffineKQuant):
    name = "Q4_K"
    size, max_code, max_scale = 32, 15, 63
    grid = (-1.0, 0.1, 20)
    pack, unpack = layout.q4_k_pack, layout.q4_k_unpack


class Q5_K(AffineKQuant):
    name = "Q5_K"
    size, max_code, max_scale = 32, 31, 63
    grid = (-0.5, 0.1, 15)
    pack, unpack = layout.q5_k_pack, layout.q5_k_unpack


class SymmetricKQuant(KQuant):
    """A scale per sub-block of 16, codes on both sides of zero: value = d * scale * (code - n)."""

    size = 16
    n: ClassVar[int]  # integers are -n .. n - 1

    def quantize(self, rows, importance, search, out):
        x = tiles.as_tiles(rows.reshape(-1, 256))  # [n_tiles * 256, LANES]
        codes = np.empty(x.shape, np.uint8)
        d, scale_integers = self.search(x, importance, codes)
        d, d_bits = rounded_to_f16(d)
        scales.symmetric_codes(x, self.size, self.n, times_integers(d, scale_integers), codes)

        packed = np.empty((len(d) * self.type.block_bytes, LANES), np.uint8)
        type(self).pack(codes, scale_integers, d_bits, packed)
        tiles.store_tiles(packed, out.reshape(-1, self.type.block_bytes))

    def search(self, x, importance, codes):
        """Scale of the super-blocks f32 [n_tiles, LANES], integers of their sub-blocks f32 [n_tiles * 16, LANES]."""
        raise NotImplementedError


class Q3_K(SymmetricKQuant):
    name = "Q3_K"
    n = 4
    pack, unpack = layout.q3_k_pack, layout.q3_k_unpack

    def search(self, x, importance, codes):
        scale = np.empty((len(x) // 16, LANES), np.float32)
        d = np.empty((len(x) // 256, LANES), np.float32)
        integers = np.empty_like(scale)
        if importance is None:
            scales.descent_search(x, 16, self.n, codes, scale)
            scales.largest_to_minus_n(scale, 16, 32, np.float32(1e-45), integers, d)
            integers.reshape(-1, 16, LANES)[:] -= np.float32(32) * (d == 0)[:, None]  # all zero: so are the bytes
            return d, integers
        weight = weights_by_importance(x, importance, 2)
        scales.symmetric_search(x, weight, 16, self.n, codes, scale)
        sums = np.empty_like(scale)
        weights.sums(weight, 16, sums)
        scale_codes = np.empty(scale.shape, np.uint8)
        scales.symmetric_search(scale, sums, 16, 32, scale_codes, d)
        return d, scale_codes.astype(np.float32) - 32


class Q6_K(SymmetricKQuant):
    name = "Q6_K"
    n = 32
    pack, unpack = layout.q6_k_pack, layout.q6_k_unpack

    def search(self, x, importance, codes):
        if importance is None:
            with np.errstate(over="ignore"):  # beyond 1e19; the search copes
                weight = x * x
        else:
            weight = importance_tiles(x, importance)
        scale = np.empty((len(x) // 16, LANES), np.float32)
        d = np.empty((len(x) // 256, LANES), np.float32)
        integers = np.empty_like(scale)
        scales.symmetric_search(x, weight, 16, self.n, codes, scale)
        scales.largest_to_minus_n(scale, 16, 128, scales.GROUP_MAX_EPS, integers, d)
        codes.reshape(-1, 256, LANES)[:] *= d[:, None] != 0  # where all scales are tiny, all bytes are zero
        return d, integers
