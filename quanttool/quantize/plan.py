"""The plan: every tensor's type, reason and exact bytes, before any work. Pure: nothing is read but the header."""

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any

from ..container import GGUFValueType, GGUFWriter, Metadata, TensorInfo
from ..container.layout import DEFAULT_ALIGNMENT
from ..container.shards import SPLIT_KEYS, ShardedGGUFWriter
from ..container.writer import copied, encode_value
from ..errors import ImatrixError, QuanttoolError, RecipeError, UsageError
from ..ggml_types import GGMLType
from ..imatrix import Imatrix
from ..recipes.dialects import IK_LACKS
from ..recipes.limits import TOKEN_EMBEDDINGS, unwoven
from ..recipes.mixes import find_mix, requires_imatrix
from ..recipes.repack import Repacking, same_weights
from ..recipes.resolve import OUTPUT, Request, Target, resolve
from .prune import Encoded, pruned_metadata, pruned_names

QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION
CHANGED = ("general.quantization_version", "general.file_type")  # keys that a quantizer writes anew
CONTESTED_FILE_TYPE = 41
PROVENANCE = "quanttool."  # keys that say how a file was made


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the output.

    source:      as the source has it
    name:        in the output, where layers may be numbered otherwise
    wanted:      the type that did not fit, where a fallback took over
    importance:  True if the imatrix has an entry for it
    calibrated:  True if it is rounded with a calibration text, which gives it its importance
    """

    source: TensorInfo
    name: str
    type: GGMLType
    reason: str
    wanted: GGMLType | None = None
    importance: bool = False
    calibrated: bool = False

    @property
    def target(self) -> TensorInfo:
        return TensorInfo(self.name, self.type, self.source.ne)

    @property
    def converts(self) -> bool:
        """The type changes."""
        return self.type is not self.source.type

    @property
    def searches(self) -> bool:
        """The weights are quantized, not just copied or woven otherwise."""
        return self.converts and not same_weights(self.type, self.source.type)


@dataclass
class Plan:
    """What a run will write.

    tensors:   in file order
    metadata:  key -> (value type, encoded bytes), in file order
    calibration:  identifies the calibration text and how it is used; empty: none
    shards:    number of tensors in each file of an output in several files; empty: one file
    problems:  why a run would be refused; a dry run shows them
    warnings:  what the user should know
    """

    tensors: list[PlannedTensor]
    metadata: dict[str, Encoded]
    alignment: int = DEFAULT_ALIGNMENT
    calibration: str = ""
    shards: list[int] = field(default_factory=list)
    problems: list[QuanttoolError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def n_values(self) -> int:
        return sum(tensor.source.n_values for tensor in self.tensors)

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors, without header and padding."""
        return sum(tensor.target.n_bytes for tensor in self.tensors)

    @property
    def file_bytes(self) -> int:
        """Size of the output, of all its files together."""
        return self.writer("model.gguf").n_bytes

    @property
    def bpw(self) -> float:
        """Bits per weight over all tensors."""
        return 8 * self.tensor_bytes / max(self.n_values, 1)

    @property
    def n_fallbacks(self) -> int:
        return sum(tensor.wanted is not None for tensor in self.tensors)

    def writer(self, output: str | os.PathLike) -> GGUFWriter | ShardedGGUFWriter:
        """What writes this plan's file or files, going on with those of an interrupted run."""
        targets = [tensor.target for tensor in self.tensors]
        if not self.shards:
            return GGUFWriter(output, self.metadata, targets, self.alignment, resumable=True)
        files = [targets[start:end] for start, end in pairwise(accumulate(self.shards, initial=0))]
        return ShardedGGUFWriter(output, self.metadata, files, self.alignment, resumable=True)


