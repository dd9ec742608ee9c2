"""Of two encodings of the same rows, block by block the one with less weighted error."""

import numpy as np
from numpy.typing import NDArray

from ..kernels.errors import weighted_errors
from .base import BlockFormat


def keep_better(
    fmt: BlockFormat,
    rows: NDArray[np.float32],
    importance: NDArray[np.float32],
    out: NDArray[np.uint8],
    other: NDArray[np.uint8],
) -> None:
    """Replace blocks of `out` (whole rows, where a scale belongs to the row) by those of `other` that are better.

    rows f32 [n_rows, n_cols]; importance f32 [n_cols]; out, other u8 [n_rows, row_bytes]
    """
    n_units = 1 if fmt.type.row_meta_bytes else rows.shape[1] // fmt.type.block_size
    errors = [errors_of(fmt, rows, importance, data, n_units) for data in (out, other)]
    better = errors[1] < errors[0]
    shape = *better.shape, -1
    np.copyto(out.reshape(shape), other.reshape(shape), where=better[..., None])


def errors_of(fmt: BlockFormat, rows, importance, data, n_units: int) -> NDArray[np.float64]:
    """Weighted squared errors of the units of each row, f64 [n_rows, n_units]."""
    values = np.empty_like(rows)
    fmt.dequantize(data, values)
    errors = np.empty((len(rows), n_units))
    weighted_errors(rows, values, importance, errors)
    return errors
