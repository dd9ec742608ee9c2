"""The plan: every tensor's type, reason and exact bytes, before any work. Pure: nothing is read but the header."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..container import GGUFValueType, GGUFWriter, Metadata, TensorInfo
from ..container.layout import DEFAULT_ALIGNMENT
from ..container.writer import copied, encode_value
from ..errors import ImatrixError, QuanttoolError, UsageError
from ..ggml_types import GGMLType
from ..imatrix import Imatrix
from ..recipes.limits import TOKEN_EMBEDDINGS, unwoven
from ..recipes.mixes import requires_imatrix
from ..recipes.repack import Repacking, same_weights
from ..recipes.resolve import OUTPUT, Choice, Request, Target, resolve

QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION
CHANGED = ("general.quantization_version", "general.file_type")  # keys that a quantizer writes anew
PROVENANCE = "quanttool."  # keys that say how a file was made
_SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the output.

    wanted:      the type that did not fit, where a fallback took over
    importance:  True if the imatrix has an entry for it
    """

    source: TensorInfo
    type: GGMLType
    reason: str
    wanted: GGMLType | None = None
    importance: bool = False

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def target(self) -> TensorInfo:
        return TensorInfo(self.source.name, self.type, self.source.ne)

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
    problems:  why a run would be refused; a dry run shows them
    warnings:  what the user should know
    """

    tensors: list[PlannedTensor]
    metadata: dict[str, tuple[GGUFValueType, bytes]]
    alignment: int = DEFAULT_ALIGNMENT
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
        """Size of the output file."""
        return GGUFWriter("", self.metadata, [tensor.target for tensor in self.tensors], self.alignment).n_bytes

    @property
    def bpw(self) -> float:
        """Bits per weight over all tensors."""
        return 8 * self.tensor_bytes / max(self.n_values, 1)

    @property
    def n_converted(self) -> int:
        return sum(tensor.converts for tensor in self.tensors)

    @property
    def n_fallbacks(self) -> int:
        return sum(tensor.wanted is not None for tensor in self.tensors)


def make_plan(
    metadata: Metadata,
    tensors: Iterable[TensorInfo],
    request: Request,
    imatrix: Imatrix | None = None,
    imatrix_name: str = "",
    allow_requantize: bool = False,
) -> Plan:
    """Plan a run.

    metadata, tensors:  of the source file
    imatrix_name:       how the output's metadata and messages call the imatrix
    allow_requantize:   tensors that are quantized already may be converted

    Raises RecipeError where a tensor cannot have its type, ImatrixError if the imatrix is not of this model. Whatever
    else would stop a run is listed in the plan's `problems`.
    """
    choices = resolve(metadata, tensors, request)
    plan = Plan(
        tensors=[],
        metadata=output_metadata(metadata, request.target, imatrix, imatrix_name, request.repacking),
        alignment=metadata.get("general.alignment", DEFAULT_ALIGNMENT),
    )
    covered = _covered(choices, imatrix, imatrix_name, plan.warnings) if imatrix else set()
    for choice in choices:
        tensor = choice.tensor
        plan.tensors.append(
            PlannedTensor(tensor, choice.type, choice.reason, choice.wanted, importance=tensor.name in covered)
        )
    _find_problems(plan, request, allow_requantize)
    if plan.n_fallbacks:
        plan.warnings.append(f"{plan.n_fallbacks} of {len(plan.tensors)} tensors required a fallback type")
    foreign = {tensor.type for tensor in plan.tensors if tensor.type.origin != "llama.cpp"}
    if foreign:
        names = ", ".join(sorted(kind.name for kind in foreign))
        plan.warnings.append(f"only ik_llama.cpp loads a file with {names}; llama.cpp does not know these types")
    if request.rules and request.target.base is not None and request.target.base.is_plain:
        plan.warnings.append(f"rules for tensor types have no effect on {request.target.name}")
    return plan


def _covered(choices: list[Choice], imatrix: Imatrix, imatrix_name: str, warnings: list[str]) -> set[str]:
    """Names of converted tensors that the imatrix speaks of. Raises ImatrixError if it is not of this model."""
    names = {choice.tensor.name for choice in choices}
    if not names & set(imatrix.entries):
        entry = next(iter(imatrix.entries), "nothing")
        raise ImatrixError(
            f"{imatrix_name}: no entry is for a tensor of this model (the first one is for {entry}); "
            "use an imatrix made from this model"
        )
    covered, missing, unseen = set(), [], 0
    for tensor in (choice.tensor for choice in choices if choice.type is not choice.tensor.type):
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
        if not tensor.searches:
            continue
        exempt = tensor.name in (*TOKEN_EMBEDDINGS, OUTPUT)
        if unwoven(tensor.type).name in needs_importance and not tensor.importance and not exempt:
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
) -> dict[str, tuple[GGUFValueType, bytes]]:
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
    dropped = {*changed, *_SPLIT_KEYS, "general.file_type"}
    if target.base is not None:  # what was true of the source is not of the output
        dropped |= {key for key in source if key.startswith(PROVENANCE)}
    kept = {key: value for key, value in copied(source).items() if key not in dropped}
    return kept | {key: (kind, encode_value(value, kind)) for key, (value, kind) in changed.items()}


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
    """The plan as plain data: one entry per tensor."""
    return [
        {
            "name": tensor.name,
            "shape": list(tensor.source.ne),
            "source_type": tensor.source.type.name,
            "type": tensor.type.name,
            "reason": tensor.reason,
            "bytes": tensor.target.n_bytes,
        }
        for tensor in plan.tensors
    ]
