"""What the block formats of ik_llama.cpp have in common: value = d * level[scale code] * table[variant][code].

d is one float per row (types with row metadata) or per block of 256; a scale code and a choice between two tables
belong to 16 or 32 values. A format of this family declares its layout, levels and tables, and the numbers of its
search.

The search is scale-free: what shares a d (a "unit": a row or a block of 256) is first brought to magnitude 1 by a power
of two, which changes no rounding and keeps sums of squares away from overflow and underflow. Then, as in ik_llama.cpp:
best scale of every sub-block, integer levels for them, codes for the rounded scales, d by weighted least squares.
"""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..ggml_types import BY_NAME
from ..kernels.lanes import LANES
from ..kernels.tabulated import LARGEST, best_scales, encode, expand
from ..kernels.tiles import as_tiles, n_tiles, store_tiles
from .base import BlockFormat
from .grid import codes_at
from .layout import Layout

F32 = NDArray[np.float32]
U16 = NDArray[np.uint16]

ROW_SCALE_TYPES = {2: np.float16, 4: np.float32}  # by size of the row metadata
BLOCK = 256  # values that a local mean square is taken over
NEGLIGIBLE = np.float32(1e-18)  # mean of squares below which a sub-block's importance tells nothing
UNIFORM_IMPORTANCE = np.float32(1e-9)  # it gets this one instead: enough for its codes, too little to weigh in d


