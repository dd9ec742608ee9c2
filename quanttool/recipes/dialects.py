"""The three ways in which rules are written, each read exactly as its program reads it. docs/recipes.md compares them.

    quanttool      lines or commas, comments, any case of types
    llama.cpp      --tensor-type-file: pieces between white space, patterns made lower case
    ik_llama.cpp   --custom-q: split at commas, nothing trimmed, case of types matters

All split a rule at an `=`, search the pattern anywhere in a tensor's name, and let the first match win.
"""

import re
from collections.abc import Iterable
from typing import Literal, get_args

from ..errors import RecipeError, UsageError
from ..ggml_types import TYPES, GGMLType, ggml_type
from .rules import TensorRule, compiled, parse_tensor_rule

Dialect = Literal["quanttool", "llama.cpp", "ik_llama.cpp"]
DIALECTS: tuple[str, ...] = get_args(Dialect)

# Names of types as ik_llama.cpp spells them where it is not simply lower case (ggml.c, type_traits); those it lacks.
_IK_SPELLED = {
    **{f"Q{bits}_K": f"q{bits}_K" for bits in (2, 3, 4, 5, 6, 8)},
    "Q8_KV": "q8_KV", "Q8_KV_R8": "q8_KV_r8", "Q1_0": "q1_0_g128",
}  # fmt: skip
IK_LACKS = {"TQ1_0", "TQ2_0", "NVFP4", "Q2_0"}
IK_NAMES = {_IK_SPELLED.get(kind.name, kind.name.lower()): kind for kind in TYPES if kind.name not in IK_LACKS}
_IK_NAME_OF = {kind: name for name, kind in IK_NAMES.items()}


def parse_rules(text: str, dialect: Dialect = "quanttool") -> list[TensorRule]:
    """Read rules. Raises RecipeError that quotes the rule; for a whole file it should be prefixed with its name."""
    try:
        if dialect == "llama.cpp":
            return [parse_tensor_rule(piece) for piece in text.split()]
        if dialect == "ik_llama.cpp":
            rules = _without_comment_lines(text)
            return [_ik_rule(piece) for piece in rules.split(",")] if rules else []
        return [_own_rule(piece) for piece in _pieces(text)]
    except UsageError as error:
        raise RecipeError(str(error)) from None


def format_rules(rules: Iterable[TensorRule], dialect: Dialect) -> str:
    """Rules as text of a dialect, which reads it back as the same rules. Raises RecipeError where it cannot say one."""
    if dialect == "ik_llama.cpp":
        return ",".join(_sayable(rule, ",=", _ik_name(rule), dialect) for rule in rules)
    if dialect == "llama.cpp":
        return "\n".join(_sayable(rule, " \t\r\n\v\f=", _llama_cpp_name(rule), dialect) for rule in rules)
    return "\n".join(_sayable(rule, "\n", rule.type.name, dialect) for rule in rules)


def _sayable(rule: TensorRule, forbidden: str, type_name: str, dialect: Dialect) -> str:
    pattern = rule.pattern.pattern
    text = f"{pattern}={type_name}"
    for character in forbidden:
        if character in pattern:
            raise RecipeError(
                f"{text!r}: a pattern cannot contain {character!r} in {dialect}'s form; write it otherwise"
            )
    try:
        again = [other.pattern.pattern for other in parse_rules(text, dialect)]
    except RecipeError:
        again = []
    if again != [pattern]:
        raise RecipeError(f"{text!r}: means something else in {dialect}'s form; write the pattern otherwise")
    return text


def _ik_name(rule: TensorRule) -> str:
    if rule.type not in _IK_NAME_OF:
        raise RecipeError(f"{rule.text!r}: ik_llama.cpp has no {rule.type}; choose another type")
    return _IK_NAME_OF[rule.type]


def _llama_cpp_name(rule: TensorRule) -> str:
    if rule.type.origin != "llama.cpp":
        raise RecipeError(f"{rule.text!r}: llama.cpp has no {rule.type}; choose another type")
    return rule.type.name.lower()


def _without_comment_lines(text: str) -> str:
    """Lines joined by commas, without empty ones and comments: what people's shell scripts make of a recipe."""
    lines = (line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    return ",".join(lines)


def _ik_rule(text: str) -> TensorRule:
    pattern, equals, type_name = text.partition("=")
    if not equals:
        raise RecipeError(f"{text!r}: expected REGEX=TYPE, as in 'ffn_down=q6_K'")
    kind = IK_NAMES.get(type_name)
    if kind is None:
        near = next((name for name in IK_NAMES if name.lower() == type_name.strip().lower()), None)
        hint = f"; it spells it {near!r}" if near else ""
        raise RecipeError(f"{text!r}: ik_llama.cpp has no type {type_name!r}{hint}")
    return TensorRule(compiled(pattern, text), kind, text)


def _own_rule(text: str) -> TensorRule:
    pattern, equals, type_name = (part.strip() for part in text.rpartition("="))
    pattern, equals = (pattern, equals) if equals else ("", "")
    if not (pattern and type_name):
        raise RecipeError(f"{text!r}: expected REGEX=TYPE, as in 'ffn_down=Q6_K'")
    kind: GGMLType = ggml_type(type_name)
    return TensorRule(compiled(pattern, text), kind, text)


def _pieces(text: str) -> list[str]:
    """Rules of quanttool's form, one a line or several with commas between; comments left out."""
    pieces = []
    for line in text.splitlines():
        line = re.sub(r"(^|\s)#.*", "", line)
        pieces += [piece.strip() for piece in _rules_of(line)]
    return [piece for piece in pieces if piece]


def _rules_of(line: str) -> list[str]:
    """Cut where a comma follows `=` and a name, the end of a rule: never inside a pattern such as `\\d{1,2}`."""
    ends = [match.end() for match in re.finditer(r"=\s*\w+\s*(?=,|$)", line)]
    starts = [0, *(end + 1 for end in ends)]
    return [line[start:end] for start, end in zip(starts, [*ends, len(line)], strict=True)]
