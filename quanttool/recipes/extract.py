"""A recipe that reproduces a file's types: one rule per group of tensors, layers merged into short expressions."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable

from ..container import TensorInfo
from ..ggml_types import GGMLType
from .limits import reason_to_keep
from .recipe import Recipe
from .rules import TensorRule, compiled

_LAYER = re.compile(r"blk\.(\d+)\.(.+)")
LayerTypes = tuple[tuple[int, GGMLType], ...]  # (layer, type), sorted


def extract(tensors: Iterable[TensorInfo], arch: str, name: str = "") -> Recipe:
    """Rules that give every tensor that may be quantized its present type. `base` is the most common type."""
    single: list[tuple[str, GGMLType]] = []
    layered: dict[str, dict[int, GGMLType]] = defaultdict(dict)
    sizes: Counter[GGMLType] = Counter()
    for tensor in tensors:
        if reason_to_keep(tensor, arch):
            continue
        sizes[tensor.type] += tensor.n_values
        if match := _LAYER.fullmatch(tensor.name):
            layered[match[2]][int(match[1])] = tensor.type
        else:
            single.append((tensor.name, tensor.type))
    rules = [_rule(f"^{re.escape(tensor_name)}$", kind) for tensor_name, kind in sorted(single)]
    alike: dict[LayerTypes, list[str]] = defaultdict(list)
    for rest, types in layered.items():
        alike[tuple(sorted(types.items()))].append(rest)
    for types, rests in sorted(alike.items(), key=lambda item: item[1]):
        rules += _layer_rules(types, sorted(rests))
    # A plain base would switch rules off.
    quantized = [kind for kind, _ in sizes.most_common() if not kind.is_plain]
    return Recipe(tuple(rules), name=name, base=quantized[0].name if quantized else "")


def _layer_rules(types: LayerTypes, rests: list[str]) -> list[TensorRule]:
    """Exceptions by layer first, then one rule for the type that most layers have."""
    names = _names(rests)
    common = Counter(kind for _, kind in types).most_common(1)[0][0]
    exceptions: dict[GGMLType, list[int]] = defaultdict(list)
    for layer, kind in types:
        if kind is not common:
            exceptions[kind].append(layer)
    rules = [_rule(rf"^blk\.{numbers(layers)}\.{names}$", kind) for kind, layers in exceptions.items()]
    return [*rules, _rule(rf"^blk\.\d+\.{names}$", common)]


def _names(rests: list[str]) -> str:
    """`(attn_k|attn_q)\\.weight` for names that end alike."""
    if len(rests) == 1:
        return re.escape(rests[0])
    if all(rest.endswith(".weight") for rest in rests):
        return "(" + "|".join(re.escape(rest.removesuffix(".weight")) for rest in rests) + r")\.weight"
    return "(" + "|".join(map(re.escape, rests)) + ")"


def numbers(layers: Iterable[int]) -> str:
    """An expression that matches exactly these numbers: [0, 1, 2, 10, 13, 20, 23] -> ([0-2]|[12][03])."""
    alternatives = _alternatives({str(layer) for layer in layers})
    return alternatives[0] if len(alternatives) == 1 else "(" + "|".join(alternatives) + ")"


def _alternatives(words: set[str]) -> list[str]:
    """Numbers with the same choice of last digits are one alternative; what stands before is merged the same way."""
    last_digits: dict[str, set[str]] = defaultdict(set)
    for word in words:
        last_digits[word[:-1]].add(word[-1])
    starts: dict[str, set[str]] = defaultdict(set)
    for start, digits in last_digits.items():
        starts["".join(sorted(digits))].add(start)
    found = []
    for digits, before in sorted(starts.items(), key=lambda item: min((len(b), b) for b in item[1])):
        if "" in before:
            found.append(_digit(digits))
        found += [start + _digit(digits) for start in _alternatives(before - {""})] if before - {""} else []
    return found


def _digit(digits: str) -> str:
    """`7`, `[147]` or `[0-5]`."""
    if len(digits) == 1:
        return digits
    return "[" + "".join(run if len(run) < 3 else f"{run[0]}-{run[-1]}" for run in _runs(digits)) + "]"


def _runs(digits: str) -> list[str]:
    runs = [digits[0]]
    for digit in digits[1:]:
        if int(digit) == int(runs[-1][-1]) + 1:
            runs[-1] += digit
        else:
            runs.append(digit)
    return runs


def _rule(pattern: str, kind: GGMLType) -> TensorRule:
    text = f"{pattern}={kind}"
    return TensorRule(compiled(pattern, text), kind, text)
