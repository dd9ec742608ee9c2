"""Q1_0, Q2_0, TQ1_0, TQ2_0: signs or trits and one scale, for models that were trained so. Importance is ignored."""

import numpy as np

from ..kernels import ternary as kernels
from .base import BlockFormat
from .grid import codes_at
from .layout import bits

j = np.arange(256)  # values of a block, in Q1_0 and Q2_0 the first 128 and 64 of them


class TernaryFormat(BlockFormat):
    """Blocks that one kernel packs and one unpacks, `pack_<name>` and `unpack_<name>`."""

    importance = "ignored"

    def quantize(self, rows, importance, search, out):
        pack = getattr(kernels, f"pack_{self.name.lower()}")
        pack(rows.reshape(-1, self.type.block_size), out.reshape(-1, self.type.block_bytes))

    def dequantize(self, data, out):
        unpack = getattr(kernels, f"unpack_{self.name.lower()}")
        unpack(data.reshape(-1, self.type.block_bytes), out.reshape(-1, self.type.block_size))


class Q1_0(TernaryFormat):
    """128 signs, 1.125 bpw."""

    name = "Q1_0"
    codes = codes_at(18, bits(1, 2 + j[:128] // 8, j[:128] % 8))


class Q2_0(TernaryFormat):
    """64 values -d, 0, d (or 2 d, which no quantizer writes), 2.25 bpw."""

    name = "Q2_0"
    n_codes = 3
    codes = codes_at(18, bits(2, 2 + j[:64] // 4, 2 * (j[:64] % 4)))


class TQ1_0(TernaryFormat):
    """256 values -d, 0, d, five in a byte, 1.69 bpw."""

    name = "TQ1_0"


class TQ2_0(TernaryFormat):
    """256 values -d, 0, d, four in a byte, 2.06 bpw."""

    name = "TQ2_0"
    n_codes = 3
    codes = codes_at(66, bits(2, 32 * (j // 128) + j % 32, 2 * (j // 32 % 4)))
