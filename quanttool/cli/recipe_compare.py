"""`quanttool recipe compare`: two recipes on one model."""

import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import click

from .console import json_option, memory_option, precision_option, print_json, print_table, threads_option
from .texts import text_options

if TYPE_CHECKING:
    from ..quantize.plan import Plan
    from ..sensitivity import Sensitivity


@click.command()
@click.argument("a")
@click.argument("b")
@click.option("--model", "path", required=True, metavar="MODEL", help="GGUF model that they are applied to.")
@click.option("--sensitivity", "sensitivity_path", metavar="FILE", help="Predict divergences from these costs.")
@click.option("--imatrix", "imatrix_path", metavar="FILE", help="Imatrix that quantize would be given.")
@text_options
@precision_option("f32")
@memory_option
@threads_option
@json_option
def command(
    a: str,
    b: str,
    path: str,
    sensitivity_path: str | None,
    imatrix_path: str | None,
    files: tuple[str, ...],
    n_ctx: int,
    n_chunks: int | None,
    parse_special: bool,
    precision: str,
    memory: int | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Compare two recipes, or mixes, on a model: sizes, types, predicted and measured divergence, where they differ.

    With a text (-f) both are measured side by side, without writing a file.
    """
    from ..container import open_gguf
    from ..parallel import use_threads
    from .planned import filled_imatrix, measured, planned

    use_threads(threads)
    source = open_gguf(path, header_only=not files)
    imatrix = filled_imatrix(imatrix_path, source.tensors.values()) if imatrix_path else None
    plans = {name: planned(source, name, imatrix, imatrix_path or "") for name in dict.fromkeys((a, b))}
    rows = [{"recipe": name, "file_bytes": plan.file_bytes, "bpw": plan.bpw} for name, plan in plans.items()]
    costs = None
    if sensitivity_path:
        from ..sensitivity import load_sensitivity

        costs = load_sensitivity(sensitivity_path)
        for row, plan in zip(rows, plans.values(), strict=True):
            row["predicted_kld"] = predicted(plan, costs)
    if files:
        from ..evaluate import split
        from .texts import read_tokens

        tokens, bos_id = read_tokens(path, files, parse_special)
        chunks = split(tokens, n_ctx, n_chunks, bos_id=bos_id)
        found = measured(path, chunks, list(plans.values()), imatrix, precision, memory, "divergence")
        for row, divergence in zip(rows, found, strict=True):
            row["mean_kld"], row["perplexity"] = divergence.mean_kld.value, divergence.ppl.value
    differences = where_they_differ(*(list(plans.values()) * 2)[:2], costs)
    if as_json:
        print_json({"recipes": rows, "classes": classes(plans), "differences": differences})
        return
    names = {"predicted_kld": ">predicted KLD", "mean_kld": ">measured KLD", "perplexity": ">perplexity"}
    extra = [key for key in names if key in rows[0]]
    print_table(
        ["recipe", ">bytes", ">bpw", *(names[key] for key in extra)],
        [
            (
                row["recipe"],
                f"{row['file_bytes']:,}",
                f"{row['bpw']:.3f}",
                *(f"{row[key]:.6f}" for key in extra),
            )
            for row in rows
        ],
    )
    print_table(
        ["tensors", *plans],
        [(kind, *(types[name] for name in plans)) for kind, types in classes(plans).items()],
        title="Types, and how many tensors have them",
    )
    print_table(
        ["tensors", "layers", "A", "B", ">bytes, B - A", *([">predicted, B - A"] if costs else [])],
        [
            (
                one["tensors"],
                one["layers"],
                one["a"],
                one["b"],
                f"{one['bytes']:+,}",
                *([f"{one['predicted']:+.6f}"] if costs else []),
            )
            for one in differences
        ],
        title="Where they differ",
    )


def predicted(plan: "Plan", sensitivity: "Sensitivity") -> float:
    """Mean KL divergence of a plan, from costs; a bound where a tensor was not measured."""
    from ..optimize.costs import Costs

    costs = Costs(sensitivity.costs, [tensor.source for tensor in plan.tensors])
    total = sum(costs.of(tensor.source, tensor.type) or 0.0 for tensor in plan.tensors if tensor.converts)
    return sensitivity.interaction.divergence(total)


def classes(plans: "dict[str, Plan]") -> dict[str, dict[str, str]]:
    """Kind of tensor -> recipe -> its types with their numbers."""
    counts: dict[str, dict[str, Counter]] = defaultdict(lambda: {name: Counter() for name in plans})
    for name, plan in plans.items():
        for tensor in plan.tensors:
            if tensor.converts:
                counts[kind_of(tensor.name)][name][tensor.type.name] += 1
    return {
        kind: {name: ", ".join(f"{n} {type_name}" for type_name, n in own[name].most_common()) for name in plans}
        for kind, own in counts.items()
    }


def where_they_differ(a: "Plan", b: "Plan", sensitivity: "Sensitivity | None") -> list[dict[str, Any]]:
    """Tensors of one kind that go from one type to one other, with what that takes and saves."""
    from ..optimize.costs import Costs
    from ..recipes.extract import numbers
    from ..recipes.model_facts import layer_number

    costs = Costs(sensitivity.costs, [tensor.source for tensor in a.tensors]) if sensitivity else None
    groups: dict[tuple[str, str, str], dict[str, Any]] = {}
    others = {tensor.name: tensor for tensor in b.tensors}
    for tensor in a.tensors:
        other = others[tensor.name]
        if tensor.type is other.type:
            continue
        key = kind_of(tensor.name), tensor.type.name, other.type.name
        group = groups.setdefault(key, {"layers": [], "bytes": 0, "predicted": 0.0})
        if layer_number(tensor.name) >= 0:
            group["layers"].append(layer_number(tensor.name))
        group["bytes"] += other.target.n_bytes - tensor.target.n_bytes
        if costs:
            before, after = (costs.of(one.source, one.type) or 0.0 for one in (tensor, other))
            group["predicted"] += after - before
    return [
        {
            "tensors": kind,
            "a": before,
            "b": after,
            **group,
            "layers": numbers(group["layers"]) if group["layers"] else "",
        }
        for (kind, before, after), group in sorted(groups.items(), key=lambda item: -abs(item[1]["bytes"]))
    ]


def kind_of(name: str) -> str:
    """A tensor's name without its layer."""
    return re.sub(r"^blk\.\d+\.", "", name).removesuffix(".weight")
