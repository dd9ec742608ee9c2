"""Every tensor type of llama.cpp and ik_llama.cpp: id, block size, bytes.

A row of `n_cols` values takes `row_meta_bytes + n_cols / block_size * block_bytes` bytes; the row metadata (a scale for
the whole row in many ik_llama.cpp types) comes first. Interleaved types (`_R4`, `_R8`, `_R16`) store `rows_interleaved`
consecutive rows woven together, in the space of that many single rows.

Source: llama.cpp ggml/include/ggml.h and ggml-common.h; ik_llama.cpp the same files, and ggml.c `type_traits`.
"""

from dataclasses import dataclass
from difflib import get_close_matches

from .errors import UsageError


@dataclass(frozen=True)
class GGMLType:
    """One tensor type as GGUF files number it. Sizes are bytes, `block_size` is values per block."""

    name: str
    id: int
    block_size: int
    block_bytes: int
    row_meta_bytes: int = 0
    rows_interleaved: int = 1
    origin: str = "llama.cpp"  # the program that owns the type: "llama.cpp" or "ik_llama.cpp"

    @property
    def bpw(self) -> float:
        """Bits per weight of the blocks, row metadata left out."""
        return 8 * self.block_bytes / self.block_size

    @property
    def is_plain(self) -> bool:
        """One value is one block: floats and integers that need no quantizer."""
        return self.block_size == 1

    def row_bytes(self, n_cols: int) -> int:
        """Bytes of one row of `n_cols` values. Raises UsageError if the row does not divide into blocks."""
        if n_cols % self.block_size:
            raise UsageError(f"{self.name}: rows are {n_cols} wide, {self.name} needs a multiple of {self.block_size}")
        return self.row_meta_bytes + n_cols // self.block_size * self.block_bytes

    def __str__(self) -> str:
        return self.name


def _mainline() -> list[GGMLType]:
    rows = [
        # name      id  block bytes
        ("F32",      0,   1,   4), ("F16",     1,   1,   2), ("BF16",   30,   1,   2), ("F64",     28,   1,   8),
        ("I8",      24,   1,   1), ("I16",    25,   1,   2), ("I32",    26,   1,   4), ("I64",     27,   1,   8),
        ("Q4_0",     2,  32,  18), ("Q4_1",    3,  32,  20), ("Q5_0",    6,  32,  22), ("Q5_1",     7,  32,  24),
        ("Q8_0",     8,  32,  34), ("Q8_1",    9,  32,  36),
        ("Q2_K",    10, 256,  84), ("Q3_K",   11, 256, 110), ("Q4_K",   12, 256, 144), ("Q5_K",    13, 256, 176),
        ("Q6_K",    14, 256, 210), ("Q8_K",   15, 256, 292),
        ("IQ2_XXS", 16, 256,  66), ("IQ2_XS", 17, 256,  74), ("IQ3_XXS", 18, 256, 98), ("IQ1_S",   19, 256,  50),
        ("IQ4_NL",  20,  32,  18), ("IQ3_S",  21, 256, 110), ("IQ2_S",  22, 256,  82), ("IQ4_XS",  23, 256, 136),
        ("IQ1_M",   29, 256,  56), ("TQ1_0",  34, 256,  54), ("TQ2_0",  35, 256,  66),
        ("MXFP4",   39,  32,  17), ("NVFP4",  40,  64,  36), ("Q1_0",   41, 128,  18), ("Q2_0",    42,  64,  18),
    ]  # fmt: skip
    return [GGMLType(*row) for row in rows]


