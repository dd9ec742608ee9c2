"""Row-interleaved types: 4, 8 or 16 rows of a base type woven together so that a product reads them side by side.

Woven rows hold the same bits as base rows (but for the sum in Q8_KV, which follows from the codes), so `weave` and
`unweave` lose nothing; values and searches are those of the base type. The maps of bits are in `woven_layouts`.
"""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from .base import BlockFormat, block_format
from .woven_layouts import BASE_LAYOUTS, WOVEN_LAYOUTS, code_signs, decode_signs


class Repacked(BlockFormat):
    """An interleaved type; subclasses, one for each entry of `WOVEN_LAYOUTS`, are made below."""

    base: ClassVar[str]

    @property
    def importance(self):
        return block_format(self.base).importance

    @property
    def has_best(self):
        return block_format(self.base).has_best

    @property
    def auto(self):
        return block_format(self.base).auto

    def quantize(self, rows, importance, search, out):
        base = block_format(self.base)
        data = np.empty((len(rows), base.type.row_bytes(rows.shape[1])), np.uint8)
        base.quantize(rows, importance, search, data)
        weave(data, self.name, out)

    def dequantize(self, data, out):
        block_format(self.base).dequantize(unweave(data, self.name, out.shape[1]), out)


def weave(data: NDArray[np.uint8], woven_name: str, out: NDArray[np.uint8]) -> None:
    """Base rows `data` u8 [n_rows, base row_bytes] -> woven rows `out` u8 [n_rows, row_bytes], in whole groups."""
    woven = block_format(woven_name).type
    base = block_format(woven_name).base
    layout = WOVEN_LAYOUTS[woven_name]
    check_blocks(woven_name, out.shape[1] - woven.row_meta_bytes, layout.block_bytes)
    fields = BASE_LAYOUTS[base].unpack(data, block_format(base).type.row_meta_bytes)
    if "sign_code" in fields:
        fields["sign_code"] = code_signs(fields["sign_code"])
    layout.pack(fields, out, woven.row_meta_bytes)
    meta = woven.row_meta_bytes
    groups = out.reshape(len(out) // layout.rows, -1)
    groups[:, : layout.rows * meta] = np.ascontiguousarray(data[:, :meta]).reshape(len(groups), -1)


def unweave(data: NDArray[np.uint8], woven_name: str, n_cols: int) -> NDArray[np.uint8]:
    """Woven rows u8 [n_rows, row_bytes] of `n_cols` values, in whole groups -> base rows u8 [n_rows, row_bytes]."""
    woven = block_format(woven_name).type
    base_name = block_format(woven_name).base
    base = block_format(base_name).type
    layout = WOVEN_LAYOUTS[woven_name]
    check_blocks(woven_name, data.shape[1] - woven.row_meta_bytes, layout.block_bytes)
    fields = layout.unpack(data, woven.row_meta_bytes)
    if "sign_code" in fields:
        fields["sign_code"] = decode_signs(fields["sign_code"])
    out = np.empty((len(data), base.row_bytes(n_cols)), np.uint8)
    BASE_LAYOUTS[base_name].pack(fields, out, base.row_meta_bytes)
    groups = np.ascontiguousarray(data).reshape(len(data) // layout.rows, -1)
    meta = woven.row_meta_bytes
    out[:, :meta] = groups[:, : layout.rows * meta].reshape(len(data), meta)
    if base_name == "Q8_KV":
        out[:, 4:8] = out[:, 8:].view(np.int8).sum(axis=1, keepdims=True, dtype=np.int32).view(np.uint8)
    return out


def rewoven(data: NDArray[np.uint8], source: str, target: str, n_cols: int) -> NDArray[np.uint8]:
    """Rows of a type as rows of its interleaved type, or the other way: u8 [n_rows, row_bytes] both."""
    if block_format(source).type.rows_interleaved > 1:
        return unweave(data, source, n_cols)
    out = np.empty((len(data), block_format(target).type.row_bytes(n_cols)), np.uint8)
    weave(np.ascontiguousarray(data), target, out)
    return out


def check_blocks(name: str, bytes_of_blocks: int, block_bytes: int) -> None:
    """Raise UsageError unless rows are whole blocks (BF16_R16 weaves columns two by two)."""
    if bytes_of_blocks % block_bytes:
        raise UsageError(f"{name}: rows of {bytes_of_blocks} bytes do not divide into blocks of {block_bytes}")


REPACKED_TYPES: dict[str, str] = {}  # base type -> its interleaved type

for _name in WOVEN_LAYOUTS:
    _base = _name.rsplit("_", 1)[0]
    REPACKED_TYPES[_base] = _name
    type(_name, (Repacked,), {"name": _name, "base": _base, "__doc__": f"{_base}, rows interleaved."})
