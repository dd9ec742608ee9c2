"""`quanttool recipe optimize`: the recipe that diverges least within a budget."""

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from .console import Size, json_option, note, print_json, print_table, warn
from .planned import filled_imatrix

if TYPE_CHECKING:
    from ..ggml_types import GGMLType
    from ..imatrix import Imatrix
    from ..optimize.allocation import Allocation, Problem
    from ..optimize.recipe import Budget
    from ..recipes.recipe import Recipe
    from .calibration import Calibrating

GIB = 1 << 30

EPILOG = """
\b
  quanttool recipe optimize model-bf16.gguf --sensitivity model.json --size 4.2GiB -o model.toml
  quanttool quantize --imatrix model.imatrix.gguf --recipe model.toml model-bf16.gguf model-4.2.gguf
  quanttool recipe optimize model-bf16.gguf --sensitivity model.json --class '_exps=200GiB' --class '.=22GiB' -o b.toml
  quanttool recipe optimize tensors.bf16.map --sensitivity kld_results.csv --bpw 3.5 --types iq3_k,iq4_k,q6_k -o c.toml
"""


@click.command(epilog=EPILOG)
@click.argument("model", metavar="MODEL")
@click.option(
    "--sensitivity",
    "sensitivity_path",
    required=True,
    metavar="FILE",
    help="Measured costs: of quanttool sensitivity, or Thireus's kld_results.csv or ppl_results.csv.",
)
@click.option("--size", type=Size(), metavar="SIZE", help="Bytes of the whole file at most, as in 4.2GiB.")
@click.option("--bpw", type=click.FloatRange(min=0, min_open=True), help="Bits per weight at most, over all tensors.")
@click.option("--max-kld", type=click.FloatRange(min=0, min_open=True), help="The smallest file that diverges so much.")
@click.option("--curve", metavar="FROM:TO[:STEP]", help="A recipe for each of these bits per weight; step 0.25.")
@click.option(
    "--class",
    "classes",
    multiple=True,
    metavar="REGEX=SIZE",
    help="A budget of its own for tensors whose name contains a match, as VRAM, RAM. Repeatable; the first that "
    "matches decides.",
)
@click.option("--types", metavar="T,T,...", help="Types to choose from: names, or mainline, ik; default: all measured.")
@click.option("--types-for", "palettes", multiple=True, metavar="REGEX=T,T,...", help="Others for some tensors.")
@click.option("--keep", "keeps", multiple=True, metavar="REGEX=TYPE", help="A fixed type for some tensors.")
@click.option(
    "--tie",
    "ties",
    multiple=True,
    metavar="REGEX",
    help="Tensors whose names differ only in the match get one type, as in --tie 'ffn_(gate|up)'.",
)
@click.option("--unprotected", is_flag=True, help="Without the floors for embeddings and other delicate tensors.")
@click.option("--speed", "speed_path", metavar="FILE.csv", help="Speed of types in your engine, as of llama-bench.")
@click.option("--min-speed", type=click.FloatRange(min=0, min_open=True), help="Tokens per second at least.")
@click.option("--imatrix", "imatrix_path", metavar="FILE", help="What quantize will be given: its name is in the file.")
@click.option("-o", "--output", metavar="FILE.toml", help="Write the recipe there; of a curve: a folder.")
@json_option
def command(
    model: str,
    sensitivity_path: str,
    size: int | None,
    bpw: float | None,
    max_kld: float | None,
    curve: str | None,
    classes: tuple[str, ...],
    types: str | None,
    palettes: tuple[str, ...],
    keeps: tuple[str, ...],
    ties: tuple[str, ...],
    unprotected: bool,
    speed_path: str | None,
    min_speed: float | None,
    imatrix_path: str | None,
    output: str | None,
    as_json: bool,
) -> None:
    """Find the recipe for MODEL that diverges least within a budget.

    Says first what the types can reach, then what was found, how far from the optimum it can be at most, and what more
    room would be worth. MODEL is a GGUF file, of which the header is enough, or a tensors.*.map file.
    """
    if sum(wish is not None for wish in (bpw, max_kld, curve)) > 1:
        raise click.UsageError("give one of --bpw, --max-kld and --curve")
    if bool(speed_path) != bool(min_speed):
        raise click.UsageError("--speed and --min-speed go together")

    from ..optimize.allocation import Problem, Wishes
    from ..optimize.costs import Costs
    from ..optimize.recipe import Budget
    from ..recipes.rules import compiled
    from ..sensitivity import load_sensitivity

    target = Target(model, imatrix_path)
    sensitivity = load_sensitivity(sensitivity_path)
    wishes = Wishes(
        types=chosen_types(types, sensitivity.types),
        palettes=tuple(_palette(text, sensitivity.types) for text in palettes),
        keep=tuple(_rule(text) for text in keeps),
        ties=tuple(compiled(text, text) for text in ties),
        protect=not unprotected,
        alignment=target.alignment,
    )
    costs = Costs(sensitivity.costs, target.tensors)
    if not costs.n_known:
        raise UsageError(f"{sensitivity_path}: knows no tensor of {model}; measure this model")
    problem = Problem(target.tensors, target.arch, costs, wishes)
    if problem.unmeasured:
        names = problem.unmeasured
        warn(f"{len(names)} tensors were not measured, as {names[0]}; the worst of their kind stands for them")
    budget = Budget(
        size,
        bpw,
        tuple(_class(text) for text in classes),
        1 / min_speed if min_speed else None,
        _seconds(speed_path, target) if speed_path else None,
    )
    search = Search(target, problem, budget, sensitivity.interaction)
    if curve:
        _curve(search, curve, output, as_json)
        return
    found = search.smallest_file(max_kld) if max_kld else search.best()
    recipe = search.recipe(found)
    if output:
        _write(recipe, output, [model, sensitivity_path])
    if as_json:
        print_json(search.as_data(found))
        return
    search.show(found)
    if output:
        note(f"{output}: {len(recipe.rules)} rules")


