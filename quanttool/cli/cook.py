"""`quanttool cook`: from a model and a size to a file that is measured, through all the other commands."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from .console import Size, note, print_table, threads_option, warn
from .planned import measured, nearest_mixes, plan_of, stem
from .texts import read_tokens

if TYPE_CHECKING:
    from ..optimize.allocation import Allocation
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
@click.option("--probe", default="Q3_K", show_default=True, metavar="TYPE", help="Type that gains are measured at.")
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
    from ..parallel import use_threads
    from . import imatrix, quantize, sensitivity

    use_threads(threads)
    kitchen = Kitchen(model, Path(folder))
    held_out = tests or (str(data_folder("calibration") / "evaluation.txt"),)
    kitchen.settle({"files": list(files), "types": types, "probe": probe, "n_ctx": n_ctx, "chunks": chunks})
    text = [word for file in files for word in ("-f", file)]
    limit = ["-t", threads] if threads else []
    kitchen.step(
        "imatrix", kitchen.imatrix, imatrix.command, "-m", model, *text, "-c", n_ctx, "-o", kitchen.imatrix, *limit
    )
    kitchen.step(
        "sensitivity", kitchen.sensitivity, sensitivity.command, "-m", model, *text, "-c", n_ctx, "--chunks", chunks,
        "--imatrix", kitchen.imatrix, "--probe", probe, *(["--types", types] if types else []),
        "-o", kitchen.sensitivity, *limit,
    )  # fmt: skip
    search = kitchen.search()
    found: dict[str, Allocation] = {}
    for size in sizes:
        n_bytes = Size().convert(size, None, None)
        found[size] = search.best(file_bytes=n_bytes)
        recipe, out = kitchen.named(size, "toml"), kitchen.named(size, "gguf")
        kitchen.write_recipe(search, found[size], recipe)
        kitchen.step(
            f"quantize to {size}", out, quantize.command, "--imatrix", kitchen.imatrix, "--recipe", recipe,
            model, out, *limit, newer_than=recipe,
        )  # fmt: skip
    rows = kitchen.compare(search, found, held_out, n_ctx, test_chunks)
    report = kitchen.report(search, found, rows, held_out)
    show(rows)
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

    def named(self, size: str, suffix: str) -> Path:
        return self.folder / f"{self.name}-{size}.{suffix}"

    def settle(self, settings: dict[str, Any]) -> None:
        """Remember what files are made from. Raises UsageError if those in the folder were made otherwise."""
        path = self.folder / f"{self.name}.cook.json"
        if path.exists() and json.loads(path.read_text()) != settings:
            raise UsageError(f"{self.folder}: holds the results of other options; use another folder or delete {path}")
        path.write_text(json.dumps(settings))

    def step(
        self, title: str, output: Path, command: click.Command, *words: Any, newer_than: Path | None = None
    ) -> None:
        """Run a command unless its output is there."""
        if output.exists() and (newer_than is None or output.stat().st_mtime >= newer_than.stat().st_mtime):
            note(f"{title}: {output} is there")
            return
        note(f"{title}:")
        command.main([str(word) for word in words], prog_name=f"quanttool {title}", standalone_mode=False)

    def search(self) -> "Search":
        from ..optimize.allocation import Problem, Wishes
        from ..optimize.costs import Costs
        from ..optimize.recipe import Budget
        from ..sensitivity import load_sensitivity
        from .recipe_optimize import Search, Target, chosen_types

        target, table = Target(self.model, str(self.imatrix)), load_sensitivity(self.sensitivity)
        wishes = Wishes(chosen_types(None, table.types), alignment=target.alignment)
        problem = Problem(target.tensors, target.arch, Costs(table.costs, target.tensors), wishes)
        return Search(target, problem, Budget(), table.interaction)

    def write_recipe(self, search: "Search", found: "Allocation", path: Path) -> None:
        """The recipe's file; one that says the same stays as it is, and with it what was made from it."""
        from ..files import atomic_output
        from ..recipes.recipe import to_toml

        text = to_toml(search.recipe(found)).encode()
        if not path.exists() or path.read_bytes() != text:
            with atomic_output(path) as file:
                file.write(text)

    def compare(
        self, search: "Search", found: "dict[str, Allocation]", tests: tuple[str, ...], n_ctx: int, n_chunks: int
    ) -> list[dict[str, Any]]:
        """Our recipes and the classic mixes of their sizes, on a text that nothing was chosen by."""
        from ..container import open_gguf
        from ..evaluate import split

        source, imatrix = open_gguf(self.model), search.target.imatrix
        plans = {size: plan_of(source, search.recipe(one), imatrix, str(self.imatrix)) for size, one in found.items()}
        for size in found:
            plans |= nearest_mixes(source, plans[size].file_bytes, imatrix, str(self.imatrix))
        tokens, bos_id = read_tokens(self.model, tests)
        chunks = split(tokens, n_ctx, n_chunks, bos_id=bos_id)
        divergences = measured(self.model, chunks, list(plans.values()), imatrix, "f32", None, "comparison")
        rows = [
            {
                "name": name,
                "ours": name in found,
                "file_bytes": plan.file_bytes,
                "bpw": plan.bpw,
                "predicted_kld": search.predicted(found[name]) if name in found else None,
                "mean_kld": one.mean_kld.value,
                "uncertainty": one.mean_kld.uncertainty,
                "perplexity": one.ppl.value,
                "same_top": one.same_top_share.value,
            }
            for (name, plan), one in zip(plans.items(), divergences, strict=True)
        ]
        warn_of_worse(rows)
        return rows

    def report(
        self,
        search: "Search",
        found: "dict[str, Allocation]",
        rows: list[dict[str, Any]],
        tests: tuple[str, ...],
    ) -> Path:
        from ..files import atomic_output
        from ..plots.cook_page import page

        table = json.loads(self.sensitivity.read_text())
        data = {
            "model": self.model,
            "test": list(tests),
            "rows": rows,
            "warnings": worse_than_a_mix(rows),
            "front": front(search, rows),
            "sensitivity": {"interaction": table["interaction"], **table["details"]},
            "recipes": {size: search.as_data(one) for size, one in found.items()},
        }
        for suffix, text in (("json", json.dumps(data, indent=1)), ("html", page(self.name, data))):
            with atomic_output(self.folder / f"{self.name}.report.{suffix}") as file:
                file.write(text.encode())
        return self.folder / f"{self.name}.report.html"


