"""The report of `quanttool quantize --report`: a JSON file, and a summary for people."""

import json
from typing import TYPE_CHECKING, Any

from .console import print_table

if TYPE_CHECKING:
    from ..quantize.plan import Plan
    from ..quantize.run import Result

N_WORST = 10


def write_report(
    path: str, plan: "Plan", result: "Result", show: bool, calibration: dict[str, Any] | None = None
) -> None:
    """Write the report to `path`; `show` a table by class of tensors and the ten worst tensors.

    calibration:  what `calibration.outcomes` found, to go into the file
    """
    from ..files import atomic_output
    from ..quantize.proof import report

    data = report(plan, result.errors) | ({"calibration": calibration} if calibration else {})
    with atomic_output(path) as file:
        file.write(json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False).encode())
    if not show:
        return
    rows = [
        (name, str(entry["tensors"]), " ".join(entry["types"]), f"{entry['bytes']:,}", *_errors(entry))
        for name, entry in data["classes"].items()
    ]
    rows.append(("all", "", "", f"{data['total']['file_bytes']:,}", *_errors(data["total"])))
    print_table(["class", ">tensors", "types", ">bytes", ">weighted error", ">plain error", ">largest"], rows)
    measured = [entry for entry in data["tensors"] if "weighted_error" in entry]
    worst = sorted(measured, key=lambda entry: -entry["weighted_error"])[:N_WORST]
    print_table(
        ["worst", "type", ">weighted error", ">plain error", ">largest"],
        [(entry["name"], entry["type"], *_errors(entry)) for entry in worst],
    )


def _errors(entry: dict[str, Any]) -> tuple[str, str, str]:
    return f"{entry['weighted_error']:.3e}", f"{entry['plain_error']:.3e}", f"{entry['maximum']:.3e}"
