"""Packed blocks, declared: which bit of which byte holds bit b of element i of a field.

A `Layout` is given one index array per field and derives from it both directions, block bytes to plain arrays and
back. It also knows woven rows (`_R4`, `_R8`, `_R16`): there a field has one more axis, the row within the group.

    j = np.arange(32)
    Q4_0 = Layout(18, d=bits(16, 0), code=bits(4, 2 + j % 16, 4 * (j // 16)))
"""

from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..kernels.bitmoves import move_bits

ELEMENT_BITS = 16  # fields are unpacked to u16


def bits(width: int, byte: ArrayLike, shift: ArrayLike = 0) -> NDArray[np.int64]:
    """Positions i64 [..., width] of the bits of little-endian fields that begin at bit `shift` of `byte`."""
    start = np.atleast_1d(8 * np.asarray(byte) + np.asarray(shift))
    return start[..., None] + np.arange(width)


def join(*parts: NDArray[np.int64]) -> NDArray[np.int64]:
    """One field whose bits lie in several places, lowest bits first."""
    shape = np.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return np.concatenate([np.broadcast_to(part, (*shape, part.shape[-1])) for part in parts], axis=-1)


class Layout:
    """The bit map of one block of `block_bytes * rows` bytes that holds one block of each of `rows` woven rows.

    fields:  name -> positions [n_elements, width], or [rows, n_elements, width] for woven rows
    """

    def __init__(self, block_bytes: int, rows: int = 1, **fields: NDArray[np.int64]):
        self.block_bytes = block_bytes
        self.rows = rows
        self.fields = {name: np.broadcast_to(at, (rows, *at.shape[-2:])) for name, at in fields.items()}
        ends = np.cumsum([0] + [at.shape[1] for at in self.fields.values()])
        self.columns = {name: slice(*ends[i : i + 2]) for i, name in enumerate(self.fields)}
        self.n_elements = int(ends[-1])

    def unpack(self, data: NDArray[np.uint8], meta_bytes: int = 0) -> dict[str, NDArray[np.uint16]]:
        """Rows u8 [n_rows, row_bytes] -> field name: u16 [n_rows, n_blocks, n_elements]."""
        groups = np.ascontiguousarray(data).reshape(len(data) // self.rows, -1).view()
        n_blocks = (data.shape[1] - meta_bytes) // self.block_bytes
        record = np.zeros((len(groups), n_blocks, self.rows, self.n_elements), np.uint16)
        flat = record.view(np.uint8).reshape(len(groups), -1)
        start, step = self.rows * meta_bytes, self.rows * self.block_bytes
        groups.flags.writeable = False  # always, so that the kernel is compiled once
        move_bits(groups, start, step, self._unpack_moves, flat, 0, flat.shape[1] // max(n_blocks, 1), n_blocks)
        record = record.transpose(0, 2, 1, 3).reshape(len(data), n_blocks, self.n_elements)
        return {name: record[:, :, columns] for name, columns in self.columns.items()}

    def pack(self, fields: dict[str, ArrayLike], out: NDArray[np.uint8], meta_bytes: int = 0) -> None:
        """Write fields [n_rows, n_blocks, n_elements] into the blocks of rows `out` u8 [n_rows, row_bytes].

        The first `rows * meta_bytes` bytes of every group of rows are left alone.
        """
        n_blocks = (out.shape[1] - meta_bytes) // self.block_bytes
        record = np.empty((len(out), n_blocks, self.n_elements), np.uint16)
        for name, columns in self.columns.items():
            record[:, :, columns] = fields[name]
        n_groups = len(out) // self.rows
        woven = record.reshape(n_groups, self.rows, n_blocks, -1).transpose(0, 2, 1, 3)
        flat = np.ascontiguousarray(woven).view(np.uint8).reshape(n_groups, -1)
        flat.flags.writeable = False
        groups = np.zeros((n_groups, self.rows * out.shape[1]), np.uint8)
        start, step = self.rows * meta_bytes, self.rows * self.block_bytes
        move_bits(flat, 0, flat.shape[1] // max(n_blocks, 1), self._pack_moves, groups, start, step, n_blocks)
        out.reshape(n_groups, -1)[:, start:] = groups[:, start:]

    @cached_property
    def _positions(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For every bit of every field: its position in the block, and in the unpacked record."""
        block, record = [], []
        for row in range(self.rows):
            for name, columns in self.columns.items():
                at = self.fields[name][row]
                element = row * self.n_elements + np.arange(columns.start, columns.stop)
                block.append(at.ravel())
                record.append(np.add.outer(ELEMENT_BITS * element, np.arange(at.shape[1])).ravel())
        return np.concatenate(block), np.concatenate(record)

    @cached_property
    def mask(self) -> NDArray[np.uint8]:
        """The bits that belong to fields, u8 [block_bytes * rows]."""
        mask = np.zeros(self.rows * self.block_bytes, np.uint8)
        at, _ = self._positions
        np.bitwise_or.at(mask, at // 8, (1 << at % 8).astype(np.uint8))
        return mask

    @cached_property
    def _unpack_moves(self) -> NDArray[np.int32]:
        block, record = self._positions
        return moves(block, record)

    @cached_property
    def _pack_moves(self) -> NDArray[np.int32]:
        block, record = self._positions
        return moves(record, block)


def moves(source: NDArray[np.int64], target: NDArray[np.int64]) -> NDArray[np.int32]:
    """The moves (see `kernels.bitmoves`) that carry each bit `source[i]` to `target[i]`, as few as there can be."""
    places = np.stack([source // 8, target // 8, 8 + source % 8 - target % 8], axis=1)
    together, which = np.unique(places, axis=0, return_inverse=True)
    masks = np.zeros(len(together), np.int64)
    np.bitwise_or.at(masks, which.ravel(), 1 << target % 8)
    return np.column_stack([together, masks]).astype(np.int32)
