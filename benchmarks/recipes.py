"""What predictions of `quanttool sensitivity` are worth: recipes that they choose, and how they rank random ones.

    python -m benchmarks.recipes sizes  -m MODEL --imatrix F --sensitivity S.json -f TEXT --results R.json
    python -m benchmarks.recipes random -m MODEL --imatrix F --sensitivity S.json -f TEXT --results R.json

`sizes`: at the exact file sizes of the classic mixes, the KL divergence of the mix and of the best recipes of
llama.cpp's types, and of these and ik_llama.cpp's, as `recipe optimize` finds them. `random`: recipes of one size with
a random type for each kind of tensor and third of the layers; the rank correlation of predictions and measurements.

`--part` says what of the table is used: only the errors, the gains too, or everything. All models of a run go side by
side. RESULTS keeps what was measured, under a digest of all that it depends on; what is there is not measured again.
"""

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import click
import numpy as np

from quanttool.cli.planned import planned, variant
from quanttool.cli.recipe_optimize import Search, Target
from quanttool.cli.sensitivity import candidates
from quanttool.cli.texts import read_tokens
from quanttool.container import open_gguf
from quanttool.evaluate import split
from quanttool.files import atomic_output
from quanttool.ggml_types import ggml_type
from quanttool.imatrix import load
from quanttool.models import load_model
from quanttool.optimize.allocation import Problem, Wishes
from quanttool.optimize.costs import Costs
from quanttool.optimize.recipe import Budget
from quanttool.parallel import use_threads
from quanttool.recipes.model_facts import layer_number
from quanttool.sensitivity import load_sensitivity
from quanttool.sensitivity.recipes import divergences
from quanttool.sensitivity.weights import Weights

MIXES = "Q2_K,Q3_K_S,Q3_K_M,IQ4_XS,Q4_K_S,Q4_K_M,Q5_K_M"
RANDOM_TYPES = "Q2_K,IQ3_S,Q3_K,IQ4_XS,Q4_K,Q5_K,Q6_K"
TOLERANCE = 0.02  # of the bits per weight of random recipes
SIDE_BY_SIDE = 12  # models that run at a time
PARTS = ("errors", "gains", "all")


class Study:
    """What both commands are given, and divergences from the model on the text, kept in a file."""

    def __init__(self, model, imatrix, table, text, n_ctx, n_chunks, results, parts, search, precision, threads):
        use_threads(threads)
        self.model, self.imatrix_name, self.precision = model, imatrix, precision
        self.imatrix, self.table, self.parts, self.search = load(imatrix), load_sensitivity(table), parts, search
        self.tensors = open_gguf(model).tensors
        tokens, bos_id = read_tokens(model, (text,))
        self._chunks, self._path = split(tokens, n_ctx, n_chunks, bos_id=bos_id), Path(results)
        parts = (Path(model).read_bytes(), Path(imatrix).read_bytes(), self._chunks.tokens.tobytes())
        self._base = " ".join(hashlib.sha256(part).hexdigest()[:12] for part in parts)
        self._known: dict[str, list[float]] = json.loads(self._path.read_text()) if self._path.exists() else {}

    def measure(self, variants: Iterable[Mapping[str, str]], search: str) -> None:
        left = {self._key(types, search): types for types in variants}
        left = {key: types for key, types in left.items() if key not in self._known}
        model = load_model(self.model, self.precision) if left else None
        for start in range(0, len(left), SIDE_BY_SIDE):
            keys = list(left)[start : start + SIDE_BY_SIDE]
            weights = Weights(model.file, self.imatrix, search)
            found = divergences(model, self._chunks, [left[key] for key in keys], weights)
            for key, divergence in zip(keys, found, strict=True):
                self._known[key] = divergence.kld.mean(axis=1).tolist()
            with atomic_output(self._path) as file:
                file.write(json.dumps(self._known).encode())

    def of(self, types: Mapping[str, str], search: str) -> float:
        return float(np.mean(self._known[self._key(types, search)]))

    def uncertainty(self, a: Mapping[str, str], search_a: str, b: Mapping[str, str], search_b: str) -> float:
        """Standard error of log(a / b), from the differences between chunks."""
        of_a, of_b = (np.array(self._known[self._key(*one)]) for one in ((a, search_a), (b, search_b)))
        off = of_a / of_a.mean() - of_b / of_b.mean()
        return float(off.std(ddof=1) / len(off) ** 0.5)

    def _key(self, types: Mapping[str, str], search: str) -> str:
        digest = hashlib.sha256(json.dumps(sorted(types.items())).encode())
        return f"{self._base} {self.precision} {search} {digest.hexdigest()[:16]}"

    def costs(self, part: str) -> dict[str, dict[str, float]]:
        """The table's; or only what errors say, of the products that tensors are for; or only what gains add."""
        if part == "all":
            return self.table.costs
        errors, gains = self.table.details["errors"], self.table.details["gains"]

        def gain(name: str) -> float:
            return gains[name]["kld"] / gains[name]["error"] if part == "gains" else self.tensors[name].n_rows

        return {
            name: {kind: gain(name) * errors[name][kind] for kind in costs} for name, costs in self.table.costs.items()
        }

    def best(self, part: str, palette: str, size: int) -> tuple[dict[str, str], float]:
        """The types of the best recipe of a size, and its predicted divergence."""
        target = Target(self.model, self.imatrix_name, self.search)
        wishes = Wishes(candidates(palette), alignment=target.alignment)
        problem = Problem(target.tensors, target.arch, Costs(self.costs(part), target.tensors), wishes)
        found = Search(target, problem, Budget(file_bytes=size), self.table.interaction).best()
        types = {name: kind.name for name, kind in found.types.items() if name in self.table.costs}
        return types, self.table.interaction.divergence(found.total)


