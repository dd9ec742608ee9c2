"""`quanttool cook`: from a model and a size to a file that is measured, through all the other commands."""

import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from .console import Size, note, search_option, threads_option, warn
from .cook_report import Comparison, Result, compare
from .planned import stem
from .texts import read_tokens

if TYPE_CHECKING:
    from .calibration import Calibrating
    from .recipe_optimize import Search

EPILOG = """
\b
  quanttool cook model-bf16.gguf --size 4.2GiB --size 6GiB -f calibration.txt --test wiki.test.raw -o cooked
"""


@click.command(epilog=EPILOG)
@click.argument("model", metavar="MODEL.gguf")
@click.option("--size", "sizes", type=str, multiple=True, required=True, metavar="SIZE", help="File size; repeatable.")
@click.option("-f", "--file", "files", multiple=True, required=True, metavar="TEXT", help="Calibration text.")
@click.option("--test", "tests", multiple=True, metavar="TEXT", help="Held-out text; default: the one that ships.")
@click.option("--types", metavar="T,T,...", help="Candidates, as for quanttool sensitivity; default: mainline.")
@click.option("--probe", default="Q4_K", show_default=True, metavar="TYPE", help="Type that gains are measured at.")
@search_option("How scales and codes are found, as for quanttool quantize; of the mixes, too.")
@click.option("--calibrate", is_flag=True, help="Round with error feedback for the calibration text.")
@click.option("-c", "--ctx-size", "n_ctx", type=click.IntRange(min=8), default=512, show_default=True, metavar="N")
@click.option("--chunks", type=click.IntRange(min=1), default=4, show_default=True, help="Chunks for gains.")
@click.option("--test-chunks", type=click.IntRange(min=1), default=20, show_default=True, help="Chunks to compare on.")
@click.option("-o", "--output", "folder", required=True, metavar="FOLDER", help="Where everything is written.")
@threads_option
def command(
    model: str,
    sizes: tuple[str, ...],
    files: tuple[str, ...],
    tests: tuple[str, ...],
    types: str | None,
    probe: str,
    search: str,
    calibrate: bool,
    n_ctx: int,
    chunks: int,
    test_chunks: int,
    folder: str,
    threads: int | None,
) -> None:
    """Make the best file of each SIZE: imatrix, sensitivity, optimize, quantize, and a comparison with classic mixes.

    Steps whose file is in FOLDER already are not done again, and an interrupted step goes on. The report is written as
    JSON and as one HTML page.
    """
    from ..data_folders import data_folder
    from ..evaluate import split
    from ..parallel import use_threads
    from . import imatrix, quantize, sensitivity
    from .calibration import prepare

    use_threads(threads)
    kitchen = Kitchen(model, Path(folder))
    settings = {"files": list(files), "types": types, "probe": probe, "search": search, "n_ctx": n_ctx}
    kitchen.settle(settings | {"chunks": chunks})
    text = [word for file in files for word in ("-f", file)]
    limit = ["-t", threads] if threads else []
    kitchen.step(
        "imatrix", [kitchen.imatrix], imatrix.command, "-m", model, *text, "-c", n_ctx, "--no-ppl",
        "--process-output", "-o", kitchen.imatrix, *limit,
    )  # fmt: skip
    kitchen.step(
        "sensitivity", [kitchen.sensitivity], sensitivity.command, "-m", model, *text, "-c", n_ctx, "--chunks", chunks,
        "--imatrix", kitchen.imatrix, "--search", search, "--probe", probe, *(["--types", types] if types else []),
        "-o", kitchen.sensitivity, *limit,
    )  # fmt: skip
    optimizer = kitchen.optimizer(search, prepare(model, files, None, None, search) if calibrate else None)
    feedback = [word for file in files for word in ("--calibrate", file)] if calibrate else []
    results: dict[str, Result] = {}
    for size in sizes:
        name = f"{size}-calibrated" if calibrate else size
        result = results[name] = kitchen.result(name, Size().convert(size, None, None), optimizer)
        write_recipe(result, optimizer)
        kitchen.step(
            f"quantize to {size}", [result.file, result.errors], quantize.command, "--imatrix", kitchen.imatrix,
            "--recipe", result.recipe, "--search", search, *feedback, "--report", result.errors, model, result.file,
            *limit, newer_than=result.recipe,
        )  # fmt: skip
    held_out = tests or (str(data_folder("calibration") / "evaluation.txt"),)
    tokens, bos_id = read_tokens(model, held_out)
    some = split(tokens, n_ctx, test_chunks, bos_id=bos_id)
    comparison = compare(optimizer, results, some)
    for message in comparison.worse_than_a_mix():
        warn(message)
    comparison.show()
    rounding = f"search {search}" + (", error feedback of the calibration text" if calibrate else "")
    texts = ", ".join(Path(test).name for test in held_out)
    report = kitchen.report(comparison, optimizer, f"{rounding}; {len(some)} chunks of {n_ctx} tokens of {texts}")
    note(f"{report}: open it in a browser")


