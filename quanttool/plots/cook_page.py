"""The report of `quanttool cook` as one HTML page that needs nothing else."""

import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .svg import bar_chart, line_chart, table_map

STYLE = """
:root{color-scheme:light dark;--ink:#1f2328;--paper:#fff;--line:#d0d7de;--soft:#57606a;--alarm:#cf222e}
@media(prefers-color-scheme:dark){
:root{--ink:#e6edf3;--paper:#0d1117;--line:#30363d;--soft:#9198a1;--alarm:#ff7b72}}
body{font-family:sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;line-height:1.4;
color:var(--ink);background:var(--paper)}
table{border-collapse:collapse;margin:1em 0;font-variant-numeric:tabular-nums}
td,th{padding:.25em .8em;border-bottom:1px solid var(--line);text-align:right}
td:first-child,th:first-child{text-align:left}.ours{font-weight:bold}.warning{color:var(--alarm)}.soft{color:var(--soft)}
.wide{overflow-x:auto}svg{max-width:100%;height:auto}
"""
PLAIN_BPW = 16
Cells = Mapping[str, tuple[float, str]]  # tensor -> (0 to 1, text)


def page(name: str, data: Mapping[str, Any]) -> str:
    """HTML of a report's data, as `cook` writes it to JSON."""
    parts = [
        f"<h1>{escape(name)}</h1>",
        f'<p class="soft">{escape(data["settings"])}</p>',
        *(f'<p class="warning">{escape(text)}</p>' for text in data["warnings"]),
        "<h2>Divergence on the held-out text</h2>",
        *(f"<p>{escape(text)}</p>" for text in data["verdicts"]),
        _front(data),
        _beside_mixes(data),
        _rows(data["rows"]),
        *(_recipe(size, recipe, _used(data)) for size, recipe in data["recipes"].items()),
        "<h2>What each tensor costs</h2>",
        _gains(data["sensitivity"]),
        "<h2>Predicted against measured</h2>",
        _checks(data["sensitivity"]["checks"]),
    ]
    body = "\n".join(parts)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(name)}</title>'
        '<meta name="viewport" content="width=device-width">'
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


def _beside_mixes(data: Mapping[str, Any]) -> str:
    """For each size a group of bars: ours, and the mixes next to it."""
    rows = {row["name"]: row for row in data["rows"]}
    groups = {
        size: [
            (name, rows[name]["mean_kld"], rows[name]["uncertainty"], name == size)
            for name in sorted((size, *data["mixes"][size]), key=lambda name: rows[name]["file_bytes"])
        ]
        for size in data["recipes"]
    }
    return bar_chart(groups, "mean KL divergence (nats) of each size and the classic mixes next to it")


def _rows(rows: Sequence[Mapping[str, Any]]) -> str:
    titles = ("", "bytes", "bpw", "predicted KLD", "measured KLD", "perplexity", "same top")
    head = "".join(f"<th>{title}</th>" for title in titles)
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
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


def _used(data: Mapping[str, Any]) -> tuple[float, float]:
    """The least and the most bits per weight that a tensor of any recipe has."""
    from ..ggml_types import BY_NAME

    used = [BY_NAME[kind].bpw for recipe in data["recipes"].values() for kind in recipe["types"].values()]
    used = [bpw for bpw in used if bpw < PLAIN_BPW]
    return min(used), max(used)


def _recipe(size: str, recipe: Mapping[str, Any], span: tuple[float, float]) -> str:
    """Types, errors and predicted costs of one result, each as a map of layers and kinds of tensors.

    span: bits per weight at the ends of the colours
    """
    from ..ggml_types import BY_NAME

    types = {name: kind for name, kind in recipe["types"].items() if BY_NAME[kind].bpw < PLAIN_BPW}
    low, high = span
    shades = {name: (BY_NAME[kind].bpw - low) / (high - low or 1.0) for name, kind in types.items()}
    costs = {name: 1000 * recipe["costs"][name] for name in types if name in recipe["costs"]}
    errors = {name: 100 * math.sqrt(recipe["errors"][name]) for name in types if name in recipe["errors"]}
    return "\n".join(
        (
            f"<h2>{escape(size)}</h2>",
            _map({name: (shade, types[name]) for name, shade in shades.items()}, "type; darker is larger"),
            _map(_logarithmic(errors), "error of the weights, weighted by importance, in % of their size"),
            _map(_logarithmic(costs), "what the tensor adds to the divergence as predicted, in 1/1000 nats"),
        )
    )


def _gains(sensitivity: Mapping[str, Any]) -> str:
    gains = {name: 1000 * gain["kld"] for name, gain in sensitivity["gains"].items()}
    label = f"mean KL divergence with this tensor alone in {sensitivity['probe']}, in 1/1000 nats"
    return _map(_logarithmic(gains), label)


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
        joined=("equal",),
    )


def _logarithmic(values: Mapping[str, float]) -> Cells:
    """Shades between the least and the largest value."""
    logs = {name: math.log(max(value, 1e-9)) for name, value in values.items()}
    low, high = min(logs.values(), default=0.0), max(logs.values(), default=0.0)
    return {name: ((logs[name] - low) / (high - low or 1.0), f"{value:.3g}") for name, value in values.items()}


def _map(cells: Cells, label: str) -> str:
    """Layer x kind of tensor; tensors outside the layers in a line beneath."""
    inside, outside = {}, []
    for name, cell in cells.items():
        if match := re.match(r"blk\.(\d+)\.(.+)", name):
            inside[match[1], match[2].removesuffix(".weight")] = cell
        else:
            outside.append(f"{name.removesuffix('.weight')} {cell[1]}")
    if not cells:
        return ""
    rows = sorted({row for row, _ in inside}, key=int)
    columns = list(dict.fromkeys(column for _, column in inside))
    drawing = f'<div class="wide">{table_map(rows, columns, inside, label)}</div>' if inside else ""
    return drawing + (f'<p class="soft">Outside the layers: {escape(", ".join(outside))}</p>' if outside else "")
