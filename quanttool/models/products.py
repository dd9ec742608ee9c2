"""Products with weights, in several precisions, on any processor.

    f32   operands as they are
    bf16  both operands rounded to bfloat16, to nearest: each is off by at most 1 part in 512. Their products are exact
          and added in float32. Twice as fast where the processor has AVX512_BF16

    bf16-experts  the same, also in the blocks of mixtures of experts. Under bf16 these stay in float32, since a
                  rounding error may make a router choose another expert, which is no small error any more

All add in float32, so the result of n products a_i b_i is off by less than n 2^-24 sum |a_i b_i| besides (typically
the root of n). With AVX-512 the sum is taken in the order of the columns, by our own kernels: the same bits for any
number of threads and of rows. Elsewhere numpy's BLAS multiplies (bf16: the rounded operands) in an order of its own.
"""

from math import ceil, lcm
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ..container import GGUFFile
from ..errors import UsageError
from ..formats import dequantize_rows, read_only
from ..ggml_types import ggml_type
from ..kernels import products
from ..kernels.jit import processor_has
from ..kernels.register_tile import TILE_COLS, TILE_ROWS
from ..parallel import for_each, for_each_slab

Array = NDArray[np.float32]
Precision = Literal["f32", "bf16", "bf16-experts", "auto"]
PRECISIONS: tuple[str, ...] = ("f32", "bf16", "bf16-experts", "auto")
# How numbers are given to a kernel: one to a value; two to a value; or one, but rounded to what bfloat16 can hold.
Packing = Literal["f32", "bf16 pairs", "bf16 in f32"]

VALUES_PER_SLAB = 1 << 18  # of a weight that is being packed: 1 MiB of float32, which stays in the cache
# Tiles of left rows that one thread takes at a time: the weight passes by once for all of them, they stay in the cache.
TILES_PER_SLAB = 32


def chosen_precision(precision: str, file: GGUFFile) -> str:
    """What "auto" means for a file: bf16 if its matrices are bfloat16 (at least half of their values), else f32."""
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}; known are {', '.join(PRECISIONS)}")
    if precision != "auto":
        return precision
    matrices = [info for info in file.tensors.values() if len(info.shape) > 1]
    in_bf16 = sum(info.n_values for info in matrices if info.type.name == "BF16")
    return "bf16" if 2 * in_bf16 >= sum(info.n_values for info in matrices) else "f32"


def block_precision(precision: str, has_experts: bool) -> str:
    """What products inside of blocks are computed in: "f32" or "bf16"."""
    if precision == "bf16":
        return "f32" if has_experts else "bf16"
    return "bf16" if precision == "bf16-experts" else precision


class Weight(Protocol):
    """x @ weight.T, in several threads."""

    def __call__(self, x: Array, threads: int = 1) -> Array:
        """f32 [n, n_in] -> f32 [n, n_out]"""


def weight_for_products(data: NDArray[np.uint8], type_name: str, n_cols: int, precision: str) -> Weight:
    """Get a weight ready for products: the fastest way that this processor has.

    data:       u8 [n_rows, row_bytes], of any type that can be dequantized
    precision:  "f32", or any of the others for bfloat16
    """
    packing: Packing = "f32"
    if precision != "f32":
        packing = "bf16 pairs" if processor_has("avx512bf16") else "bf16 in f32"
    kind = TiledWeight if processor_has("avx512f") else BlasWeight
    return kind(data, type_name, n_cols, packing)


