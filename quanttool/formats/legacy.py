"""Q4_0, Q4_1, Q5_0, Q5_1, Q8_0: blocks of 32 values with one scale (`_0`) or a scale and a minimum (`_1`)."""

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from ..kernels import legacy
from ..kernels.affine_blocks import affine_best
from ..kernels.cumulative import symmetric_best
from ..kernels.lanes import LANES
from ..kernels.tiles import n_tiles
from .base import BlockFormat
from .grid import codes_at
from .k_quants import IMPORTANCE_GRID, importance_blocks
from .layout import bits, join

j = np.arange(32)  # values of a block


def with_importance(rows, importance):
    """What the searches with importance need: blocks of values, blocks of importance, mean square of each row."""
    sigma2 = np.empty(len(rows), np.float32)
    legacy.row_mean_squares(rows, sigma2)
    return rows.reshape(-1, 32), importance_blocks(importance, 32), sigma2


class Legacy(BlockFormat):
    pack: ClassVar[Callable]
    unpack: ClassVar[Callable]

    def dequantize(self, data, out):
        type(self).unpack(data.reshape(-1, self.type.block_bytes), out.reshape(-1, 32))


class SymmetricLegacy(Legacy):
    """value = d * (code - n)"""

    has_best = True
    n: ClassVar[int]

    def quantize(self, rows, importance, search, out):
        blocks = rows.reshape(-1, 32)
        codes = np.empty(blocks.shape, np.uint8)
        d = np.empty((n_tiles(len(blocks)), LANES), np.float32)
        if importance is None:
            legacy.symmetric_range(blocks, self.n, codes, d.reshape(-1))
        else:
            legacy.symmetric_weighted(*with_importance(rows, importance), self.n, codes, d)
        if search == "best":
            symmetric_best(blocks, importance_blocks(importance, 32), self.n, codes, d)
        type(self).pack(codes, d.reshape(-1), out.reshape(-1, self.type.block_bytes))


class AffineLegacy(Legacy):
    """value = d * code + m"""

    has_best = True
    max_code: ClassVar[int]

    def quantize(self, rows, importance, search, out):
        blocks = rows.reshape(-1, 32)
        codes = np.empty(blocks.shape, np.uint8)
        d, m = np.empty((2, n_tiles(len(blocks)), LANES), np.float32)
        if importance is None:
            legacy.affine_range(blocks, self.max_code, codes, d.reshape(-1), m.reshape(-1))
        else:
            legacy.affine_weighted(*with_importance(rows, importance), self.max_code, IMPORTANCE_GRID, codes, d, m)
        if search == "best":
            affine_best(blocks, importance_blocks(importance, 32), self.max_code, codes, d, m)
        type(self).pack(codes, d.reshape(-1), m.reshape(-1), out.reshape(-1, self.type.block_bytes))


class Q4_0(SymmetricLegacy):
    name = "Q4_0"
    n = 8
    pack, unpack = legacy.q4_0_pack, legacy.q4_0_unpack
    codes = codes_at(18, bits(4, 2 + j % 16, 4 * (j // 16)))


class Q4_1(AffineLegacy):
    name = "Q4_1"
    max_code = 15
    pack, unpack = legacy.q4_1_pack, legacy.q4_1_unpack
    codes = codes_at(20, bits(4, 4 + j % 16, 4 * (j // 16)))


class Q5_0(SymmetricLegacy):
    name = "Q5_0"
    n = 16
    pack, unpack = legacy.q5_0_pack, legacy.q5_0_unpack
    codes = codes_at(22, join(bits(4, 6 + j % 16, 4 * (j // 16)), bits(1, 2, j)))


class Q5_1(AffineLegacy):
    name = "Q5_1"
    max_code = 31
    pack, unpack = legacy.q5_1_pack, legacy.q5_1_unpack
    codes = codes_at(24, join(bits(4, 8 + j % 16, 4 * (j // 16)), bits(1, 4, j)))


class Q8_0(Legacy):
    name = "Q8_0"
    importance = "ignored"
    unpack = legacy.q8_0_unpack
    codes = codes_at(34, bits(8, 2 + j))

    def quantize(self, rows, importance, search, out):
        legacy.q8_0_quantize(rows.reshape(-1, 32), out.reshape(-1, 34))
