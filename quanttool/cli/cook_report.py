"""What `quanttool cook` made, beside the classic mixes of the same sizes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import print_table
from .planned import measured, measured_files, nearest_mixes

if TYPE_CHECKING:
    from ..evaluate import Chunks, Divergence
    from ..optimize.allocation import Allocation
    from .recipe_optimize import Search

Row = dict[str, Any]


@dataclass(frozen=True)
class Result:
    """One size: what was chosen, and the files of it.

    wanted: bytes that were allowed; the best that the types can do may be smaller
    """

    wanted: int
    allocation: "Allocation"
    file: Path
    recipe: Path
    errors: Path  # what quantize reports


@dataclass(frozen=True)
class Comparison:
    """Results and mixes on a text.

    rows:   one for every result and mix, by size
    mixes:  name of a result -> names of the mixes next below and above its size
    """

    results: dict[str, Result]
    rows: list[Row]
    mixes: dict[str, list[str]]

    def worse_than_a_mix(self) -> list[str]:
        """Our files that diverge more than a classic mix that is no larger."""
        return [
            f"{row['name']} diverges more than {mix['name']}, which is no larger ({row['mean_kld']:.6f} and "
            f"{mix['mean_kld']:.6f} nats)"
            for row in self.rows
            if row["ours"]
            for mix in self.rows
            if not mix["ours"] and mix["file_bytes"] <= row["file_bytes"] and mix["mean_kld"] < row["mean_kld"]
        ]

    def verdicts(self) -> list[str]:
        """Each result beside the mixes next to it, in a sentence."""
        rows = {row["name"]: row for row in self.rows}
        return [
            f"{name}: {rows[name]['mean_kld']:.4f} nats. "
            + " ".join(
                f"Beside {mix}: {_change(rows[mix], rows[name], 'mean_kld')} divergence, "
                f"{_change(rows[mix], rows[name], 'file_bytes')} bytes."
                for mix in mixes
                if rows[mix]["mean_kld"] > 0
            )
            for name, mixes in self.mixes.items()
        ]

    def as_data(self, optimizer: "Search") -> dict[str, Any]:
        """For the report."""
        return {
            "rows": self.rows,
            "mixes": self.mixes,
            "verdicts": self.verdicts(),
            "warnings": self.worse_than_a_mix(),
            "front": front(optimizer, self.rows),
            "recipes": {
                name: optimizer.as_data(result.allocation)
                | {"costs": optimizer.problem.costs_of(result.allocation), "errors": _errors(result.errors)}
                for name, result in self.results.items()
            },
        }

    def show(self) -> None:
        print_table(
            ["", ">bytes", ">bpw", ">predicted KLD", ">measured KLD", ">±", ">perplexity"],
            [
                (
                    row["name"],
                    f"{row['file_bytes']:,}",
                    f"{row['bpw']:.3f}",
                    "" if row["predicted_kld"] is None else f"{row['predicted_kld']:.6f}",
                    f"{row['mean_kld']:.6f}",
                    f"{row['uncertainty']:.6f}",
                    f"{row['perplexity']:.4f}",
                )
                for row in self.rows
            ],
        )


def compare(optimizer: "Search", results: dict[str, Result], chunks: "Chunks") -> Comparison:
    """Our files and the classic mixes of their sizes, the mixes made as ours without feedback, without files."""
    from ..container import open_gguf

    target, model = optimizer.target, str(optimizer.target.source.path)
    source = open_gguf(model)
    mixes = {
        name: nearest_mixes(source, result.wanted, target.imatrix, target.imatrix_name, target.search)
        for name, result in results.items()
    }
    plans = {mix: plan for some in mixes.values() for mix, plan in some.items()}
    divergences = measured(
        model, chunks, list(plans.values()), target.imatrix, "f32", None, "classic mixes", target.search
    )
    rows = [
        _row(mix, plan.file_bytes, plan.bpw, one) for (mix, plan), one in zip(plans.items(), divergences, strict=True)
    ]
    divergences = measured_files(model, chunks, [result.file for result in results.values()], "our files")
    rows += [
        _row(name, result.file.stat().st_size, optimizer.bpw(result.allocation), one)
        | {"ours": True, "predicted_kld": optimizer.predicted(result.allocation)}
        for (name, result), one in zip(results.items(), divergences, strict=True)
    ]
    rows.sort(key=lambda row: row["file_bytes"])
    return Comparison(results, rows, {name: list(some) for name, some in mixes.items()})


def front(optimizer: "Search", rows: list[Row], points: int = 6) -> list[tuple[float, float]]:
    """Predicted divergences of the best recipes around the sizes that were made: (bits per weight, nats)."""
    from ..errors import RecipeError

    low, high = (pick(row["bpw"] for row in rows) for pick in (min, max))
    found = []
    for i in range(points):
        try:
            one = optimizer.best(bpw=0.95 * low + i * (1.05 * high - 0.95 * low) / (points - 1))
        except RecipeError:  # less than the types can reach
            continue
        found.append((optimizer.bpw(one), optimizer.predicted(one)))
    return found


def _row(name: str, file_bytes: int, bpw: float, divergence: "Divergence") -> Row:
    return {
        "name": name,
        "ours": False,
        "file_bytes": file_bytes,
        "bpw": bpw,
        "predicted_kld": None,
        "mean_kld": divergence.mean_kld.value,
        "uncertainty": divergence.mean_kld.uncertainty,
        "perplexity": divergence.ppl.value,
        "same_top": divergence.same_top_share.value,
    }


def _errors(path: Path) -> dict[str, float]:
    """Tensor -> weighted squared error as a share of its weighted squares, of a report of quantize."""
    tensors = json.loads(path.read_text())["tensors"]
    return {tensor["name"]: tensor["weighted_error"] for tensor in tensors if "weighted_error" in tensor}


def _change(before: Row, after: Row, key: str) -> str:
    return f"{100 * (after[key] / before[key] - 1):+.1f} %"
