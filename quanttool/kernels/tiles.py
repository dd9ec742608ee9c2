"""Blocks side by side: from rows of blocks to tiles and back.

LANES consecutive blocks make a tile, in which lane k is block k: values f32 [size, LANES], bytes u8 [block_bytes,
LANES]. The tiles of a slab stand one after the other in one array [n_tiles * size, LANES], so a search over sub-blocks
of 32 sees nothing but groups of 32 rows, whatever the block is. The last tile is filled up with copies of blocks.
"""

import numpy as np

from .jit import kernel
from .lanes import LANES


@kernel
def load_tiles(blocks, tiles):
    """blocks [n_blocks, size] -> tiles [n_tiles * size, LANES]; beyond the last block it begins again.

    Beginning again also spreads importance, one row of blocks, over all rows.
    """
    n_blocks, size = blocks.shape
    block = 0
    for first in range(0, tiles.shape[0], size):
        for lane in range(LANES):
            for i in range(size):
                tiles[first + i, lane] = blocks[block, i]
            block += 1
            if block == n_blocks:
                block = 0


@kernel
def store_tiles(tiles, out):
    """tiles [n_tiles * size, LANES] -> out [n_blocks, size], as many blocks as there are."""
    n_blocks, size = out.shape
    for block in range(n_blocks):
        first = block // LANES * size
        lane = block % LANES
        for i in range(size):
            out[block, i] = tiles[first + i, lane]


def n_tiles(n_blocks: int) -> int:
    return -(-n_blocks // LANES)


def as_tiles(blocks, n_blocks: int | None = None):
    """Tiles f32 [n_tiles * size, LANES] of blocks f32 [n, size], repeated up to `n_blocks` if that is given."""
    tiles = np.empty((n_tiles(n_blocks or len(blocks)) * blocks.shape[1], LANES), np.float32)
    load_tiles(blocks, tiles)
    return tiles
