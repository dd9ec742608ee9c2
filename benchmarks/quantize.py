"""Speed of quantizers beside ggml's own (`pip install libggml-python`).

    python -m benchmarks.quantize                               llama.cpp's types, and their bounds
    python -m benchmarks.quantize --ik-library libggml.so       ik_llama.cpp's types
    python -m benchmarks.quantize --compile                     what compiling all kernels takes
    python -m benchmarks.quantize --llama-quantize PATH --model F32.gguf [--imatrix FILE]

`plain` is without importance, `weighted` with, `best` the search of that name (beside ggml's only one), `expand` is
back to float32. A cell is our speed in millions of weights per second and, for each run, the median of the ratios to
ggml's speed with their quartiles. In a round the two take turns, so that a busy machine slows both; ggml's functions
get one slab of rows per thread. Rows whose bytes differ are counted. --write puts what was measured into
docs/performance.md.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import geometric_mean, median, quantiles
from typing import NamedTuple

import click
import numpy as np

from benchmarks.ggml_library import Ggml, load_ggml
from benchmarks.quantize_bounds import bounds_table
from quanttool.formats import BlockFormat, available_formats, block_format, read_only, rows_per_slab
from quanttool.formats.base import FAMILIES
from quanttool.parallel import for_each_slab

COLUMNS = 4096
FEWEST_ROUNDS, MOST_ROUNDS = 3, 15
SHORTEST = 0.01  # seconds: shorter work is repeated within a measurement
SEARCHES = {"plain": (False, "reference"), "weighted": (True, "reference"), "best": (True, "best")}
MIXES = ("Q4_K_M", "IQ4_XS")
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"


class Cell(NamedTuple):
    speed: float  # ours, million weights per second
    ratios: list[float]  # of each round, to ggml's; empty if there is none


class Data(NamedTuple):
    """What is quantized."""

    rows: np.ndarray  # f32 [n_rows, COLUMNS]
    importance: np.ndarray  # f32 [COLUMNS]


def seconds(work: Callable[[], None], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        work()
    return time.perf_counter() - start


def compare(works: list[Callable[[], None]], n_weights: int, limit: float) -> Cell:
    """Run the pieces of work by turns for about `limit` seconds; the first is ours."""
    for work in works:
        work()  # compiles
    times = max(1, round(SHORTEST / max(seconds(works[0], 1), 1e-9)))
    rounds = []
    start = time.perf_counter()
    while len(rounds) < FEWEST_ROUNDS or (len(rounds) < MOST_ROUNDS and time.perf_counter() - start < limit):
        rounds.append([seconds(work, times) for work in works])
    ours = n_weights * times / median(r[0] for r in rounds) / 1e6
    return Cell(ours, [r[1] / r[0] for r in rounds] if len(works) == 2 else [])


def measure(name: str, data: Data, ggml: Ggml | None, threads: int, limit: float) -> dict[str, Cell]:
    """The cells of one type."""
    fmt, cells = block_format(name), {}
    rows = data.rows[: rows_worth(fmt, data, limit)]
    step = min(rows_per_slab(COLUMNS, fmt.type.rows_interleaved), -(-len(rows) // threads))
    out = np.zeros((len(rows), fmt.type.row_bytes(COLUMNS)), np.uint8)
    theirs, values, their_values = np.zeros_like(out), np.zeros_like(rows), np.zeros_like(rows)
    if ggml:
        ggml.prepare(name)
    for label in columns_of(fmt):
        weighted, search = SEARCHES[label]
        importance = data.importance if weighted else None

        def quantize(slab: slice, importance=importance, search=search) -> None:
            fmt.quantize(rows[slab], importance, search, out[slab])

        works = [lambda work=quantize: for_each_slab(work, len(rows), step, threads)]
        if ggml:
            works.append(lambda w=importance: ggml.quantize(rows, name, w, theirs, threads))
        cells[label] = compare(works, rows.size, limit)
        differ = (out != theirs).any(axis=1).mean()
        if ggml and search == "reference" and fmt.type.origin == "llama.cpp" and differ:
            print(f"{name} {label}: {differ:.1%} of the rows differ")
    works = [lambda: for_each_slab(lambda s: fmt.dequantize(read_only(out[s]), values[s]), len(rows), step, threads)]
    if ggml and fmt.type.origin == "llama.cpp":
        works.append(lambda: ggml.dequantize(out, name, their_values, threads))
    cells["expand"] = compare(works, rows.size, limit)
    if len(works) == 2 and not np.array_equal(values, their_values):
        print(f"{name}: expanded values differ")
    return cells


def rows_worth(fmt: BlockFormat, data: Data, limit: float) -> int:
    """As many rows as the slowest search of a type gets through in an eighth of the limit, at least 16."""
    part, search = data.rows[:16], "best" if fmt.has_best else "reference"
    out = np.zeros((len(part), fmt.type.row_bytes(COLUMNS)), np.uint8)
    importance = None if fmt.importance == "ignored" else data.importance

    def work() -> None:
        fmt.quantize(part, importance, search, out)

    work()  # compiles
    return min(len(data.rows), 16 * max(1, int(limit / 8 / seconds(work, 1))))


def columns_of(fmt: BlockFormat) -> list[str]:
    without = {"plain"} if fmt.importance == "required" else set()
    return [label for label in SEARCHES if label not in without and (label != "best" or fmt.has_best)]


# --- tables ----------------------------------------------------------------------------------------------------------


def shown(cells: list[Cell]) -> str:
    """The cells of several runs as one: speed, then each run's median ratio and its quartiles."""
    if not cells:
        return "–"
    parts = []
    for cell in cells:
        if cell.ratios:
            low, _, high = quantiles(cell.ratios, n=4)
            parts.append(f"{median(cell.ratios):.1f} ({low:.1f}–{high:.1f})")
    return f"{cells[0].speed:.0f}" + (": " + " / ".join(parts) if parts else "")


