"""What a tensor of the output was made from, as one number: equal numbers mean equal bytes."""

import hashlib

import numpy as np

from .. import __version__
from ..container import GGUFFile, ShardedGGUF
from ..formats import Search
from ..imatrix import Imatrix
from .importance import importance_of
from .plan import Plan, PlannedTensor

SAMPLE_BYTES = 4096


def tensor_keys(plan: Plan, source: GGUFFile | ShardedGGUF, imatrix: Imatrix | None, search: Search) -> list[int]:
    """One 64-bit number per planned tensor, in order: of its name, shape, types, importance, search and program.

    The source's values count by three samples of 4 KiB, not in full: reading them all would take as long as the work.
    """
    calibration = _calibration(plan)
    return [
        _tensor_key(tensor, source, imatrix, search, calibration if tensor.calibrated else "")
        for tensor in plan.tensors
    ]


def _calibration(plan: Plan) -> str:
    """With a calibration text, what becomes of a tensor depends on the types of those before it."""
    return " ".join(
        [plan.calibration, *(f"{tensor.name}={tensor.type}" for tensor in plan.tensors if tensor.calibrated)]
    )


def _tensor_key(
    tensor: PlannedTensor,
    source: GGUFFile | ShardedGGUF,
    imatrix: Imatrix | None,
    search: Search,
    calibration: str,
) -> int:
    facts = f"{__version__} {search} {tensor.name} {tensor.source.ne} {tensor.source.type} {tensor.type}{calibration}"
    digest = hashlib.sha256(facts.encode(errors="surrogateescape"))
    data = source.data(tensor.source.name).reshape(-1)
    for start in (0, len(data) // 2, max(0, len(data) - SAMPLE_BYTES)):
        digest.update(data[start : start + SAMPLE_BYTES].tobytes())
    importance = importance_of(tensor, imatrix)
    if importance is not None:
        digest.update(importance.astype(np.float32).tobytes())
    return int.from_bytes(digest.digest()[:8], "little")
