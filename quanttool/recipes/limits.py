"""What no mix and no rule may do: quantize a tensor that must stay, or cut a row where no block ends."""

import tomllib
from functools import cache
from typing import Any

from ..container import TensorInfo
from ..data_folders import data_folder
from ..errors import RecipeError
from ..ggml_types import BY_NAME, GGMLType
from .model_facts import n_dims


@cache
def _table(name: str) -> dict[str, Any]:
    return tomllib.loads((data_folder("recipes") / name).read_text(encoding="utf-8"))


@cache
def _fallbacks() -> dict[str, str]:
    return {wanted: taken for table in _table("fallbacks.toml").values() for wanted, taken in table.items()}


def reason_to_keep(tensor: TensorInfo, arch: str) -> str | None:
    """Why a tensor is never quantized, in words; None if it may be. The list is recipes/never_quantized.toml."""
    name = tensor.name
    if n_dims(tensor.ne) < 2:
        return "one dimension"
    if not name.endswith("weight"):
        return "not a weight"
    if tensor.type.is_plain and tensor.type.name[0] == "I":
        return "integers"
    table = _table("never_quantized.toml")
    if name in table["is"]:
        return table["is"][name]
    for pieces in (table["contains"], table["arch"].get(arch, {})):
        for piece, reason in pieces.items():
            if piece in name:
                return reason
    return None


def fallback(tensor: TensorInfo, wanted: GGMLType) -> GGMLType:
    """The type that takes over where a row does not divide into blocks of `wanted`; `wanted` itself where it does.

    Raises RecipeError where no type is known to take over. The table is recipes/fallbacks.toml.
    """
    if tensor.n_cols % wanted.block_size == 0:
        return wanted
    taken = _fallbacks().get(wanted.name)
    if taken is None and wanted.block_size > 32:
        raise RecipeError(
            f"{tensor.name}: rows are {tensor.n_cols} wide, {wanted} needs a multiple of {wanted.block_size} and "
            f"has no fallback; choose a type for it, as in --tensor-type '{tensor.name}=Q4_0'"
        )
    kind = BY_NAME[taken] if taken else wanted
    return kind if tensor.n_cols % kind.block_size == 0 else BY_NAME["F16"]
