"""The table of docs/formats.md: what each type costs, and how it compares with the program that owns it.

    python -m benchmarks.format_table            prints it
    python -m benchmarks.format_table --write    puts it into docs/formats.md

The golden rows are 16 rows of 1024 values that break scale searches; golden bytes and values are what llama.cpp and
ik_llama.cpp made of them.
"""

import argparse
from pathlib import Path

import numpy as np

from quanttool.formats import available_formats, block_format, dequantize_rows, quantize_rows
from quanttool.formats.base import FAMILIES

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden" / "formats"
PAGE = ROOT / "docs" / "formats.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"
ROW = 4096
# ik_llama.cpp's own row conversion of these takes the row's scale for codes: its values say nothing
VALUES_WITHOUT_SCALE = ("IQ1_BN", "IQ2_BN")

Arrays = dict[str, np.ndarray]


def golden(name: str) -> Arrays:
    """What the program that owns the type made of the golden rows; empty where there is no file."""
    owner = "ik" if block_format(name).type.origin == "ik_llama.cpp" else "mainline"
    path = GOLDEN / owner / f"{name}.npz"
    return dict(np.load(path)) if path.exists() else {}


def equal_rows(ours: np.ndarray, theirs: np.ndarray | None) -> str:
    if theirs is None:
        return "–"
    return str(int((ours.view(np.uint8) == theirs.view(np.uint8)).all(axis=1).sum()))


def error(name: str, data: np.ndarray, rows: np.ndarray, importance: np.ndarray) -> float:
    """Weighted squared error of each row as a share of the row's own weighted squares, added up."""
    values = dequantize_rows(data, name, rows.shape[1]).astype(np.float64)
    weighted = (importance * (values - rows) ** 2).sum(axis=1)
    return float((weighted / ((importance * rows.astype(np.float64) ** 2).sum(axis=1) + 1e-300)).sum())


def ratio(ours: float, theirs: float) -> str:
    """Our error over theirs: exactly 1 where the bytes are equal, so rounding is not shown as a difference."""
    return "1" if ours == theirs else f"{ours / theirs:.4f}" if theirs else "–"


def best_ratio(name: str, expected: Arrays, rows: np.ndarray, importance: np.ndarray) -> str:
    """Weighted error of search="best" over that of the program that owns the type."""
    best = quantize_rows(rows, name, importance, "best")
    weights = importance.astype(np.float64)
    theirs = expected.get("weighted", expected.get("plain"))  # where importance is ignored there is "plain" alone
    return ratio(*(error(name, data, rows, weights) for data in (best, theirs)))


def line(name: str, inputs: Arrays) -> str:
    fmt, expected = block_format(name), golden(name)
    rows, importance = expected.get("rows", inputs["rows"]), inputs["importance"]
    cells = [name, f"{8 * fmt.type.row_bytes(ROW) / ROW:.4g}", str(fmt.type.row_bytes(ROW)), fmt.importance]
    made = {}
    for key, weights in (("plain", None), ("weighted", importance)):
        if key in expected and fmt.can_quantize:
            made[key] = quantize_rows(rows, name, weights)
        cells.append(equal_rows(made[key], expected[key]) if key in made else "–")
    data = expected.get("plain", expected.get("weighted"))
    values = dequantize_rows(data, name, rows.shape[1]) if data is not None else None
    comparable = values is not None and name not in VALUES_WITHOUT_SCALE
    cells.append(equal_rows(values, expected["values"]) if comparable else "–")
    for key, weights in (("plain", np.ones(rows.shape[1])), ("weighted", importance.astype(np.float64))):
        errors = [error(name, bytes_, rows, weights) for bytes_ in (made.get(key), expected.get(key)) if key in made]
        cells.append(ratio(*errors) if errors else "–")
    cells.append(best_ratio(name, expected, rows, importance) if fmt.has_best and expected else "–")
    return "| " + " | ".join(cells) + " |"


def table() -> str:
    inputs = dict(np.load(GOLDEN / "input.npz"))
    head = [
        "| type | bpw | bytes of 4096 | importance | plain | weighted | values | plain error | weighted error | best |",
        "|---|---:|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    woven = set(FAMILIES["repacked"])
    names = [n for n in available_formats() if n not in woven and not block_format(n).type.is_plain]
    return "\n".join(head + [line(name, inputs) for name in names]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into docs/formats.md")
    text = table()
    if parser.parse_args().write:
        page = PAGE.read_text()
        start, end = page.index(BEGIN) + len(BEGIN), page.index(END)
        PAGE.write_text(page[:start] + text + page[end:])
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
