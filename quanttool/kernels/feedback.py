"""Rounding the columns of many rows one after the other, each seeing the errors of the others: to levels."""

from .jit import kernel
from .lanes import broadcast, int_lanes, load, magnitude, multiply_add, select, store


@kernel
def round_columns(targets, shifts, couplings, levels, groups, codes, errors):
    """Take each column to the level nearest to target + shift - the sum of coupling * error over the block's columns.

    A row per lane. Errors are level - target; those that are there already (of an earlier pass) count until the column
    is rounded anew. The sum is taken in order, so a row's result does not depend on the others.

    targets:    f32 [n_tiles * n_cols, LANES], columns in the order in which they are rounded
    shifts:     f32 of the same shape, what the errors of other blocks call for
    couplings:  f32 [n_cols, n_cols], of the column to be rounded (first) with each other one; 0 with itself
    levels:     f32 [n_tiles * n_groups * n_levels, LANES]
    groups:     i64 [n_cols], the group of columns that each belongs to
    codes:      u8 [n_tiles * n_cols, LANES], written
    errors:     f32 [n_tiles * n_cols, LANES], read and written
    """
    n_cols = groups.size
    n_tiles = targets.shape[0] // n_cols
    n_groups = groups.max() + 1
    n_levels = levels.shape[0] // (n_tiles * n_groups)
    for n in range(n_tiles):
        first = n * n_cols
        for column in range(n_cols):
            target = load(targets, first + column)
            x = target + load(shifts, first + column)
            for other in range(n_cols):
                x = multiply_add(load(errors, first + other), -couplings[column, other], x)
            table = (n * n_groups + groups[column]) * n_levels
            best = load(levels, table)
            distance = magnitude(x - best)
            code = int_lanes(broadcast(0))
            for k in range(1, n_levels):
                level = load(levels, table + k)
                nearer = magnitude(x - level) < distance
                distance = select(nearer, magnitude(x - level), distance)
                best = select(nearer, level, best)
                code = select(nearer, k, code)
            store(codes, first + column, code)
            store(errors, first + column, best - target)
