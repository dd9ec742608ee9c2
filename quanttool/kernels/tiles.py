"""Blocks side by side: LANES consecutive blocks become a tile [size, LANES], in which lane k is block k, and back.

Kernels that work tile by tile, in cache, use `load_tile` and `store_tile`. `as_tiles` and `store_tiles` turn a whole
slab, its tiles one after the other in an array [n_tiles * size, LANES].
"""

import numpy as np

from .jit import helper, kernel
from .lanes import LANES, load, store
from .rounding import f16_bits, f16_value, within_f16


@helper
def load_tile(blocks, first, tile):
    """Blocks [n_blocks, size] from `first` on to tile [size, LANES]; beyond the last block it begins again.

    Beginning again fills the lanes of the last tile, and spreads importance, one row of blocks, over all rows.
    """
    for lane in range(LANES):
        block = (first + lane) % blocks.shape[0]
        for i in range(tile.shape[0]):
            tile[i, lane] = blocks[block, i]


@helper
def store_tile(tile, first, blocks):
    """Tile [size, LANES] to blocks [n_blocks, size] from `first` on, as many as there are."""
    for lane in range(min(LANES, blocks.shape[0] - first)):
        for i in range(tile.shape[0]):
            blocks[first + lane, i] = tile[i, lane]


@helper
def round_to_f16(values, bits, row):
    """Lanes rounded to what float16 can hold, never infinity; their float16 bits go to a row of bits i32 [n, LANES]."""
    lanes = np.empty((1, LANES), np.float32)
    store(lanes, 0, values)
    for lane in range(LANES):
        half = f16_bits(within_f16(lanes[0, lane]))
        bits[row, lane] = half
        lanes[0, lane] = f16_value(half)
    return load(lanes, 0)


@helper
def load_f16_lanes(bits, row):
    """The Lanes whose float16 bits are in a row of bits i32 [n, LANES]."""
    lanes = np.empty((1, LANES), np.float32)
    for lane in range(LANES):
        lanes[0, lane] = f16_value(bits[row, lane])
    return load(lanes, 0)


def n_tiles(n_blocks: int) -> int:
    return -(-n_blocks // LANES)


@kernel
def load_tiles(blocks, tiles):
    """Blocks [n_blocks, size] to tiles [n_tiles * size, LANES], from the beginning again when they run out."""
    size = blocks.shape[1]
    for n in range(tiles.shape[0] // size):
        load_tile(blocks, n * LANES, tiles[size * n : size * (n + 1)])


@kernel
def store_tiles(tiles, blocks):
    """Tiles [n_tiles * size, LANES] to blocks [n_blocks, size], as many as there are."""
    size = blocks.shape[1]
    for n in range(tiles.shape[0] // size):
        store_tile(tiles[size * n : size * (n + 1)], n * LANES, blocks)


def as_tiles(blocks, n_blocks: int | None = None):
    """Tiles f32 [n_tiles * size, LANES] of blocks f32 [n, size], repeated up to `n_blocks` if that is given."""
    tiles = np.empty((n_tiles(n_blocks or len(blocks)) * blocks.shape[1], LANES), np.float32)
    load_tiles(blocks, tiles)
    return tiles