class Target:
    """The model that the recipe is for: its tensors, and what size of file a recipe makes of it.

    search, calibrating:  what quantize will be told, since the file's header says so
    """

    def __init__(
        self,
        path: str,
        imatrix_path: str | None = None,
        search: str = "reference",
        calibrating: "Calibrating | None" = None,
    ):
        from ..container import open_gguf
        from ..container.layout import DEFAULT_ALIGNMENT
        from ..recipes.model_facts import ModelFacts
        from ..sensitivity.thireus import read_map

        self.name, self.imatrix_name = Path(path).stem, imatrix_path or ""
        self.search, self.calibrating = search, calibrating
        self.imatrix: Imatrix | None = None
        if path.endswith(".map"):
            if not Path(path).is_file():
                raise UsageError(f"{path}: no such file")
            self.source, self.tensors, self.metadata, self.arch = None, read_map(path), {}, ""
            self.alignment = DEFAULT_ALIGNMENT
            return
        self.source = open_gguf(path, header_only=True)
        self.metadata = self.source.metadata
        self.tensors = list(self.source.tensors.values())
        self.arch = ModelFacts.of(self.metadata).arch
        self.alignment = self.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if imatrix_path:
            self.imatrix = filled_imatrix(imatrix_path, self.tensors)

    @property
    def used_experts(self) -> float:
        """Share of the experts that a token uses; 1 in a dense model."""
        n = self.metadata.get(f"{self.arch}.expert_count", 0)
        return self.metadata.get(f"{self.arch}.expert_used_count", n) / n if n else 1.0

    def file_bytes(self, recipe: "Recipe") -> int:
        """Bytes of the file that quantize makes with a recipe; of a map, of its tensors."""
        from ..quantize.plan import make_plan
        from ..quantize.provenance import add_provenance
        from ..recipes.resolve import Request, parse_target

        request = Request(parse_target(recipe.base), rules=recipe.rules, imatrix=self.imatrix is not None)
        calibrated = self.calibrating.weights if self.calibrating else ()
        plan = make_plan(
            self.metadata,
            self.tensors,
            request,
            self.imatrix,
            self.imatrix_name,
            allow_requantize=True,
            calibrated=calibrated,
        )
        if self.source is None:
            return plan.file_bytes
        if self.calibrating:
            self.calibrating.mark(plan)
        add_provenance(plan, request, self.source, self.imatrix, self.search)
        return plan.file_bytes


