"""Matrix products out of register tiles (see register_tile.py), and the layouts that they want.

The right matrix (a weight) is packed into panels: [n_panels, n_steps, 32] holds row 32 p + j of the weight in column j
of panel p. Values are float32, or uint32 with two bfloat16 numbers, in which case there are half as many steps.
"""

import numpy as np

from .jit import kernel
from .register_tile import TILE_COLS, TILE_ROWS, add_product

# Steps that are done for all tiles before the next ones: a panel's part (96 KiB) and a slab's rows then stay in the
# second-level cache, and sums are seldom written and read again. 256 steps are 10 to 20 % slower for wide results.
STEPS_PER_BLOCK = 768
QUIET_NAN = np.uint32(0x7FC0)


@kernel
def multiply(left, right, first_panel, stop_panel, out):
    """Columns 32 * first_panel to 32 * stop_panel of out = left @ right.

    left [n_rows, n_steps], n_rows a multiple of 12; right [n_panels, n_steps, 32]; out f32 [n_rows, 32 * n_panels].
    """
    n_rows, n_steps = left.shape
    for first in range(0, n_steps, STEPS_PER_BLOCK):
        steps = min(STEPS_PER_BLOCK, n_steps - first)
        for panel in range(first_panel, stop_panel):
            column = panel * TILE_COLS
            for row in range(0, n_rows, TILE_ROWS):
                if first == 0:
                    out[row : row + TILE_ROWS, column : column + TILE_COLS] = np.float32(0)
                add_product(left[row:, first:], right[panel, first:], steps, out[row:, column:])


@kernel
def pack(rows, out):
    """Rows of a weight into panels: [n_rows, n_steps] -> [n_panels, n_steps, 32]; missing rows count as zeros.

    Eight rows at a time: of rows whose width is a power of two, 32 at a time would push each other out of the cache.
    """
    for panel in range(out.shape[0]):
        for first in range(0, TILE_COLS, 8):
            for step in range(out.shape[1]):
                for column in range(first, first + 8):
                    row = panel * TILE_COLS + column
                    out[panel, step, column] = rows[row, step] if row < rows.shape[0] else 0


@kernel
def round_to_bf16(x, out):
    """Nearest bfloat16, ties to even: f32 [n_rows, n] -> u16 [at least n_rows, at least n], zeros beyond x."""
    bits = x.view(np.uint32)
    n_rows, n = x.shape
    for row in range(n_rows):
        for i in range(n):
            b = bits[row, i]
            rounded = np.uint32(b + np.uint32(0x7FFF) + ((b >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
            is_nan = (b & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
            out[row, i] = np.uint16(QUIET_NAN if is_nan else rounded)
        out[row, n:] = 0
    out[n_rows:] = 0


@kernel
def columns_to_bf16(x, out):
    """Columns as rows of pairs of nearest bfloat16 numbers, ties to even: f32 [2 * n_steps, n] -> u32 [n, n_steps].

    Values must be finite. Eight columns at a time, as in `pack`.
    """
    bits = x.view(np.uint32)
    n_rows, n = x.shape
    for first in range(0, n, 8):
        for step in range(n_rows // 2):
            for i in range(first, min(first + 8, n)):
                low, high = bits[2 * step, i], bits[2 * step + 1, i]
                low += np.uint32(0x7FFF) + ((low >> np.uint32(16)) & np.uint32(1))
                high += np.uint32(0x7FFF) + ((high >> np.uint32(16)) & np.uint32(1))
                out[i, step] = (low >> np.uint32(16)) | (high & np.uint32(0xFFFF0000))
