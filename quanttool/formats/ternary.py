"""Q1_0, Q2_0, TQ1_0, TQ2_0: signs or trits and one scale, for models that were trained so. Importance is ignored."""

from ..kernels import ternary as kernels
from .base import BlockFormat


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


class Q2_0(TernaryFormat):
    """64 values -d, 0, d (or 2 d, which no quantizer writes), 2.25 bpw."""

    name = "Q2_0"


class TQ1_0(TernaryFormat):
    """256 values -d, 0, d, five in a byte, 1.69 bpw."""

    name = "TQ1_0"


class TQ2_0(TernaryFormat):
    """256 values -d, 0, d, four in a byte, 2.06 bpw."""

    name = "TQ2_0"
