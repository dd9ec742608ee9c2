"""What each rule of a recipe does to a model, and what looks like a mistake."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from .resolve import Choice
from .rules import TensorRule, first_match

# `blk\.1` goes on to blk.10 ... blk.19 unless something ends the number.
_OPEN_LAYER = re.compile(r"blk\\?\.\d+(?:$|[^\d\\.|)\]{?*+])")


@dataclass
class RuleReview:
    """One rule against one model. All lists hold tensor names.

    decided:    tensors whose type it chose
    fallbacks:  of these, where its type does not fit and another took over
    shadowed:   tensors that it matches, but an earlier rule does so before
    settled:    tensors that it would decide, if they were not kept or given a type by an option
    """

    rule: TensorRule
    decided: list[str] = field(default_factory=list)
    fallbacks: list[str] = field(default_factory=list)
    shadowed: list[str] = field(default_factory=list)
    settled: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """What is wrong with the rule, in words; "" if nothing."""
        if not (self.decided or self.shadowed or self.settled):
            return "matches no tensor"
        if not self.decided:
            if self.shadowed:
                return f"shadowed: earlier rules take all of its {len(self.shadowed)} tensors"
            return f"without effect: its {len(self.settled)} tensors are never quantized, or an option decides"
        if self.fallbacks:
            return f"falls back for {len(self.fallbacks)} tensors, as {self.fallbacks[0]}"
        return ""


def review(rules: Iterable[TensorRule], choices: Iterable[Choice]) -> list[RuleReview]:
    """One review per rule, in order, from the choices that `resolve` made with these rules."""
    rules = list(rules)
    reviews = {id(rule): RuleReview(rule) for rule in rules}
    for choice in choices:
        name = choice.tensor.name
        first = first_match(rules, name)
        for rule in rules:
            of_rule = reviews[id(rule)]
            if rule is choice.rule:
                of_rule.decided.append(name)
                if choice.wanted:
                    of_rule.fallbacks.append(name)
            elif rule is first:
                of_rule.settled.append(name)
            elif rule.matches(name):
                of_rule.shadowed.append(name)
    return list(reviews.values())


def lint(rules: Iterable[TensorRule]) -> list[str]:
    """What looks like a mistake in rules as such, one line each."""
    findings, seen = [], {}
    for rule in rules:
        pattern = rule.pattern.pattern
        if pattern in seen:
            findings.append(f"{rule.text}: the same pattern as {seen[pattern].text}, which comes first and wins")
        seen.setdefault(pattern, rule)
        if match := _OPEN_LAYER.search(pattern):
            findings.append(f"{rule.text}: {match[0]!r} matches longer layer numbers too; end the number with '\\.'")
        if rule.matches(""):
            findings.append(f"{rule.text}: matches every tensor; rules after it never apply")
    return findings
