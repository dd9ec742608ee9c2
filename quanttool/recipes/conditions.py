"""The one-line rules that mixes are made of: `Q6_K if more_bits and arch != falcon`.

    rule       = TYPE [ "if" test { "and" test } ]          TYPE may be `base`, the mix's own type
    test       = flag | "not" flag | fact operator value
    operator   = < <= > >= == !=
    value      = a number | a share of n, as in n/8 or 7n/8 (rounded down) | a word

A list of rules is read from the top; the first whose tests all hold decides.
"""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..errors import RecipeError

# What a rule may ask about. `recipes/mixes/*.toml` can add flags of their own under [facts].
FACTS: dict[str, type] = {
    "arch": str,  # general.architecture
    "n_layer": int,  # layers of the model
    "n_expert": int,  # experts per layer, 0 in a dense model
    "gqa": int,  # query heads per key head, in the first layer
    "n_vocab": int,  # tokens of the vocabulary
    "n_embd": int,  # width of the hidden state
    "imatrix": bool,  # an imatrix was given
    "tied": bool,  # the token embeddings are the output, too
    "bits": int,  # whole bits per weight of the mix's base type
    "type": str,  # the type chosen so far
    "divides": bool,  # the rows divide into blocks of the mix's base type
    "by_256": bool,  # the rows divide by 256
    "shared": bool,  # part of a shared expert
    "blk": int,  # layer in the tensor's name, -1 outside the layers
    "n_matrices": int,  # matrices in the tensor: experts, or heads
    "nth": int,  # tensors of this class that came before
    "layer": int,  # layer of this tensor, out of n
    "n": int,
    "more_bits": bool,  # the first and last eighth of the layers, and every third in between
}
Facts = Mapping[str, "int | str | bool"]

_OPERATORS: dict[str, Callable] = {
    "<=": operator.le, ">=": operator.ge, "==": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
_COMPARISON = re.compile(r"(\w+)\s*(<=|>=|==|!=|<|>)\s*([\w./-]+)")
_SHARE = re.compile(r"(\d*)n/(\d+)")


@dataclass(frozen=True)
class Share:
    """A part of the layers: 7n/8."""

    numerator: int
    denominator: int

    def of(self, n: int) -> int:
        return self.numerator * n // self.denominator


@dataclass(frozen=True)
class Test:
    fact: str
    compare: Callable
    value: "int | str | bool | Share"

    def holds(self, facts: Facts) -> bool:
        value = self.value.of(facts["n"]) if isinstance(self.value, Share) else self.value
        return self.compare(facts[self.fact], value)


@dataclass(frozen=True)
class Rule:
    """One line: a type, and the tests that must all hold. `text` is the line as written."""

    type: str
    tests: tuple[Test, ...]
    text: str

    def holds(self, facts: Facts) -> bool:
        return all(test.holds(facts) for test in self.tests)


def parse_rule(text: str, facts: Mapping[str, type] = FACTS) -> Rule:
    """Read one rule. Raises RecipeError that quotes it."""
    kind, _, condition = text.partition(" if ")
    if not re.fullmatch(r"\w+", kind):
        raise RecipeError(f"{text!r}: expected a type, or 'TYPE if ...'")
    return Rule(kind, parse_tests(condition, facts) if condition else (), text)


def parse_tests(text: str, facts: Mapping[str, type] = FACTS) -> tuple[Test, ...]:
    """Read `test and test ...`. Raises RecipeError that quotes what it cannot read."""
    return tuple(_parse_test(piece.strip(), facts) for piece in text.split(" and "))


def _parse_test(text: str, facts: Mapping[str, type]) -> Test:
    if match := _COMPARISON.fullmatch(text):
        fact, symbol, value = match.groups()
        kind = facts.get(fact)
        if kind is str and symbol in ("==", "!="):
            return Test(fact, _OPERATORS[symbol], value)
        if kind is int and value.isdigit():
            return Test(fact, _OPERATORS[symbol], int(value))
        if kind is int and (share := _SHARE.fullmatch(value)) and int(share[2]):
            return Test(fact, _OPERATORS[symbol], Share(int(share[1] or 1), int(share[2])))
    else:
        flag = text.removeprefix("not ").strip()
        if facts.get(flag) is bool:
            return Test(flag, operator.eq, not text.startswith("not "))
    raise RecipeError(f"{text!r} is not a test; known facts are {', '.join(facts)}")
