"""A model's per-tensor divergences as Thireus's GGUF tool suite keeps them: kld_results.csv, group0 and a map.

    python -m benchmarks.per_tensor_table model-bf16.gguf text.txt --imatrix model.imatrix.gguf --probes Q2_K,Q4_K \\
        --types Q2_K,Q3_K,Q4_K,Q5_K,Q6_K,Q8_0 -o table

A row for every probe: the mean KL divergence of the model when one tensor alone has that type. group0/kld_results.csv:
of the model with all tensors in a type. Both that suite's quant_assign.py and `quanttool recipe optimize` read them.
What stands in the folder already is not measured again.
"""

import csv
import json
from pathlib import Path

import click
from tqdm import tqdm

from quanttool.cli.sensitivity import spread_chunks
from quanttool.container import TensorInfo
from quanttool.ggml_types import GGMLType, ggml_type
from quanttool.imatrix import load
from quanttool.imatrix.gaps import add_aliases, shrink_experts
from quanttool.models import load_model
from quanttool.models.side_by_side import first_layer
from quanttool.parallel import use_threads
from quanttool.recipes.limits import fallback, reason_to_keep
from quanttool.sensitivity.recipes import divergences
from quanttool.sensitivity.weights import Weights

GROUP = 32  # variants that run at a time


def suite_name(kind: GGMLType) -> str:
    """A type as the suite spells it: q6_K, iq4_xs."""
    name = kind.name.lower()
    return name.replace("_k", "_K") if name.startswith("q") else name


def write_rows(path: Path, columns: list[str], rows: dict[str, list[float]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["QTYPE", *columns])
        writer.writerows([name, *(f"{value:.9f}" for value in values)] for name, values in rows.items())


def read_rows(path: Path) -> dict[str, list[float]]:
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {row[0]: [float(cell) for cell in row[1:]] for row in list(csv.reader(file))[1:]}


def map_text(tensors: list[TensorInfo], kind: GGMLType, free: set[str]) -> str:
    """Lines of tensors.<type>.map, with tensors that may be quantized in a type or its fallback."""
    lines = []
    for i, tensor in enumerate(tensors, 2):
        own = fallback(tensor, kind) if tensor.name in free and not kind.is_plain else tensor.type
        n_bytes = tensor.n_rows * own.row_bytes(tensor.n_cols)
        lines.append(
            f"MODEL-{kind}-{i:05}-of-{len(tensors) + 1:05}.gguf:{i:064x}:{tensor.name}:shape={tuple(tensor.ne)}:"
            f"dtype={own.name.lower()}:elements={tensor.n_values}:bytes={n_bytes}\n"
        )
    return "".join(lines)


@click.command()
@click.argument("path", metavar="MODEL.gguf")
@click.argument("texts", nargs=-1, required=True)
@click.option("--imatrix", "imatrix_path", required=True)
@click.option("--probes", default="", metavar="T,T,...")
@click.option("--sensitivity", "known", metavar="FILE.json", help="Of quanttool sensitivity: the row of its probe.")
@click.option("--types", required=True, metavar="T,T,...")
@click.option("-c", "--ctx-size", "n_ctx", default=512, show_default=True)
@click.option("--chunks", "n_chunks", default=3, show_default=True, help="Spread over the texts.")
@click.option("--precision", default="f32", show_default=True)
@click.option("-t", "--threads", type=int)
@click.option("-o", "--output", required=True, metavar="FOLDER")
def main(path, texts, imatrix_path, probes, known, types, n_ctx, n_chunks, precision, threads, output):
    """Measure the tables."""
    use_threads(threads)
    model = load_model(path, precision)
    every = list(model.file.tensors.values())
    weights = Weights(model.file, shrink_experts(add_aliases(load(imatrix_path), every))[0])
    used = {*model.weights(), model.output.name, "token_embd.weight"}
    tensors = [t for t in every if t.name in used and not reason_to_keep(t, model.config.architecture)]
    tensors.sort(key=lambda t: first_layer({t.name: ""}))  # neighbours share the most
    chunks = spread_chunks(path, texts, n_ctx, n_chunks)
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tensors.bf16.map").write_text(map_text(every, ggml_type("BF16"), {t.name for t in tensors}))

    def measure(label: str, variants: list[dict[str, str]]) -> list[float]:
        found = []
        for start in tqdm(range(0, len(variants), GROUP), label):
            some = divergences(model, chunks, variants[start : start + GROUP], weights)
            found += [max(one.mean_kld.value, 0.0) for one in some]
        return found

    curve = read_rows(folder / "group0/kld_results.csv")
    kinds = [kind for kind in map(ggml_type, types.split(",")) if suite_name(kind) not in curve]
    if kinds:
        pure = measure("curve", [{t.name: fallback(t, kind).name for t in tensors} for kind in kinds])
        curve |= {suite_name(kind): [kld] for kind, kld in zip(kinds, pure, strict=True)}
        write_rows(folder / "group0/kld_results.csv", ["group0"], curve)
    if known:
        details = json.loads(Path(known).read_text())["details"]
        rows = read_rows(folder / "kld_results.csv")
        rows[suite_name(ggml_type(details["probe"]))] = [details["gains"][t.name]["kld"] for t in tensors]
        write_rows(folder / "kld_results.csv", [t.name for t in tensors], rows)
    for probe in map(ggml_type, filter(None, probes.split(","))):
        rows = read_rows(folder / "kld_results.csv")
        if suite_name(probe) not in rows:
            rows[suite_name(probe)] = measure(str(probe), [{t.name: fallback(t, probe).name} for t in tensors])
            write_rows(folder / "kld_results.csv", [t.name for t in tensors], rows)


if __name__ == "__main__":
    main()
