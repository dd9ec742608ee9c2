"""Measurements of Thireus's GGUF tool suite: kld_results.csv or ppl_results.csv, group0 curves, tensor maps.

One row per probed type, one column per tensor: the metric of the whole model when only that tensor has that type; 404
where it was not measured. group0/kld_results.csv has the divergence of the model with all tensors in a type. A tensor's
cost in another type follows that curve: cost(type) = cost(probe) * curve(type) / curve(probe).
"""

import ast
import csv
import math
import os
from pathlib import Path

from ..container import TensorInfo
from ..errors import FileFormatError, UsageError
from ..ggml_types import BY_NAME, ggml_type
from .table import Sensitivity

NOT_MEASURED = ("404", "404%", "")
BASELINES = ("BF16", "F16", "F32")
CURVES = ("group0/kld_results.csv", "group0_kld_results.csv")  # where a curve lies beside the results


def read_results(path: str | os.PathLike, curve_path: str | os.PathLike | None = None) -> Sensitivity:
    """Costs of every measured tensor in every type of the curve, from the probe nearest to the type on the curve.

    curve_path:  the group0 curve; default: one of CURVES beside `path`

    Perplexities become differences of their logarithms. A loss of nothing or less is noise: it becomes the smallest
    positive one of its row. Raises UsageError without a curve, FileFormatError for a damaged file.
    """
    path = Path(path)
    rows = _read(path)
    curve = read_curve(curve_path or _curve_beside(path))
    probes = [name for name in rows if curve.get(name)]
    if not probes:
        raise FileFormatError(f"{path}: none of its rows ({', '.join(rows)}) is of a type that the curve knows")
    losses = {probe: _losses(path, rows[probe], rows) for probe in probes}
    costs: dict[str, dict[str, float]] = {}
    for tensor in rows[probes[0]]:
        measured = [probe for probe in probes if tensor in losses[probe]]
        if measured:
            costs[tensor] = {}
            for name, degradation in curve.items():
                nearest = min((_apart(curve[probe], degradation), i, probe) for i, probe in enumerate(measured))[-1]
                costs[tensor][name] = losses[nearest][tensor] * degradation / curve[nearest]
    return Sensitivity(costs, details={"source": str(path), "probes": probes})


def read_curve(path: str | os.PathLike) -> dict[str, float]:
    """Type -> mean KL divergence of the model with all tensors in that type. Raises FileFormatError."""
    path = Path(path)
    curve = {}
    for name, cells in _read(path).items():
        values = [float(cell) for cell in cells.values() if cell not in NOT_MEASURED]
        if len(values) == 1 and name in BY_NAME:
            curve[name] = max(values[0], 0.0)
    if not curve:
        raise FileFormatError(f"{path}: holds no curve; expected lines TYPE,divergence")
    return curve


def read_map(path: str | os.PathLike) -> list[TensorInfo]:
    """Tensors of a `tensors.<type>.map` file. Raises FileFormatError that quotes a line it cannot read."""
    tensors = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            _, _, name, *fields = line.strip().split(":")
            facts = dict(field.split("=", 1) for field in fields)
            shape = ast.literal_eval(facts["shape"])
            tensors.append(TensorInfo(name, ggml_type(facts["dtype"]), tuple(int(n) for n in shape)))
        except (ValueError, KeyError, SyntaxError, TypeError, UsageError):
            raise FileFormatError(f"{path}: cannot read the line {line!r}") from None
    return tensors


def _curve_beside(path: Path) -> Path:
    for name in CURVES:
        if (path.parent / name).is_file():
            return path.parent / name
    raise UsageError(f"{path}: needs the curve of its model; put group0's kld_results.csv at {path.parent / CURVES[0]}")


def _read(path: Path) -> dict[str, dict[str, str]]:
    """Type, in capitals -> column -> cell."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    if not rows or not rows[0] or rows[0][0] != "QTYPE":
        raise FileFormatError(f"{path}: its first line does not begin with QTYPE")
    return {row[0].upper(): dict(zip(rows[0][1:], row[1:], strict=False)) for row in rows[1:] if row}


def _losses(path: Path, row: dict[str, str], rows: dict[str, dict[str, str]]) -> dict[str, float]:
    """Tensor -> loss at the row's type, all positive."""
    cells = {tensor: cell.strip() for tensor, cell in row.items() if cell.strip() not in NOT_MEASURED}
    try:
        if any(cell.endswith("%") for cell in cells.values()):
            losses = {tensor: math.log1p(float(cell.rstrip("%")) / 100) for tensor, cell in cells.items()}
        elif path.name.startswith("ppl"):
            base = next((rows[name] for name in BASELINES if name in rows), row)
            least = min(float(cell) for cell in base.values() if cell not in NOT_MEASURED)
            losses = {tensor: math.log(float(cell) / least) for tensor, cell in cells.items()}
        else:
            losses = {tensor: float(cell) for tensor, cell in cells.items()}
    except ValueError as error:
        raise FileFormatError(f"{path}: {error}") from None
    positive = [loss for loss in losses.values() if loss > 0]
    if not positive:
        raise FileFormatError(f"{path}: no tensor has a loss above zero")
    return {tensor: max(loss, min(positive)) for tensor, loss in losses.items()}


def _apart(a: float, b: float) -> float:
    """Distance of two degradations, as a ratio; an undamaged type is as far from all."""
    return abs(math.log(a / b)) if a > 0 and b > 0 else math.inf
