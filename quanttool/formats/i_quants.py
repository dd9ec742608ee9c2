"""IQ1, IQ2 and IQ3: groups of 4 or 8 values share one point of a codebook.

Each codebook lies in tables/, see its README. Source: ggml-common.h `block_iq*`, ggml-quants.c.
"""

from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..kernels import codebook_search as search_kernels
from ..kernels import i_quants as kernels
from ..kernels import iq1
from ..kernels.codebook import Codebook, make_codebook
from ..kernels.codebook_best import best_blocks
from ..kernels.codebook_lines import BestRules
from ..kernels.codebook_search import REFIT_ALWAYS, REFIT_IF_OFF_GRID, REFIT_OFF_GRID, SearchRules
from ..kernels.envelopes import Points
from ..kernels.halves import FAR, Halves
from ..kernels.lanes import LANES
from ..kernels.tiles import n_tiles
from .base import NO_IMPORTANCE, BlockFormat
from .better import keep_better
from .layout import Layout, bits, join

TABLES = Path(__file__).parent / "tables"
IQ1_VALUES = (-1, 0, 1)
IQ2_VALUES = (8, 25, 43)
IQ3_XXS_VALUES = (4, 12, 20, 28, 36, 44, 52, 62)
IQ3_S_VALUES = (1, 3, 5, 7, 9, 11, 13, 15)

g = np.arange(32)  # groups of 8 values in a block
q = np.arange(64)  # groups of 4


@cache
def codebook_levels(name: str) -> NDArray[np.uint8]:
    """Points of a codebook as levels, u8 [n_points, dim]."""
    return np.load(TABLES / f"{name}.npy")


@cache
def codebook_values(name: str, values: tuple[int, ...]) -> NDArray[np.float32]:
    """Points of a codebook as the values that its levels stand for, f32 [n_points, dim]."""
    return np.array(values, np.float32)[codebook_levels(name)]


@cache
def prepared_codebook(name: str, n_distances: int) -> Codebook:
    """A codebook with its neighbours, made when first needed (some 20 ms) and kept."""
    return make_codebook(codebook_levels(name), n_distances)


@cache
def all_points(name: str, values: tuple[int, ...]) -> Points:
    """A codebook to be looked through as a whole; `squares` without rows."""
    points = codebook_values(name, values)
    dim = points.shape[1]
    return Points((1,) * dim, points.reshape(-1), tiled(points), np.empty((0, LANES), np.float32))