def table_of_types(runs: list[dict[str, dict[str, Cell]]]) -> str:
    lines = ["| type | plain | weighted | best | expand |", "|---|--:|--:|--:|--:|"]
    for name in runs[0]:
        cells = [shown([run[name][c] for run in runs if c in run[name]]) for c in (*SEARCHES, "expand")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    searching = [n for n in runs[0] if "best" in runs[0][n] and n not in FAMILIES["float4"]]
    means = []
    for label in (*SEARCHES, "expand"):
        names = runs[0] if label == "expand" else searching
        each = [
            [median(run[n][label].ratios) for n in names if label in run[n] and run[n][label].ratios] for run in runs
        ]
        means.append(" / ".join(f"{geometric_mean(ratios):.1f}" for ratios in each if ratios) or "–")
    lines.append(f"| geometric mean of types with a scale search (expand: all) | {' | '.join(means)} |")
    return "\n".join(lines) + "\n"


def write_between(name: str, text: str) -> None:
    """Put text into docs/performance.md between the two comments of that name."""
    page, begin, end = PAGE.read_text(), f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
    start = page.index(begin) + len(begin)
    PAGE.write_text(page[:start] + text + page[page.index(end) :])


# --- whole commands and compiling ------------------------------------------------------------------------------------


def whole_commands(llama_quantize: Path, model: Path, imatrix: Path | None, threads: int, rounds: int = 3) -> str:
    """Wall time of both programs, by turns."""
    lines = ["| | quanttool | llama-quantize | ratio |", "|---|--:|--:|--:|"]
    extra = ["--imatrix", str(imatrix)] if imatrix else []
    with tempfile.TemporaryDirectory(dir=model.parent) as folder:
        out = Path(folder) / "out.gguf"
        for mix in MIXES:
            ours = [sys.executable, "-m", "quanttool", "quantize", "--threads", str(threads), *extra]
            commands = [
                [*ours, str(model), str(out), mix],
                [str(llama_quantize), *extra, str(model), str(out), mix, str(threads)],
            ]
            run(commands[0], out)  # compiles
            pairs = [[run(command, out) for command in commands] for _ in range(rounds)]
            times = [median(pair[k] for pair in pairs) for k in (0, 1)]
            ratio = median(theirs / ours for ours, theirs in pairs)
            lines.append(f"| {mix} | {times[0]:.2f} s | {times[1]:.2f} s | {ratio:.1f} |")
    return "\n".join(lines) + "\n"


def run(command: list[str], out: Path) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    took = time.perf_counter() - start
    out.unlink()
    return took


def compile_all() -> str:
    """Processor time of each family's first calls in a fresh process with an empty cache, less that of later ones."""
    lines = ["| family | processor time |", "|---|--:|"]
    total = 0.0
    for family, names in FAMILIES.items():
        with tempfile.TemporaryDirectory() as folder:
            environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
            command = [
                sys.executable,
                "-c",
                "from benchmarks.quantize_bounds import first_calls; first_calls()",
                *names,
            ]
            done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        took = float(done.stdout)
        total += took
        lines.append(f"| {family} | {took:.1f} s |")
        print(lines[-1], flush=True)
    return "\n".join([*lines, f"| all | {total:.1f} s |"]) + "\n"


# --- command ---------------------------------------------------------------------------------------------------------


@click.command(help=__doc__.splitlines()[0])
@click.argument("types", nargs=-1)
@click.option("--threads", type=int, multiple=True, default=(1, 2), show_default=True, help="May be given again.")
@click.option("--rows", default=4096, show_default=True, help=f"Rows of {COLUMNS} weights at most; fewer if slow.")
@click.option("--runs", default=1, show_default=True, help="How often all types are measured.")
@click.option("--seconds", "limit", default=0.8, show_default=True, help="About so long for each cell.")
@click.option("--ik-library", type=Path, help="libggml.so of ik_llama.cpp: its types instead of llama.cpp's.")
@click.option("--compile", "compiling", is_flag=True, help="Only what compiling takes.")
@click.option("--llama-quantize", type=Path, help="Only whole commands, beside this program; needs --model.")
@click.option("--model", type=Path, help="GGUF that whole commands quantize.")
@click.option("--imatrix", type=Path, help="Importance for whole commands.")
@click.option("--write", is_flag=True, help="Put the tables into docs/performance.md.")
def main(types, threads, rows, runs, limit, ik_library, compiling, llama_quantize, model, imatrix, write) -> None:
    tables = {}
    if compiling:
        tables["compiling"] = compile_all()
    elif llama_quantize:
        if model is None:
            raise click.UsageError("--llama-quantize needs --model")
        tables["whole commands"] = whole_commands(llama_quantize, model, imatrix, max(threads))
    else:
        owner = "ik_llama.cpp" if ik_library else "llama.cpp"
        ggml = Ggml(ik_library) if ik_library else load_ggml()
        names = types or [n for n in available_formats() if is_measured(block_format(n), owner)]
        data = random_data(rows)
        measured = {n: [] for n in threads}
        for _ in range(runs):
            for n in threads:
                measured[n].append({name: measure(name, data, ggml, n, limit) for name in names})
        for n in threads:
            tables[f"{owner}, threads: {n}"] = table_of_types(measured[n])
        if not ik_library:
            tables["bounds"] = bounds_table(data.rows, measured)
    for name, text in tables.items():
        print(f"\n{name}\n\n{text}")
        if write:
            write_between(name, text)


def is_measured(fmt: BlockFormat, owner: str) -> bool:
    """Types of an owner that have a search or pack of their own: not the plain ones, not woven ones."""
    woven = fmt.name in FAMILIES["repacked"]
    return fmt.type.origin == owner and fmt.can_quantize and not fmt.type.is_plain and not woven


def random_data(n_rows: int) -> Data:
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((n_rows, COLUMNS), np.float32) * np.float32(0.02)
    return Data(read_only(rows), read_only(rng.gamma(0.5, 1.0, COLUMNS).astype(np.float32)))


if __name__ == "__main__":
    main()
