"""The search of IQ2_K and IQ2_KS, whose scales have so few levels that rounding them costs more than the codes do."""

from typing import ClassVar

import numpy as np

from ..kernels.lanes import LANES
from ..kernels.scales import symmetric_scales
from ..kernels.tabulated import best_levels
from ..kernels.tiles import as_tiles
from .best_tables import USUAL, BestTabulated
from .tabulated import F32, as_sub_tile, of_subs, sub_tiles, tiles_of


class TwoBit(BestTabulated):
    """Float scales are exact (`all_crossings`), d as in ik_llama.cpp, then the best of all levels for each sub-block.

    ik_llama.cpp takes the level nearest to the float scale. With sixteen of them the error of the whole type is up to
    2.5 % (plain) and 9 % (with importance) below that on golden data.

    limits:  the largest scales are cut to these parts of the largest before d is fitted; the best outcome is kept
    """

    sigma = 1.5
    plain_sigma = 0.25
    d_factor = 1.03
    best_trials = USUAL._replace(around=1)
    limits: ClassVar[tuple[float, ...]] = (1.0,)

    def find_levels(self, x, weights):
        scales, variants = self.find_scales(x, weights)
        order = np.argsort(np.abs(self.levels), kind="stable")  # of equals the smallest level
        tables = self.tables[..., 0].copy()
        x_tiles, weight_tiles = tiles_of(x), tiles_of(weights)
        largest = np.abs(scales).max(axis=1, keepdims=True)
        best_gain = np.full(len(x), -np.inf, np.float32)
        best_d = np.zeros(len(x), np.float32)
        scale_codes = np.zeros(x.shape[:2], np.uint16)
        for limit in self.limits:
            cut = np.clip(scales, -limit * largest, limit * largest)
            d = fit_levels(cut, weights.sum(axis=2), len(self.levels) // 2)
            d_tile = as_sub_tile(np.repeat(d, x.shape[1]))
            levels, tables_now, gains = sub_tiles(3, x)
            best_levels(x_tiles, weight_tiles, tables, self.levels[order], d_tile, levels, tables_now, gains)
            gain = of_subs(gains, x).sum(axis=1)
            better = gain > best_gain
            best_gain = np.where(better, gain, best_gain)
            best_d = np.where(better, d, best_d)
            codes_now = order[of_subs(levels, x).astype(np.int64)].astype(np.uint16)
            scale_codes = np.where(better[:, None], codes_now, scale_codes)
            variants = np.where(better[:, None], of_subs(tables_now, x).astype(np.uint16), variants)
        return best_d, scale_codes, variants


def fit_levels(scales: F32, weights: F32, n: int) -> F32:
    """d f32 [n_units] that fits scales best with integer levels -n ... n - 1; scales, weights f32 [n_units, n_subs].

    (iqk_quantize.cpp `make_qx_quants`, the same as ggml-quants.c's.)
    """
    x = as_tiles(scales)
    codes = np.empty(x.shape, np.uint8)
    d = np.empty((len(x) // scales.shape[1], LANES), np.float32)
    symmetric_scales(x, as_tiles(weights), scales.shape[1], n, codes, d)
    return d.reshape(-1)[: len(scales)]
