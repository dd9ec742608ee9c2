"""IQ1_S_R4 and IQ1_M_R4: four rows woven together, with IQ1_S's codebook, blocks of 32 and one float16 for each row.

They are types of their own, with other scales than IQ1_S and IQ1_M have, not those types woven. Layouts:
ik_llama.cpp ggml-common.h `block_iq1_s_r4`, `block_iq1_m_r4`; iqk_quantize.cpp `quantize_iq1_s_r4`,
`quantize_iq1_m_r4`, `dequantize_row_iq1_s_r4`, `dequantize_row_iq1_m_r4`.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from ..kernels.iq1_r4 import search_weighted
from . import iqk_tables as table
from .best_tables import geometric
from .better import errors_of
from .i_quants import IQ1_VALUES, codebook_values, prepared_codebook
from .layout import Layout, bits, join
from .pool import PoolSearch
from .tabulated import F32, quotient, usable_importance

g = np.arange(4)  # groups of 8 in a block
row = np.arange(4)[:, None]

DOWN = 1 << 11  # of a code: its group is shifted downwards; the bits below are the point
DELTA = np.float32(0.125)
MINUS_ONES, ZEROS, ONES = 0, 1029, 2047  # the points that are so throughout
KEY_OF_ZEROS = 0x5555


BEST_PARTS = geometric(1.2, 2.8, 4)  # what the largest value of a sub-block is scaled to, for search="best"
U8 = NDArray[np.uint8]


@cache
def shifted_points() -> F32:
    """Points by code, f32 [1, 4096, 8]."""
    points = codebook_values("iq1", IQ1_VALUES).astype(np.float32)
    return np.concatenate([points + DELTA, points - DELTA])[None]


class ShiftedPoints(PoolSearch):
    """What the two have in common."""

    top_level = 15
    sigma = 1.5
    d_factor = 1.0625
    unit = 0.125
    n_bins = 1  # so few points that leaving none out is faster

    @property
    def tables(self):
        return shifted_points()

    def quantize(self, rows, importance, search, out):
        self.quantize_reference(rows, importance, out)
        if search == "best":
            other = np.empty_like(out)
            self.quantize_best(rows, importance, other)
            errors = [errors_of(self, rows, importance, data, 1) for data in (out, other)]
            self.take_rows(out, other, (errors[1] < errors[0])[:, 0])

    def take_rows(self, out: U8, other: U8, these: NDArray[np.bool_]) -> None:
        """Replace some of the woven rows of `out` by those of `other`."""
        meta = self.type.row_meta_bytes
        fields, others = self.layout.unpack(out, meta), self.layout.unpack(other, meta)
        self.layout.pack({n: np.where(these[:, None, None], others[n], fields[n]) for n in fields}, out, meta)
        scales, other_scales = (a.reshape(len(a) // 4, -1)[:, : 4 * meta].reshape(-1, 4, meta) for a in (out, other))
        scales = np.where(these.reshape(-1, 4, 1), other_scales, scales)
        out.reshape(len(out) // 4, -1)[:, : 4 * meta] = scales.reshape(len(scales), -1)

    def best_pool(self, x, weights):
        largest = np.abs(x).max(axis=2)
        return self.trials_of(x, weights, (quotient(part, largest) for part in BEST_PARTS))

    def weights(self, rows, importance, size):
        squares = (rows * rows).reshape(len(rows), -1, 32)
        weights = np.sqrt(np.float32(self.sigma) * squares.mean(axis=2, keepdims=True) + squares).reshape(rows.shape)
        return weights if importance is None else weights * usable_importance(rows, importance, size)

    def solve(self, x, weights):
        scales, codes = self.search(x, weights)
        d = scales.max(axis=1) / np.float32(self.top_level)
        variants = np.zeros(scales.shape, np.uint16)
        return d * np.float32(self.d_factor), self.nearest_levels(scales, d), variants, codes

    def search(self, x, weights):
        """Float scale of each sub-block f32 [n_units, n_subs], and codes u16 [n_units, n_subs, size / 8]."""
        n = x.shape[0] * x.shape[1]
        scales = np.empty(n, np.float32)
        book = prepared_codebook("iq1", 3)
        keys = np.full((n, x.shape[2] // 8), KEY_OF_ZEROS, np.int32)
        deltas = np.empty(keys.shape, np.float32)
        search_weighted(x.reshape(n, -1), weights.reshape(n, -1), book, scales, keys, deltas)
        points = book.point_of_key[keys]
        down = deltas < 0
        # All zeros, shifted, are all ones, shifted, times nine: the smaller scale spares the rest of the row.
        zeros = (points == ZEROS).all(axis=1) & (scales > 0)
        points[zeros] = np.where(down[zeros], MINUS_ONES, ONES)
        scales[zeros] /= np.float32(9)
        codes = points + DOWN * down
        return scales.reshape(x.shape[:2]), codes.reshape(*x.shape[:2], -1).astype(np.uint16)


class IQ1_S_R4(ShiftedPoints):
    """One scale and one shift for each 32 values."""

    name = "IQ1_S_R4"
    layout = Layout(
        6,
        4,
        code=join(bits(8, 4 * g + row), bits(3, 16 + 2 * row, 3 * g), bits(1, 16 + 2 * row + 0 * g, 15)),
        scale=bits(3, 16 + 2 * row, 12),
    )
    levels = table.integers(1, 17, 2)

    @property
    def search_tables(self):
        return shifted_points().reshape(2, DOWN, 8)

    def solve_best(self, x, weights, stored):
        d, scale_codes, down, codes = super().solve_best(x, weights, stored)
        return d, scale_codes, np.zeros_like(down), codes + DOWN * down[..., None]


class IQ1_M_R4(ShiftedPoints):
    """A scale for each 16 values, a shift for each 8."""

    name = "IQ1_M_R4"
    layout = Layout(
        7,
        4,
        code=join(bits(8, 4 * g + row), bits(4, 16 + 4 * (g // 2) + row, 4 * (g % 2))),
        scale=bits(4, 24 + row, 4 * np.arange(2)),
    )
    levels = table.integers(0, 16)

    def search(self, x, weights):
        """The points as in the other type, then the shifts and the scale anew for these points."""
        _, codes = super().search(x, weights)
        points = codes % DOWN
        values = shifted_points()[0, points] - DELTA  # [n_units, n_subs, 2, 8]
        weights, x = weights.reshape(values.shape), x.reshape(values.shape)
        scales, best = np.zeros((2, *codes.shape[:2]), np.float32)
        for down in [(0, 0), (0, 1), (1, 0), (1, 1)]:
            delta = np.where(np.array(down) > 0, -DELTA, DELTA)
            q = values + delta[:, None]
            qx, q2 = (weights * q * x).sum(axis=(2, 3)), (weights * q * q).sum(axis=(2, 3))
            better = (qx > 0) & (qx * qx > best * q2)
            scales = np.where(better, quotient(qx, q2), scales)
            best = np.where(better, scales * qx, best)
            codes = np.where(better[..., None], points + DOWN * np.array(down), codes)
        return scales, codes.astype(np.uint16)
