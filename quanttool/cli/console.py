"""What a command shows: progress with ETA on a terminal, tables for people, JSON for machines."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

Progress = Callable[[int, int], None]  # called as progress(done, total)

threads_option = click.option(
    "-t", "--threads", type=click.IntRange(min=1), metavar="N", help="Threads to use; default: all processors."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")


def search_option(help: str, default: str | None = "reference") -> Callable:
    """--search of the commands that quantize, or foresee it."""
    choices = click.Choice(["reference", "best", "auto"])
    return click.option("--search", type=choices, default=default, show_default=True, help=help)


def precision_option(default: str) -> Callable:
    """--precision of the commands that run models."""
    return click.option(
        "--precision",
        type=click.Choice(["f32", "bf16", "bf16-experts", "auto"]),
        default=default,
        show_default=True,
        help="How weights are multiplied: as float32, or rounded to bfloat16, faster where the processor has products "
        "for that (bf16-experts: also in mixtures of experts, where routers then choose differently now and then); "
        "auto: bf16 if the file's weights are bfloat16, else f32.",
    )


device_option = click.option(
    "--device",
    metavar="NAME",
    help="Run products and attention with PyTorch there (cuda, cuda:1, mps, cpu); default: our own kernels.",
)


class Size(click.ParamType):
    """Bytes, with or without a unit: 500M, 1.5G, 2GB, 1073741824; K, M, G, T are powers of `kilo`."""

    name = "size"

    def __init__(self, kilo: int = 1024):
        self.kilo = kilo

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)(?:I?B)?", value.strip().upper())
        if match is None:
            self.fail(f"{value!r} is no size; give one like 500M or 2G", param, ctx)
        return int(float(match[1]) * self.kilo ** " KMGT".index(match[2] or " "))


memory_option = click.option(
    "--memory", type=Size(), metavar="SIZE",
    help="Memory for the hidden states of the text, such as 2G; what does not fit waits in a temporary file. Default: "
    "half of what is free.",
)  # fmt: skip


@contextmanager
def progress_bar(label: str, unit: str = "it", scale: bool = False) -> Iterator[Progress]:
    """A progress bar with ETA on standard error: shown after two seconds, never when standard error is piped.

    scale: write counts as 1.2k, 3.4M
    """
    from tqdm import tqdm

    with tqdm(desc=label, unit=unit, unit_scale=scale, delay=2, disable=None, dynamic_ncols=True, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress


def print_json(value: Any) -> None:
    """One JSON document on standard output; numbers keep all their digits."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """A table on standard output. Columns whose name starts with '>' are aligned to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    for name in columns:
        table.add_column(name.removeprefix(">"), justify="right" if name.startswith(">") else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False)
    if not console.is_terminal:  # nothing to fit into: never cut a cell when the output goes to a file
        console.width = 1000
    console.print(table)


def warn(message: str) -> None:
    """One line on standard error."""
    click.echo(f"warning: {message}", err=True)


def note(message: str) -> None:
    """One line on standard error: what is being done, for people who watch."""
    click.echo(message, err=True)
