"""Types whose values are vectors: taking other points while the scales in the bytes stay as they are.

A group of values is a point of a table, with signs, times the group's scale, and in IQ1_S shifted. As for types on a
grid (see grid.py) a format declares where the bits are (`BlockFormat.points`) and the table; scales and shifts are
asked of `dequantize`.
"""

import numpy as np
from numpy.typing import NDArray

from .base import BlockFormat

SIGNED = 8  # values whose signs lie together


def dimension(fmt: BlockFormat) -> int:
    return fmt.point_values.shape[1]


def n_sign_bits(fmt: BlockFormat) -> int:
    """Bits that are stored for the signs of 8 values: 0, 7 (the number of minus signs is even) or 8."""
    return fmt.points.fields["sign"].shape[-1] if "sign" in fmt.points.fields else 0


def scales_and_shifts(
    fmt: BlockFormat, data: NDArray[np.uint8], n_cols: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What the points of each group are multiplied with and then shifted by, f32 [n_rows, n_groups] each.

    data:  u8 [n_rows, row_bytes], of rows of n_cols values
    """
    table = fmt.point_values
    two = np.array([table[:, 0].argmin(), table[:, 0].argmax()])
    trial, values = data.copy(), np.empty((2, len(data), n_cols), np.float32)
    for which, point in enumerate(two):
        points = np.full((len(data), n_cols // table.shape[1]), point)
        write_points(fmt, points, np.zeros((len(data), n_cols), bool), trial)
        fmt.dequantize(trial, values[which])
    low, high = values[:, :, :: table.shape[1]]
    scales = (high - low) / (table[two[1], 0] - table[two[0], 0])
    return scales, low - scales * table[two[0], 0]


def write_points(fmt: BlockFormat, points: NDArray, negative: NDArray[np.bool_], data: NDArray[np.uint8]) -> None:
    """Write points and signs into rows; all that is neither stays as it is.

    points:    integers [n_rows, n_groups]
    negative:  [n_rows, n_cols]; of 8 with 7 stored bits an even number
    data:      u8 [n_rows, row_bytes]
    """
    layout, meta, n_rows = fmt.points, fmt.type.row_meta_bytes, len(data)
    fields = {"point": points}
    if n_sign_bits(fmt):
        fields["sign"] = np.packbits(negative.reshape(n_rows, -1, SIGNED), axis=2, bitorder="little")
    fields = {name: field.reshape(n_rows, -1, layout.fields[name].shape[1]) for name, field in fields.items()}
    new = np.zeros_like(data)
    layout.pack(fields, new, meta)
    blocks = data[:, meta:].reshape(n_rows, -1, fmt.type.block_bytes)
    data[:, meta:] = (blocks & ~layout.mask).reshape(n_rows, -1) | new[:, meta:]