class Tabulated(BlockFormat):
    """Base of the table formats.

    layout:       fields "code", "scale" and, where they exist, "d" (float16) and "variant"
    levels:       f32 [n_scale_codes], what a scale code multiplies d with
    tables:       f32 [n_variants, n_codes, dim]
    trials:       f32 [n_trials, 3], see `kernels.tabulated.best_scales`
    top_level:    the level that the largest scale gets
    sigma:        times the mean square: added to x^2 in weights with importance
    plain_sigma:  times that: added to x^2 in weights without importance
    d_factor:     the refitted d is multiplied with this (ik_llama.cpp's correction for what the fit leaves out)
    """

    layout: ClassVar[Layout]
    levels: ClassVar[F32]
    tables: ClassVar[F32]
    trials: ClassVar[F32]
    top_level: ClassVar[float]
    sigma: ClassVar[float] = 2.0
    plain_sigma: ClassVar[float] = 0.0
    d_factor: ClassVar[float] = 1.0

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        code = cls.layout.fields.get("code") if "name" in vars(cls) else None
        if code is not None and code.shape[1] == BY_NAME[cls.name].block_size and cls.tables.shape[2] == 1:
            cls.codes = codes_at(cls.layout.block_bytes, code[0])

    # --- bytes to values

    def dequantize(self, data, out):
        fields = self.layout.unpack(data, self.type.row_meta_bytes)
        with np.errstate(over="ignore", invalid="ignore"):  # a file may hold any d
            scales = self.read_d(data, fields) * self.levels[fields["scale"]]
        self.expand(fields, scales, out)

    def read_d(self, data: NDArray[np.uint8], fields: dict[str, U16]) -> F32:
        """d as f32 [n_rows, n_blocks or 1, 1]."""
        if "d" in fields:
            return np.ascontiguousarray(fields["d"]).view(np.float16).astype(np.float32)
        return row_scales(data, self.type.row_meta_bytes, self.layout.rows)[:, None, None]

    def expand(self, fields: dict[str, U16], scales: F32, out: F32) -> None:
        """Write the values of unpacked rows; scales f32 [n_rows, n_blocks, n_scales]."""
        variants = fields.get("variant")
        if variants is None:
            variants = np.zeros(scales.shape, np.uint16)
        n_rows = len(out)
        expand(
            self.read_codes(fields).reshape(n_rows, -1),
            np.ascontiguousarray(variants).reshape(n_rows, -1),
            np.ascontiguousarray(scales).reshape(n_rows, -1),
            self.tables,
            out,
        )

    def read_codes(self, fields: dict[str, U16]) -> U16:
        """Codes u16 [n_rows, n_blocks, n_codes], in the order of the values."""
        return np.ascontiguousarray(fields["code"])

    # --- values to bytes

    def quantize(self, rows, importance, search, out):
        x, exponents = self.units(rows)
        size = x.shape[2]
        scaled = x.reshape(rows.shape)
        weights = self.weights(scaled, importance, size).reshape(x.shape)
        self.store(*self.solve(x, weights), x, exponents, out)

    def units(self, rows: F32) -> tuple[F32, NDArray[np.int32]]:
        """What shares a d, of magnitude one, f32 [n_units, n_subs, size], and the exponents of 2 divided by."""
        n_rows, n_cols = rows.shape
        block = self.type.block_size
        per_row = 1 if self.type.row_meta_bytes else n_cols // block
        units, exponents = to_magnitude_one(rows.reshape(n_rows * per_row, -1))
        return units.reshape(len(units), -1, block // self.layout.fields["scale"].shape[1]), exponents

    def store(self, d: F32, scale_codes: U16, variants: U16, codes: U16, x: F32, exponents, out) -> None:
        """Pack what `solve` gives for the units x."""
        n_rows = len(out)
        blocks = {"scale": scale_codes, "variant": variants, **self.write_codes(codes, x)}
        n_blocks = x.size // n_rows // self.type.block_size
        blocks = {name: field.reshape(n_rows, n_blocks, -1) for name, field in blocks.items()}
        self.write(blocks, self.storable(d, exponents).reshape(n_rows, -1), out)

    def weights(self, rows: F32, importance: F32 | None, size: int) -> F32:
        """Weights of squared errors, f32 [n_rows, n_cols], for rows scaled to magnitude one."""
        squares = rows * rows
        sigma2 = squares.reshape(len(rows), -1, BLOCK).mean(axis=2, keepdims=True) * np.float32(self.sigma)
        squares = squares.reshape(len(rows), -1, BLOCK)
        if importance is None:
            return np.float32(self.plain_sigma) * sigma2 + squares
        return usable_importance(rows, importance, size).reshape(squares.shape) * np.sqrt(sigma2 + squares)

    def solve(self, x: F32, weights: F32) -> tuple[F32, U16, U16, U16]:
        """d f32 [n_units], scale codes and tables u16 [n_units, n_subs], codes u16 [n_units, n_subs, n].

        x, weights: f32 [n_units, n_subs, size]
        """
        d, scale_codes, variants = self.find_levels(x, weights)
        codes, sums = self.find_codes(x, weights, d, scale_codes, variants)
        d = np.where(sums[:, 1] > 0, quotient(sums[:, 0], sums[:, 1]), d)
        return d * np.float32(self.d_factor), scale_codes, variants, codes

    def find_scales(self, x: F32, weights: F32) -> tuple[F32, U16]:
        """Best float scale and table of each sub-block, [n_units, n_subs]."""
        scales, variants = sub_tiles(2, x)
        best_scales(tiles_of(x), tiles_of(weights), self.tables[..., 0].copy(), self.trials, scales, variants)
        return of_subs(scales, x), of_subs(variants, x).astype(np.uint16)

    def find_levels(self, x: F32, weights: F32) -> tuple[F32, U16, U16]:
        """First d f32 [n_units], scale codes and tables u16 [n_units, n_subs]: the largest scale gets the top level."""
        scales, variants = self.find_scales(x, weights)
        top = largest_of(scales)
        if self.levels.min() == -self.levels.max():
            top = np.abs(top)
        d = top / np.float32(self.top_level)
        return d, self.nearest_levels(scales, d), variants

    def nearest_levels(self, scales: F32, d: F32) -> U16:
        """Codes u16 [n_units, n_subs] of the levels nearest to scales / d."""
        order = np.argsort(self.levels)
        ascending = self.levels[order]
        ratios = scales * quotient(np.float32(1), d)[:, None]
        return order[np.searchsorted((ascending[1:] + ascending[:-1]) / 2, ratios)].astype(np.uint16)

    def find_codes(self, x: F32, weights: F32, d: F32, scale_codes: U16, variants: U16) -> tuple[U16, F32]:
        """Codes u16 [n_units, n_subs, n] and sums w x q, w q^2 f32 [n_units, 2]; may improve the last two arguments."""
        levels = self.levels[scale_codes]
        codes = np.empty(x.shape, np.uint16)
        sums = np.empty((len(x), 2), np.float32)
        encode(x, weights, d[:, None] * levels, levels, variants, self.tables[..., 0].copy(), codes, sums)
        return codes, sums

    def write_codes(self, codes: U16, x: F32) -> dict[str, U16]:
        """The fields that hold the codes of the values x."""
        return {"code": codes}

    def storable(self, d: F32, exponents: NDArray[np.int32]) -> F32:
        """d of the original magnitude, small enough that it can be stored and every value is finite."""
        largest = np.float32(65504)
        if self.type.row_meta_bytes == 4:
            factor = np.abs(self.levels).max() * np.abs(self.tables).max()
            largest = np.float32(0.999) * np.finfo(np.float32).max / factor
        with np.errstate(over="ignore"):
            return np.clip(np.ldexp(d, exponents), -largest, largest)

    rescales = True

    def rescale(self, data, meta):
        fields = self.layout.unpack(data, meta.shape[1])
        scales = row_scales(data, meta.shape[1])[:, None] * self.levels[fields["scale"]].reshape(len(data), -1)
        fields["scale"] = self.nearest_levels(scales, row_scales(meta, meta.shape[1])).reshape(fields["scale"].shape)
        data[:, : meta.shape[1]] = meta
        self.layout.pack(fields, data, meta.shape[1])

    def write(self, blocks: dict[str, U16], d: F32, out: NDArray[np.uint8]) -> None:
        """Pack the blocks; d f32 [n_rows, n_blocks or 1]."""
        meta = self.type.row_meta_bytes
        if not meta:
            blocks["d"] = d.astype(np.float16).view(np.uint16)[..., None]
        self.layout.pack(blocks, out, meta)
        if meta:
            stored = np.ascontiguousarray(d, dtype=ROW_SCALE_TYPES[meta])
            groups = out.reshape(len(out) // self.layout.rows, -1)
            groups[:, : self.layout.rows * meta] = stored.view(np.uint8).reshape(len(groups), -1)


def tiles_of(x: F32) -> F32:
    """[n_units, n_subs, size] -> tiles with a sub-block per lane, [n_tiles * size, LANES]."""
    return as_tiles(x.reshape(-1, x.shape[2]))


def sub_tiles(n: int, x: F32) -> F32:
    """Room for n numbers per sub-block of x [n_units, n_subs, size], f32 [n, n_tiles, LANES]."""
    return np.empty((n, n_tiles(x.shape[0] * x.shape[1]), LANES), np.float32)


def as_sub_tile(numbers: NDArray) -> F32:
    """[n_units, n_subs] -> f32 [n_tiles, LANES]."""
    return as_tiles(numbers.astype(np.float32).reshape(-1, 1))


def of_subs(tile: F32, x: F32) -> F32:
    """A row of `sub_tiles` -> [n_units, n_subs]."""
    return tile.reshape(-1)[: x.shape[0] * x.shape[1]].reshape(x.shape[:2])


def from_tiles(tiles: NDArray, n: int) -> NDArray:
    """Tiles [n_tiles * size, LANES] -> [n, size]."""
    out = np.empty((n, tiles.shape[0] * LANES // max(1, -(-n // LANES) * LANES)), tiles.dtype)
    store_tiles(tiles, out)
    return out


def row_scales(data: NDArray[np.uint8], meta_bytes: int, rows: int = 1) -> F32:
    """The floats at the start of each group of `rows` woven rows, f32 [n_rows]."""
    groups = np.ascontiguousarray(data).reshape(len(data) // rows, -1)
    meta = np.ascontiguousarray(groups[:, : rows * meta_bytes])
    return meta.view(ROW_SCALE_TYPES[meta_bytes]).astype(np.float32).ravel()


def to_magnitude_one(units: F32) -> tuple[F32, NDArray[np.int32]]:
    """units / 2^exponent, so that the largest magnitude of each is in [0.5, 1), and the exponents i32 [n_units]."""
    exponents = np.frexp(np.abs(units).max(axis=1))[1]
    return np.ldexp(units, -exponents[:, None]), exponents


def quotient(a: F32, b: F32) -> F32:
    """a / b, 0 where b is 0 or the quotient is not finite."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = a / b
    return np.where(np.isfinite(ratio), ratio, np.float32(0))


def largest_of(scales: F32) -> F32:
    """Of each unit's scales [n_units, n_subs] that of largest magnitude."""
    return np.take_along_axis(scales, np.abs(scales).argmax(axis=1)[:, None], axis=1)[:, 0]


def usable_importance(rows: F32, importance: F32, size: int) -> F32:
    """Importance f32 [n_rows, n_cols], scaled to a largest value of about 1, uniform where it tells nothing.

    That is where it, the rows, or their product all but vanish within a sub-block of `size` values
    (iqk_quantize.cpp `QHelper::row_weights`).
    """
    importance = np.ldexp(importance, -np.frexp(importance.max())[1])
    x = np.abs(rows).reshape(len(rows), -1, size)
    w = importance.reshape(-1, size)
    tells = (w * w).mean(axis=1) > NEGLIGIBLE
    tells = tells & ((x * x).mean(axis=2) > NEGLIGIBLE) & ((w * x).mean(axis=2) > NEGLIGIBLE)
    return np.where(tells[..., None], w, UNIFORM_IMPORTANCE).reshape(rows.shape)


def trials_around(tables: F32, n: int, step: float = 1.0, refit: bool = False) -> F32:
    """Trials that bring the largest value to the lowest entry of either table, give or take n steps, with both signs.

    refit: then choose codes anew for the best scale found.
    """
    targets = [
        (v, sign * (table[0, 0] + step * i), LARGEST)
        for i in range(-n, n + 1)
        for v, table in enumerate(tables)
        for sign in (1, -1)
    ]
    again = [(v, 0.0, LARGEST) for v in range(len(tables))] if refit else []
    return np.array(large_entries_first(targets) + again, np.float32)


def all_crossings(tables: F32, size: int) -> F32:
    """Trials that bring each value just across each middle between entries: all distinct roundings, so none is better.

    That is few enough for tables of four entries.
    """
    middles = (tables[:, 1:, 0] + tables[:, :-1, 0]) / 2
    across = np.float32(1 + 2**-20)
    trials = [(v, m * across, j) for v, row in enumerate(middles) for m in row for j in range(size)]
    return np.array(large_entries_first(trials), np.float32)


def large_entries_first(trials: list[tuple[int, float, int]]) -> list[tuple[int, float, int]]:
    """Where one value outweighs the others, trials fit equally well; then the smallest scale spares the others most."""
    return sorted(trials, key=lambda trial: -abs(trial[1]))
