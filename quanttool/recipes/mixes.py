"""The classic mixes (Q4_K_M, IQ3_XS ...): policy as data, and the small interpreter that asks it.

`recipes/mixes/*.toml` holds, per mix and class of tensors, lists of one-line rules; docs/mixes.md explains the form.
"""

import tomllib
from collections import Counter
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from ..container import TensorInfo
from ..data_folders import data_folder
from ..errors import RecipeError, UsageError
from ..ggml_types import BY_NAME, GGMLType, ggml_type
from .conditions import FACTS, Facts, Rule, Test, parse_rule, parse_tests
from .experts import ExpertRules, expert_rules
from .model_facts import ModelFacts, layer_number

# Whose choices: ours are llama.cpp's but for mixtures of experts. Mixes that only one program has are its own always.
MixRules = Literal["quanttool", "llama.cpp", "ik_llama.cpp"]
MIX_RULES: tuple[str, ...] = get_args(MixRules)


@dataclass(frozen=True)
class Policy:
    """What all mixes of one file share."""

    classes: dict[str, tuple[str, ...]]  # class -> pieces of names
    counted_classes: frozenset[str]  # classes where `layer` is a tensor's place among its kind
    counted: dict[str, tuple[str, ...]]  # of these, whose n counts other tensors: class -> pieces of names
    facts: dict[str, tuple[tuple[Test, ...], ...]]  # flag -> alternatives, each a list of tests
    requires_imatrix: frozenset[str]

    def tensor_class(self, name: str) -> str:
        for class_name, pieces in self.classes.items():
            if any(name == piece[1:] if piece.startswith("=") else piece in name for piece in pieces):
                return class_name
        return "other"


@dataclass(frozen=True)
class Mix:
    """One mix: the base type, and per class of tensors the rules that may choose another.

    rules:  class -> rules, the first that holds decides; `other` holds those of classes that are not named
    last:   class -> rules that may change the choice afterwards
    """

    name: str
    base: GGMLType
    file_type: int
    rules: dict[str, tuple[Rule, ...]]
    last: dict[str, tuple[Rule, ...]]
    requires_imatrix: frozenset[str]
    policy: Policy
    experts: ExpertRules | None = None

    def applied_to(self, model: ModelFacts, tensors: list[TensorInfo], imatrix: bool) -> "AppliedMix":
        return AppliedMix(self, model, tensors, imatrix)


class AppliedMix:
    """A mix at work on one model. Ask for its tensors in layer order: it counts those of each class."""

    def __init__(self, mix: Mix, model: ModelFacts, tensors: list[TensorInfo], imatrix: bool):
        self.mix, self.model = mix, model
        self._class_sizes = Counter(mix.policy.tensor_class(tensor.name) for tensor in tensors)
        for class_name, pieces in mix.policy.counted.items():
            self._class_sizes[class_name] = sum(any(piece in tensor.name for piece in pieces) for tensor in tensors)
        self._experts = mix.experts if mix.experts and mix.experts.concern(model) else None
        self._tied = not any(tensor.name == "output.weight" for tensor in tensors)
        self._seen: Counter[str] = Counter()
        self._model_facts: dict[str, Any] = {
            "arch": model.arch,
            "n_layer": model.n_layer,
            "n_expert": self._experts.n_expert if self._experts else model.n_expert,
            "gqa": model.gqa,
            "n_vocab": model.n_vocab,
            "n_embd": model.n_embd,
            "imatrix": imatrix,
            "tied": self._tied,
            "bits": int(mix.base.bpw),
        }
        for name, alternatives in mix.policy.facts.items():
            holds = any(all(test.holds(self._model_facts) for test in tests) for tests in alternatives)
            self._model_facts[name] = holds

    def choose(self, tensor: TensorInfo) -> tuple[GGMLType, str]:
        """Type of a tensor, and the rule that chose it in words."""
        class_name = self.mix.policy.tensor_class(tensor.name)
        if class_name == "token_embd" and self._tied:
            class_name = "output"
        facts = self._facts(tensor, class_name)
        self._seen[class_name] += 1
        if self._experts and (decided := self._experts.rule_for(tensor, facts)):
            class_name, rule = decided
            return self._type(rule), f"{self.mix.name}: {class_name} = {rule.text}, in a mixture of experts"
        chosen, reason = self.mix.base, f"{self.mix.name}: base type"
        for rule in self.mix.rules.get(class_name) or self.mix.rules["other"]:
            if rule.holds(facts):
                chosen = self._type(rule)
                reason = f"{self.mix.name}: {class_name} = {rule.text}"
                break
        for rule in self.mix.last.get(class_name, ()):
            if rule.holds({**facts, "type": chosen.name}):
                chosen, reason = self._type(rule), f"{self.mix.name}: {class_name} = {rule.text}"
                break
        return chosen, reason

    def _type(self, rule: Rule) -> GGMLType:
        return self.mix.base if rule.type == "base" else BY_NAME[rule.type]

    def _facts(self, tensor: TensorInfo, class_name: str) -> Facts:
        nth = self._seen[class_name]
        if class_name in self.mix.policy.counted_classes:
            layer, n = nth, self._class_sizes[class_name]
        else:
            # llama.cpp counts in dense models too, where only some layers may have the tensor.
            named = layer_number(tensor.name) if self.model.n_expert > 1 else -1
            layer, n = named if named >= 0 else nth, self.model.n_layer
        if self._experts and layer_number(tensor.name) >= 0:
            nth = layer_number(tensor.name)  # so that shared experts do not count twice
        return {
            **self._model_facts,
            "type": self.mix.base.name,
            "divides": tensor.n_cols % self.mix.base.block_size == 0,
            "by_256": tensor.n_cols % 256 == 0,
            "shared": "_shexp.weight" in tensor.name,
            "blk": layer_number(tensor.name),
            "n_matrices": tensor.ne[2] if len(tensor.ne) > 2 else 1,
            "nth": nth,
            "layer": layer,
            "n": n,
            "more_bits": layer < n // 8 or layer >= 7 * n // 8 or (layer - n // 8) % 3 == 2,
        }