class Kitchen:
    """The folder, and what is in it."""

    def __init__(self, model: str, folder: Path):
        if not Path(model).is_file():
            raise UsageError(f"{model}: no such file")
        folder.mkdir(parents=True, exist_ok=True)
        self.model, self.folder, self.name = model, folder, stem(model)
        self.imatrix = folder / f"{self.name}.imatrix.gguf"
        self.sensitivity = folder / f"{self.name}.sensitivity.json"

    def result(self, name: str, wanted: int, optimizer: "Search") -> Result:
        """The best of at most so many bytes."""
        files = (self.folder / f"{self.name}-{name}{suffix}" for suffix in (".gguf", ".toml", ".errors.json"))
        return Result(wanted, optimizer.best(file_bytes=wanted), *files)

    def settle(self, settings: dict[str, Any]) -> None:
        """Remember what files are made from. Raises UsageError if those in the folder were made otherwise."""
        path = self.folder / f"{self.name}.cook.json"
        if path.exists() and json.loads(path.read_text()) != settings:
            raise UsageError(f"{self.folder}: holds the results of other options; use another folder or delete {path}")
        path.write_text(json.dumps(settings))

    def step(
        self, title: str, outputs: list[Path], command: click.Command, *words: Any, newer_than: Path | None = None
    ) -> None:
        """Run a command unless its outputs are there."""
        oldest = newer_than.stat().st_mtime if newer_than else 0
        if all(output.exists() and output.stat().st_mtime >= oldest for output in outputs):
            note(f"{title}: {outputs[0]} is there")
            return
        note(f"{title}:")
        with redirect_stdout(StringIO()):  # progress and notes go to standard error; the tables are in the report
            command.main([str(word) for word in words], prog_name=f"quanttool {title}", standalone_mode=False)

    def optimizer(self, search: str, calibrating: "Calibrating | None") -> "Search":
        from ..optimize.allocation import Problem, Wishes
        from ..optimize.costs import Costs
        from ..optimize.recipe import Budget
        from ..sensitivity import load_sensitivity
        from .recipe_optimize import Search, Target, chosen_types

        target = Target(self.model, str(self.imatrix), search, calibrating)
        table = load_sensitivity(self.sensitivity)
        wishes = Wishes(chosen_types(None, table.types), alignment=target.alignment)
        problem = Problem(target.tensors, target.arch, Costs(table.costs, target.tensors), wishes)
        return Search(target, problem, Budget(), table.interaction)

    def report(self, comparison: Comparison, optimizer: "Search", settings: str) -> Path:
        """Write the report as JSON and HTML."""
        from ..files import atomic_output
        from ..plots.cook_page import page

        data = {"model": self.model, "settings": settings, **comparison.as_data(optimizer)}
        table = json.loads(self.sensitivity.read_text())
        data["sensitivity"] = {"interaction": table["interaction"], **table["details"]}
        for suffix, text in (("json", json.dumps(data, indent=1)), ("html", page(self.name, data))):
            with atomic_output(self.folder / f"{self.name}.report.{suffix}") as file:
                file.write(text.encode())
        return self.folder / f"{self.name}.report.html"


def write_recipe(result: Result, optimizer: "Search") -> None:
    """The recipe's file; one that says the same stays as it is, and with it what was made from it."""
    from ..files import atomic_output
    from ..recipes.recipe import to_toml

    text = to_toml(optimizer.recipe(result.allocation)).encode()
    if not result.recipe.exists() or result.recipe.read_bytes() != text:
        with atomic_output(result.recipe) as file:
            file.write(text)