class Search:
    """The optimizer at work on one target, and what it says about what it found."""

    def __init__(self, target: Target, problem: "Problem", budget: "Budget", interaction: Any):
        self.target, self.problem, self.budget, self.interaction = target, problem, budget, interaction

    def best(self, **changes: Any) -> "Allocation":
        from dataclasses import replace

        from ..optimize.recipe import smallest_divergence

        budget = replace(self.budget, **changes)
        return smallest_divergence(self.problem, budget, lambda found: self.target.file_bytes(self.recipe(found)))

    def smallest_file(self, max_kld: float) -> "Allocation":
        from ..optimize.recipe import smallest_file

        return smallest_file(self.problem, self.interaction.total(max_kld), self.budget)

    def recipe(self, found: "Allocation", name: str = "") -> "Recipe":
        from ..optimize.recipe import as_recipe

        notes = f"Predicted mean KL divergence {self.predicted(found):.5f} nats at {self.bpw(found):.3f} bpw."
        return as_recipe(self.target.tensors, self.target.arch, found, name or self.target.name, notes)

    def predicted(self, found: "Allocation") -> float:
        return self.interaction.divergence(found.total)

    def bpw(self, found: "Allocation") -> float:
        from ..optimize.allocation import n_bytes

        tensors = self.target.tensors
        return 8 * sum(n_bytes(t, found.types[t.name]) for t in tensors) / sum(t.n_values for t in tensors)

    def file_bytes(self, found: "Allocation") -> int:
        return self.target.file_bytes(self.recipe(found))

    def as_data(self, found: "Allocation") -> dict[str, Any]:
        return {
            "predicted_kld": self.predicted(found),
            "sum_of_costs": found.total,
            "objective": found.objective,
            "bound": found.bound,
            "gap": found.gap,
            "file_bytes": self.file_bytes(found),
            "bpw": self.bpw(found),
            "limits": [
                {
                    "label": r.limit.label,
                    "amount": r.limit.amount,
                    "least": r.least,
                    "most": r.most,
                    "used": r.used,
                    "price": r.price,
                }
                for r in found.ranges
            ],
            "unmeasured": found.unmeasured,
            "types": {name: kind.name for name, kind in found.types.items()},
        }

    @staticmethod
    def minimizes_divergence(found: "Allocation") -> bool:
        return abs(found.objective - found.total) <= 1e-9 * found.total

    def show(self, found: "Allocation") -> None:
        price_title = "nats per GiB" if self.minimizes_divergence(found) else "price"
        print_table(
            ["limit", ">at least", ">at most", ">allowed", ">used", f">{price_title}"],
            [
                (r.limit.label, *(_amount(v) for v in (r.least, r.most, r.limit.amount, r.used)), _price(r))
                for r in found.ranges
            ],
            title="What the types can reach, and what was chosen",
        )
        weights: Counter[str] = Counter()
        for tensor in self.target.tensors:
            weights[found.types[tensor.name].name] += tensor.n_values
        total = sum(weights.values())
        counts = Counter(kind.name for kind in found.types.values())
        print_table(
            ["type", ">tensors", ">% of weights"],
            [(name, str(counts[name]), f"{100 * n / total:.1f}") for name, n in weights.most_common()],
        )
        click.echo(
            f"{self.file_bytes(found):,} bytes, {self.bpw(found):.3f} bpw, predicted mean KLD "
            f"{self.predicted(found):.6f} (sum of costs {found.total:.6f}); no choice is better by more than "
            f"{100 * found.gap:.4f} %"
        )


def _amount(value: float) -> str:
    return f"{value / GIB:.3f} GiB" if value >= GIB / 100 else f"{value:,.6g}"


def _price(r: Any) -> str:
    return f"{r.price * (GIB if r.limit.amount > 1000 else 1):.4g}"