def common_options(command):
    for option in reversed(
        [
            click.option("-m", "--model", required=True),
            click.option("--imatrix", required=True),
            click.option("--sensitivity", "table", required=True),
            click.option("-f", "--file", "text", required=True),
            click.option("-c", "--ctx-size", "n_ctx", default=512, show_default=True),
            click.option("--chunks", "n_chunks", default=20, show_default=True),
            click.option("--results", required=True, help="JSON file that measurements are kept in."),
            click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), default=("all",)),
            click.option("--search", default="reference", show_default=True, help="Of our recipes' weights."),
            click.option("--precision", default="f32", show_default=True, help="Of all models' products."),
            click.option("-t", "--threads", type=int),
        ]
    ):
        command = option(command)
    return command


@click.group()
def main() -> None:
    """Predicted and measured divergences of recipes."""


@main.command()
@common_options
@click.option("--mixes", default=MIXES, show_default=True)
@click.option("--palettes", default="mainline;mainline,ik", show_default=True)
@click.option("--mix-search", multiple=True, default=("reference",), help="Of the mixes' files.")
def sizes(mixes: str, palettes: str, mix_search: tuple[str, ...], **options) -> None:
    """The best recipes at the sizes of the classic mixes."""
    study, source = Study(**options), open_gguf(options["model"])
    plans = {mix: planned(source, mix, study.imatrix, study.imatrix_name) for mix in mixes.split(",")}
    for search in mix_search:
        study.measure((variant(plan) for plan in plans.values()), search)
    cases = [(palette, part) for palette in palettes.split(";") for part in study.parts]
    found = {
        (*case, mix): study.best(case[1], case[0], plan.file_bytes) for case in cases for mix, plan in plans.items()
    }
    study.measure((types for types, _ in found.values()), study.search)
    for case in cases:
        print(f"\n{', '.join(case)}, search {study.search}")
        for mix, plan in plans.items():
            types, predicted = found[*case, mix]
            ours = study.of(types, study.search)
            print(f"{mix:8} {plan.file_bytes:12,} predicted {predicted:.4f} measured {ours:.4f}", end="")
            for search in mix_search:
                beside = variant(plan)
                change = 100 * (ours / study.of(beside, search) - 1)
                off = 100 * study.uncertainty(types, study.search, beside, search)
                print(f" | mix, {search}: {study.of(beside, search):.4f} {change:+.1f} % +- {off:.1f}", end="")
            print(flush=True)


@main.command("random")
@common_options
@click.option("--bpw", default=4.8, show_default=True)
@click.option("--recipes", "n_recipes", default=12, show_default=True)
@click.option("--seed", default=12, show_default=True)
@click.option("--types", "palette", default=RANDOM_TYPES, show_default=True, help="To draw from.")
def random_recipes(bpw: float, n_recipes: int, seed: int, palette: str, **options) -> None:
    """The rank correlation of predictions, over random recipes of one size."""
    study = Study(**options)
    recipes = drawn(list(study.table.costs), study.tensors, palette.split(","), bpw, n_recipes, seed)
    study.measure(recipes, study.search)
    actual = [study.of(types, study.search) for types in recipes]
    for part in study.parts:
        costs = study.costs(part)
        sums = [sum(costs[name][kind] for name, kind in types.items()) for types in recipes]
        print(f"\n{part}: rank correlation {rank_correlation(sums, actual):.3f}")
        if part == "all":
            for total, value in sorted(zip(sums, actual, strict=True)):
                print(f"  predicted {study.table.interaction.divergence(total):.4f} measured {value:.4f}")


def drawn(
    names: Sequence[str], tensors: Mapping, palette: Sequence[str], bpw: float, n: int, seed: int
) -> list[dict[str, str]]:
    """Random recipes near a number of bits per weight; what is outside of the layers is Q6_K."""
    draw, found = random.Random(seed), []
    layers = [name for name in names if layer_number(name) >= 0]
    n_layer = 1 + max(layer_number(name) for name in layers)
    n_values = sum(tensors[name].n_values for name in layers)
    while len(found) < n:
        picked: dict[tuple[str, int], str] = {}
        types = {
            name: picked.setdefault((name.split(".", 2)[2], 3 * layer_number(name) // n_layer), draw.choice(palette))
            for name in layers
        }
        own = sum(tensors[name].n_values * ggml_type(kind).bpw for name, kind in types.items()) / n_values
        if abs(own / bpw - 1) < TOLERANCE:
            found.append(types | {name: "Q6_K" for name in names if name not in types})
    return found


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's, of values that all differ."""
    ranks = [np.argsort(np.argsort(values)) for values in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


if __name__ == "__main__":
    main()
