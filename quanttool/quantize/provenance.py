"""How a file was made, in its own metadata: enough to make it again, and to take tensors from it later."""

import hashlib

import numpy as np

from .. import __version__
from ..container import GGUFFile, GGUFValueType, ShardedGGUF
from ..container.fingerprint import fingerprint
from ..container.writer import encode_value
from ..errors import UsageError
from ..formats import Search
from ..imatrix import Imatrix
from ..recipes.resolve import Request
from .identity import tensor_keys
from .plan import CHANGED, PROVENANCE, Plan

KEYS = f"{PROVENANCE}tensor_keys"
_UNKNOWN = "0" * 64  # stands for a hash in a plan made from a header alone: the size is the same


def add_provenance(
    plan: Plan, request: Request, source: GGUFFile | ShardedGGUF, imatrix: Imatrix | None, search: Search
) -> None:
    """Add the keys quanttool.* to the metadata of a plan; a copy keeps those of its source instead.

    version, search; mix_rules, if not our own; recipe: TYPE and the rules, a line each; source.sha256: of all tensors'
    names, types, shapes and first bytes; imatrix.sha256: of its values; calibration: its text's hash and settings;
    tensor_keys: what each tensor was made from, in file order.
    """
    if request.target.base is None:
        return
    recipe = "\n".join([request.target.name, *(rule.text for rule in request.rules)])
    texts = {"version": __version__, "search": search, "recipe": recipe}
    texts["source.sha256"] = fingerprint(source) if source.has_data else _UNKNOWN
    if request.target.mix and request.target.rules != "quanttool":
        texts["mix_rules"] = request.target.rules
    if imatrix:
        texts["imatrix.sha256"] = imatrix_sha256(imatrix)
    if plan.calibration:
        texts["calibration"] = plan.calibration
    string, array = GGUFValueType.STRING, GGUFValueType.ARRAY
    added = {PROVENANCE + key: (string, encode_value(text, string)) for key, text in texts.items()}
    keys = tensor_keys(plan, source, imatrix, search) if source.has_data else [0] * len(plan.tensors)
    added[KEYS] = (array, encode_value(keys, array, GGUFValueType.UINT64))
    # Before what every quantizer moves to the end, so that a later copy finds them where it leaves them.
    last = {key: plan.metadata.pop(key) for key in list(plan.metadata) if key in CHANGED or key.startswith("quantize.")}
    plan.metadata |= added | last


def imatrix_sha256(imatrix: Imatrix) -> str:
    """Of names, sums of squares and counts of all entries: the same for both file formats."""
    digest = hashlib.sha256()
    for name in sorted(imatrix.entries):  # one at a time: they may be more than memory is for
        entry = imatrix.entries[name]
        digest.update(name.encode(errors="surrogateescape"))
        digest.update(np.ascontiguousarray(entry.sums_of_squares))
        digest.update(entry.counts.astype("<i8"))
    return digest.hexdigest()


def reusable_tensors(previous: GGUFFile | ShardedGGUF, plan: Plan, keys: list[int]) -> set[str]:
    """Names of planned tensors that an earlier result holds already: made from the same, into the same type.

    Raises UsageError if the earlier file does not say what its tensors were made from.
    """
    found = previous.metadata.get(KEYS)
    if found is None or len(found) != len(previous.tensors):
        raise UsageError(
            f"{previous.path}: does not say what its tensors were made from (quanttool quantize writes it unless "
            "--no-provenance is given); nothing can be reused"
        )
    known = dict(zip(previous.tensors, map(int, found), strict=True))
    return {
        tensor.name
        for tensor, key in zip(plan.tensors, keys, strict=True)
        if known.get(tensor.name) == key
        and previous.tensors[tensor.name].type is tensor.type
        and previous.tensors[tensor.name].ne == tensor.source.ne
    }
