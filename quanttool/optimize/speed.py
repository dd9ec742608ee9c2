"""How long a token takes, from a benchmark of pure models in the user's engine.

A CSV of llama-bench (`-o csv`; columns model_type, model_n_params, n_gen, avg_ts) or one with the columns type,
tokens_per_second. Generating a token reads every weight once, so a type has a time per weight, and a recipe's time is
the sum over its tensors: of experts, only the share that a token uses.
"""

import csv
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from ..container import TensorInfo
from ..errors import FileFormatError, UsageError
from ..ggml_types import BY_NAME, GGMLType


def read_speeds(path: str | os.PathLike) -> dict[str, float]:
    """Type -> tokens per second of a model that is all in that type. Raises UsageError, FileFormatError."""
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    speeds: dict[str, float] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            try:
                name, speed = _own(row) if "tokens_per_second" in row else _llama_bench(row)
            except (KeyError, ValueError, TypeError):
                raise FileFormatError(
                    f"{path}: expected the columns type,tokens_per_second or those of llama-bench -o csv"
                ) from None
            if name and speed > 0:
                speeds[name] = speed
    if not speeds:
        raise FileFormatError(f"{path}: holds no speed of generating tokens in a type that is known")
    return speeds


def _own(row: Mapping[str, str]) -> tuple[str | None, float]:
    name = row["type"].strip().upper()
    return (name if name in BY_NAME else None), float(row["tokens_per_second"])


def _llama_bench(row: Mapping[str, str]) -> tuple[str | None, float]:
    """`llama 1B Q4_K - Medium` at n_gen > 0; lines of prompt processing have no say."""
    if int(row["n_gen"]) == 0:
        return None, 0.0
    words = re.findall(r"\w+", row["model_type"].upper())
    return next((word for word in words if word in BY_NAME), None), float(row["avg_ts"])


def seconds_of(
    speeds: Mapping[str, float], tensors: list[TensorInfo], used_share: float
) -> Callable[[TensorInfo, GGMLType], float]:
    """Seconds per token of a tensor in a type.

    used_share:  of the experts, that a token uses; 1 for a dense model

    A type without a measurement takes as long per bit as the slowest measured one. Tensors in plain types and tables
    of which a token reads one row take no time.
    """

    def active(tensor: TensorInfo) -> float:
        if "_exps." in tensor.name:
            return tensor.n_values * used_share
        return 0.0 if "token_embd" in tensor.name and has_output else tensor.n_values

    has_output = any(tensor.name == "output.weight" for tensor in tensors)
    weights = sum(active(tensor) for tensor in tensors)
    per_weight = {name: 1 / (speed * weights) for name, speed in speeds.items()}
    slowest = max(seconds / BY_NAME[name].bpw for name, seconds in per_weight.items())

    def use(tensor: TensorInfo, kind: GGMLType) -> float:
        if len(tensor.ne) < 2:
            return 0.0
        return active(tensor) * per_weight.get(kind.name, slowest * kind.bpw)

    return use