class TiledWeight:
    """A weight in panels, for the kernels of this package; needs AVX-512."""

    def __init__(self, data: NDArray[np.uint8], type_name: str, n_cols: int, packing: Packing):
        self.n_out, self.packing = len(data), packing
        paired = packing == "bf16 pairs"
        n_panels, n_steps = ceil(len(data) / TILE_COLS), ceil(n_cols / 2) if paired else n_cols
        self.panels = np.empty((n_panels, n_steps, TILE_COLS), np.uint32 if paired else np.float32)
        multiple = lcm(TILE_COLS, ggml_type(type_name).rows_interleaved)

        def work(slab: slice) -> None:
            rows = weight_values(data[slab], type_name, n_cols, packing, threads=1)
            products.pack(rows, self.panels[slab.start // TILE_COLS : ceil(slab.stop / TILE_COLS)])

        for_each_slab(work, len(data), max(1, VALUES_PER_SLAB // n_cols // multiple) * multiple)

    def __call__(self, x: Array, threads: int = 1) -> Array:  # [n, n_in] -> [n, n_out]
        n_tiles, n_panels = ceil(len(x) / TILE_ROWS), len(self.panels)
        out = np.empty((n_tiles * TILE_ROWS, n_panels * TILE_COLS), np.float32)

        def work(part: tuple[slice, slice]) -> None:
            tiles, panels = part
            rows = slice(tiles.start * TILE_ROWS, tiles.stop * TILE_ROWS)
            left = packed(x[rows], self.packing, rows.stop - rows.start)
            products.multiply(left, self.panels, panels.start, panels.stop, out[rows])

        for_each(work, _parts(n_tiles, n_panels, threads), threads)
        return np.ascontiguousarray(out[: len(x), : self.n_out])  # a copy only where a panel is not full


class BlasWeight:
    """A weight that numpy multiplies with; BLAS itself is expected to use one thread."""

    def __init__(self, data: NDArray[np.uint8], type_name: str, n_cols: int, packing: Packing):
        self.packing, self.rows = packing, weight_values(data, type_name, n_cols, packing)  # [n_out, n_in]

    def __call__(self, x: Array, threads: int = 1) -> Array:  # [n, n_in] -> [n, n_out]
        left = packed(x, self.packing, len(x))
        out = np.empty((len(x), len(self.rows)), np.float32)

        def work(slab: slice) -> None:
            np.matmul(left, self.rows[slab].T, out=out[:, slab])

        for_each_slab(work, len(self.rows), ceil(len(self.rows) / threads), threads)
        return out


def weight_values(
    data: NDArray[np.uint8], type_name: str, n_cols: int, packing: Packing, threads: int | None = None
) -> NDArray:
    """Rows of a file as a kernel wants them; where the file has them so, they are a view of it."""
    if packing == "bf16 pairs" and type_name == "BF16" and n_cols % 2 == 0:
        return data.view(np.uint32)
    rows = data.view(np.float32) if type_name == "F32" else dequantize_rows(data, type_name, n_cols, threads)
    return packed(rows, packing, len(rows))


def packed(rows: Array, packing: Packing, n_rows: int) -> NDArray:
    """Rows in a packing, filled up with zeros to n_rows: [n_rows, n] or, in pairs, u32 [n_rows, ceil(n / 2)]."""
    n = rows.shape[1]
    if packing != "f32":
        halves = np.empty((n_rows, n + n % 2), np.uint16)
        products.round_to_bf16(read_only(rows), halves)
        if packing == "bf16 pairs":
            return read_only(halves.view(np.uint32))
        return read_only((halves[:, :n].astype(np.uint32) << 16).view(np.float32))
    if len(rows) < n_rows:
        rows = np.concatenate([rows, np.zeros((n_rows - len(rows), n), np.float32)])
    return read_only(rows)


def _parts(n_tiles: int, n_panels: int, threads: int) -> list[tuple[slice, slice]]:
    """A product cut into parts of similar size: tiles of rows, and panels too where rows alone are too few."""
    by_rows = ceil(ceil(n_tiles / TILES_PER_SLAB) / threads) * threads  # so that all threads end together
    if by_rows <= n_tiles:
        return [(tiles, slice(0, n_panels)) for tiles in _slices(n_tiles, by_rows)]
    return [(slice(0, n_tiles), panels) for panels in _slices(n_panels, min(threads, n_panels))]


def _slices(n: int, parts: int) -> list[slice]:
    return [slice(n * i // parts, n * (i + 1) // parts) for i in range(parts)]