def _ik() -> list[GGMLType]:
    rows = [
        # name       id  block bytes meta
        ("Q6_0",    133,  32,  26, 0), ("IQ1_BN", 134,  64,  13, 2), ("IQ2_BN",  135,  64,  16, 4),
        ("IQ2_K",   137, 256,  76, 0), ("IQ3_K",  138, 256, 110, 0), ("IQ4_K",   139, 256, 144, 0),
        ("IQ5_K",   140, 256, 176, 0), ("IQ6_K",  141, 256, 212, 0), ("IQ4_KS",  144, 256, 136, 4),
        ("IQ2_KS",  145, 256,  70, 2), ("IQ4_KSS", 146, 256, 128, 4), ("Q8_KV",  151,  32,  32, 8),
        ("IQ5_KS",  152, 256, 168, 4), ("IQ2_KT", 153, 256,  68, 4), ("IQ3_KT",  154, 256, 100, 4),
        ("IQ4_KT",  155, 256, 128, 4), ("IQ3_KS", 156, 256, 102, 2), ("IQ2_KL",  157, 256,  86, 2),
        ("IQ1_KT",  158, 256,  56, 4),
    ]  # fmt: skip
    interleaved = [
        # name          id  block bytes meta rows
        ("Q4_0_R8",    202,  32,  18, 0, 8), ("Q5_0_R4",   206,  32,  22, 0, 4), ("Q8_0_R8",    208,  32,  34, 0, 8),
        ("Q2_K_R4",    210, 256,  84, 0, 4), ("Q3_K_R4",   211, 256, 110, 0, 4), ("Q4_K_R4",    212, 256, 144, 0, 4),
        ("Q5_K_R4",    213, 256, 176, 0, 4), ("Q6_K_R4",   214, 256, 210, 0, 4), ("IQ2_XXS_R4", 216, 256,  66, 0, 4),
        ("IQ2_XS_R4",  217, 256,  74, 0, 4), ("IQ3_XXS_R4", 218, 256, 98, 0, 4), ("IQ1_S_R4",   219,  32,   6, 2, 4),
        ("IQ4_NL_R4",  220,  32,  18, 0, 4), ("IQ3_S_R4",  221, 256, 110, 0, 4), ("IQ2_S_R4",   222, 256,  82, 0, 4),
        ("IQ4_XS_R8",  223, 256, 136, 0, 8), ("IQ1_M_R4",  229,  32,   7, 2, 4), ("BF16_R16",   230,   1,   2, 0, 16),
        ("Q6_0_R4",    233,  32,  26, 0, 4), ("IQ2_BN_R4", 335,  64,  16, 4, 4), ("IQ2_K_R4",   337, 256,  76, 0, 4),
        ("IQ3_K_R4",   338, 256, 110, 0, 4), ("IQ4_K_R4",  339, 256, 144, 0, 4), ("IQ5_K_R4",   340, 256, 176, 0, 4),
        ("IQ4_KS_R4",  344, 256, 136, 4, 4), ("IQ5_KS_R4", 352, 256, 168, 4, 4), ("MXFP4_R8",   353,  32,  17, 0, 8),
        ("Q8_KV_R8",   398,  32,  32, 4, 8), ("Q8_K_R8",   399, 256, 258, 0, 8),
    ]  # fmt: skip
    return [GGMLType(*row, origin="ik_llama.cpp") for row in rows + interleaved]


TYPES: tuple[GGMLType, ...] = (*_mainline(), *_ik())
BY_NAME: dict[str, GGMLType] = {t.name: t for t in TYPES}
BY_ID: dict[int, GGMLType] = {t.id: t for t in TYPES}


def ggml_type(name_or_id: "str | int | GGMLType") -> GGMLType:
    """Look a type up by name (any case) or by id. Raises UsageError that suggests the nearest names."""
    if isinstance(name_or_id, GGMLType):
        return name_or_id
    if isinstance(name_or_id, str):
        found = BY_NAME.get(name_or_id.upper())
        if found is None:
            near = get_close_matches(name_or_id.upper(), BY_NAME, n=3)
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            raise UsageError(f"unknown type {name_or_id!r}{hint}")
        return found
    if name_or_id not in BY_ID:
        raise UsageError(f"unknown ggml type id {name_or_id}")
    return BY_ID[name_or_id]
