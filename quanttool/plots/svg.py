"""A few charts as SVG."""

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 30, 50
COLORS = ("#1f6feb", "#d1480f", "#2da44e", "#8250df", "#9a6700", "#cf222e")
Points = Sequence[tuple[float, float]]
# Attributes hold the colours of a light page; where the reader's is dark, these come before them.
DARK = (
    "<style>@media(prefers-color-scheme:dark){.ink{fill:#e6edf3}.paper{fill:#0d1117}.grid{stroke:#30363d}"
    ".mark{stroke:#9198a1}}</style>"
)


def line_chart(
    series: Mapping[str, Points],
    x_label: str,
    y_label: str,
    log_y: bool = False,
    marks: Mapping[str, tuple[float, float]] | None = None,
    log_x: bool = False,
    joined: Sequence[str] | None = None,
) -> str:
    """Series of (x, y) as points, joined by lines, `marks` as named crosses; logarithmic axes need positive values.

    joined:  names of the series that get lines; None: all
    """
    every = [point for points in series.values() for point in points] + list((marks or {}).values())
    x_axis = _Axis([x for x, _ in every], LEFT, WIDTH - RIGHT, log_x)
    y_axis = _Axis([y for _, y in every], HEIGHT - BOTTOM, TOP, log_y)
    body = [_grid(x_axis, y_axis, x_label, y_label)]
    for (name, points), color in zip(series.items(), COLORS * len(series), strict=False):
        places = [(x_axis.at(x), y_axis.at(y)) for x, y in points]
        if len(places) > 1 and (joined is None or name in joined):
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            body.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        for (x, y), (px, py) in zip(points, places, strict=True):
            title = f"<title>{escape(name)}: {x:.4g}, {y:.4g}</title>"
            body.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3.5" fill="{color}">{title}</circle>')
    for name, (x, y) in (marks or {}).items():
        px, py = x_axis.at(x), y_axis.at(y)
        cross = f"M{px - 4:.1f} {py - 4:.1f}l8 8m0 -8l-8 8"
        body.append(f'<path d="{cross}" class="mark" stroke="#57606a" stroke-width="2"/>')
        body.append(f'<text x="{px + 7:.1f}" y="{py - 5:.1f}" font-size="11">{escape(name)}</text>')
    body.append(_legend(list(series)))
    return _svg("".join(body), WIDTH, HEIGHT)


def table_map(
    rows: Sequence[str], columns: Sequence[str], cells: Mapping[tuple[str, str], tuple[float, str]], label: str
) -> str:
    """Coloured cells: (row, column) -> (0 to 1, text); light for 0, dark for 1; absent cells stay white."""
    cell_width, cell_height, left, top = 66, 18, 60, 60
    body = []
    for j, column in enumerate(columns):
        x = left + j * cell_width + cell_width / 2
        body.append(f'<text x="{x}" y="{top - 8}" font-size="10" text-anchor="middle">{escape(column)}</text>')
    for i, row in enumerate(rows):
        y = top + i * cell_height
        body.append(f'<text x="{left - 6}" y="{y + 13}" font-size="11" text-anchor="end">{escape(row)}</text>')
        for j, column in enumerate(columns):
            if (row, column) not in cells:
                continue
            shade, text = cells[row, column]
            x = left + j * cell_width
            ink = "#fff" if shade > 0.5 else "#1f2328"
            body.append(
                f'<rect x="{x}" y="{y}" width="{cell_width - 1}" height="{cell_height - 1}" fill="{_shade(shade)}"/>'
                f'<text x="{x + cell_width / 2}" y="{y + 12.5}" font-size="10" text-anchor="middle" fill="{ink}">'
                f"{escape(text)}</text>"
            )
    body.append(f'<text x="{left}" y="20" font-size="12">{escape(label)}</text>')
    return _svg("".join(body), left + len(columns) * cell_width + 20, top + len(rows) * cell_height + 20)


def bar_chart(groups: Mapping[str, Sequence[tuple[str, float, float, bool]]], label: str) -> str:
    """Horizontal bars from 0, group by group.

    groups:  name -> (label, length, its standard error, highlighted)
    """
    left, right, width, height, gap = 90, 560, 18, 22, 12
    longest = max((value + error for group in groups.values() for _, value, error, _ in group), default=0) or 1.0
    body, y = [f'<text x="10" y="20" font-size="12">{escape(label)}</text>'], 36
    for group in groups.values():
        for name, value, error, highlighted in group:
            end, low, high = (left + (right - left) * one / longest for one in (value, value - error, value + error))
            color, weight = (COLORS[0], "bold") if highlighted else ("#8c959f", "normal")
            middle = y + width / 2
            body.append(
                f'<text x="{left - 6}" y="{middle + 4}" font-size="11" font-weight="{weight}" text-anchor="end">'
                f'{escape(name)}</text><rect x="{left}" y="{y}" width="{end - left:.1f}" height="{width}" '
                f'fill="{color}"/><path d="M{low:.1f} {middle}H{high:.1f}" '
                f'class="mark" stroke="#57606a"/><text x="{high + 6:.1f}" y="{middle + 4}" '
                f'font-size="11">{value:.4g}</text>'
            )
            y += height
        y += gap
    return _svg("".join(body), WIDTH, y)


