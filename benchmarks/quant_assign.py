"""Our recipes beside those of quant_assign.py, of Thireus's GGUF tool suite, from the same tables at the same size.

    python -m benchmarks.quant_assign own-model QUANT_ASSIGN.py --map tensors.bf16.map --csv kld_results.csv \\
        --curve group0/kld_results.csv --row iq2_ks --types iq2_k,iq3_k,iq4_k,iq5_k,iq6_k,q8_0 --gib 1.3,1.6,2,2.5,3

adds up losses as that program does: a tensor's divergence in one row of the table, times the curve's at its type.

    python -m benchmarks.quant_assign measured QUANT_ASSIGN.py --model model-bf16.gguf --imatrix model.imatrix.gguf \\
        --table FOLDER --row q4_K --types Q2_K,Q3_K,Q4_K,Q5_K,Q6_K,Q8_0 --mib 85,95,105,115,125 --text wiki.test.raw

makes files of both programs' recipes from the folder that `benchmarks.per_tensor_table` has filled, and measures them.
It needs Python with pandas for that program (--python).
"""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from benchmarks.per_tensor_table import map_text, suite_name
from quanttool.container import TensorInfo
from quanttool.ggml_types import GGMLType, ggml_type
from quanttool.optimize.allocation import Allocation, Problem, Wishes, n_bytes
from quanttool.optimize.costs import Costs
from quanttool.optimize.recipe import Budget, as_recipe, smallest_divergence
from quanttool.recipes.limits import reason_to_keep
from quanttool.recipes.recipe import to_toml
from quanttool.sensitivity.thireus import read_curve, read_map, read_results

GIB, MIB = 1 << 30, 1 << 20
STRATEGIES = {
    "spread": ["--tolerance", "0.01"],
    "greedy": ["--use-greedy-quant-assign"],
    "auto": ["--use-auto-quant-assign"],
}
# Stands in for the suite's own, which fetches maps from the network.
DOWNLOADER = '#!/bin/bash\ncp "$(dirname "$0")/maps/$4" "$3/$4"\n'

Types = dict[str, GGMLType]


@dataclass(frozen=True)
class Rival:
    """quant_assign.py in a folder of its own, with maps of a model's tensors in all types."""

    folder: Path
    python: str
    tensors: list[TensorInfo]
    palette: list[GGMLType]
    csv: Path
    curve: Path
    row: str

    @classmethod
    def install(cls, script: str, folder: str, python: str, tensors, palette, csv, curve, row) -> "Rival":
        one = cls(Path(folder), python, tensors, palette, Path(csv).resolve(), Path(curve).resolve(), row)
        shutil.copy(script, one.folder / "quant_assign.py")
        (one.folder / "tensor_downloader.sh").write_text(DOWNLOADER)
        (one.folder / "tensor_downloader.sh").chmod(0o755)
        (one.folder / "maps").mkdir()
        free = {tensor.name for tensor in tensors if not reason_to_keep(tensor, "")}
        for kind in {ggml_type("BF16"), ggml_type(row), *palette}:
            (one.folder / f"maps/tensors.{suite_name(kind)}.map").write_text(map_text(tensors, kind, free))
        return one

    def types(self, gib: float, strategy: str) -> Types:
        """Its recipe for a size of all tensors."""
        command = [self.python, "quant_assign.py", self.csv, "--gpu-tensors", ".*", "--qtype", self.row]
        command += ["--gpu-quants", *(suite_name(kind) for kind in self.palette), "--gpu-tensors-max-size", str(gib)]
        command += ["--skip-gpg", *STRATEGIES[strategy]]
        if strategy != "spread":
            command += ["--quant-degradation-csv", self.curve]
        result = subprocess.run([*map(str, command)], cwd=self.folder, capture_output=True, text=True)
        if result.returncode:
            raise click.ClickException(f"quant_assign.py failed:\n{result.stderr[-2000:]}")
        lines = [line for line in result.stdout.splitlines() if line and not line.startswith("#")]
        rules = [(re.compile(pattern), kind) for pattern, _, kind in (line.rpartition("=") for line in lines)]
        found = {t.name: next((kind for rule, kind in rules if rule.search(t.name)), None) for t in self.tensors}
        return {t.name: ggml_type(found[t.name]) if found[t.name] else t.type for t in self.tensors}


def total_bytes(tensors: list[TensorInfo], types: Types) -> int:
    return sum(n_bytes(tensor, types[tensor.name]) for tensor in tensors)


def ours(problem: Problem, n: int) -> Allocation:
    """The best recipe whose tensors take at most `n` bytes."""
    n_values = sum(tensor.n_values for tensor in problem.tensors)
    return smallest_divergence(problem, Budget(bpw=8 * (n + 0.5) / n_values))


def chosen(names: str) -> list[GGMLType]:
    return sorted(map(ggml_type, names.split(",")), key=lambda kind: -kind.bpw)


@click.group()
def main():
    """Compare with quant_assign.py."""


