"""Which tensors go into which file of an output in several files.

Source: llama.cpp tools/gguf-split/gguf-split.cpp (`split_strategy`: sizes count padded tensors, not headers);
src/llama-quant.cpp (keep_split).
"""

from dataclasses import dataclass

from ..container import GGUFFile, ShardedGGUF
from ..container.layout import aligned
from ..errors import UsageError
from .plan import Plan


@dataclass(frozen=True)
class Split:
    """How to cut the output; nothing set: one file.

    max_bytes, max_tensors:  of each file, 0: no limit; a tensor above max_bytes gets a file of its own
    keep:                    the files of the source, with the same tensors
    first_empty:             the first file holds metadata only
    """

    max_bytes: int = 0
    max_tensors: int = 0
    keep: bool = False
    first_empty: bool = False

    def __post_init__(self):
        limited = bool(self.max_bytes or self.max_tensors)
        if self.keep and (limited or self.first_empty):
            raise UsageError("--keep-split cuts where the source is cut; leave the other --split options out")
        if self.first_empty and not limited:
            raise UsageError("--no-tensor-first-split goes with --split-max-size or --split-max-tensors")


def split(plan: Plan, how: Split, source: GGUFFile | ShardedGGUF) -> None:
    """Cut a plan into files; with `keep` its tensors take the order of the source's files."""
    if how.keep:
        if isinstance(source, ShardedGGUF):
            _keep(plan, source)
    elif how.max_bytes or how.max_tensors:
        plan.shards = _cut(plan, how)


def _keep(plan: Plan, source: ShardedGGUF) -> None:
    place = {
        name: (number, index) for number, file in enumerate(source.files) for index, name in enumerate(file.tensors)
    }
    plan.tensors.sort(key=lambda tensor: place[tensor.source.name])
    plan.shards = [0] * len(source.files)
    for tensor in plan.tensors:
        plan.shards[place[tensor.source.name][0]] += 1


def _cut(plan: Plan, how: Split) -> list[int]:
    """Number of tensors in each file, in order."""
    counts, n_bytes = [0, 0] if how.first_empty else [0], 0
    for tensor in plan.tensors:
        size = aligned(tensor.target.n_bytes, plan.alignment)
        too_large = how.max_bytes and n_bytes + size > how.max_bytes
        if counts[-1] and (too_large or counts[-1] == how.max_tensors):
            counts.append(0)
            n_bytes = 0
        counts[-1] += 1
        n_bytes += size
    return counts
