"""Weaving the rows of a finished file together, or taking them apart again: other types, the same weights.

Source: ik_llama.cpp, src/llama-quantize.cpp (only_repack) and ggml/src/iqk/iqk_quantize.cpp `iqk_repacked_type`.
"""

import re
from dataclasses import dataclass

from ..container import TensorInfo
from ..errors import UsageError
from ..ggml_types import TYPES, GGMLType
from .limits import fallback, read_table, unwoven

# A woven type of the same name and block size has the same bits; Q8_K_R8, IQ1_S_R4 and IQ1_M_R4 are types of their own.
WOVEN: dict[GGMLType, GGMLType] = {
    unwoven(kind): kind
    for kind in TYPES
    if kind.rows_interleaved > 1
    and kind.name.startswith(f"{unwoven(kind)}_R")
    and kind.block_size == unwoven(kind).block_size
}


@dataclass(frozen=True)
class Repacking:
    """Which tensors to weave, or to take apart if `unpack`: those whose name contains a match, or all."""

    patterns: tuple[re.Pattern[str], ...] = ()
    unpack: bool = False

    def type_of(self, tensor: TensorInfo) -> GGMLType:
        """The type that a tensor gets; its own where there is nothing to do or its shape does not allow it.

        BF16 is left alone unless a pattern asks for it: woven, it is of use only on processors that multiply it.
        """
        if self.patterns:
            if not any(pattern.search(tensor.name) for pattern in self.patterns):
                return tensor.type
        elif tensor.type.name == "BF16":
            return tensor.type
        if self.unpack:
            base = unwoven(tensor.type)
            return base if WOVEN.get(base) is tensor.type else tensor.type
        woven = WOVEN.get(tensor.type, tensor.type)
        return woven if fallback(tensor, woven) is woven else tensor.type

    def file_type(self, number: int) -> int | None:
        """general.file_type afterwards; None if it is not known."""
        table = {int(base): woven for base, woven in read_table("repacked.toml")["file_types"].items()}
        if not self.unpack:
            return table.get(number, number)
        bases = [base for base, woven in table.items() if woven == number]
        return bases[0] if len(bases) == 1 else None if bases else number


def parse_repacking(patterns: tuple[str, ...], unpack: bool) -> Repacking:
    """Patterns as ik_llama.cpp's --repack-pattern takes them, several with commas between. Raises UsageError."""
    pieces = [piece for text in patterns for piece in text.split(",") if piece]
    try:
        return Repacking(tuple(re.compile(piece) for piece in pieces), unpack)
    except re.error as error:
        raise UsageError(f"--repack-pattern {','.join(pieces)}: not a regular expression: {error}") from None


def same_weights(a: GGMLType, b: GGMLType) -> bool:
    """True if one type is the other's rows woven together."""
    return WOVEN.get(a) is b or WOVEN.get(b) is a
