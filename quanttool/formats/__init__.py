"""Block formats: rows of float32 to bytes and back.

`quantize_rows` and `dequantize_rows` are the public, checked entry points; the classes behind them are in one file per
family, see `base.BlockFormat`.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import QuantizeError, UsageError
from ..parallel import for_each_slab
from .base import SEARCHES, BlockFormat, Search, available_formats, block_format

__all__ = ["BlockFormat", "Search", "available_formats", "block_format", "dequantize_rows", "quantize_rows"]

# Values per slab that a thread takes at a time: large enough to amortize the call, small enough to stay in cache.
SLAB_VALUES = 1 << 18


def quantize_rows(
    rows: ArrayLike,
    type_name: str,
    importance: ArrayLike | None = None,
    search: Search = "reference",
    threads: int | None = None,
) -> NDArray[np.uint8]:
    """Quantize rows of weights to a block format's bytes.

    rows:        f32 [n_rows, n_cols]; n_cols must be a multiple of the type's block size
    importance:  f32 [n_cols], non-negative: mean squared activation per input channel (an imatrix entry), or None
    search:      "reference" computes the very bytes of the program that owns the type; "best" lowers the error
                 weighted by importance, in no block above that of "reference"; "auto" takes what is measured to give
                 less divergence with this type. Without importance all three are "reference".
    threads:     rows are spread over this many threads (default: all processors); bytes do not depend on it
    returns:     u8 [n_rows, row_bytes]

    Raises UsageError for a wrong shape, type or search, QuantizeError for weights or importance that are NaN,
    infinite or (importance) negative, with their place.
    """
    fmt = block_format(type_name)
    rows = read_only(np.ascontiguousarray(rows, dtype=np.float32))
    if rows.ndim != 2:
        raise UsageError(f"rows must have two dimensions [n_rows, n_cols], got shape {list(rows.shape)}")
    if search not in SEARCHES:
        raise UsageError(f"unknown search {search!r}; known are {', '.join(SEARCHES)}")
    n_rows, n_cols = rows.shape
    check_whole_groups(fmt, n_rows)
    out = np.empty((n_rows, fmt.type.row_bytes(n_cols)), np.uint8)
    if importance is not None:
        importance = read_only(checked_importance(importance, n_cols))
    elif fmt.importance == "required":
        raise QuantizeError(f"{fmt.name} cannot be quantized without importance; give an imatrix")
    if fmt.importance == "ignored":
        importance = None
    settled = fmt.search_for(search, importance)

    def work(slab: slice) -> None:
        check_finite(rows[slab], slab.start)
        fmt.quantize(rows[slab], importance, settled, out[slab])

    for_each_slab(work, n_rows, rows_per_slab(n_cols, fmt.type.rows_interleaved), threads)
    return out


def dequantize_rows(data: ArrayLike, type_name: str, n_cols: int, threads: int | None = None) -> NDArray[np.float32]:
    """Expand a block format's bytes to values.

    data:     u8 [n_rows, row_bytes]
    n_cols:   values per row
    returns:  f32 [n_rows, n_cols]

    Raises UsageError if the width of `data` is not that of a row of `n_cols` values.
    """
    fmt = block_format(type_name)
    data = read_only(np.ascontiguousarray(data, dtype=np.uint8))
    row_bytes = fmt.type.row_bytes(n_cols)
    if data.ndim != 2 or data.shape[1] != row_bytes:
        raise UsageError(
            f"{fmt.name} rows of {n_cols} values take {row_bytes} bytes, got data of shape {list(data.shape)}"
        )
    check_whole_groups(fmt, len(data))
    out = np.empty((data.shape[0], n_cols), np.float32)

    def work(slab: slice) -> None:
        fmt.dequantize(data[slab], out[slab])

    for_each_slab(work, data.shape[0], rows_per_slab(n_cols, fmt.type.rows_interleaved), threads)
    return out


def read_only(array: NDArray) -> NDArray:
    """A read-only view: mapped files are read-only, and numba would compile every kernel a second time for others."""
    view = array.view()
    view.flags.writeable = False
    return view


def rows_per_slab(n_cols: int, multiple: int = 1, n_values: int | None = None) -> int:
    """Rows of about `n_values` values (SLAB_VALUES), a multiple of the rows that the type weaves together."""
    rows = max(1, (n_values or SLAB_VALUES) // max(n_cols, 1))
    return max(multiple, rows // multiple * multiple)


def check_whole_groups(fmt: BlockFormat, n_rows: int) -> None:
    """Raise UsageError if rows would be left over from the groups that the type weaves together."""
    if n_rows % fmt.type.rows_interleaved:
        raise UsageError(f"{fmt.name} weaves {fmt.type.rows_interleaved} rows together, got {n_rows} rows")


def check_finite(rows: NDArray[np.float32], first_row: int = 0) -> None:
    """Raise QuantizeError that names row and column of the first NaN or infinite weight, counting from `first_row`."""
    if rows.dtype == np.float32:
        from ..kernels.blocks import all_finite  # numba is imported where a kernel is needed, not before

        if all_finite(read_only(rows)):
            return
    bad = np.argwhere(~np.isfinite(rows))
    if len(bad):
        row, column = bad[0]
        raise QuantizeError(
            f"row {first_row + row}, column {column}: the weight is {rows[row, column]}; every weight must be finite"
        )


def checked_importance(importance: ArrayLike, n_cols: int) -> NDArray[np.float32]:
    """Importance as contiguous f32 [n_cols]; UsageError on a wrong length, QuantizeError on impossible values."""
    importance = np.ascontiguousarray(importance, dtype=np.float32)
    if importance.shape != (n_cols,):
        raise UsageError(f"importance must have one value per column, [{n_cols}], got {list(importance.shape)}")
    bad = np.flatnonzero(~(np.isfinite(importance) & (importance >= 0)))
    if len(bad):
        raise QuantizeError(
            f"importance of column {bad[0]} is {importance[bad[0]]}; it must be finite and not negative"
        )
    return importance