def make_plan(
    metadata: Metadata,
    tensors: Iterable[TensorInfo],
    request: Request,
    imatrix: Imatrix | None = None,
    imatrix_name: str = "",
    allow_requantize: bool = False,
    prune: Collection[int] = (),
    calibrated: Collection[str] = (),
) -> Plan:
    """Plan a run.

    metadata, tensors:  of the source file
    imatrix_name:       how the output's metadata and messages call the imatrix
    allow_requantize:   tensors that are quantized already may be converted
    prune:              layers to leave out; those that stay are numbered anew, and types follow the new numbers
    calibrated:         weights that a calibration text tells about

    Raises RecipeError where a tensor cannot have its type, ImatrixError if the imatrix is not of this model. Whatever
    else would stop a run is listed in the plan's `problems`.
    """
    sources = {tensor.name: tensor for tensor in tensors}
    changed: dict[str, Encoded] = {}
    if prune:
        sources = {new: sources[old] for new, old in pruned_names(sources.values(), prune).items()}
        changed = pruned_metadata(metadata, prune)
    facts = Metadata({**copied(metadata), **changed}) if changed else metadata
    choices = resolve(facts, [replace(tensor, name=name) for name, tensor in sources.items()], request)
    plan = Plan(
        tensors=[
            PlannedTensor(sources[choice.tensor.name], choice.tensor.name, choice.type, choice.reason, choice.wanted)
            for choice in choices
        ],
        metadata=_moved_to_end(
            output_metadata(metadata, request.target, imatrix, imatrix_name, request.repacking), changed
        ),
        alignment=metadata.get("general.alignment", DEFAULT_ALIGNMENT),
    )
    if imatrix:
        covered = _covered(plan.tensors, imatrix, imatrix_name, plan.warnings)
        plan.tensors = [replace(tensor, importance=tensor.source.name in covered) for tensor in plan.tensors]
    if calibrated:
        plan.tensors = [
            replace(tensor, calibrated=tensor.searches and tensor.name in calibrated) for tensor in plan.tensors
        ]
    _find_problems(plan, request, allow_requantize)
    if plan.n_fallbacks:
        plan.warnings.append(f"{plan.n_fallbacks} of {len(plan.tensors)} tensors required a fallback type")
    plan.warnings += _loaded_by({tensor.type for tensor in plan.tensors})
    if request.target.base is None:
        _settle_file_type(plan)
    if request.rules and request.target.base is not None and request.target.base.is_plain:
        plan.warnings.append(f"rules for tensor types have no effect on {request.target.name}")
    return plan


def _loaded_by(kinds: set[GGMLType]) -> list[str]:
    """What keeps a program from loading a file with these types, in words."""
    ik = sorted(kind.name for kind in kinds if kind.origin != "llama.cpp")
    llama_cpp = sorted(kind.name for kind in kinds if kind.name in IK_LACKS)
    if ik and llama_cpp:
        return [f"no program loads this file: llama.cpp does not know {', '.join(ik)}, ik_llama.cpp not {llama_cpp[0]}"]
    return [f"only ik_llama.cpp loads a file with {', '.join(ik)}; llama.cpp does not know these types"] if ik else []


def _settle_file_type(plan: Plan) -> None:
    """general.file_type 41 is Q2_0 in llama.cpp and Q1_0 in ik_llama.cpp: the tensors say which it is."""
    kinds = {tensor.type.name for tensor in plan.tensors}
    number = GGUFValueType.UINT32, encode_value(CONTESTED_FILE_TYPE, GGUFValueType.UINT32)
    if plan.metadata.get("general.file_type") == number and "Q1_0" in kinds and "Q2_0" not in kinds:
        plan.metadata["general.file_type"] = number[0], encode_value(find_mix("Q1_0").file_type, number[0])
        plan.warnings.append(
            "general.file_type 41 means Q2_0 to llama.cpp; the tensors are Q1_0, and 40 is written for it"
        )


def _covered(tensors: list[PlannedTensor], imatrix: Imatrix, imatrix_name: str, warnings: list[str]) -> set[str]:
    """Converted tensors (source names) that the imatrix speaks of. Raises ImatrixError if it is not of this model."""
    names = {tensor.source.name for tensor in tensors}
    if not names & set(imatrix.entries):
        entry = next(iter(imatrix.entries), "nothing")
        raise ImatrixError(
            f"{imatrix_name}: no entry is for a tensor of this model (the first one is for {entry}); "
            "use an imatrix made from this model"
        )
    covered, missing, unseen = set(), [], 0
    for tensor in (planned.source for planned in tensors if planned.converts):
        entry = imatrix.entries.get(tensor.name)
        exempt = tensor.name in TOKEN_EMBEDDINGS
        if entry is None:
            if not exempt and tensor.name != OUTPUT:
                missing.append(tensor.name)
            continue
        expected = tensor.n_values // tensor.ne[1]
        if entry.sums_of_squares.size != expected:
            if exempt:
                warnings.append(f"{tensor.name}: its imatrix entry has another width and is not used")
                continue
            raise ImatrixError(
                f"{imatrix_name}: the entry of {tensor.name} has {entry.sums_of_squares.size} channels, the tensor has "
                f"{expected}; use an imatrix made from this model"
            )
        covered.add(tensor.name)
        unseen += int((entry.counts == 0).sum())
    if missing:
        warnings.append(f"the imatrix has no entry for {len(missing)} of the tensors to quantize, as {missing[0]}")
    if unseen:
        warnings.append(f"the imatrix never saw {unseen} of its matrices (experts); all their channels count the same")
    return covered


