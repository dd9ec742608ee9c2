"""Rules of the user: a regular expression for tensor names, and the type that they get."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import UsageError
from ..ggml_types import GGMLType, ggml_type


@dataclass(frozen=True)
class TensorRule:
    """Tensors whose name contains a match of `pattern` get `type`."""

    pattern: re.Pattern[str]
    type: GGMLType
    text: str

    def matches(self, name: str) -> bool:
        return self.pattern.search(name) is not None


def parse_tensor_rule(text: str) -> TensorRule:
    """Read `REGEX=TYPE` as llama.cpp's --tensor-type does: cut at the first `=`, pattern in lower case, found anywhere.

    Raises UsageError for a missing part, an unknown type or a bad regular expression.
    Source: tools/quantize/quantize.cpp `parse_tensor_type`.
    """
    pattern, equals, type_name = text.partition("=")
    if not (pattern and equals and type_name):
        raise UsageError(f"{text!r}: expected REGEX=TYPE, as in 'ffn_down=Q6_K'")
    try:
        return TensorRule(re.compile(pattern.lower()), ggml_type(type_name), text)
    except re.error as error:
        raise UsageError(f"{text!r}: not a regular expression: {error}") from None


def first_match(rules: Iterable[TensorRule], name: str) -> TensorRule | None:
    """The first rule that matches a tensor's name."""
    return next((rule for rule in rules if rule.matches(name)), None)