@cache
def load_mixes() -> dict[str, dict[str, Mix]]:
    """Program -> its mixes by name, aliases included. Raises RecipeError if a file cannot be read."""
    folder = data_folder("recipes") / "mixes"
    return {program: read_mixes(folder / f"{program}.toml") for program in ("llama.cpp", "ik_llama.cpp")}


def read_mixes(path: Path) -> dict[str, Mix]:
    """Mixes of one TOML file, by name. Raises RecipeError that names the file and the line of the mix."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        return _mixes(data)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecipeError, UsageError) as error:
        raise RecipeError(f"{path}: {error}") from error
    except (KeyError, AttributeError, TypeError) as error:
        raise RecipeError(f"{path}: missing or misplaced entry: {error}") from error


def _mixes(data: dict[str, Any]) -> dict[str, Mix]:
    flags = data.get("facts", {})
    known = {**FACTS, **dict.fromkeys(flags, bool)}
    policy = Policy(
        classes={name: tuple(pieces) for name, pieces in data["classes"].items()},
        counted_classes=frozenset(data.get("counted_classes", ())),
        counted={name: tuple(pieces) for name, pieces in data.get("counted", {}).items()},
        facts={name: tuple(parse_tests(text, known) for text in texts) for name, texts in flags.items()},
        requires_imatrix=frozenset(ggml_type(t).name for t in data.get("requires_imatrix", {}).get("types", ())),
    )
    mixes = {}
    for name, entry in data["mix"].items():
        family = data.get("family", {}).get(entry["family"]) if "family" in entry else {}
        if family is None:
            raise RecipeError(f"mix {name}: unknown family {entry['family']!r}")
        mixes[name] = _mix(name, entry, family, data.get("first", {}), policy, known)
    for alias, name in data.get("aliases", {}).items():
        mixes[alias] = mixes[name]
    return mixes


_NOT_RULES = ("family", "file_type", "base", "requires_imatrix")


def _mix(name: str, entry: dict, family: dict, first: dict, policy: Policy, known: dict[str, type]) -> Mix:
    own = {key: value for key, value in entry.items() if key not in _NOT_RULES}
    allowed = {*policy.classes, "other"}

    def rules(class_name: str, texts: list[str]) -> tuple[Rule, ...]:
        if class_name not in allowed:
            raise RecipeError(f"mix {name}: unknown class {class_name!r}; known are {', '.join(sorted(allowed))}")
        parsed = tuple(parse_rule(text, known) for text in texts)
        for rule in parsed:
            if rule.type != "base":
                ggml_type(rule.type)
        return parsed

    chosen = {**family.get("default", {}), **own}
    before = (first, family.get("first", {}))

    def lines(class_name: str) -> list[str]:
        asked_first = [text for level in before for text in level.get(class_name, [])]
        return asked_first + chosen.get(class_name, chosen.get("other", []))

    return Mix(
        name=name,
        base=ggml_type(entry["base"]),
        file_type=entry["file_type"],
        rules={c: rules(c, lines(c)) for c in {"other", *chosen, *before[0], *before[1]}},
        last={c: rules(c, texts) for c, texts in family.get("last", {}).items()},
        requires_imatrix=policy.requires_imatrix | set(entry.get("requires_imatrix", ())),
        policy=policy,
    )


def find_mix(name: str, rules: MixRules = "quanttool") -> Mix | None:
    """A mix by name or alias, any case; None if there is none."""
    name, mixes = name.upper(), load_mixes()
    order = ("ik_llama.cpp", "llama.cpp") if rules == "ik_llama.cpp" else ("llama.cpp", "ik_llama.cpp")
    program = next((program for program in order if name in mixes[program]), None)
    if program is None:
        return None
    mix = mixes[program][name]
    if rules == "quanttool" and program == "llama.cpp" and mix.name not in expert_rules().exempt:
        return replace(mix, experts=expert_rules())
    return mix


def mix_names() -> set[str]:
    """Names and aliases of all mixes."""
    return set().union(*load_mixes().values())


def requires_imatrix(mix: Mix | None) -> frozenset[str]:
    """Names of types that are useless without an imatrix, in a mix or anywhere."""
    if mix:
        return mix.requires_imatrix
    mixes = (mix for program in load_mixes().values() for mix in program.values())
    return frozenset().union(*(mix.policy.requires_imatrix for mix in mixes))


def near_names(name: str, extra: tuple[str, ...] = ()) -> list[str]:
    """Names of mixes and types that look like `name`."""
    return get_close_matches(name.upper(), sorted({*mix_names(), *BY_NAME, *extra}), n=4, cutoff=0.5)
