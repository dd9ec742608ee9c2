"""What a block format is, and the table of all that there are.

A format is one class: it declares its ggml type, how it uses importance, and how a slab of rows becomes bytes and
bytes become rows. It knows neither files nor threads. Subclassing `BlockFormat` with a `name` registers it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..ggml_types import BY_NAME, GGMLType, ggml_type

if TYPE_CHECKING:
    from .layout import Layout

# "reference": the bytes of the program that owns the type; "best": less weighted error in the same bytes, where the
# type has such a search and importance is given; "auto": of the two what is measured to give less divergence.
Search = Literal["reference", "best", "auto"]
SEARCHES: tuple[str, ...] = ("reference", "best", "auto")

# Families, imported when the first of their types is asked for: a run loads and compiles only what it needs.
FAMILIES: dict[str, tuple[str, ...]] = {
    "plain": ("F32", "F16", "BF16"),
    "legacy": ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"),
    "k_quants": ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    "iq4": ("IQ4_NL", "IQ4_XS"),
    "i_quants": ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"),
    "ternary": ("Q1_0", "Q2_0", "TQ1_0", "TQ2_0"),
    "float4": ("MXFP4", "NVFP4"),
    "iqk": ("IQ2_K", "IQ3_K", "IQ4_K", "IQ5_K", "IQ6_K"),
    "iqk_s": ("IQ2_KS", "IQ3_KS", "IQ4_KS", "IQ5_KS", "IQ4_KSS", "IQ2_KL"),
    "iqkt": ("IQ1_KT", "IQ2_KT", "IQ3_KT", "IQ4_KT"),
    "bitnet": ("IQ1_BN", "IQ2_BN"),
    "iq1_r4": ("IQ1_S_R4", "IQ1_M_R4"),
    "ik_linear": ("Q6_0", "Q8_KV", "Q8_K_R8"),
    "repacked": (
        *("BF16_R16", "Q4_0_R8", "Q5_0_R4", "Q6_0_R4", "Q8_0_R8", "Q8_KV_R8", "MXFP4_R8", "IQ4_NL_R4"),
        *("Q2_K_R4", "Q3_K_R4", "Q4_K_R4", "Q5_K_R4", "Q6_K_R4", "IQ4_XS_R8"),
        *("IQ2_XXS_R4", "IQ2_XS_R4", "IQ2_S_R4", "IQ3_XXS_R4", "IQ3_S_R4"),
        *("IQ2_BN_R4", "IQ2_K_R4", "IQ3_K_R4", "IQ4_K_R4", "IQ5_K_R4", "IQ4_KS_R4", "IQ5_KS_R4"),
    ),
}

_REGISTRY: dict[str, "BlockFormat"] = {}

# What kernels that know importance by its size are given instead of None. Read-only, as all their inputs: numba
# compiles anew for each combination of writable and read-only arrays.
NO_IMPORTANCE = np.empty(0, np.float32)
NO_IMPORTANCE.flags.writeable = False


class BlockFormat:
    """One block format: layout and search. Instances hold no state.

    A subclass sets `name` (the ggml type's name) and implements `quantize` and `dequantize` for one slab of rows.
    """

    name: ClassVar[str]
    # "ignored": bytes do not depend on importance; "required": refuses to work without.
    importance: ClassVar[Literal["ignored", "optional", "required"]] = "optional"
    # Whether `quantize` knows search="best", and which of the two "auto" stands for.
    has_best: ClassVar[bool] = False
    auto: ClassVar[Literal["reference", "best"]] = "best"
    base: ClassVar[str | None] = None  # of a type of woven rows: the type whose rows are woven
    # Where the bits of each value's code are (field "code"), if a value depends on nothing but its code and its block's
    # scales: such types can be rounded with error feedback, see grid.py.
    codes: "ClassVar[Layout | None]" = None
    n_codes: ClassVar[int | None] = None  # how many there are, if not all that the bits can hold
    # Values whose codes must have an even number of set bits together, i64 [n_words, word]: of the first values of a
    # row, and so on for those that follow. None where codes are free.
    words: ClassVar[NDArray[np.int64] | None] = None
    # The same for types whose values are vectors: where the numbers of their points are (field "point") and, if values
    # have signs of their own, the signs of every 8 values (field "sign", the lowest bit that of the first; 7 bits if
    # the number of minus signs is even), see points.py.
    points: "ClassVar[Layout | None]" = None

    # Whether `rescale` is there and as good as a search: for types in which a row has one scale beside its blocks'.
    rescales: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        if "name" in vars(cls):
            _REGISTRY[cls.name] = cls()

    @property
    def type(self) -> GGMLType:
        return BY_NAME[self.name]

    @property
    def point_values(self) -> NDArray[np.float32]:
        """What the points stand for, f32 [n_points, dim]; values are these times their block's scale."""
        raise NotImplementedError

    @property
    def can_quantize(self) -> bool:
        """False for a type that is only read here."""
        return type(self).quantize is not BlockFormat.quantize

    def search_for(self, search: Search, importance: NDArray[np.float32] | None) -> Literal["reference", "best"]:
        """What `search` comes to: without importance always "reference".

        The exact minimum of the plain squared error is further from the weights that matter than the heuristic
        weights of the types' own programs: the error falls, and the divergence rises.
        """
        if importance is None or not self.has_best:
            return "reference"
        return self.auto if search == "auto" else search

    def quantize(
        self,
        rows: NDArray[np.float32],  # [n_rows, n_cols], finite, C-contiguous
        importance: NDArray[np.float32] | None,  # [n_cols], one weight per column
        search: Literal["reference", "best"],  # "best" only if `has_best`, and with importance
        out: NDArray[np.uint8],  # [n_rows, row_bytes], written here
    ) -> None:
        """Write the bytes of `rows` into `out`."""
        raise NotImplementedError

    def rescale(self, data: NDArray[np.uint8], meta: NDArray[np.uint8]) -> None:
        """Give rows u8 [n_rows, row_bytes] the metadata [n_rows, row_meta_bytes] of others.

        Their blocks' scales stay what they are as nearly as they can; then codes stay, too.
        """
        raise NotImplementedError

    def dequantize(
        self,
        data: NDArray[np.uint8],  # [n_rows, row_bytes], C-contiguous
        out: NDArray[np.float32],  # [n_rows, n_cols], written here
    ) -> None:
        """Write the values that `data` stands for into `out`."""
        raise NotImplementedError


def block_format(name_or_id: "str | int | GGMLType") -> BlockFormat:
    """The format of a type. Raises UsageError for unknown types and for types without a format (integers, Q8_1...)."""
    name = ggml_type(name_or_id).name
    if name not in _REGISTRY:
        for family, names in FAMILIES.items():
            if name in names:
                import_module(f".{family}", __package__)
                break
        else:
            known = ", ".join(n for names in FAMILIES.values() for n in names)
            raise UsageError(f"{name} has no quantizer here; known are {known}")
    return _REGISTRY[name]


def available_formats() -> list[str]:
    """Names of all types that can be quantized and dequantized, family by family."""
    return [name for names in FAMILIES.values() for name in names]
