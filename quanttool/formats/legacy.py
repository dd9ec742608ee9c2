"""Q4_0, Q4_1, Q5_0, Q5_1, Q8_0: blocks of 32 values with one scale (`_0`) or a scale and a minimum (`_1`)."""

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from ..kernels import legacy, scales, tiles, weights
from ..kernels.lanes import LANES
from .base import BlockFormat
from .k_quants import IMPORTANCE_GRID


def weighted_tiles(rows, importance):
    """Values and weights importance * sqrt(mean square of the row + x^2), both f32 [n_tiles * 32, LANES]."""
    sigma2 = np.empty(len(rows), np.float32)
    weights.row_mean_squares(rows, sigma2)
    x = tiles.as_tiles(rows.reshape(-1, 32))
    weight = tiles.as_tiles(importance.reshape(-1, 32), len(x) // 32 * LANES)
    blocks_per_row = rows.shape[1] // 32
    weights.weigh_by_importance(x, tiles.as_tiles(np.repeat(sigma2, blocks_per_row)[:, None]), weight)
    return x, weight


class Legacy(BlockFormat):
    pack: ClassVar[Callable]
    unpack: ClassVar[Callable]

    def dequantize(self, data, out):
        type(self).unpack(data.reshape(-1, self.type.block_bytes), out.reshape(-1, 32))


class SymmetricLegacy(Legacy):
    """value = d * (code - n)"""

    n: ClassVar[int]

    def quantize(self, rows, importance, search, out):
        blocks = rows.reshape(-1, 32)
        codes = np.empty(blocks.shape, np.uint8)
        if importance is None:
            d = np.empty(len(blocks), np.float32)
            legacy.symmetric_range(blocks, self.n, codes, d)
        else:
            x, weight = weighted_tiles(rows, importance)
            tile_codes = np.empty(x.shape, np.uint8)
            d = np.empty((len(x) // 32, LANES), np.float32)
            scales.symmetric_search(x, weight, 32, self.n, tile_codes, d)
            tiles.store_tiles(tile_codes, codes)
        type(self).pack(codes, d.reshape(-1), out.reshape(-1, self.type.block_bytes))


class AffineLegacy(Legacy):
    """value = d * code + m"""

    max_code: ClassVar[int]

    def quantize(self, rows, importance, search, out):
        blocks = rows.reshape(-1, 32)
        codes = np.empty(blocks.shape, np.uint8)
        if importance is None:
            d, m = np.empty((2, len(blocks)), np.float32)
            legacy.affine_range(blocks, self.max_code, codes, d, m)
        else:
            x, weight = weighted_tiles(rows, importance)
            tile_codes = np.empty(x.shape, np.uint8)
            found = np.empty((3, len(x) // 32, LANES), np.float32)  # scale, -minimum, sum of weights
            scales.affine_search(x, weight, 32, self.max_code, IMPORTANCE_GRID, False, tile_codes, found)
            tiles.store_tiles(tile_codes, codes)
            d, m = found[0], -found[1]
        type(self).pack(codes, d.reshape(-1), m.reshape(-1), out.reshape(-1, self.type.block_bytes))


class Q4_0(SymmetricLegacy):
    name = "Q4_0"
    n = 8
    pack, unpack = legacy.q4_0_pack, legacy.q4_0_unpack


class Q4_1(AffineLegacy):
    name = "Q4_1"
    max_code = 15
    pack, unpack = legacy.q4_1_pack, legacy.q4_1_unpack


class Q5_0(SymmetricLegacy):
    name = "Q5_0"
    n = 16
    pack, unpack = legacy.q5_0_pack, legacy.q5_0_unpack


class Q5_1(AffineLegacy):
    name = "Q5_1"
    max_code = 31
    pack, unpack = legacy.q5_1_pack, legacy.q5_1_unpack


class Q8_0(Legacy):
    name = "Q8_0"
    importance = "ignored"
    unpack = legacy.q8_0_unpack

    def quantize(self, rows, importance, search, out):
        legacy.q8_0_quantize(rows.reshape(-1, 32), out.reshape(-1, 34))