def front(search: "Search", rows: list[dict[str, Any]], points: int = 6) -> list[tuple[float, float]]:
    """Predicted divergences of the best recipes around the sizes that were made: (bits per weight, nats)."""
    from ..errors import RecipeError

    low, high = (pick(row["bpw"] for row in rows) for pick in (min, max))
    found = []
    for i in range(points):
        try:
            one = search.best(bpw=0.95 * low + i * (1.05 * high - 0.95 * low) / (points - 1))
        except RecipeError:  # less than the types can reach
            continue
        found.append((search.bpw(one), search.predicted(one)))
    return found


def worse_than_a_mix(rows: list[dict[str, Any]]) -> list[str]:
    """Our files that diverge more than a classic mix that is no larger."""
    return [
        f"{row['name']} diverges more than {mix['name']}, which is no larger ({row['mean_kld']:.6f} and "
        f"{mix['mean_kld']:.6f} nats)"
        for row in rows
        if row["ours"]
        for mix in rows
        if not mix["ours"] and mix["file_bytes"] <= row["file_bytes"] and mix["mean_kld"] < row["mean_kld"]
    ]


def warn_of_worse(rows: list[dict[str, Any]]) -> None:
    for message in worse_than_a_mix(rows):
        warn(message)


def show(rows: list[dict[str, Any]]) -> None:
    by_size: Callable[[dict[str, Any]], int] = lambda row: row["file_bytes"]  # noqa: E731
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
            for row in sorted(rows, key=by_size)
        ],
    )
