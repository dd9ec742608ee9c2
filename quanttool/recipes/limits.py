"""What no mix and no rule may do: quantize a tensor that must stay, or cut a row where no block ends."""

import re
import tomllib
from functools import cache
from typing import Any

from ..container import TensorInfo
from ..data_folders import data_folder
from ..errors import RecipeError
from ..ggml_types import BY_NAME, GGMLType
from .model_facts import n_dims

TOKEN_EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")


@cache
def read_table(name: str) -> dict[str, Any]:
    """A TOML file of the shipped recipes/ folder."""
    return tomllib.loads((data_folder("recipes") / name).read_text(encoding="utf-8"))


@cache
def _fallbacks() -> dict[str, str]:
    table = read_table("fallbacks.toml")
    return table["mainline"] | table["ik"]


def matrix_rows(tensor: TensorInfo) -> int:
    """Rows of one matrix (expert) of a tensor."""
    return tensor.ne[1] if len(tensor.ne) > 1 else 1


def is_token_embedding(tensor: TensorInfo) -> bool:
    return tensor.name in TOKEN_EMBEDDINGS


def reason_to_keep(tensor: TensorInfo, arch: str) -> str | None:
    """Why a tensor is never quantized, in words; None if it may be. The list is recipes/never_quantized.toml."""
    name = tensor.name
    if n_dims(tensor.ne) < 2:
        return "one dimension"
    if not name.endswith("weight"):
        return "not a weight"
    if tensor.type.is_plain and tensor.type.name[0] == "I":
        return "integers"
    table = read_table("never_quantized.toml")
    if name in table["is"]:
        return table["is"][name]
    for pieces in (table["contains"], table["arch"].get(arch, {})):
        for piece, reason in pieces.items():
            if piece in name:
                return reason
    return None


def unwoven(kind: GGMLType) -> GGMLType:
    """The type whose rows a row-interleaved type (Q4_K_R4) weaves together; other types as they are."""
    name = read_table("fallbacks.toml")["unwoven"].get(kind.name, re.sub(r"_R\d+$", "", kind.name))
    return BY_NAME[name] if kind.rows_interleaved > 1 else kind


def fallback(tensor: TensorInfo, wanted: GGMLType) -> GGMLType:
    """The type that takes over where a tensor's shape does not suit `wanted`; `wanted` itself where it does.

    Rows that are woven together must come in whole groups, and those of token embeddings are looked up one by one.
    Raises RecipeError where no type is known to take over. The table is recipes/fallbacks.toml.
    """
    if wanted.rows_interleaved > 1 and (matrix_rows(tensor) % wanted.rows_interleaved or is_token_embedding(tensor)):
        wanted = unwoven(wanted)
    if tensor.n_cols % wanted.block_size == 0:
        return wanted
    taken = _fallbacks().get(unwoven(wanted).name)
    if taken is None and wanted.block_size > 32:
        raise RecipeError(
            f"{tensor.name}: rows are {tensor.n_cols} wide, {wanted} needs a multiple of {wanted.block_size} and "
            f"has no fallback; choose a type for it, as in --tensor-type '{tensor.name}=Q4_0'"
        )
    kind = BY_NAME[taken] if taken else wanted
    return kind if tensor.n_cols % kind.block_size == 0 else BY_NAME["F16"]
