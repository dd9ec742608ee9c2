"""`quanttool recipe compare`: two recipes on one model."""

import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import click

from .comparing import comparisons, print_comparisons
from .console import json_option, memory_option, precision_option, print_json, print_table, threads_option
from .texts import text_options

if TYPE_CHECKING:
    from ..quantize.plan import Plan
    from ..sensitivity import Sensitivity

MIB = 1 << 20


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
    plans = {
        label: planned(source, what, imatrix, imatrix_path or "") for label, what in zip("AB", (a, b), strict=True)
    }
    rows = [
        {"label": label, "recipe": what, "file_bytes": plans[label].file_bytes, "bpw": plans[label].bpw}
        for label, what in zip("AB", (a, b), strict=True)
    ]
    costs, pairs = None, {}
    if sensitivity_path:
        from ..sensitivity import load_sensitivity

        costs = load_sensitivity(sensitivity_path)
        for row in rows:
            row["predicted_kld"] = predicted(plans[row["label"]], costs)
    if files:
        from ..evaluate import split
        from .texts import read_tokens

        tokens, bos_id = read_tokens(path, files, parse_special)
        chunks = split(tokens, n_ctx, n_chunks, bos_id=bos_id)
        found = measured(path, chunks, list(plans.values()), imatrix, precision, memory, "divergence")
        for row, divergence in zip(rows, found, strict=True):
            row["mean_kld"], row["uncertainty"] = divergence.mean_kld
            row["perplexity"] = divergence.ppl.value
        pairs = comparisons({"kld": dict(zip(plans, (one.kld for one in found), strict=True))})
    differences = where_they_differ(*plans.values(), costs)
    if as_json:
        result = {"recipes": rows, "classes": classes(plans), "differences": differences}
        print_json(result | ({"comparisons": pairs} if pairs else {}))
        return
    show(rows, pairs, classes(plans), differences)


def show(
    rows: list[dict[str, Any]],
    pairs: dict[str, list[dict[str, Any]]],
    types: dict[str, dict[str, str]],
    differences: list[dict[str, Any]],
) -> None:
    names = {"predicted_kld": ">predicted KLD", "mean_kld": ">measured KLD", "uncertainty": ">±"}
    extra = {key: title for key, title in (names | {"perplexity": ">perplexity"}).items() if key in rows[0]}
    print_table(
        ["", "recipe", ">bytes", ">bpw", *extra.values()],
        [
            (
                row["label"],
                row["recipe"],
                f"{row['file_bytes']:,}",
                f"{row['bpw']:.3f}",
                *(f"{row[key]:.6f}" for key in extra),
            )
            for row in rows
        ],
    )
    before, after = rows
    changes = [f"{after['file_bytes'] - before['file_bytes']:+,} bytes ({_change(before, after, 'file_bytes')})"]
    for key, title in (("predicted_kld", "predicted KLD"), ("mean_kld", "measured KLD")):
        if key in before and before[key] > 0:
            changes.append(f"{title} {_change(before, after, key)}")
    click.echo(f"from A to B: {', '.join(changes)}")
    if pairs:
        print_comparisons(pairs)
    print_table(
        ["tensors", "A", "B"],
        [(kind, *(of[label] for label in "AB")) for kind, of in types.items()],
        title="Types, and how many tensors have them",
    )
    if not differences:
        click.echo("every tensor has the same type in both")
        return
    with_costs = "predicted" in differences[0]
    print_table(
        ["tensors", "layers", "A", "B", ">bytes, B - A", *([">KLD x 1000, B - A", ">per MiB"] if with_costs else [])],
        [
            (
                one["tensors"],
                ranges(one["layers"]),
                one["a"],
                one["b"],
                f"{one['bytes']:+,}",
                *([f"{1000 * one['predicted']:+.4f}", _price(one)] if with_costs else []),
            )
            for one in differences
        ],
        title="Where they differ",
    )


def _change(before: dict[str, Any], after: dict[str, Any], key: str) -> str:
    return f"{100 * (after[key] / before[key] - 1):+.1f} %"


def _price(one: dict[str, Any]) -> str:
    """Divergence that a MiB buys."""
    return f"{1000 * abs(one['predicted'] / one['bytes']) * MIB:.4f}" if one["bytes"] else ""


def ranges(layers: list[int]) -> str:
    """[0, 1, 2, 5] -> 0-2, 5."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and runs[-1][-1] == layer - 1:
            runs[-1][-1] = layer
        else:
            runs.append([layer, layer])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


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
    """Tensors of one kind that go from one type to one other, with what that takes and saves, if costs are known."""
    from ..optimize.costs import Costs
    from ..recipes.model_facts import layer_number

    costs = Costs(sensitivity.costs, [tensor.source for tensor in a.tensors]) if sensitivity else None
    groups: dict[tuple[str, str, str], dict[str, Any]] = {}
    others = {tensor.name: tensor for tensor in b.tensors}
    for tensor in a.tensors:
        other = others[tensor.name]
        if tensor.type is other.type:
            continue
        key = kind_of(tensor.name), tensor.type.name, other.type.name
        group = groups.setdefault(key, {"layers": [], "bytes": 0} | ({"predicted": 0.0} if costs else {}))
        if layer_number(tensor.name) >= 0:
            group["layers"].append(layer_number(tensor.name))
        group["bytes"] += other.target.n_bytes - tensor.target.n_bytes
        if costs:
            before, after = (costs.of(one.source, one.type) or 0.0 for one in (tensor, other))
            group["predicted"] += after - before
    return [
        {"tensors": kind, "a": before, "b": after, **group}
        for (kind, before, after), group in sorted(groups.items(), key=lambda item: -abs(item[1]["bytes"]))
    ]


def kind_of(name: str) -> str:
    """A tensor's name without its layer."""
    return re.sub(r"^blk\.\d+\.", "", name).removesuffix(".weight")
