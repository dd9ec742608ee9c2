"""quanttool imatrix: which input channels of which weights matter, measured on a text."""

from pathlib import Path

import click

from .console import json_option, note, print_json, progress_bar, threads_option
from .running import Passes, RunningPerplexity
from .texts import read_tokens, text_options


@click.command("imatrix")
@click.option("-m", "--model", "model_path", required=True, metavar="MODEL", help="GGUF model to run.")
@text_options
@click.option("-o", "--output", "output", required=True, metavar="OUT", help="Imatrix file to write.")
@click.option(
    "--from-chunk", type=click.IntRange(min=0), default=0, metavar="N", help="Skip the first N chunks of the text."
)
@click.option("--process-output", is_flag=True, help="Record the output matrix, too.")
@click.option("--no-ppl", is_flag=True, help="Do not compute the perplexity beside.")
@click.option(
    "--output-format",
    type=click.Choice(["gguf", "dat"]),
    default="gguf",
    show_default=True,
    help="llama.cpp's GGUF imatrix, or the older .dat that ik_llama.cpp reads.",
)
@threads_option
@json_option
def command(
    model_path, files, n_ctx, n_chunks, parse_special, output, from_chunk, process_output, no_ppl, output_format,
    threads, as_json,
):  # fmt: skip
    """Measure the importance of a model's weights on a text, for `quanttool quantize --imatrix`.

    \b
    Every chunk of the text runs through the model; per weight and input channel the squares of the activations are
    summed. The perplexity is printed beside, after each chunk.
    \b
      quanttool imatrix -m model-f16.gguf -f calibration.txt -o model.imatrix.gguf
    """
    from ..files import check_output
    from ..parallel import use_threads

    use_threads(threads)
    check_output(output, inputs=[model_path, *files])

    from ..evaluate import split
    from ..imatrix import save
    from ..models import load_model

    model = load_model(model_path)
    tokens, bos_id = read_tokens(model_path, files, parse_special)
    chunks = split(tokens, n_ctx, n_chunks, from_chunk, bos_id)
    note(f"{len(tokens)} tokens; {len(chunks)} chunks of {n_ctx}")
    imatrix, perplexity = _collect(model, chunks, files, process_output, not no_ppl, as_json)
    save(imatrix, output, output_format)
    note(f"{output}: {len(imatrix.entries)} weights, {len(chunks)} chunks")
    if as_json:
        print_json(_summary(imatrix, perplexity, output, chunks))


def _collect(model, chunks, files, process_output, with_perplexity, quiet):
    """Run all chunks, a group at a time. Returns the Imatrix and the Perplexity (None if not wanted)."""
    from ..evaluate import negative_log_likelihood
    from ..imatrix.collect import Collector

    collector = Collector(model.file.tensors, chunks.n_ctx)
    running = RunningPerplexity(quiet)
    with progress_bar("imatrix", "tok", scale=True) as progress:
        passes = Passes(progress, chunks.tokens.size)
        for group in chunks.groups(model.n_embd):
            hidden = passes.hidden_states(model, group, collector)
            if process_output:
                collector.add(model.output.name, hidden.reshape(-1, model.n_embd))
            if with_perplexity:
                nll = negative_log_likelihood(model, group.scored(hidden), group.targets.ravel())
                running.add(nll.reshape(group.targets.shape))
    imatrix = collector.imatrix([Path(path).name for path in files], len(chunks))
    return imatrix, running.finish() if with_perplexity else None


def _summary(imatrix, perplexity, output, chunks) -> dict:
    summary = {
        "output": output,
        "weights": len(imatrix.entries),
        "n_ctx": chunks.n_ctx,
        "n_chunks": len(chunks),
        "datasets": imatrix.datasets,
    }
    if perplexity is not None:
        summary["perplexity"] = perplexity.estimate._asdict()
        summary["running"] = perplexity.running().tolist()
    return summary
