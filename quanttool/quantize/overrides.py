"""Metadata keys set by the user, as llama-quantize's --override-kv does.

Source: llama.cpp common/common.cpp `string_parse_kv_override` (the form), src/llama-quant.cpp (types and place).
"""

import numpy as np

from ..container import GGUFValueType
from ..container.writer import encode_value
from ..errors import UsageError
from .plan import Plan

_KINDS = {
    "int": GGUFValueType.UINT32,  # llama.cpp writes every number so
    "float": GGUFValueType.FLOAT32,
    "bool": GGUFValueType.BOOL,
    "str": GGUFValueType.STRING,
}
_FIXED = ("general.alignment", "general.quantization_version")  # the file's layout depends on them


def parse_override(text: str) -> tuple[str, GGUFValueType, bytes]:
    """Read `KEY=int:N`, `KEY=float:X`, `KEY=bool:true` or `KEY=str:TEXT`: key, value type, encoded value.

    Raises UsageError that quotes what it cannot read.
    """
    key, _, typed = text.partition("=")
    kind, colon, value = typed.partition(":")
    if not (key and colon and kind in _KINDS):
        raise UsageError(f"--override-kv {text!r}: expected KEY=TYPE:VALUE, where TYPE is int, float, bool or str")
    if key in _FIXED or key.startswith("split."):
        raise UsageError(f"--override-kv {text!r}: {key} follows from the file itself and cannot be set")
    return key, _KINDS[kind], encode_value(_value(text, kind, value), _KINDS[kind])


def _value(text: str, kind: str, value: str) -> "int | float | bool | str":
    if kind == "str":
        return value
    try:
        if kind == "bool":
            return {"true": True, "false": False}[value]
        number = int(value) if kind == "int" else float(value)
    except (KeyError, ValueError):
        raise UsageError(f"--override-kv {text!r}: {value!r} is not of type {kind}") from None
    if kind == "int" and not 0 <= number < 1 << 32:
        raise UsageError(f"--override-kv {text!r}: {value} does not fit into 32 bits without a sign")
    if kind == "float" and not abs(number) <= float(np.finfo(np.float32).max):
        raise UsageError(f"--override-kv {text!r}: {value} is not a finite number of 32 bits")
    return number


def override(plan: Plan, texts: tuple[str, ...]) -> None:
    """Set keys in the output's metadata; they move to the end, before those of the imatrix."""
    for key, kind, raw in map(parse_override, texts):
        plan.metadata.pop(key, None)
        imatrix = {
            name: plan.metadata.pop(name) for name in list(plan.metadata) if name.startswith("quantize.imatrix.")
        }
        plan.metadata[key] = kind, raw
        plan.metadata |= imatrix
