"""A recipe, a mix or a type, applied to a model: what every tensor becomes, and the size of the file."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..container import TensorInfo
    from ..evaluate import Chunks, Divergence
    from ..imatrix import Imatrix
    from ..quantize.plan import Plan
    from ..recipes.recipe import Recipe

# Mixes of llama.cpp that people choose from, from small to large
CLASSIC = (
    "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "Q2_K_S", "IQ3_XXS", "Q2_K", "IQ3_XS", "IQ3_S", "IQ3_M",
    "Q3_K_S", "Q3_K_M", "Q3_K_L", "IQ4_XS", "IQ4_NL", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0",
)  # fmt: skip


def planned(source: Any, what: str, imatrix: Any = None, imatrix_name: str = "", search: str = "reference") -> "Plan":
    """The plan of a mix or type by its name, or of a recipe: a file, a shipped one, or its text."""
    from ..errors import UsageError
    from ..recipes.recipe import Recipe, read_recipe
    from ..recipes.resolve import parse_target

    try:
        recipe = Recipe((), name=what, base=parse_target(what).name)
    except UsageError:
        recipe = read_recipe(what)
    return plan_of(source, recipe, imatrix, imatrix_name, search)


def plan_of(
    source: Any, recipe: "Recipe", imatrix: Any = None, imatrix_name: str = "", search: str = "reference"
) -> "Plan":
    """The plan of a recipe, with all that quantize writes into a file's header."""
    from ..quantize.plan import make_plan
    from ..quantize.provenance import add_provenance
    from ..recipes.resolve import Request, parse_target

    request = Request(parse_target(recipe.base or "Q8_0"), rules=recipe.rules, imatrix=imatrix is not None)
    tensors = source.tensors.values()
    plan = make_plan(source.metadata, tensors, request, imatrix, imatrix_name, allow_requantize=True)
    add_provenance(plan, request, source, imatrix, search)
    return plan


def filled_imatrix(path: str, tensors: "Iterable[TensorInfo]") -> "Imatrix":
    """The imatrix of a file as quantize uses it for a model with these tensors."""
    from ..imatrix import load
    from ..imatrix.gaps import add_aliases, shrink_experts

    return shrink_experts(add_aliases(load(path), list(tensors)))[0]


def variant(plan: "Plan") -> dict[str, str]:
    """What a plan changes: tensor -> name of its type."""
    return {tensor.name: tensor.type.name for tensor in plan.tensors if tensor.converts}


def nearest_mixes(source: Any, size: int, imatrix: Any, imatrix_name: str, search: str) -> "dict[str, Plan]":
    """The largest classic mix that is not above a size, and the smallest above it; those that can be written."""
    from ..errors import QuanttoolError

    plans: dict[str, Plan] = {}
    for name in CLASSIC:
        try:
            plan = planned(source, name, imatrix, imatrix_name, search)
        except QuanttoolError:  # a type that does not suit a tensor's shape
            continue
        if not plan.problems:
            plans[name] = plan
    below = [name for name in plans if plans[name].file_bytes <= size]
    above = [name for name in plans if plans[name].file_bytes > size]
    chosen = [max(below, key=lambda name: plans[name].file_bytes)] if below else []
    chosen += [min(above, key=lambda name: plans[name].file_bytes)] if above else []
    return {name: plans[name] for name in chosen}


def measured(
    path: str,
    chunks: "Chunks",
    plans: "Sequence[Plan]",
    imatrix: Any,
    precision: str,
    memory: int | None,
    label: str,
    search: str = "reference",
) -> "list[Divergence]":
    """Divergence of what each plan makes from the model, side by side, without writing files."""
    from ..models import load_model
    from ..sensitivity.recipes import divergences
    from ..sensitivity.weights import Weights
    from .console import progress_bar

    model = load_model(path, precision)
    used = {*model.weights(), model.output.name, "token_embd.weight"}
    variants = [{name: kind for name, kind in variant(plan).items() if name in used} for plan in plans]
    with progress_bar(label, "") as progress:
        return divergences(model, chunks, variants, Weights(model.file, imatrix, search), progress, memory)


def measured_files(path: str, chunks: "Chunks", files: "Sequence[Path]", label: str) -> "list[Divergence]":
    """Divergence of files from the model."""
    from ..evaluate import ModelPredictions, compare
    from ..models import load_model
    from .console import progress_bar

    predictions = []
    with progress_bar(label, "") as progress:
        for i, file in enumerate((path, *files)):

            def step(done: int, total: int, i: int = i) -> None:
                progress(1000 * i + 1000 * done // total, 1000 * (1 + len(files)))

            model = load_model(file, "f32")
            predictions.append(ModelPredictions(model, chunks.scored(model.hidden_states(chunks.tokens, None, step))))
    return compare(predictions[0], predictions[1:], chunks.targets)


def stem(path: str) -> str:
    """A model's name without .gguf."""
    return Path(path).name.removesuffix(".gguf")
