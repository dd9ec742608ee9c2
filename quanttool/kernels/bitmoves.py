"""Moving bits between packed blocks and plain arrays, by a list of moves."""

import numpy as np

from .jit import kernel


@kernel
def move_bits(source, source_start, source_step, moves, target, target_start, target_step, n_steps):
    """Carry out `moves` for each of `n_steps` blocks of each row; target bits are or-ed in, so zero them first.

    source, target:  u8 [n_rows, n_bytes]; block i of a row begins at byte start + i * step
    moves:           i32 [n_moves, 4]: source byte, target byte, right shift (of the source byte times 256), mask
    """
    for row in range(len(source)):
        for i in range(n_steps):
            a = source_start + i * source_step
            b = target_start + i * target_step
            for m in range(len(moves)):
                byte = np.uint32(source[row, a + moves[m, 0]])
                target[row, b + moves[m, 1]] |= np.uint8(((byte << 8) >> moves[m, 2]) & moves[m, 3])
