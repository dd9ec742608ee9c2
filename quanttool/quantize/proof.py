"""Proof of what was written: computed blocks are read back, expanded and checked; the error is measured if asked."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import fsum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import QuantizeError
from ..formats import block_format
from .plan import Plan, PlannedTensor


@dataclass
class Errors:
    """Error of one tensor, collected slab by slab. Sums do not depend on the order of slabs.

    squared, weighted:  sums of (x - y)**2 and of importance * (x - y)**2, x the weight and y what was written
    size, weighted_size:  the same of x**2
    maximum:            largest |x - y|
    seconds:            of all threads together, reading to proof
    """

    squared: list[float] = field(default_factory=list)
    weighted: list[float] = field(default_factory=list)
    size: list[float] = field(default_factory=list)
    weighted_size: list[float] = field(default_factory=list)
    maximum: float = 0.0
    seconds: float = 0.0

    def add(
        self, rows: NDArray[np.float32], values: NDArray[np.float32], importance: NDArray[np.float32] | None
    ) -> None:
        """rows, values: f32 [n_rows, n_cols]; importance: f32 [n_cols], None: all columns count the same."""
        weights = rows.astype(np.float64)
        difference = weights - values
        by_column = np.einsum("ij,ij->j", difference, difference)
        size_by_column = np.einsum("ij,ij->j", weights, weights)
        self.squared.append(float(by_column.sum()))
        self.size.append(float(size_by_column.sum()))
        self.weighted.append(float(by_column @ importance) if importance is not None else self.squared[-1])
        self.weighted_size.append(float(size_by_column @ importance) if importance is not None else self.size[-1])
        self.maximum = max(self.maximum, float(np.abs(difference).max()))

    def merge(self, slab: "Errors", seconds: float) -> None:
        """Take in the errors of another slab, which took so long."""
        self.squared += slab.squared
        self.weighted += slab.weighted
        self.size += slab.size
        self.weighted_size += slab.weighted_size
        self.maximum = max(self.maximum, slab.maximum)
        self.seconds += seconds


def expanded(tensor: PlannedTensor, data: NDArray[np.uint8], first_row: int) -> NDArray[np.float32]:
    """Written rows u8 [n_rows, row_bytes] as f32 [n_rows, n_cols]. Raises QuantizeError if a value is not finite."""
    values = np.empty((len(data), tensor.source.n_cols), np.float32)
    block_format(tensor.type).dequantize(data, values)
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise QuantizeError(
            f"{tensor.name}: row {first_row + row}, column {column}: the {tensor.type} block that was written is not "
            "finite; this is a mistake of quanttool, please report it with this line"
        )
    return values


def _relative(errors: Iterable[Errors]) -> dict[str, float]:
    errors = list(errors)

    def ratio(above: str, below: str) -> float:
        total = fsum(fsum(getattr(one, below)) for one in errors)
        return fsum(fsum(getattr(one, above)) for one in errors) / total if total > 0 else 0.0

    return {
        "weighted_error": ratio("weighted", "weighted_size"),
        "plain_error": ratio("squared", "size"),
        "maximum": max((one.maximum for one in errors), default=0.0),
    }


def tensor_class(name: str) -> str:
    """`blk.3.ffn_down_exps.weight` -> `ffn_down_exps`."""
    return re.sub(r"^blk\.\d+\.", "", name).removesuffix(".weight")


def report(plan: Plan, errors: Mapping[str, Errors]) -> dict[str, Any]:
    """What was written, as plain data: totals, per class of tensors, per tensor (errors where weights were quantized).

    Errors are relative: sum of importance * (x - y)**2 over that of importance * x**2, and the same without importance.
    """
    tensors, classes = [], {}
    for tensor in plan.tensors:
        entry: dict[str, Any] = {
            "name": tensor.name,
            "shape": list(tensor.source.ne),
            "source_type": tensor.source.type.name,
            "type": tensor.type.name,
            "reason": tensor.reason,
            "bytes": tensor.target.n_bytes,
        }
        if one := errors.get(tensor.name):
            entry |= _relative([one]) | {"seconds": one.seconds}
            classes.setdefault(tensor_class(tensor.name), []).append(tensor)
        tensors.append(entry)
    by_class = {
        name: {
            "tensors": len(members),
            "types": sorted({tensor.type.name for tensor in members}),
            "bytes": sum(tensor.target.n_bytes for tensor in members),
            **_relative(errors[tensor.name] for tensor in members),
        }
        for name, members in classes.items()
    }
    total = {"file_bytes": plan.file_bytes, "bpw": plan.bpw, **_relative(errors.values())}
    return {"total": total, "classes": by_class, "tensors": tensors}
