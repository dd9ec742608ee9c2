"""GGUF version 2 and 3, as bytes.

    magic "GGUF" | u32 version | u64 n_tensors | u64 n_kv
    n_kv times        string key | u32 value type | value
    n_tensors times   string name | u32 n_dims | u64 ne[n_dims] | u32 ggml type | u64 offset from the data section
    padding to the alignment, then the data section; every tensor starts aligned

    string = u64 length + bytes; array = u32 element type + u64 count + elements. All little-endian.

Source: ggml/include/gguf.h.
"""

from dataclasses import dataclass
from enum import IntEnum
from math import prod

import numpy as np

from ..ggml_types import GGMLType

MAGIC = b"GGUF"
VERSION = 3
DEFAULT_ALIGNMENT = 32
MAX_DIMS = 4  # GGML_MAX_DIMS
BASE_FILE_TYPE = "kl-divergence-base"  # general.type of a base file: hidden states, at most an output matrix


class GGUFValueType(IntEnum):
    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


# numpy's view of the fixed-size value types; BOOL is one byte
NUMPY_TYPES: dict[GGUFValueType, np.dtype] = {
    GGUFValueType.UINT8: np.dtype("<u1"),
    GGUFValueType.INT8: np.dtype("<i1"),
    GGUFValueType.UINT16: np.dtype("<u2"),
    GGUFValueType.INT16: np.dtype("<i2"),
    GGUFValueType.UINT32: np.dtype("<u4"),
    GGUFValueType.INT32: np.dtype("<i4"),
    GGUFValueType.FLOAT32: np.dtype("<f4"),
    GGUFValueType.BOOL: np.dtype("?"),
    GGUFValueType.UINT64: np.dtype("<u8"),
    GGUFValueType.INT64: np.dtype("<i8"),
    GGUFValueType.FLOAT64: np.dtype("<f8"),
}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a GGUF file.

    `ne` is ggml's order: ne[0] is the row width. `offset` counts bytes from the start of the data section.
    """

    name: str
    type: GGMLType
    ne: tuple[int, ...]
    offset: int = 0

    @property
    def n_cols(self) -> int:
        return self.ne[0]

    @property
    def n_rows(self) -> int:
        """Rows of all matrices together."""
        return prod(self.ne[1:])

    @property
    def n_values(self) -> int:
        return prod(self.ne)

    @property
    def row_bytes(self) -> int:
        return self.type.row_bytes(self.n_cols)

    @property
    def n_bytes(self) -> int:
        return self.n_rows * self.row_bytes

    @property
    def shape(self) -> tuple[int, ...]:
        """numpy's order: slowest dimension first."""
        return self.ne[::-1]


def aligned(size: int, alignment: int) -> int:
    """`size` rounded up to a multiple of `alignment`."""
    return -(-size // alignment) * alignment
