"""From what the user asked for to one type per tensor.

Order of authority, as in llama.cpp (`llama_tensor_get_type`): tensors that must stay; --token-embedding-type and
--output-tensor-type; rules; the mix (or its base type alone, when pure). Where rows do not divide into blocks, a
fallback takes over; an explicit type that does not divide is an error.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..container import TensorInfo
from ..errors import RecipeError, UsageError
from ..ggml_types import BY_NAME, GGMLType, ggml_type
from .limits import TOKEN_EMBEDDINGS, fallback, is_token_embedding, reason_to_keep
from .mixes import Mix, MixRules, find_mix, near_names
from .model_facts import ModelFacts, in_layer_order
from .repack import Repacking
from .rules import TensorRule, first_match

# Types of files' other contents: no weights are stored in them.
_NOT_FOR_WEIGHTS = {"I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K"}
OUTPUT = "output.weight"


@dataclass(frozen=True)
class Target:
    """What TYPE on the command line means.

    base:  type of all tensors that nothing else speaks of; None copies every tensor
    mix:   None for a plain ggml type: every tensor gets it
    rules: whose choices the mix makes
    """

    name: str
    base: GGMLType | None
    mix: Mix | None = None
    rules: MixRules = "quanttool"


def parse_target(text: str, mix_rules: MixRules = "quanttool") -> Target:
    """A mix, its alias, a ggml type, or COPY; any case. Raises UsageError that suggests the near names."""
    name = text.upper()
    if name == "COPY":
        return Target("COPY", None)
    if mix := find_mix(name, mix_rules):
        return Target(mix.name, mix.base, mix, mix_rules)
    if name in BY_NAME:
        return Target(name, weight_type(name))
    near = near_names(name, ("COPY",))
    hint = f"; did you mean {', '.join(near)}?" if near else "; see quanttool quantize --help"
    raise UsageError(f"unknown type {text!r}{hint}")


def weight_type(name: str) -> GGMLType:
    """A ggml type that weights can have, by name. Raises UsageError that suggests the near names."""
    kind = ggml_type(name)
    if kind.name in _NOT_FOR_WEIGHTS:
        raise UsageError(f"{kind} is not a type for weights")
    return kind


@dataclass(frozen=True)
class Request:
    """Everything that decides types, besides the model.

    rules:            asked in order, before the mix; the first match wins
    imatrix:          an imatrix will be used; some mixes choose differently then
    repacking:        of COPY only: rows to weave together or to take apart
    allow_fallback:   a type that does not suit a tensor's shape may give way to another
    """

    target: Target
    pure: bool = False
    leave_output: bool = False
    output_type: GGMLType | None = None
    token_embedding_type: GGMLType | None = None
    rules: tuple[TensorRule, ...] = ()
    imatrix: bool = False
    repacking: Repacking | None = None
    allow_fallback: bool = True

    def __post_init__(self):
        if self.repacking and self.target.base is not None:
            raise UsageError(f"--repack and --unpack go with COPY, not with {self.target.name}")


@dataclass(frozen=True)
class Choice:
    """The type of one tensor and why.

    wanted:  the type that did not fit, where a fallback took over
    rule:    the user's rule that decided
    """

    tensor: TensorInfo
    type: GGMLType
    reason: str
    wanted: GGMLType | None = None
    rule: TensorRule | None = None


def resolve(metadata: Mapping[str, Any], tensors: Iterable[TensorInfo], request: Request) -> list[Choice]:
    """One choice per tensor, in the order in which they will be written.

    Raises RecipeError where a type cannot be given to a tensor.
    """
    return list(_choices(ModelFacts.of(metadata), in_layer_order(tensors), request))


def _choices(model: ModelFacts, tensors: list[TensorInfo], request: Request) -> Iterator[Choice]:
    base, mix = request.target.base, request.target.mix
    applied = mix.applied_to(model, tensors, request.imatrix) if mix and not request.pure else None
    tied = not any(tensor.name == OUTPUT for tensor in tensors)
    for tensor in tensors:
        if request.repacking and (kind := request.repacking.type_of(tensor)) is not tensor.type:
            yield Choice(tensor, kind, "rows taken apart" if request.repacking.unpack else "rows woven together")
        elif keep := _reason_to_copy(tensor, model, request):
            yield Choice(tensor, tensor.type, keep)
        elif explicit := _explicit(tensor, request):
            yield explicit
        elif base.is_plain:
            yield _fitted(tensor, base, f"{base}: all weights")
        elif rule := first_match(request.rules, tensor.name):
            yield replace(_fitted(tensor, rule.type, f"rule {rule.text}"), rule=rule)
        elif applied is None:
            yield _fitted(tensor, base, f"{base}: all weights")
        else:
            chosen, reason = applied.choose(tensor)
            if tied and is_token_embedding(tensor) and request.output_type:
                chosen, reason = request.output_type, "--output-tensor-type, the embeddings are the output too"
            yield _fitted(tensor, chosen, reason)


def _reason_to_copy(tensor: TensorInfo, model: ModelFacts, request: Request) -> str | None:
    if request.target.base is None:
        return "copied"
    if request.leave_output and tensor.name == OUTPUT:
        return "--leave-output-tensor"
    reason = reason_to_keep(tensor, model.arch)
    return f"kept: {reason}" if reason else None


def _explicit(tensor: TensorInfo, request: Request) -> Choice | None:
    kind = option = None
    if is_token_embedding(tensor) and request.token_embedding_type:
        # The per-layer table follows, unless a rule names it.
        if tensor.name == TOKEN_EMBEDDINGS[0] or not first_match(request.rules, tensor.name):
            kind, option = request.token_embedding_type, "--token-embedding-type"
    elif tensor.name == OUTPUT and request.output_type:
        kind, option = request.output_type, "--output-tensor-type"
    if kind is None:
        return None
    if fallback(tensor, kind) is not kind:
        raise RecipeError(
            f"{tensor.name}: {kind} of {option} does not suit its shape {list(tensor.ne)}: {_misfit(tensor, kind)}; "
            "choose another type"
        )
    return Choice(tensor, kind, option)


def _fitted(tensor: TensorInfo, wanted: GGMLType, reason: str) -> Choice:
    kind = fallback(tensor, wanted)
    if kind is wanted:
        return Choice(tensor, wanted, reason)
    return Choice(tensor, kind, f"fallback from {wanted}: {_misfit(tensor, wanted)} ({reason})", wanted)


def _misfit(tensor: TensorInfo, wanted: GGMLType) -> str:
    if tensor.n_cols % wanted.block_size:
        return f"rows of {tensor.n_cols} do not divide by {wanted.block_size}"
    if is_token_embedding(tensor):
        return "rows of embeddings cannot be woven"
    return f"it weaves {wanted.rows_interleaved} rows"