def _find_problems(plan: Plan, request: Request, allow_requantize: bool) -> None:
    needs_importance = requires_imatrix(request.target.mix)
    for tensor in plan.tensors:
        if tensor.wanted and not request.allow_fallback:
            plan.problems.append(
                RecipeError(f"{tensor.name}: {tensor.reason}; choose a type that fits, or leave --no-fallback out")
            )
        if not tensor.searches:
            continue
        exempt = tensor.name in (*TOKEN_EMBEDDINGS, OUTPUT)
        if unwoven(tensor.type).name in needs_importance and not (tensor.importance or tensor.calibrated or exempt):
            what = "the imatrix has no entry for it" if request.imatrix else "give one with --imatrix"
            where = f" in {request.target.name}" if request.target.name != tensor.type.name else ""
            plan.problems.append(
                UsageError(f"{tensor.name}: {tensor.type} is useless without an imatrix{where}; {what}")
            )
        if not tensor.source.type.is_plain and not allow_requantize:
            plan.problems.append(
                UsageError(
                    f"{tensor.name} is {tensor.source.type} already, and quantizing twice costs quality; start from an "
                    "F16, BF16 or F32 file, or add --allow-requantize"
                )
            )


def output_metadata(
    source: Metadata,
    target: Target,
    imatrix: Imatrix | None,
    imatrix_name: str,
    repacking: Repacking | None = None,
) -> dict[str, Encoded]:
    """The source's metadata with what a quantizer changes, in the order in which llama-quantize writes it.

    Changed keys move to the end: general.quantization_version, general.file_type, quantize.imatrix.*. A plain ggml type
    is no file type: the key is left out, and programs look at the tensors. Source: llama-quant.cpp
    `llama_model_quantize_impl`, tools/quantize/quantize.cpp.
    """
    string, u32 = GGUFValueType.STRING, GGUFValueType.UINT32
    changed: dict[str, tuple[Any, GGUFValueType]] = {"general.quantization_version": (QUANTIZATION_VERSION, u32)}
    if target.mix:
        changed["general.file_type"] = (target.mix.file_type, u32)
    elif target.base is None and isinstance(source.get("general.file_type"), int):
        number = source["general.file_type"]
        number = repacking.file_type(number) if repacking else number
        if number is not None:
            changed["general.file_type"] = (number, u32)
    if imatrix:
        changed["quantize.imatrix.file"] = (imatrix_name, string)
        if imatrix.datasets:
            changed["quantize.imatrix.dataset"] = (imatrix.datasets[0], string)
        changed["quantize.imatrix.entries_count"] = (len(imatrix.entries), u32)
        if imatrix.chunk_count > 0:
            changed["quantize.imatrix.chunks_count"] = (imatrix.chunk_count, u32)
    dropped = {*changed, *SPLIT_KEYS, "general.file_type"}
    if target.base is not None:  # what was true of the source is not of the output
        dropped |= {key for key in source if key.startswith(PROVENANCE)}
    kept = {key: value for key, value in copied(source).items() if key not in dropped}
    return kept | {key: (kind, encode_value(value, kind)) for key, (value, kind) in changed.items()}


def _moved_to_end(metadata: dict[str, Encoded], changed: dict[str, Encoded]) -> dict[str, Encoded]:
    return {key: value for key, value in metadata.items() if key not in changed} | changed


def hide_imatrix(plan: Plan) -> None:
    """Say only that there was an imatrix, in the words of ik_llama.cpp (examples/quantize/quantize.cpp)."""
    for key, (kind, _) in plan.metadata.items():
        if key.startswith("quantize.imatrix."):
            plan.metadata[key] = kind, encode_value("top_secret" if kind == GGUFValueType.STRING else 0, kind)
    plan.metadata.pop(f"{PROVENANCE}imatrix.sha256", None)


def summary(plan: Plan) -> dict[GGMLType, tuple[int, int]]:
    """Type -> (number of tensors, bytes), the largest first."""
    by_type: dict[GGMLType, tuple[int, int]] = {}
    for tensor in plan.tensors:
        count, n_bytes = by_type.get(tensor.type, (0, 0))
        by_type[tensor.type] = count + 1, n_bytes + tensor.target.n_bytes
    return dict(sorted(by_type.items(), key=lambda item: -item[1][1]))


def rows(plan: Plan) -> list[Mapping[str, Any]]:
    """The plan as plain data: one entry per tensor, with the number of its file where there are several."""
    files = [number for number, count in enumerate(plan.shards, 1) for _ in range(count)]
    return [
        {
            "name": tensor.name,
            "shape": list(tensor.source.ne),
            "source_type": tensor.source.type.name,
            "type": tensor.type.name,
            "reason": tensor.reason,
            "bytes": tensor.target.n_bytes,
            **({"file": files[index]} if files else {}),
        }
        for index, tensor in enumerate(plan.tensors)
    ]
