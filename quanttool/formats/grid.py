"""Types whose values lie on a grid: rounding to it while the scales in the bytes stay as they are.

A value of such a type depends on its own code and on its block's scales, and on nothing else. So all that a format
declares is where the codes' bits are (`BlockFormat.codes`); which values the codes stand for is asked of `dequantize`.
"""

import numpy as np
from numpy.typing import NDArray

from .base import BlockFormat, block_format
from .layout import Layout

GROUP = 16  # columns that share their levels, in every type (some share them over more)


def has_grid(fmt: BlockFormat) -> bool:
    """Whether the format can round to its levels or points (see points.py) with its scales fixed."""
    fmt = unwoven(fmt)
    return fmt.codes is not None or fmt.points is not None


def unwoven(fmt: BlockFormat) -> BlockFormat:
    """The format itself, or of a format of woven rows that of each row."""
    return block_format(fmt.base) if fmt.base else fmt


def n_codes(fmt: BlockFormat) -> int:
    return fmt.n_codes or 1 << fmt.codes.fields["code"].shape[-1]


def levels(fmt: BlockFormat, data: NDArray[np.uint8], n_cols: int) -> NDArray[np.float32]:
    """The values that each group of 16 columns can take, given the scales in its bytes.

    data:     u8 [n_rows, row_bytes], of rows of n_cols values
    returns:  f32 [n_rows, n_cols / 16, n_codes]
    """
    trial, values = data.copy(), np.empty((len(data), n_cols), np.float32)
    out = np.empty((len(data), n_cols // GROUP, n_codes(fmt)), np.float32)
    for code in range(n_codes(fmt)):
        write_codes(fmt, np.full((len(data), n_cols), code, np.uint8), trial)
        fmt.dequantize(trial, values)
        out[:, :, code] = values[:, ::GROUP]
    return out


def write_codes(fmt: BlockFormat, codes: NDArray[np.uint8], data: NDArray[np.uint8]) -> None:
    """Write codes u8 [n_rows, n_cols] into rows u8 [n_rows, row_bytes]; all that is no code stays as it is."""
    meta = fmt.type.row_meta_bytes
    new = np.zeros_like(data)
    fmt.codes.pack({"code": codes.reshape(len(data), -1, fmt.type.block_size)}, new, meta)
    blocks = data[:, meta:].reshape(len(data), -1, fmt.type.block_bytes)
    data[:, meta:] = (blocks & ~fmt.codes.mask).reshape(len(data), -1) | new[:, meta:]


def codes_at(block_bytes: int, positions: NDArray[np.int64]) -> Layout:
    """Where a format has its codes: positions of the bits of each value, as `layout.bits` makes them."""
    return Layout(block_bytes, code=positions)