class _Axis:
    """Values to pixels."""

    def __init__(self, values: Sequence[float], start: float, end: float, log: bool):
        self.log, self.start, self.end = log, start, end
        self.low, self.high = min(map(self._scaled, values)), max(map(self._scaled, values))
        margin = 0.05 * (self.high - self.low) or 0.5
        self.low, self.high = self.low - margin, self.high + margin

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def at(self, value: float) -> float:
        return self.start + (self._scaled(value) - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        if self.log:
            decades = range(math.floor(self.low), math.ceil(self.high) + 1)
            ticks = [m * 10.0**decade for decade in decades for m in (1, 2, 5)]
        else:
            step = 10 ** math.floor(math.log10(self.high - self.low))
            step *= 0.2 if (self.high - self.low) / step < 2 else 0.5 if (self.high - self.low) / step < 5 else 1
            ticks = [i * step for i in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        return [tick for tick in ticks if self.low <= self._scaled(tick) <= self.high]


def _grid(x_axis: _Axis, y_axis: _Axis, x_label: str, y_label: str) -> str:
    parts, below = [], HEIGHT - BOTTOM + 16
    for tick in x_axis.ticks():
        x = x_axis.at(tick)
        parts.append(f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" class="grid" stroke="#d0d7de"/>')
        parts.append(f'<text x="{x:.1f}" y="{below}" font-size="11" text-anchor="middle">{tick:g}</text>')
    for tick in y_axis.ticks():
        y = y_axis.at(tick)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" class="grid" stroke="#d0d7de"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" font-size="11" text-anchor="end">{tick:g}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" font-size="12" text-anchor="middle">'
        f"{escape(x_label)}</text>"
        f'<text transform="translate(16 {middle}) rotate(-90)" font-size="12" text-anchor="middle">'
        f"{escape(y_label)}</text>"
    )
    return "".join(parts)


def _legend(names: list[str]) -> str:
    """In a line above the plot, each name behind a point of its colour."""
    if len(names) < 2:
        return ""
    parts, x = [], LEFT
    for name, color in zip(names, COLORS * len(names), strict=False):
        parts.append(f'<circle cx="{x + 5}" cy="{TOP - 12}" r="3.5" fill="{color}"/>')
        parts.append(f'<text x="{x + 13}" y="{TOP - 8}" font-size="12">{escape(name)}</text>')
        x += 34 + 7 * len(name)
    return "".join(parts)


def _shade(share: float) -> str:
    light, dark = (233, 242, 255), (10, 48, 105)
    return "#" + "".join(f"{round(a + (b - a) * min(max(share, 0), 1)):02x}" for a, b in zip(light, dark, strict=True))


def _svg(body: str, width: float, height: float) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" font-family="sans-serif">{DARK}'
        f'<rect class="paper" width="100%" height="100%" fill="#fff"/><g class="ink" fill="#1f2328">{body}</g></svg>\n'
    )


def heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Mapping[tuple[str, str], tuple[float, str]],
    label: str,
    cell_width: int = 8,
    legends: bool = False,
) -> str:
    """Small coloured cells: (row, column) -> (0 to 1, what a pointer shows); absent cells stay white.

    legends: write the columns' names above them, upright; else only the first and last number
    """
    height, left = 12, 40
    top = 30 + (7 * max(map(len, columns), default=0) if legends else 20)
    body = [f'<text x="{left}" y="18" font-size="12">{escape(label)}</text>']
    for j, column in enumerate(columns):
        x = left + (j + 0.5) * cell_width
        if legends:
            turned = f'transform="translate({x + 4:.1f} {top - 5}) rotate(-90)"'
            body.append(f'<text {turned} font-size="11">{escape(column)}</text>')
        elif j in (0, len(columns) - 1):
            body.append(f'<text x="{x}" y="{top - 5}" font-size="10" text-anchor="middle">{escape(column)}</text>')
    for i, row in enumerate(rows):
        y = top + i * height
        body.append(f'<text x="{left - 5}" y="{y + 10}" font-size="10" text-anchor="end">{escape(row)}</text>')
        for j, column in enumerate(columns):
            if (row, column) in cells:
                shade, text = cells[row, column]
                body.append(
                    f'<rect x="{left + j * cell_width}" y="{y}" width="{cell_width - 1}" height="{height - 1}" '
                    f'fill="{_shade(shade)}"><title>{escape(f"{row}, {column}: {text}")}</title></rect>'
                )
    return _svg("".join(body), max(300, left + len(columns) * cell_width + 20), top + len(rows) * height + 20)
