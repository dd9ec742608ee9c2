"""IQ1, IQ2 and IQ3: groups of 4 or 8 values share one point of a codebook.

Each codebook lies in tables/, see its README. Source: ggml-common.h `block_iq*`, ggml-quants.c.
"""

from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..kernels import i_quants as kernels
from .base import BlockFormat

TABLES = Path(__file__).parent / "tables"
IQ1_VALUES = (-1, 0, 1)
IQ2_VALUES = (8, 25, 43)
IQ3_XXS_VALUES = (4, 12, 20, 28, 36, 44, 52, 62)
IQ3_S_VALUES = (1, 3, 5, 7, 9, 11, 13, 15)


@cache
def codebook_levels(name: str) -> NDArray[np.uint8]:
    """Points of a codebook as levels, u8 [n_points, dim]."""
    return np.load(TABLES / f"{name}.npy")


@cache
def codebook_values(name: str, values: tuple[int, ...]) -> NDArray[np.float32]:
    """Points of a codebook as the values that its levels stand for, f32 [n_points, dim]."""
    return np.array(values, np.float32)[codebook_levels(name)]


class CodebookFormat(BlockFormat):
    """Blocks of 256 values that name points of `codebook`, whose levels stand for `values`."""

    codebook: ClassVar[str]
    values: ClassVar[tuple[int, ...]]

    def dequantize(self, data, out):
        unpack = getattr(kernels, f"unpack_{self.name.lower()}")
        unpack(
            data.reshape(-1, self.type.block_bytes), codebook_values(self.codebook, self.values), out.reshape(-1, 256)
        )


class IQ2_XXS(CodebookFormat):
    """2.06 bpw; even numbers of minus signs in every 8 values, so that 7 sign bits suffice."""

    name = "IQ2_XXS"
    importance = "required"
    codebook = "iq2_xxs"
    values = IQ2_VALUES


class IQ2_XS(CodebookFormat):
    """2.31 bpw; signs as in IQ2_XXS, twice the points, a scale for every 16 values."""

    name = "IQ2_XS"
    importance = "required"
    codebook = "iq2_xs"
    values = IQ2_VALUES


class IQ2_S(CodebookFormat):
    """2.56 bpw; all signs, 1024 points."""

    name = "IQ2_S"
    codebook = "iq2_s"
    values = IQ2_VALUES


class IQ3_XXS(CodebookFormat):
    """3.06 bpw; points of 4 values, signs as in IQ2_XXS."""

    name = "IQ3_XXS"
    codebook = "iq3_xxs"
    values = IQ3_XXS_VALUES


class IQ3_S(CodebookFormat):
    """3.44 bpw; points of 4 values, all signs."""

    name = "IQ3_S"
    codebook = "iq3_s"
    values = IQ3_S_VALUES


class IQ1_S(CodebookFormat):
    """1.56 bpw; points of -1, 0, 1, and one shift by an eighth, up or down, for every 32 values."""

    name = "IQ1_S"
    importance = "required"
    codebook = "iq1"
    values = IQ1_VALUES


class IQ1_M(CodebookFormat):
    """1.75 bpw; as IQ1_S, with a shift for every 8 values and a scale for every 16."""

    name = "IQ1_M"
    codebook = "iq1"
    values = IQ1_VALUES
