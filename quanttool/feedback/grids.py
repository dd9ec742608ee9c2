"""What types can round to with their scales fixed: levels, column by column, or points, group by group of columns.

`Feedback` goes through the columns; a grid knows what is a step, what the scales in the bytes allow, and which of it
is nearest. For both a super-block's columns come in the order in which they are rounded.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from ..formats import BlockFormat, block_format
from ..formats import grid as levels
from ..formats import points as vectors
from ..formats.iqkt import Trellis
from ..kernels.feedback import round_columns
from ..kernels.feedback_points import Points, Slab, round_groups, sorted_points
from ..kernels.feedback_words import round_words
from ..kernels.tiles import as_tiles, store_tiles

F32 = NDArray[np.float32]


class Grid:
    """Rounding to a format's values.

    steps:  columns that are rounded together and stay so in every order, i64 [n_steps, step]: of the first columns of
            all, and so on for those that follow
    dtype:  of codes, one for every column
    """

    steps: NDArray[np.int64]
    dtype: type

    def __init__(self, fmt: BlockFormat):
        self.fmt = fmt

    def tables(self, data: NDArray[np.uint8], n_cols: int) -> tuple[F32, ...]:
        """What the scales in rows of n_cols columns u8 [n_rows, row_bytes] stand for, as `round` wants it."""
        raise NotImplementedError

    def round(
        self, targets: F32, shifts: F32, couplings: F32, weights: F32, tables: tuple[F32, ...], columns, errors: F32
    ) -> tuple[NDArray, F32]:
        """Codes and errors f32 [n_rows, n_cols] of one super-block.

        shifts:     f32 [n_rows, n_cols], what the errors of other super-blocks call for
        couplings:  f32 [n_cols, n_cols], and
        weights:    f32 [n_cols], see `rounding`
        columns:    i64 [n_cols], the places in the super-block
        errors:     f32 [n_rows, n_cols], of an earlier pass
        """
        raise NotImplementedError

    def write(self, codes: NDArray, data: NDArray[np.uint8]) -> None:
        """Write codes [n_rows, n_cols], in the order of the columns, into rows."""
        raise NotImplementedError


class Levels(Grid):
    """Each column has a code of its own."""

    dtype = np.uint8

    def __init__(self, fmt):
        super().__init__(fmt)
        self.steps = np.zeros((1, 1), np.int64) if fmt.words is None else fmt.words

    def tables(self, data, n_cols):
        return (levels.levels(self.fmt, data, n_cols),)

    def round(self, targets, shifts, couplings, weights, tables, columns, errors):
        new_errors = _tiles(errors)
        codes = np.empty(new_errors.shape, np.uint8)
        work = _tiles(targets), _tiles(shifts), _whole(couplings)
        result = _tiles(tables[0].reshape(len(errors), -1)), columns // levels.GROUP, codes, new_errors
        if self.fmt.words is None:
            round_columns(*work, *result)
        else:
            round_words(*work, _whole(weights), *result)
        return _rows(codes, errors.shape), _rows(new_errors, errors.shape)

    def write(self, codes, data):
        levels.write_codes(self.fmt, codes, data)


class Vectors(Grid):
    """A group of columns has one code: the code of a column is twice its point's place in the sorted table, plus sign.

    Columns that share a word of signs are rounded together.
    """

    dtype = np.int32

    def __init__(self, fmt):
        super().__init__(fmt)
        self.dim = vectors.dimension(fmt)
        self.points = _points(fmt.name)
        self.steps = np.arange(vectors.SIGNED if self.points.even else self.dim)[None]

    def tables(self, data, n_cols):
        return vectors.scales_and_shifts(self.fmt, data, n_cols)

    def round(self, targets, shifts, couplings, weights, tables, columns, errors):
        scales, offsets = tables
        groups = columns[:: self.dim] // self.dim
        new_errors = _tiles(errors)
        codes = np.empty(new_errors.shape, np.int32)
        slab = Slab(
            _tiles(targets - np.repeat(offsets[:, groups], self.dim, axis=1)),
            _tiles(shifts),
            _whole(couplings),
            _whole(weights),
            _tiles(scales),
            groups,
            codes,
            new_errors,
        )
        round_groups(slab, self.points)
        return _rows(codes, errors.shape), _rows(new_errors, errors.shape)

    def write(self, codes, data):
        numbers = self.points.numbers[codes[:, :: self.dim] >> 1]
        vectors.write_points(self.fmt, numbers, (codes & 1).astype(bool), data)


class Sequences(Grid):
    """A group of columns has one of so many points that they are not all tried: the search is the type's own.

    That knows squared errors with a weight for each column. So a group's loss, given those before it, is taken around
    its least with the diagonal of its quadratic form. (With IQ2_S that costs up to 3 % of the loss, mostly 0.5 %.)
    """

    dtype = np.int32

    def __init__(self, fmt):
        super().__init__(fmt)
        self.dim = fmt.tables.shape[2]
        self.steps = np.arange(self.dim)[None]
        self.signed = vectors.n_sign_bits(fmt) > 0

    def tables(self, data, n_cols):
        return self.fmt.scales_and_tables(data)

    def round(self, targets, shifts, couplings, weights, tables, columns, errors):
        codes, errors = np.empty(errors.shape, np.int32), errors.copy()
        for start in range(0, len(columns), self.dim):
            here = slice(start, start + self.dim)
            scales, table = (part[:, columns[start] // self.dim] for part in tables)
            form = np.eye(self.dim, dtype=np.float32) + couplings[here, here]
            errors[:, here] = 0
            free = targets[:, here] + (shifts[:, here] - errors @ couplings[here].T) @ np.linalg.inv(form).T
            square = np.einsum("ji,j,ji->i", form, weights[here], form)
            found = self.fmt.nearest_points(free, square, scales, table)
            value = self.fmt.tables[table, found] * scales[:, None]
            negative = (free < 0) & self.signed
            codes[:, here] = 2 * found[:, None] + negative
            errors[:, here] = np.where(negative, -value, value) - targets[:, here]
        return codes, errors

    def write(self, codes, data):
        vectors.write_points(self.fmt, codes[:, :: self.dim] >> 1, (codes & 1).astype(bool), data)


def grid_of(fmt: BlockFormat) -> Grid:
    """The grid of a format for which `formats.grid.has_grid`."""
    if fmt.codes is not None:
        return Levels(fmt)
    return Sequences(fmt) if isinstance(fmt, Trellis) else Vectors(fmt)


@cache
def _points(type_name: str) -> Points:
    fmt = block_format(type_name)
    n_bits = vectors.n_sign_bits(fmt)
    return sorted_points(fmt.point_values, n_bits > 0, n_bits == vectors.SIGNED - 1)


def _whole(array: NDArray) -> NDArray:
    return np.ascontiguousarray(array)


def _tiles(rows: F32) -> F32:
    return as_tiles(np.ascontiguousarray(rows))


def _rows(tiles: NDArray, shape: tuple[int, int]) -> NDArray:
    """Tiles [n_tiles * n_cols, LANES] -> [n_rows, n_cols]."""
    out = np.empty(shape, tiles.dtype)
    store_tiles(tiles, out)
    return out
