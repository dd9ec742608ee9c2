"""MXFP4 and NVFP4: 4-bit floats with a scale for every 32 or 16 values. The reference search ignores importance.

Source: ggml-common.h `block_mxfp4`, `block_nvfp4`; OCP Microscaling Formats specification (MXFP4).
"""

from functools import cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..kernels import float4 as kernels
from ..kernels.best_tables import Entries, best_of_scales
from ..kernels.tabulated import table_steps
from .base import BlockFormat
from .better import keep_better
from .tabulated import as_sub_tile, of_subs, sub_tiles, tiles_of, to_magnitude_one, usable_importance

MAGNITUDES = kernels.E2M1[:8][None].copy()


@cache
def half_scales() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What the scale codes of MXFP4 and NVFP4 stand for, half of it."""
    mx, nv = np.empty(kernels.E8M0_MAX_CODE + 1, np.float32), np.empty(kernels.UE4M3_MAX_CODE + 1, np.float32)
    kernels.half_scales(mx, nv)
    return mx, nv


class Float4(BlockFormat):
    """What the two have in common.

    size:    values that share a scale
    around:  best tries all scale codes from so many below that of the reference to so many above
    """

    has_best = True
    size: ClassVar[int]
    around: ClassVar[tuple[int, int]]

    def quantize(self, rows, importance, search, out):
        codes = np.empty((rows.size // self.type.block_size, self.type.block_size // self.size), np.uint8)
        self.reference_codes(rows, codes)
        self.pack(rows, codes, out)
        if search == "best":
            better = np.empty_like(out)
            self.pack(rows, self.best_codes(rows, importance, codes), better)
            keep_better(self, rows, importance, out, better)

    def best_codes(self, rows: NDArray[np.float32], importance: NDArray[np.float32], codes: NDArray[np.uint8]):
        """The scale codes of least error near the given ones, u8 [n_blocks, n_scales]."""
        x, exponents = to_magnitude_one(rows.reshape(-1, self.size))
        weights = usable_importance(x.reshape(rows.shape), importance, self.size)
        x = np.abs(x).reshape(len(x), 1, self.size)
        trials = codes.reshape(-1, 1) + np.arange(-self.around[0], self.around[1] + 1)  # [n_subs, n_trials]
        trials = np.clip(trials, 0, len(self.scales()) - 1)
        with np.errstate(over="ignore"):  # too large for rows that are almost zero; none of these is chosen
            scales = np.ldexp(self.scales()[trials], -exponents[:, None])
        tiles = np.stack([as_sub_tile(scale) for scale in scales.T])
        (which,) = sub_tiles(1, x)
        book = Entries(MAGNITUDES[:, 0].copy(), *table_steps(MAGNITUDES))
        best_of_scales(tiles_of(x), tiles_of(weights.reshape(x.shape)), book, tiles, which)
        found = np.take_along_axis(trials, of_subs(which, x).astype(np.int64), axis=1)
        return found.reshape(codes.shape).astype(np.uint8)


class MXFP4(Float4):
    """32 values, the scale a power of two, 4.25 bpw."""

    name = "MXFP4"
    size = 32
    around = (3, 2)

    def scales(self):
        return half_scales()[0]

    def reference_codes(self, rows, codes):
        kernels.mxfp4_scale_codes(rows.reshape(-1, 32), codes)

    def pack(self, rows, codes, out):
        kernels.pack_mxfp4(rows.reshape(-1, 32), codes, out.reshape(-1, 17))

    def dequantize(self, data, out):
        kernels.unpack_mxfp4(data.reshape(-1, 17), out.reshape(-1, 32))


class NVFP4(Float4):
    """64 values, a float with 4 exponent and 3 mantissa bits as scale for every 16, 4.5 bpw."""

    name = "NVFP4"
    size = 16
    around = (14, 8)

    def scales(self):
        return half_scales()[1]

    def reference_codes(self, rows, codes):
        kernels.nvfp4_scale_codes(rows.reshape(-1, 64), codes)

    def pack(self, rows, codes, out):
        kernels.pack_nvfp4(rows.reshape(-1, 64), codes, out.reshape(-1, 36))

    def dequantize(self, data, out):
        kernels.unpack_nvfp4(data.reshape(-1, 36), out.reshape(-1, 64))
