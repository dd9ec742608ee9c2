"""What `quanttool perplexity` says beside each model's own statistics: several models side by side, and details."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..files import atomic_output
from .console import print_table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..evaluate import Chunks, Divergence
    from ..models import Model

Described = dict[str, Any]  # a model's statistics, as in JSON
NAMES = {"kld": "KLD", "nll": "ln PPL"}


def describe_sizes(described: list[Described], models: "dict[str, Model]") -> None:
    """Add bytes and bits per weight; to several models, whether none of the others is both smaller and better.

    Better is what diverges less, without a base what has the lower perplexity.
    """
    from ..evaluate.comparison import pareto_front

    for one in described:
        file = models[one["model"]].file
        n_values = sum(tensor.n_values for tensor in file.tensors.values())
        n_bytes = sum(tensor.n_bytes for tensor in file.tensors.values())
        one |= {"n_bytes": file.n_bytes, "bpw": 8 * n_bytes / n_values}
    if len(described) < 2:
        return
    quality = "mean_kld" if "mean_kld" in described[0] else "perplexity"
    front = pareto_front([(one["n_bytes"], one[quality]["value"]) for one in described])
    for one, is_on in zip(described, front, strict=True):
        one["on_pareto_front"] = is_on


def comparisons(values: Mapping[str, "Mapping[str, NDArray[np.float64]]"]) -> dict[str, list[Described]]:
    """Every pair of models. values: "kld", "nll" -> model -> f64 [n_chunks, n_scored]."""
    from ..evaluate.comparison import compare_pairs

    return {
        name: [asdict(pair) | {"is_significant": pair.is_significant} for pair in compare_pairs(of_models)]
        for name, of_models in values.items()
    }


def print_summary(described: list[Described]) -> None:
    """One line per model, by size."""
    columns = {
        "perplexity": (">perplexity", 1, 4),
        "mean_kld": (">mean KLD", 1, 6),
        "same_top": (">same top %", 100, 2),
    }
    shown = {key: column for key, column in columns.items() if key in described[0]}
    rows = [
        [model["model"], f"{model['n_bytes'] / 1e6:.1f}", f"{model['bpw']:.3f}"]
        + [
            f"{scale * model[key]['value']:.{digits}f} ± {scale * model[key]['uncertainty']:.{digits}f}"
            for key, (_, scale, digits) in shown.items()
        ]
        + ["●" if model["on_pareto_front"] else ""]
        for model in sorted(described, key=lambda model: model["n_bytes"])
    ]
    titles = ["model", ">MB", ">bpw", *(title for title, _, _ in shown.values()), "front"]
    print_table(titles, rows)
    click.echo("● no other model is both smaller and better")


def print_comparisons(pairs: dict[str, list[Described]]) -> None:
    """A line per pair of models and measure."""
    if not any(pairs.values()):
        click.echo("\ntoo few tokens to tell whether these models differ; use more chunks")
        return
    lines = []
    for measure, of_measure in pairs.items():
        for pair in of_measure:
            p = "p < 0.001" if pair["p"] < 0.001 else f"p = {pair['p']:.3f}"
            how = "is better than" if pair["is_significant"] else "cannot be told from"
            lines.append(
                f"{pair['better']} {how} {pair['worse']}, {p}: {NAMES[measure]} lower by {pair['difference']:.6f} "
                f"± {pair['uncertainty']:.6f} (95 %: {pair['low']:.6f} to {pair['high']:.6f})"
            )
    click.echo("\n" + "\n".join(lines))


def breakdowns(divergences: "dict[str, Divergence]", chunks: "Chunks", model_path: str) -> dict[str, list[Described]]:
    """Statistics of classes of tokens for each model."""
    import numpy as np

    from ..evaluate.breakdown import breakdown, token_classes
    from ..tokenizer import load_tokenizer

    tokenizer = load_tokenizer(model_path)
    pieces = {id: tokenizer.piece(id) for id in np.unique(chunks.text).tolist()}
    classes = token_classes(chunks.text, next(iter(divergences.values())).nll_base, pieces)
    result = {}
    for path, divergence in divergences.items():
        parts = [asdict(part) for part in breakdown(divergence, classes)]
        result[path] = [part | {key: part[key]._asdict() for key in ("kld", "nll_change")} for part in parts]
    return result


def print_breakdown(path: str, parts: Sequence[Described]) -> None:
    rows = [
        [
            part["name"],
            f"{100 * part['share']:.1f}",
            "{value:.5f} ± {uncertainty:.5f}".format(**part["kld"]),
            f"{100 * part['kld_share']:.1f}",
            "{value:+.5f} ± {uncertainty:.5f}".format(**part["nll_change"]),
        ]
        for part in parts
    ]
    columns = ["tokens", ">% of tokens", ">mean KLD", ">% of all KLD", ">change of -ln p"]
    print_table(columns, rows, f"\n{path}: where the divergence sits")


def describe_draft(divergence: "Divergence") -> Described:
    """How good the model is as a draft of the base."""
    from ..evaluate.drafting import Draft

    draft = Draft(divergence)
    return {
        "acceptance": draft.acceptance._asdict(),
        "greedy_agreement": draft.greedy_agreement._asdict(),
        "tokens_per_pass": draft.tokens_per_pass(),
        "greedy_tokens_per_pass": draft.greedy_tokens_per_pass(),
    }


def print_draft(path: str, base_path: str, draft: Described) -> None:
    for name, key in (("acceptance rate", "acceptance"), ("greedy agreement", "greedy_agreement")):
        value, uncertainty = (100 * draft[key][part] for part in ("value", "uncertainty"))
        click.echo(f"{path} as draft of {base_path}: {name} {value:.2f} ± {uncertainty:.2f} %")
    pairs = zip(draft["tokens_per_pass"], draft["greedy_tokens_per_pass"], strict=True)
    rows = [[str(k), f"{sampled:.3f}", f"{greedy:.3f}"] for k, (sampled, greedy) in enumerate(pairs, 1)]
    print_table([">draft length", ">tokens per target pass", ">greedy"], rows)


def write_plot(path: str, described: Sequence[Described]) -> None:
    """Divergence and perplexity over bits per weight, as SVG."""
    from ..plots.quality import quality_over_size

    points = {Path(one["model"]).stem: one for one in described}
    bpw = {name: one["bpw"] for name, one in points.items()}
    ppl = {name: one["perplexity"]["value"] for name, one in points.items()}
    kld = {name: one["mean_kld"]["value"] for name, one in points.items() if "mean_kld" in one}
    base = next((one["perplexity_base"]["value"] for one in described if "perplexity_base" in one), None)
    with atomic_output(path) as file:
        file.write(quality_over_size(bpw, ppl, kld, base).encode())
