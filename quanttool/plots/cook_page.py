"""The report of `quanttool cook` as one HTML page that needs nothing else."""

import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .svg import line_chart, table_map

STYLE = """
body{font-family:sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#1f2328;line-height:1.4}
table{border-collapse:collapse;margin:1em 0}td,th{padding:.25em .8em;border-bottom:1px solid #d0d7de;text-align:right}
td:first-child,th:first-child{text-align:left}.ours{font-weight:bold}.warning{color:#cf222e}svg{max-width:100%;height:auto}
"""
SMALLEST, LARGEST = 2.0, 8.5  # bits per weight at the ends of the colours of the map


def page(name: str, data: Mapping[str, Any]) -> str:
    """HTML of a report's data, as `cook` writes it to JSON."""
    parts = [
        f"<h1>{escape(name)}</h1>",
        *(f'<p class="warning">{escape(text)}</p>' for text in data["warnings"]),
        "<h2>Divergence on the held-out text</h2>",
        _front(data),
        _rows(data["rows"]),
        *(
            f"<h2>Types at {escape(size)}</h2>{_allocation(recipe['types'])}"
            for size, recipe in data["recipes"].items()
        ),
        "<h2>What each tensor costs</h2>",
        _gains(data["sensitivity"]),
        "<h2>Predicted against measured</h2>",
        _checks(data["sensitivity"]["checks"]),
    ]
    body = "\n".join(parts)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(name)}</title>'
        f"<style>{STYLE}</style><body>{body}</body></html>\n"
    )


def _front(data: Mapping[str, Any]) -> str:
    rows = data["rows"]
    series = {"predicted front": data["front"], "ours, measured": _points(row for row in rows if row["ours"])}
    marks = {row["name"]: (row["bpw"], row["mean_kld"]) for row in rows if not row["ours"] and row["mean_kld"] > 0}
    series = {label: points for label, points in series.items() if points}
    return line_chart(series, "bits per weight", "mean KL divergence (nats)", log_y=True, marks=marks)


def _points(rows) -> list[tuple[float, float]]:
    return sorted((row["bpw"], row["mean_kld"]) for row in rows if row["mean_kld"] > 0)


def _rows(rows: Sequence[Mapping[str, Any]]) -> str:
    head = "".join(
        f"<th>{title}</th>" for title in ("", "bytes", "bpw", "predicted KLD", "measured KLD", "perplexity", "same top")
    )
    lines = []
    for row in sorted(rows, key=lambda row: row["file_bytes"]):
        predicted = "" if row["predicted_kld"] is None else f"{row['predicted_kld']:.5f}"
        cells = (
            escape(row["name"]),
            f"{row['file_bytes']:,}",
            f"{row['bpw']:.3f}",
            predicted,
            f"{row['mean_kld']:.5f} ± {row['uncertainty']:.5f}",
            f"{row['perplexity']:.3f}",
            f"{100 * row['same_top']:.1f} %",
        )
        ours = ' class="ours"' if row["ours"] else ""
        lines.append(f"<tr{ours}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


def _allocation(types: Mapping[str, str]) -> str:
    """Layer x kind of tensor, coloured by bits; tensors outside the layers in a line of their own."""
    from ..ggml_types import BY_NAME

    cells = {
        place: ((BY_NAME[kind].bpw - SMALLEST) / (LARGEST - SMALLEST), kind)
        for name, kind in types.items()
        if kind not in ("F32", "F16", "BF16") and (place := _place(name))
    }
    return _map(cells, "type of each tensor; darker is larger")


def _gains(sensitivity: Mapping[str, Any]) -> str:
    gains = {name: gain["kld"] for name, gain in sensitivity["gains"].items()}
    low, high = (math.log(max(pick(gains.values()), 1e-12)) for pick in (min, max))
    span = (high - low) or 1.0
    cells = {
        place: ((math.log(max(kld, 1e-12)) - low) / span, f"{1000 * kld:.3g}")
        for name, kld in gains.items()
        if (place := _place(name))
    }
    return _map(cells, f"mean KL divergence with this tensor alone in {sensitivity['probe']}, in 1/1000 nats")


def _checks(checks: Sequence[Mapping[str, float]]) -> str:
    points = [(check["measured"], check["predicted"]) for check in checks if check["measured"] > 0]
    if not points:
        return "<p>No recipes were measured.</p>"
    ends = [min(min(p) for p in points), max(max(p) for p in points)]
    return line_chart(
        {"equal": [(end, end) for end in ends], "recipes of random types": sorted(points)},
        "measured (nats)",
        "predicted (nats)",
        log_y=True,
        log_x=True,
    )


def _map(cells: Mapping[tuple[str, str], tuple[float, str]], label: str) -> str:
    rows = sorted({row for row, _ in cells}, key=lambda row: (row != "", int(row) if row else 0))
    columns = list(dict.fromkeys(column for row, column in cells if row)) or []
    columns += [column for row, column in cells if not row and column not in columns]
    return table_map(rows, columns, cells, label)


def _place(name: str) -> tuple[str, str]:
    """(layer, kind) of a tensor; ("", name) outside the layers."""
    match = re.match(r"blk\.(\d+)\.(.+)", name)
    layer, kind = (match[1], match[2]) if match else ("", name)
    return layer, kind.removesuffix(".weight")
