"""quanttool perplexity: how well models predict a text, and how far quantized ones are from their source."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ..errors import UsageError
from ..files import check_output
from . import reports
from .bases import FORMATS, Base, RunBase, open_base, write_base
from .cache import cache_options
from .comparing import (
    breakdowns,
    comparisons,
    describe_draft,
    describe_sizes,
    print_breakdown,
    print_comparisons,
    print_draft,
    print_summary,
    write_plot,
)
from .console import (
    device_option,
    json_option,
    memory_option,
    note,
    precision_option,
    print_json,
    progress_bar,
    threads_option,
)
from .running import Passes, RunningPerplexity, say, scored_likelihoods
from .tasks import run_tasks, task_options
from .texts import Cut, read_tokens, text_options

if TYPE_CHECKING:
    from ..evaluate import Chunks, Divergence, Perplexity
    from ..models import Model


@click.command("perplexity")
@click.option(
    "-m", "--model", "paths", multiple=True, required=True, metavar="MODEL", help="GGUF model; may be given again."
)
@text_options
@click.option(
    "--stride",
    "--ppl-stride",
    "stride",
    type=click.IntRange(min=1),
    metavar="N",
    help="Overlapping windows of -c plus N/2 tokens, each N further on; the last N tokens of each are scored.",
)
@click.option("--base-model", "base_path", metavar="BASE", help="Compare each model with this one (KL divergence).")
@click.option(
    "--kl-divergence",
    is_flag=True,
    help="Compare each model with what --kl-divergence-base FILE holds (or --base-model).",
)
@click.option(
    "--kl-divergence-base",
    "--save-all-logits",
    "base_file",
    metavar="FILE",
    help="With --kl-divergence: base file to compare with, ours or llama.cpp's. Without: base file to write.",
)
@click.option(
    "--base-format",
    type=click.Choice(FORMATS),
    default=FORMATS[0],
    show_default=True,
    help="Of the base file to write: hidden states, small and exact; in bfloat16; or what these programs write.",
)
@click.option("--embed-output", is_flag=True, help="Let the output matrix go along in a base file of hidden states.")
@click.option("--breakdown", is_flag=True, help="Show where the divergence sits: places, kinds of tokens.")
@click.option("--draft", is_flag=True, help="Show how good each model is as a speculative draft of the base model.")
@click.option("--plot", metavar="FILE", help="Draw divergence and perplexity over bits per weight, as SVG.")
@task_options
@cache_options
@precision_option("f32")
@device_option
@memory_option
@threads_option
@json_option
def command(
    paths, files, n_ctx, n_chunks, parse_special, stride, base_path, kl_divergence, base_file, base_format,
    embed_output, breakdown, draft, plot, task, cache, precision, device, memory, threads, as_json,
):  # fmt: skip
    """Measure the perplexity of models on a text, or their divergence from a base model.

    \b
    The text is cut into chunks of -c tokens; the second half of each chunk is scored. With --base-model every model's
    predictions are compared with the base's, token by token; nothing is stored. With a base file, the base model runs
    once and for all.
    \b
      quanttool perplexity -m model-Q4_K_M.gguf -f test.txt
      quanttool perplexity -m model-Q4_K_M.gguf -m model-Q3_K_M.gguf --base-model model-f16.gguf -f test.txt
      quanttool perplexity -m model-f16.gguf -f test.txt --kl-divergence-base base.gguf
      quanttool perplexity -m model-Q4_K_M.gguf --kl-divergence-base base.gguf --kl-divergence
    """
    from ..parallel import use_threads

    use_threads(threads)
    said = click.get_current_context().get_parameter_source("n_ctx") is not ParameterSource.DEFAULT
    cut = Cut(n_ctx if said else None, n_chunks, stride, parse_special)
    writes = base_file is not None and not kl_divergence
    _check_combination(
        paths, base_path, kl_divergence, base_file, writes, embed_output, base_format, breakdown or draft
    )
    if plot:
        check_output(plot, [*paths, *files])
    if writes:
        check_output(base_file, [*paths, *files])

    from ..models import load_model

    models = {path: load_model(path, precision, cache(), device) for path in dict.fromkeys(paths)}
    if task:
        if base_path or base_file:
            raise UsageError("a base has no part in tasks; give all models with -m, the source first")
        return run_tasks(task, models, files, memory, as_json)
    base: Base | None = None
    if base_file and not writes:
        base, chunks = open_base(base_file, base_path, models, files, cut)
        n_tokens = chunks.text.size
    else:
        if base_path:
            base = RunBase(base_path, load_model(base_path, precision, device=device))
        n_tokens, chunks = _chunks(models, base, files, cut)
    note(f"{n_tokens} tokens; {len(chunks)} chunks of {chunks.n_ctx}, {chunks.n_scored} tokens of each are scored")
    values: dict[str, dict[str, Any]] = {}
    if base:
        divergences = _compare(base, models, chunks, memory, as_json, draft)
        parts = breakdowns(divergences, chunks, paths[0]) if breakdown else {}
        described = [
            _divergence_json(path, divergence)
            | ({"breakdown": parts[path]} if breakdown else {})
            | ({"draft": describe_draft(divergence)} if draft else {})
            for path, divergence in divergences.items()
        ]
        values = {name: {path: getattr(d, name) for path, d in divergences.items()} for name in ("kld", "nll")}
    elif writes:
        perplexity = _write(base_file, base_format, embed_output, models[paths[0]], chunks, files, memory)
        RunningPerplexity(as_json, perplexity.nll).finish()
        described = [_perplexity_json(paths[0], perplexity)]
    else:
        perplexities = {path: _perplexity(path, models, chunks, memory, as_json) for path in models}
        described = [_perplexity_json(path, perplexity) for path, perplexity in perplexities.items()]
        values = {"nll": {path: perplexity.nll for path, perplexity in perplexities.items()}}
    describe_sizes(described, models)
    pairs = comparisons(values) if len(models) > 1 else {}
    if plot:
        write_plot(plot, described)
    if as_json:
        text = {"files": list(files), "n_tokens": n_tokens, "n_ctx": chunks.n_ctx, "n_chunks": len(chunks)}
        text |= {"stride": stride, "n_scored": chunks.n_scored}
        text |= {"base_model": base_path, "base_file": base_file, "models": described}
        print_json(text | ({"comparisons": pairs} if pairs else {}))
        return
    for one in described:
        if breakdown:
            print_breakdown(one["model"], one["breakdown"])
        if draft:
            print_draft(one["model"], base.path, one["draft"])
    if len(models) > 1:
        print_summary(described)
        print_comparisons(pairs)


def _check_combination(paths, base_path, kl_divergence, base_file, writes, embed_output, base_format, details) -> None:
    """UsageError for options that do not go together."""
    if details and not (base_path or kl_divergence):
        raise UsageError("--breakdown and --draft compare with a base; give --base-model or --kl-divergence-base")
    if writes and base_path:
        raise UsageError("--kl-divergence-base without --kl-divergence writes a file; leave --base-model out")
    if writes and len(set(paths)) > 1:
        raise UsageError("a base file is of one model; give one -m, or --kl-divergence to compare with the file")
    if kl_divergence and not (base_file or base_path):
        raise UsageError("--kl-divergence needs a base: --kl-divergence-base FILE, or --base-model")
    if embed_output and not (writes and base_format.startswith("hidden")):
        raise UsageError("--embed-output is for base files of hidden states that are written")


def _chunks(models: "dict[str, Model]", base: "RunBase | None", files: Sequence[str], cut: Cut) -> "tuple[int, Chunks]":
    """The text, its number of tokens and its chunks, under the tokenizer that all models must share."""
    reference, of_reference = (base.path, base.model) if base else next(iter(models.items()))
    tokens, bos_id = read_tokens(reference, files, cut.parse_special)
    for path, model in models.items():
        if not _same_vocabulary(model, of_reference):
            raise UsageError(f"{path}: its vocabulary is not that of {reference}; compare models of one family")
    return len(tokens), cut.chunks(tokens, bos_id)


def _write(
    path: str, base_format: str, embed_output: bool, model: "Model", chunks: "Chunks", files: Sequence[str],
    memory: int | None,
) -> "Perplexity":  # fmt: skip
    digest = ",".join(hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files)
    with progress_bar("perplexity", "tok", scale=True) as progress:
        passes = Passes(progress, chunks.tokens.size, memory)
        return write_base(path, base_format, embed_output, model, chunks, passes, digest)


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
    base: "Base", models: "dict[str, Model]", chunks: "Chunks", memory: int | None, quiet: bool, overlap: bool
) -> "dict[str, Divergence]":
    """Divergence of each model from the base, in one pass over each model's file; printed when it is done."""
    from ..evaluate import ModelPredictions, compare
    from ..models.scratch import default_memory

    n_passes = base.n_passes + len(models)
    share = (default_memory() if memory is None else memory) // n_passes
    with progress_bar("divergence", "tok", scale=True) as progress:
        passes = Passes(progress, chunks.tokens.size * n_passes, share)
        of_base = base.predictions(passes, chunks)
        others = [
            ModelPredictions(model, chunks.scored(passes.hidden_states(model, chunks))) for model in models.values()
        ]
    divergences = dict(zip(models, compare(of_base, others, chunks.targets, overlap), strict=True))
    base.check(next(iter(divergences.values())).nll_base)
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
