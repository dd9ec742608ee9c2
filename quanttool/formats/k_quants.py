"""Q2_K to Q6_K: super-blocks of 256 values, whose sub-blocks' scales are integers with a scale of their own."""

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from ..kernels import k_quants as layout
from ..kernels.joint import affine_improve, symmetric_improve
from ..kernels.lanes import LANES
from ..kernels.super_blocks import Affine, affine_quantize, q3_k_quantize, q6_k_quantize
from ..kernels.tiles import n_tiles
from .base import BlockFormat
from .grid import codes_at
from .layout import bits, join

j = np.arange(256)  # values of a super-block
two_bits = bits(2, 32 * (j // 128) + j % 32, 2 * (j // 32 % 4))
nibbles = bits(4, 32 * (j // 64) + j % 32, 4 * (j // 32 % 2))

# Inverse scales tried with importance: start, step, number of steps (ggml-quants.c `quantize_row_q4_K_impl`).
IMPORTANCE_GRID = (-0.9, 0.05, 36)


def importance_blocks(importance, size):
    """Importance f32 [n_cols] as read-only blocks f32 [n_cols / size, size]; none as [0, size]."""
    if importance is None:
        importance = np.empty(0, np.float32)
        importance.flags.writeable = False
    return importance.reshape(-1, size)


class KQuant(BlockFormat):
    """What the five have in common; pack and unpack are the kernels that know the bytes."""

    pack: ClassVar[Callable]
    unpack: ClassVar[Callable]
    # search="best" (kernels/joint.py): integers tried to each side in the first round, rounds, and what super-blocks'
    # scales are multiplied with at each start. More would gain little; llama.cpp's search takes longer than these.
    reach: ClassVar[int]
    rounds: ClassVar[int]
    factors: ClassVar[np.ndarray]

    def dequantize(self, data, out):
        type(self).unpack(data.reshape(-1, self.type.block_bytes), out.reshape(-1, 256))


class AffineKQuant(KQuant):
    """A scale and a minimum per sub-block."""

    has_best = True
    how: ClassVar[Affine]

    def quantize(self, rows, importance, search, out):
        blocks = rows.reshape(-1, 256)
        n = n_tiles(len(blocks))
        how = self.how
        if importance is not None:
            how = how._replace(grid=IMPORTANCE_GRID, absolute=False)
        codes = np.empty((n, 256, LANES), np.uint8)
        scales, mins = np.empty((2, n, 256 // how.size, LANES), np.float32)
        d, dmin = np.empty((2, n, LANES), np.int32)
        affine_quantize(blocks, importance_blocks(importance, 256), how, codes, scales, mins, d, dmin)
        if search == "best":
            effort = self.reach, self.rounds, self.factors
            affine_improve(blocks, importance_blocks(importance, 256), how, *effort, codes, scales, mins, d, dmin)
        type(self).pack(codes, scales, mins, d, dmin, out.reshape(-1, self.type.block_bytes))


class SymmetricKQuant(KQuant):
    """A scale per sub-block of 16, codes on both sides of zero."""

    has_best = True
    search: ClassVar[Callable]
    n: ClassVar[int]  # codes stand for -n .. n - 1
    n_scales: ClassVar[int]  # sub-blocks' scales are -n_scales .. n_scales - 1

    def quantize(self, rows, importance, search, out):
        blocks = rows.reshape(-1, 256)
        n = n_tiles(len(blocks))
        codes = np.empty((n, 256, LANES), np.uint8)
        scales = np.empty((n, 16, LANES), np.float32)
        d = np.empty((n, LANES), np.int32)
        type(self).search(blocks, importance_blocks(importance, 256), codes, scales, d)
        if search == "best":
            how = self.n, self.n_scales, self.reach, self.rounds, self.factors
            symmetric_improve(blocks, importance_blocks(importance, 256), *how, codes, scales, d)
        type(self).pack(codes, scales, d, out.reshape(-1, self.type.block_bytes))


class Q2_K(AffineKQuant):
    name = "Q2_K"
    how = Affine(size=16, max_code=3, max_scale=15, grid=(-0.5, 0.1, 15), absolute=True, sigma2_factor=1.0)
    reach, rounds = 2, 4
    factors = np.array([(1, 1), (0.85, 1), (1.15, 1), (1, 0.85), (1, 1.15)], np.float32)
    pack, unpack = layout.q2_k_pack, layout.q2_k_unpack
    codes = codes_at(84, 8 * 16 + two_bits)


class Q3_K(SymmetricKQuant):
    name = "Q3_K"
    search = q3_k_quantize
    n, n_scales = 4, 32
    reach, rounds = 3, 3
    factors = np.array([1, 0.93, 1.07, 1.15], np.float32)
    pack, unpack = layout.q3_k_pack, layout.q3_k_unpack
    codes = codes_at(110, join(8 * 32 + two_bits, bits(1, j % 32, j // 32)))


class Q4_K(AffineKQuant):
    name = "Q4_K"
    how = Affine(size=32, max_code=15, max_scale=63, grid=(-1.0, 0.1, 20))
    reach, rounds = 2, 4
    factors = np.array([(1, 1)], np.float32)
    pack, unpack = layout.q4_k_pack, layout.q4_k_unpack
    codes = codes_at(144, 8 * 16 + nibbles)


class Q5_K(AffineKQuant):
    name = "Q5_K"
    how = Affine(size=32, max_code=31, max_scale=63, grid=(-0.5, 0.1, 15), saturate=True)
    reach, rounds = 2, 4
    factors = np.array([(1, 1)], np.float32)
    pack, unpack = layout.q5_k_pack, layout.q5_k_unpack
    codes = codes_at(176, join(8 * 48 + nibbles, bits(1, 16 + j % 32, j // 32)))


class Q6_K(SymmetricKQuant):
    name = "Q6_K"
    search = q6_k_quantize
    n, n_scales = 32, 128
    reach, rounds = 3, 3
    factors = np.array([1], np.float32)
    pack, unpack = layout.q6_k_pack, layout.q6_k_unpack
    codes = codes_at(
        210,
        join(
            bits(4, 64 * (j // 128) + j % 64, 4 * (j // 64 % 2)),
            bits(2, 128 + 32 * (j // 128) + j % 32, 2 * (j // 32 % 4)),
        ),
    )