def chosen_types(text: str | None, measured: list[str]) -> "tuple[GGMLType, ...]":
    """A palette: names with commas between, mainline and ik for what was measured of each; None: all measured."""
    from ..ggml_types import BY_NAME, ggml_type

    known = [BY_NAME[name] for name in measured if name in BY_NAME and not BY_NAME[name].is_plain]
    if text is None:
        return tuple(known)
    groups = {
        "mainline": [kind for kind in known if kind.origin == "llama.cpp"],
        "ik": [kind for kind in known if kind.origin != "llama.cpp"],
    }
    chosen: dict[GGMLType, None] = {}
    for name in (piece.strip() for piece in text.split(",")):
        chosen |= dict.fromkeys(groups[name] if name in groups else [ggml_type(name)])
    for kind in chosen:
        if kind.name not in measured and not kind.is_plain:
            raise UsageError(f"{kind} was not measured; known are {', '.join(measured)}")
    return tuple(chosen)


def _palette(text: str, measured: list[str]) -> "tuple[re.Pattern[str], tuple[GGMLType, ...]]":
    from ..recipes.rules import compiled

    pattern, equals, names = text.rpartition("=")
    if not (pattern and equals):
        raise UsageError(f"{text!r}: expected REGEX=TYPE,TYPE,...")
    return compiled(pattern, text), chosen_types(names, measured)


def _rule(text: str) -> Any:
    from ..ggml_types import ggml_type
    from ..recipes.rules import TensorRule, compiled

    pattern, equals, name = text.rpartition("=")
    if not (pattern and equals):
        raise UsageError(f"{text!r}: expected REGEX=TYPE")
    return TensorRule(compiled(pattern, text), ggml_type(name), text)


def _class(text: str) -> tuple[re.Pattern[str], int]:
    from ..recipes.rules import compiled

    pattern, equals, size = text.rpartition("=")
    if not (pattern and equals):
        raise UsageError(f"{text!r}: expected REGEX=SIZE, as in '_exps=200GiB'")
    return compiled(pattern, text), Size().convert(size, None, None)


def _seconds(path: str, target: Target) -> Any:
    from ..optimize.speed import read_speeds, seconds_of

    return seconds_of(read_speeds(path), target.tensors, target.used_experts)


def _curve(search: Search, text: str, output: str | None, as_json: bool) -> None:
    match = re.fullmatch(r"([\d.]+):([\d.]+)(?::([\d.]+))?", text)
    if match is None:
        raise UsageError(f"--curve {text}: expected FROM:TO or FROM:TO:STEP in bits per weight, as in 2.0:6.0")
    first, last, step = float(match[1]), float(match[2]), float(match[3] or 0.25)
    if not 0 < first <= last or step <= 0:
        raise UsageError(f"--curve {text}: nothing lies between")
    from ..errors import RecipeError

    points = []
    for i in range(int((last - first) / step + 1e-9) + 1):
        wanted = first + i * step
        try:
            found = search.best(bpw=wanted)
        except RecipeError as error:
            note(f"{wanted:g} bpw: {error}")
            continue
        points.append((wanted, found))
        if output:
            Path(output).mkdir(parents=True, exist_ok=True)
            name = f"{search.target.name}-{wanted:g}bpw"
            _write(search.recipe(found, name), str(Path(output) / f"{name}.toml"), [])
    if output and points:
        from ..files import atomic_output
        from ..plots.svg import line_chart

        drawing = line_chart(
            {"predicted": [(search.bpw(found), search.predicted(found)) for _, found in points]},
            "bits per weight",
            "mean KL divergence",
            log_y=True,
        )
        with atomic_output(str(Path(output) / f"{search.target.name}-front.svg")) as file:
            file.write(drawing.encode())
    if as_json:
        print_json([search.as_data(found) for _, found in points])
        return
    print_table(
        [">bpw", ">bytes", ">predicted KLD", ">gap %", ">KLD per GiB less"],
        [
            (
                f"{search.bpw(found):.3f}",
                f"{search.file_bytes(found):,}",
                f"{search.predicted(found):.6f}",
                f"{100 * found.gap:.4f}",
                f"{found.ranges[-1 if not search.budget.classes else 0].price * GIB:.4g}",
            )
            for _, found in points
        ],
    )


def _write(recipe: "Recipe", output: str, inputs: list[str]) -> None:
    from ..files import atomic_output, check_output
    from ..recipes.recipe import to_toml

    check_output(output, inputs)
    with atomic_output(output) as file:
        file.write(to_toml(recipe).encode())
