"""Rules of the user: a regular expression for tensor names, and the type that they get."""

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import UsageError
from ..ggml_types import GGMLType, ggml_type

# What [[:digit:]] means in the expressions of C++ (ECMAScript with POSIX classes), which both programs use.
_POSIX_CLASSES = {
    "digit": r"\d", "alpha": "a-zA-Z", "alnum": "a-zA-Z0-9", "lower": "a-z", "upper": "A-Z", "space": r"\s",
    "punct": r"!-/:-@\[-`{-~", "xdigit": "0-9a-fA-F", "w": r"\w", "d": r"\d", "s": r"\s",
}  # fmt: skip


@dataclass(frozen=True)
class TensorRule:
    """Tensors whose name contains a match of `pattern` get `type`. `text` is the rule as written."""

    pattern: re.Pattern[str]
    type: GGMLType
    text: str

    def matches(self, name: str) -> bool:
        return self.pattern.search(name) is not None


def compiled(pattern: str, text: str) -> re.Pattern[str]:
    """The regular expression of the rule `text`. Raises UsageError for one that cannot be read.

    Python's and C++'s agree on everything that recipes use; the classes such as [[:digit:]] are translated.
    """
    python = re.sub(r"\[:(\w+):\]", lambda m: _POSIX_CLASSES.get(m[1], m[0]), pattern)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)  # an unknown [:class:]
            return re.compile(python, re.ASCII)
    except (re.error, FutureWarning, OverflowError, RecursionError) as error:
        raise UsageError(f"{text!r}: not a regular expression: {error}") from None


def parse_tensor_rule(text: str) -> TensorRule:
    """Read `REGEX=TYPE` as llama.cpp's --tensor-type does: cut at the first `=`, pattern in lower case, found anywhere.

    Raises UsageError for a missing part, an unknown type or a bad regular expression.
    Source: tools/quantize/quantize.cpp `parse_tensor_type`.
    """
    pattern, equals, type_name = text.partition("=")
    if not (pattern and equals and type_name):
        raise UsageError(f"{text!r}: expected REGEX=TYPE, as in 'ffn_down=Q6_K'")
    return TensorRule(compiled(pattern.lower(), text), ggml_type(type_name), text)


def first_match(rules: Iterable[TensorRule], name: str) -> TensorRule | None:
    """The first rule that matches a tensor's name."""
    return next((rule for rule in rules if rule.matches(name)), None)
