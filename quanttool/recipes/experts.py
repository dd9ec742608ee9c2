"""Rules of our own for mixtures of experts, asked before those of a mix of llama.cpp. docs/mixes.md says why."""

import tomllib
from dataclasses import dataclass
from functools import cache

from ..container import TensorInfo
from ..data_folders import data_folder
from .conditions import FACTS, Facts, Rule, parse_rule
from .model_facts import ModelFacts, without_layer


@dataclass(frozen=True)
class ExpertRules:
    """The file recipes/mixes/quanttool.toml.

    n_expert:  what a mix's own rules are told
    exempt:    mixes that stay as they are
    classes:   class -> pieces of names
    rules:     class -> rules, the first that holds decides
    """

    n_expert: int
    exempt: frozenset[str]
    classes: dict[str, tuple[str, ...]]
    rules: dict[str, tuple[Rule, ...]]

    def concern(self, model: ModelFacts) -> bool:
        return model.n_expert > 1

    def rule_for(self, tensor: TensorInfo, facts: Facts) -> tuple[str, Rule] | None:
        """Class and rule that decide a tensor; None if the mix does."""
        kind = without_layer(tensor.name)
        for class_name, pieces in self.classes.items():
            if any(kind == piece[1:] if piece.startswith("=") else piece in kind for piece in pieces):
                return next(((class_name, rule) for rule in self.rules[class_name] if rule.holds(facts)), None)
        return None


@cache
def expert_rules() -> ExpertRules:
    data = tomllib.loads((data_folder("recipes") / "mixes" / "quanttool.toml").read_text(encoding="utf-8"))
    return ExpertRules(
        n_expert=data["n_expert"],
        exempt=frozenset(data["exempt"]),
        classes={name: tuple(pieces) for name, pieces in data["classes"].items()},
        rules={name: tuple(parse_rule(text, FACTS) for text in texts) for name, texts in data["rules"].items()},
    )