@main.command()
@click.argument("script")
@click.option("--map", "map_path", required=True)
@click.option("--csv", "csv_path", required=True)
@click.option("--curve", "curve_path", required=True)
@click.option("--row", required=True, help="The row whose divergences count.")
@click.option("--types", required=True)
@click.option("--gib", required=True, help="Sizes of all tensors, with commas between.")
@click.option("--python", default=sys.executable)
def own_model(script, map_path, csv_path, curve_path, row, types, gib, python):
    """By the sum that quant_assign.py itself minimizes."""
    tensors, palette, curve = read_map(map_path), chosen(types), read_curve(curve_path)
    with open(csv_path, newline="") as file:
        losses = next(one for one in csv.DictReader(file) if one["QTYPE"] == row)
    if "404" in losses.values():
        raise click.ClickException(f"{row}: not every tensor was measured in this row; take another")
    costs = {
        t.name: {kind.name: float(losses[t.name]) * curve[kind.name] for kind in palette}
        for t in tensors
        if t.name in losses
    }
    problem = Problem(tensors, "", Costs(costs, tensors), Wishes(tuple(palette), protect=False))
    print(f"{'GiB':>5} {'strategy':9} {'bytes':>14} {'its loss':>12} {'our bytes':>14} {'our loss':>12} {'gap':>8}")
    with TemporaryDirectory() as folder:
        rival = Rival.install(script, folder, python, tensors, palette, csv_path, curve_path, row)
        for size in gib.split(","):
            for strategy in STRATEGIES:
                theirs = rival.types(float(size), strategy)
                taken = total_bytes(tensors, theirs)
                loss = sum(costs[name][theirs[name].name] for name in costs)
                found = ours(problem, taken)
                print(
                    f"{size:>5} {strategy:9} {taken:14,} {loss:12.8f} {total_bytes(tensors, found.types):14,} "
                    f"{found.total:12.8f} {found.gap:8.1e}  {100 * (found.total / loss - 1):+.4f} %",
                    flush=True,
                )


@main.command()
@click.argument("script")
@click.option("--model", required=True, help="GGUF file to make files from.")
@click.option("--imatrix", required=True)
@click.option("--table", required=True, help="Folder of benchmarks.per_tensor_table.")
@click.option("--row", required=True, help="The row that quant_assign.py reads; we read all.")
@click.option("--types", required=True)
@click.option("--mib", required=True, help="Sizes of all tensors, with commas between.")
@click.option("--text", required=True)
@click.option("--chunks", default=12, show_default=True)
@click.option("--strategies", default="greedy,auto", show_default=True)
@click.option("--protect", is_flag=True, help="With our floors for embeddings.")
@click.option("--python", default=sys.executable)
@click.option("-t", "--threads", default=2)
@click.option("--work", required=True, help="Folder for recipes and files.")
def measured(script, model, imatrix, table, row, types, mib, text, chunks, strategies, protect, python, threads, work):
    """By the divergence of files made of both programs' recipes."""
    table, work, palette = Path(table), Path(work), chosen(types)
    work.mkdir(parents=True, exist_ok=True)
    tensors = read_map(table / "tensors.bf16.map")
    sensitivity = read_results(table / "kld_results.csv")
    problem = Problem(tensors, "", Costs(sensitivity.costs, tensors), Wishes(tuple(palette), protect=protect))
    files = {}
    with TemporaryDirectory() as folder:
        paths = table / "kld_results.csv", table / "group0/kld_results.csv"
        rival = Rival.install(script, folder, python, tensors, palette, *paths, row)
        for size in mib.split(","):
            theirs = {name: rival.types(float(size) / 1024, name) for name in strategies.split(",")}
            least = min(total_bytes(tensors, one) for one in theirs.values())
            for name, one in {**theirs, "quanttool": ours(problem, least).types}.items():
                files[size, name] = quantized(work / f"{size}-{name}", tensors, one, model, imatrix, threads)
    words = [sys.executable, "-m", "quanttool", "perplexity", "--base-model", model, "-f", text]
    words += ["--chunks", str(chunks), "-t", str(threads), "--json", *(x for f in files.values() for x in ("-m", f))]
    found = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)["models"]
    print(f"{'MiB':>5} {'recipe of':10} {'file bytes':>12} {'mean KLD':>10} {'±':>9}")
    for ((size, name), path), one in zip(files.items(), found, strict=True):
        kld = one["mean_kld"]
        print(f"{size:>5} {name:10} {os.path.getsize(path):12,} {kld['value']:10.6f} {kld['uncertainty']:9.6f}")


def quantized(path: Path, tensors: list[TensorInfo], types: Types, model: str, imatrix: str, threads: int) -> str:
    """A file made with `quanttool quantize` in these types."""
    recipe = as_recipe(tensors, "", Allocation(types, 0, 0, 0, []), path.name, "")
    path.with_suffix(".toml").write_text(to_toml(recipe))
    out = str(path.with_suffix(".gguf"))
    words = [sys.executable, "-m", "quanttool", "quantize", "--imatrix", imatrix, "--recipe", path.with_suffix(".toml")]
    subprocess.run([*map(str, words), model, out, "-t", str(threads)], check=True, stdout=subprocess.DEVNULL)
    return out


if __name__ == "__main__":
    main()