@cache
def halved_points(name: str, values: tuple[int, ...], shifts: tuple[float, ...]) -> Halves:
    """A codebook sorted by halves; without room for what is written."""
    levels, points = codebook_levels(name).astype(np.int64), codebook_values(name, values)
    dim = points.shape[1]
    places = len(values) ** np.arange(dim // 2)
    n_classes = len(values) ** (dim // 2)
    class_levels = np.arange(n_tiles(n_classes) * LANES)[:, None] // places % len(values)
    halves = [
        sorted_rows((part * places).sum(axis=1), n_classes) for part in (levels[:, : dim // 2], levels[:, dim // 2 :])
    ]
    n_rows = max(len(number) for _, number in halves)
    first = [first for first, _ in halves]
    number = np.stack([np.pad(number, ((0, n_rows - len(number)), (0, 0)), constant_values=-1) for _, number in halves])
    return Halves(
        (1,) * dim,
        points.reshape(-1),
        np.array(shifts, np.float32),
        tiled(np.array(values, np.float32)[class_levels]),
        np.where(np.arange(len(class_levels)) < n_classes, 0, FAR).astype(np.float32).reshape(-1, LANES),
        np.stack(first),
        number.astype(np.int32),
        tiled(np.where(number.reshape(-1, 1) < 0, 0, points[number.reshape(-1)])),
        np.where(number < 0, FAR, 0).astype(np.float32).reshape(-1, LANES),
        np.empty(256 // dim, np.int64),
        *np.empty((3, 0, LANES), np.float32),
        np.empty(0, np.int64),
        np.empty((0, LANES), np.float32),
    )


def sorted_rows(kinds: NDArray[np.int64], n_kinds: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Points by kind, LANES to a row, each kind from a new row on.

    Gives the rows where kinds start, and points [n_rows, LANES], -1 for none.
    """
    count = np.bincount(kinds, minlength=n_kinds)
    first = np.concatenate([[0], np.cumsum(-(-count // LANES))])
    number = np.full((first[-1], LANES), -1)
    order = np.argsort(kinds, kind="stable")
    rank = np.arange(len(kinds)) - (np.cumsum(count) - count)[kinds[order]]
    number.reshape(-1)[first[kinds[order]] * LANES + rank] = order
    return first, number


def tiled(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Points f32 [n, dim], LANES side by side, as tile [n / LANES * dim, LANES]."""
    tiles = points.reshape(-1, LANES, points.shape[1]).swapaxes(1, 2)
    return np.ascontiguousarray(tiles, np.float32).reshape(-1, LANES)


def with_room(points: Points | Halves) -> Points | Halves:
    """The same with room for what a search of blocks writes."""
    n_groups = 256 // len(points.shape)

    def tile(n_rows):
        return np.empty((n_rows, LANES), np.float32)

    if isinstance(points, Points):
        return points._replace(squares=tile(n_groups * len(points.values) // len(points.shape)))
    n_rows, n_class_rows = len(points.no_point) // 2, len(points.no_class)
    return points._replace(
        leading=np.empty(n_groups, np.int64),
        squares=tile(len(points.shifts) * n_groups * n_rows),
        class_squares=tile(len(points.shifts) * n_groups * 2 * n_class_rows),
        class_losses=tile(2 * n_class_rows),
        row=np.empty(n_rows, np.int64),
        chosen=tile(n_rows),
    )


class CodebookFormat(BlockFormat):
    """Blocks of 256 values that name points of `codebook`, whose levels stand for `values`."""

    codebook: ClassVar[str]
    values: ClassVar[tuple[int, ...]]
    has_best = True
    best_rules: ClassVar[BestRules]

    @property
    def point_values(self):
        return codebook_values(self.codebook, self.values)

    def quantize(self, rows, importance, search, out):
        self.quantize_as_reference(rows, importance, out)
        if search == "best":
            other = np.empty_like(out)
            self.quantize_best(rows, importance, other)
            keep_better(self, rows, importance, out, other)

    def quantize_as_reference(self, rows, importance, out):
        """Write the bytes of llama.cpp's search."""
        raise NotImplementedError

    def points_searched(self) -> Points | Halves:
        """The codebook as it is best searched."""
        return all_points(self.codebook, self.values)

    def quantize_best(self, rows, importance, out):
        """Write the bytes of `codebook_best`."""
        rules = self.best_rules
        n_blocks, points = rows.size // 256, with_room(self.points_searched())
        d = np.empty((n_blocks, 1), np.uint16)
        codes = np.empty((n_blocks, 256 // rules.sub_size), np.uint8)
        chosen = np.empty((n_blocks, 256 // len(points.shape)), np.int32)
        signs = np.empty((n_blocks, 32), np.uint8)
        best_blocks(rows, importance, rules, points, d, codes, chosen, signs)
        self.write(d, codes, chosen, signs, out.reshape(n_blocks, -1))

    def write(self, d, codes, points, signs, out):
        """Write blocks.

        d:       u16 [n_blocks, 1], float16 bits
        codes:   u8 [n_blocks, n_sub], of the scales of sub-blocks
        points:  i32 [n_blocks, 256 / dim]
        signs:   u8 [n_blocks, 32], a bit per value; where points may be shifted, 1 for 8 values shifted down
        """
        raise NotImplementedError

    def dequantize(self, data, out):
        unpack = getattr(kernels, f"unpack_{self.name.lower()}")
        grid = codebook_values(self.codebook, self.values).reshape(-1)
        unpack(data.reshape(-1, self.type.block_bytes), grid, out.reshape(-1, 256))


class ScaledCodebook(CodebookFormat):
    """A scale for every 16 or 32 values, four bits of the block's scale; points found by `codebook.search_codebook`.

    n_distances:  neighbours of a rounded group are the points within so many smallest distances
    fudge:        what the reference multiplies the block's scale with, "small improvement"
    """

    rules: ClassVar[SearchRules]
    n_distances: ClassVar[int]
    fudge: ClassVar[float] = 1

    def quantize_as_reference(self, rows, importance, out):
        rows = rows.reshape(-1)
        n_blocks = rows.size // 256
        book = prepared_codebook(self.codebook, self.n_distances)
        values = search_kernels.Values(*np.empty((3, rows.size), np.float32))
        shrinks = np.empty(n_blocks, np.float32)
        signs = np.empty((n_blocks, 32), np.uint8)
        points = np.empty((n_blocks, 256 // len(book.shape)), np.int32)
        scales = np.empty((n_blocks, 256 // self.rules.sub_size), np.float32)
        fits = np.empty(scales.size, np.float32)
        search_kernels.weigh(rows, NO_IMPORTANCE if importance is None else importance, self.rules, values, shrinks)
        search_kernels.split_signs(values, self.rules.even_signs, signs.reshape(-1))
        if self.rules.fit_first:
            search_kernels.fit_scales(values, self.rules.sub_size, fits)
        search_kernels.search_points(
            values, shrinks, fits, self.rules, book, scales.reshape(-1), points.reshape(-1), signs.reshape(-1)
        )
        if self.rules.even_signs:  # where the reference clears blocks whose scales are all zero
            empty = scales.max(axis=1) == 0
            points[empty] = 0
            signs[empty] = 0
        d = np.empty((n_blocks, 1), np.uint16)
        codes = np.empty(scales.shape, np.uint8)
        kernels.scale_codes(scales, 15, np.float32(self.fudge), d, codes)
        self.write(d, codes, *self.in_order_of_reference(points, signs, scales), out.reshape(n_blocks, -1))

    def in_order_of_reference(self, points, signs, scales):
        """Points and signs as the reference stores them."""
        return points, signs

    def write(self, d, codes, points, signs, out):
        fields = [np.ascontiguousarray(field).view(np.uint8) for field in (d, *self.pack(points, signs, codes))]
        np.concatenate(fields, axis=1, out=out)

    def pack(self, points, signs, codes) -> tuple[NDArray, ...]:
        """The fields of a block after d, from what `write` is given."""
        raise NotImplementedError


def nibbles(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two codes to a byte, the first in the low half."""
    return codes[:, ::2] | codes[:, 1::2] << 4


def seven_bit_signs(signs: NDArray[np.uint8], codes: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """For 32 values, u32: four times seven sign bits and the scale code on top."""
    parts = signs.astype(np.uint32).reshape(len(signs), 8, 4) << np.array([0, 7, 14, 21], np.uint32)
    return np.bitwise_or.reduce(parts, axis=2) | codes.astype(np.uint32) << 28


def high_bits(points: NDArray[np.int32], n_bits: int) -> NDArray[np.uint8]:
    """The bits of point numbers above the eighth, n_bits of each, packed from the low end of a byte."""
    per_byte = 8 // n_bits
    parts = (points >> 8).reshape(len(points), -1, per_byte) << (n_bits * np.arange(per_byte))
    return np.bitwise_or.reduce(parts, axis=2).astype(np.uint8)


class IQ2_XXS(ScaledCodebook):
    """2.06 bpw; even numbers of minus signs in every 8 values, so that 7 sign bits suffice."""

    name = "IQ2_XXS"
    importance = "required"
    codebook = "iq2_xxs"
    values = IQ2_VALUES
    n_distances = 2
    rules = SearchRules(
        sub_size=32,
        sigma2_factor=np.float32(1),
        plain_sigma2=np.float32(0),
        even_signs=True,
        smallest=np.float32(1e-15),
        fit_first=True,
        first_try=6,
        try_step=np.float32(0.1),
        top=np.float32(5),
        refit=REFIT_ALWAYS,
    )

    best_rules = BestRules(
        sub_size=32,
        highest=15,
        choice_size=8,
        shift=np.float32(0),
        hopeless=np.float32(1),
        even_signs=True,
        unit_of_d=np.float32(1 / 8),
        top=np.float32(43),
        n_probes=8,
    )
    points = Layout(66, point=bits(8, 2 + 8 * (g // 4) + g % 4), sign=bits(7, 6 + 8 * (g // 4), 7 * (g % 4)))

    def pack(self, points, signs, codes):
        low = points.astype(np.uint8).view(np.uint32)
        return (np.stack([low, seven_bit_signs(signs, codes)], axis=2).reshape(len(low), -1),)


class IQ2_XS(ScaledCodebook):
    """2.31 bpw; signs as in IQ2_XXS, twice the points, a scale for every 16 values."""

    name = "IQ2_XS"
    importance = "required"
    codebook = "iq2_xs"
    values = IQ2_VALUES
    n_distances = 2
    rules = IQ2_XXS.rules._replace(sub_size=16, fit_first=False, first_try=9, refit=REFIT_OFF_GRID)

    best_rules = IQ2_XXS.best_rules._replace(sub_size=16)
    points = Layout(74, point=bits(9, 2 + 2 * g), sign=bits(7, 2 + 2 * g, 9))

    def pack(self, points, signs, codes):
        return (points | signs.astype(np.int32) << 9).astype(np.uint16), nibbles(codes)


class IQ2_S(ScaledCodebook):
    """2.56 bpw; all signs, 1024 points."""

    name = "IQ2_S"
    codebook = "iq2_s"
    values = IQ2_VALUES
    n_distances = 1
    fudge = 0.9875
    rules = IQ2_XS.rules._replace(
        sigma2_factor=np.float32(2), plain_sigma2=np.float32(0.25), even_signs=False, smallest=np.float32(1e-8)
    )

    best_rules = IQ2_XS.best_rules._replace(even_signs=False)
    points = Layout(82, point=join(bits(8, 2 + g), bits(2, 66 + g // 4, 2 * (g % 4))), sign=bits(8, 34 + g))

    def pack(self, points, signs, codes):
        return points.astype(np.uint8), signs, high_bits(points, 2), nibbles(codes)


class IQ3_XXS(ScaledCodebook):
    """3.06 bpw; points of 4 values, signs as in IQ2_XXS."""

    name = "IQ3_XXS"
    codebook = "iq3_xxs"
    values = IQ3_XXS_VALUES
    n_distances = 2
    fudge = 1.0125
    rules = SearchRules(
        sub_size=32,
        sigma2_factor=np.float32(2),
        plain_sigma2=np.float32(0),
        even_signs=True,
        smallest=np.float32(1e-8),
        fit_first=False,
        first_try=15,
        try_step=np.float32(0.2),
        top=np.float32(15),
        refit=REFIT_OFF_GRID,
    )

    best_rules = IQ2_XXS.best_rules._replace(unit_of_d=np.float32(1 / 4), top=np.float32(62))
    points = Layout(98, point=bits(8, 2 + q), sign=bits(7, 66 + 4 * (g // 4), 7 * (g % 4)))

    def pack(self, points, signs, codes):
        return points.astype(np.uint8), seven_bit_signs(signs, codes)


class IQ3_S(ScaledCodebook):
    """3.44 bpw; points of 4 values, all signs.

    The reference has a flaw that its bytes show and ours therefore too: after 32 values that are all zero it does not
    step on in points and signs, so those of the values that follow in the block stand too early, and are read with
    another scale and high bit.
    """

    name = "IQ3_S"
    codebook = "iq3_s"
    values = IQ3_S_VALUES
    n_distances = 3
    fudge = 1.033
    rules = IQ3_XXS.rules._replace(even_signs=False, smallest=np.float32(1e-45), first_try=9, refit=REFIT_IF_OFF_GRID)
    best_rules = BestRules(
        sub_size=32,
        highest=15,
        choice_size=4,
        shift=np.float32(0),
        hopeless=np.float32(1),
        even_signs=False,
        unit_of_d=np.float32(1),
        top=np.float32(15),
        n_probes=8,
    )
    points = Layout(110, point=join(bits(8, 2 + q), bits(1, 66 + q // 8, q % 8)), sign=bits(8, 74 + g))

    def in_order_of_reference(self, points, signs, scales):
        order = np.argsort(scales == 0, axis=1, kind="stable")[:, :, None]
        low = np.take_along_axis(points.reshape(-1, 8, 8) & 255, order, axis=1).reshape(points.shape)
        signs = np.take_along_axis(signs.reshape(-1, 8, 4), order, axis=1).reshape(signs.shape)
        return low | (points & ~255), signs

    def pack(self, points, signs, codes):
        return points.astype(np.uint8), high_bits(points, 1), signs, nibbles(codes)


class ShiftedCodebook(CodebookFormat):
    """Points of -1, 0, 1, shifted by an eighth up or down, found by `iq1.search_iq1`.

    n_subs:    scales in a block
    smallest:  sub-blocks with no larger value are stored as zeros
    """

    codebook = "iq1"
    values = IQ1_VALUES
    n_subs: ClassVar[int]
    smallest: ClassVar[float]

    def points_searched(self):
        return halved_points(self.codebook, self.values, (iq1.DELTA, -iq1.DELTA))

    def quantize_as_reference(self, rows, importance, out):
        blocks = rows.reshape(-1, 256)
        importance = NO_IMPORTANCE if importance is None else importance
        book = prepared_codebook(self.codebook, 3)
        scales = np.empty((len(blocks), self.n_subs), np.float32)
        keys = np.empty((len(blocks), 32), np.int32)
        deltas = np.empty((len(blocks), 32), np.float32)
        iq1.search_iq1(blocks, importance, np.float32(self.smallest), book, scales, keys, deltas)
        deltas[scales.max(axis=1) == 0] = iq1.DELTA  # blocks stored as zeros have no shifts downwards
        d = np.empty((len(blocks), 1), np.uint16)
        codes = np.empty(scales.shape, np.uint8)
        self.quantize_scales(blocks, importance, scales, keys, deltas, d, codes)
        self.write(d, codes, book.point_of_key[keys], (deltas < 0).astype(np.uint8), out.reshape(len(blocks), -1))

    def quantize_scales(self, blocks, importance, scales, keys, deltas, d, codes):
        """Write d and codes of the blocks from what the search has found."""
        raise NotImplementedError


class IQ1_S(ShiftedCodebook):
    """1.56 bpw; a scale and a shift for every 32 values."""

    name = "IQ1_S"
    importance = "required"
    n_subs = 8
    smallest = 1e-12
    best_rules = BestRules(
        sub_size=32,
        highest=7,
        choice_size=32,
        shift=iq1.DELTA,
        hopeless=np.float32(1.18),
        even_signs=False,
        unit_of_d=np.float32(1),
        top=1 + iq1.DELTA,
        n_probes=4,
    )
    points = Layout(50, point=join(bits(8, 2 + g), bits(3, 34 + 2 * (g // 4), 3 * (g % 4))))

    def quantize_scales(self, blocks, importance, scales, keys, deltas, d, codes):
        kernels.scale_codes(scales, 7, np.float32(1.125), d, codes)

    def write(self, d, codes, points, signs, out):
        high = np.bitwise_or.reduce((points >> 8).reshape(-1, 8, 4) << np.array([0, 3, 6, 9]), axis=2)
        high |= codes.astype(np.int32) << 12 | signs[:, ::4].astype(np.int32) << 15
        out[:, :2] = d.view(np.uint8)
        out[:, 2:34] = points
        out[:, 34:] = high.astype(np.uint16).view(np.uint8)


class IQ1_M(ShiftedCodebook):
    """1.75 bpw; a scale for every 16 values, a shift for every 8."""

    name = "IQ1_M"
    n_subs = 16
    smallest = 1e-7
    best_rules = IQ1_S.best_rules._replace(sub_size=16, choice_size=8, hopeless=np.float32(3))
    points = Layout(56, point=join(bits(8, g), bits(4, 32 + g // 2, 4 * (g % 2))))

    @property
    def point_values(self):
        """Each point shifted up, then each shifted down."""
        values = super().point_values
        return np.concatenate([values + iq1.DELTA, values - iq1.DELTA])

    def quantize_scales(self, blocks, importance, scales, keys, deltas, d, codes):
        shape = prepared_codebook("iq1", 3).shape
        iq1.fit_iq1_m(blocks, importance, scales, keys, deltas, shape, d, codes)

    def write(self, d, codes, points, signs, out):
        high = points >> 8 | signs.astype(np.int32) << 3
        quarters = np.bitwise_or.reduce(
            codes.astype(np.uint16).reshape(-1, 4, 4) << np.array([0, 3, 6, 9], np.uint16), 2
        )
        quarters |= (d >> np.array([0, 4, 8, 12], np.uint16) & 15) << 12
        out[:, :32] = points
        out[:, 32:48] = nibbles(high.astype(np.uint8))
        out[:, 48:] = quarters.view(np.uint8)
