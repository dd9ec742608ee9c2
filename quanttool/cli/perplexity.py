"""quanttool perplexity: how well models predict a text, and how far quantized ones are from their source."""

from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from . import reports
from .cache import cache_options
from .console import (
    json_option,
    memory_option,
    note,
    precision_option,
    print_json,
    print_table,
    progress_bar,
    threads_option,
)
from .running import Passes, RunningPerplexity, say, scored_likelihoods
from .texts import read_tokens, text_options

if TYPE_CHECKING:
    from ..evaluate import Chunks, Divergence, Perplexity
    from ..models import Model


@click.command("perplexity")
@click.option(
    "-m", "--model", "paths", multiple=True, required=True, metavar="MODEL", help="GGUF model; may be given again."
)
@text_options
@click.option("--base-model", "base_path", metavar="BASE", help="Compare each model with this one (KL divergence).")
@cache_options
@precision_option("f32")
@memory_option
@threads_option
@json_option
def command(paths, files, n_ctx, n_chunks, parse_special, base_path, cache, precision, memory, threads, as_json):
    """Measure the perplexity of models on a text, or their divergence from a base model.

    \b
    The text is cut into chunks of -c tokens; the second half of each chunk is scored. With --base-model every model's
    predictions are compared with the base's, token by token; nothing is stored.
    \b
      quanttool perplexity -m model-Q4_K_M.gguf -f test.txt
      quanttool perplexity -m model-Q4_K_M.gguf -m model-Q3_K_M.gguf --base-model model-f16.gguf -f test.txt
    """
    from ..parallel import use_threads

    use_threads(threads)

    from ..evaluate import split
    from ..models import load_model

    reference = base_path or paths[0]
    tokens, bos_id = read_tokens(reference, files, parse_special)
    chunks = split(tokens, n_ctx, n_chunks, bos_id=bos_id)
    models = {path: load_model(path, precision, cache()) for path in dict.fromkeys(paths)}
    base = load_model(base_path, precision) if base_path else models[reference]
    for path, model in models.items():
        if not _same_vocabulary(model, base):
            raise UsageError(f"{path}: its vocabulary is not that of {reference}; compare models of one family")
    note(f"{len(tokens)} tokens; {len(chunks)} chunks of {n_ctx}, {chunks.n_scored} tokens of each are scored")
    if base_path:
        divergences = _compare(base, models, chunks, memory, as_json)
        described = [_divergence_json(path, divergence) for path, divergence in divergences.items()]
    else:
        described = [_perplexity_json(path, _perplexity(path, models, chunks, memory, as_json)) for path in models]
    if as_json:
        text = {"files": list(files), "n_tokens": len(tokens), "n_ctx": n_ctx, "n_chunks": len(chunks)}
        print_json(text | {"base_model": base_path, "models": described})
    elif len(models) > 1:
        _print_summary(described)


def _same_vocabulary(a: "Model", b: "Model") -> bool:
    key = "tokenizer.ggml.tokens"
    return key in a.file.metadata and key in b.file.metadata and a.file.metadata.raw(key) == b.file.metadata.raw(key)


def _perplexity(
    path: str, models: dict[str, "Model"], chunks: "Chunks", memory: int | None, quiet: bool
) -> "Perplexity":
    model, running = models[path], RunningPerplexity(quiet)
    if len(models) > 1 and not quiet:
        say(f"{path}:")
    with progress_bar("perplexity", "tok", scale=True) as progress:
        hidden = Passes(progress, chunks.tokens.size, memory).hidden_states(model, chunks)
        running.add(scored_likelihoods(model, chunks, hidden))
    return running.finish()


def _compare(
    base: "Model", models: "dict[str, Model]", chunks: "Chunks", memory: int | None, quiet: bool
) -> "dict[str, Divergence]":
    """Divergence of each model from the base, in one pass over each model's file; printed when it is done."""
    from ..evaluate import ModelPredictions, compare
    from ..models.scratch import default_memory

    everyone = [base, *models.values()]
    share = (default_memory() if memory is None else memory) // len(everyone)
    with progress_bar("divergence", "tok", scale=True) as progress:
        passes = Passes(progress, chunks.tokens.size * len(everyone), share)
        predictions = [
            ModelPredictions(model, chunks.scored(passes.hidden_states(model, chunks))) for model in everyone
        ]
    divergences = dict(zip(models, compare(predictions[0], predictions[1:], chunks.targets), strict=True))
    if not quiet:
        for path, divergence in divergences.items():
            title = f"{path}:\n\n" if len(models) > 1 else ""
            lines = [reports.chunk_line(divergence, chunk) for chunk in range(1, len(chunks) + 1)]
            click.echo("\n".join([title + reports.CHUNK_HEADER, *lines, "", reports.statistics(divergence), ""]))
    return divergences


def _perplexity_json(path: str, perplexity: "Perplexity") -> dict[str, Any]:
    return {"model": path, "perplexity": perplexity.estimate._asdict(), "running": perplexity.running().tolist()}


def _divergence_json(path: str, divergence: "Divergence") -> dict[str, Any]:
    """All statistics; probabilities as fractions and divergences in nats, never in percent."""
    d = divergence
    estimates = {
        "perplexity": d.ppl,
        "perplexity_base": d.ppl_base,
        "log_perplexity_ratio": d.log_ppl_ratio,
        "perplexity_ratio": d.ppl_ratio,
        "perplexity_difference": d.ppl_difference,
        "mean_kld": d.mean_kld,
        "mean_delta_p": d.mean_delta_p,
        "rms_delta_p": d.rms_delta_p,
        "same_top": d.same_top_share,
    }
    return {
        "model": path,
        **{name: estimate._asdict() for name, estimate in estimates.items()},
        "log_perplexity_correlation": d.log_ppl_correlation,
        "kld_quantiles": {str(fraction): value for fraction, value in d.kld_quantiles().items()},
        "delta_p_quantiles": {str(fraction): value for fraction, value in d.delta_p_quantiles().items()},
    }


def _print_summary(described: list[dict[str, Any]]) -> None:
    """One line per model."""
    columns = {
        "perplexity": (">perplexity", 1, 4),
        "mean_kld": (">mean KLD", 1, 6),
        "same_top": (">same top %", 100, 2),
    }
    shown = {key: column for key, column in columns.items() if key in described[0]}
    rows = [
        [model["model"]]
        + [
            f"{scale * model[key]['value']:.{digits}f} ± {scale * model[key]['uncertainty']:.{digits}f}"
            for key, (_, scale, digits) in shown.items()
        ]
        for model in described
    ]
    print_table(["model", *(title for title, _, _ in shown.values())], rows)
