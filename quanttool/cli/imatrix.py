"""quanttool imatrix: which input channels of which weights matter, measured on a text."""

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from .console import (
    device_option,
    json_option,
    memory_option,
    note,
    precision_option,
    print_json,
    print_table,
    threads_option,
    warn,
)
from .documents import joined, pack_option, pieces, read_documents, shares
from .imatrix_plots import write_plots
from .imatrix_run import Run, provenance
from .texts import text_options

if TYPE_CHECKING:
    from ..imatrix import Imatrix
    from ..imatrix.similarity import Similarity
    from ..imatrix.statistics import ExpertHits


@click.command("imatrix")
@click.option("-m", "--model", "model_path", metavar="MODEL", help="GGUF model to run.")
@text_options
@pack_option
@click.option("-o", "--output", "output", metavar="OUT", help="Imatrix file to write.")
@click.option(
    "--from-chunk", type=click.IntRange(min=0), default=0, metavar="N", help="Skip the first N chunks of the text."
)
@click.option("--process-output", is_flag=True, help="Record the output matrix, too.")
@click.option("--no-ppl", is_flag=True, help="Do not compute the perplexity beside.")
@click.option(
    "--in-file", "in_files", multiple=True, metavar="IMATRIX",
    help="Add an earlier imatrix, GGUF or .dat; may be given several times. Without a text: merge or convert only.",
)  # fmt: skip
@click.option("--show-statistics", is_flag=True, help="Print a table of each weight's and layer's statistics.")
@click.option(
    "--output-format",
    type=click.Choice(["gguf", "dat"]),
    default="gguf",
    show_default=True,
    help="llama.cpp's GGUF imatrix, or the older .dat that ik_llama.cpp reads.",
)
@click.option(
    "--output-frequency", "checkpoint_every", type=click.IntRange(min=1), metavar="N",
    help="Save a checkpoint every N chunks: after an interruption the same command goes on from there.",
)  # fmt: skip
@click.option(
    "--save-frequency", "keep_every", type=click.IntRange(min=1), metavar="N",
    help="Keep a copy OUT.at_M of the imatrix every N chunks.",
)  # fmt: skip
@click.option(
    "--hessian", type=click.Choice(["diag", "block", "full"]), default="diag", show_default=True,
    help="Also write the covariance of each weight's inputs to OUT.hessian: its 256 x 256 diagonal blocks, or all of "
    "it; diag: the imatrix alone.",
)  # fmt: skip
@click.option(
    "--all-experts", is_flag=True,
    help="Measure every expert on every token, weighted by the router's probability; routing itself stays as it is.",
)  # fmt: skip
@click.option(
    "--layer-similarity", is_flag=True,
    help="Print how alike hidden states are before and after each layer, and what each expert adds.",
)  # fmt: skip
@click.option(
    "--plots",
    metavar="FOLDER",
    help="Draw importance by layer, use of experts, and similarity of layers there, as SVG.",
)
@precision_option("auto")
@device_option
@memory_option
@threads_option
@json_option
def command(
    model_path, files, n_ctx, n_chunks, parse_special, pack, output, from_chunk, process_output, no_ppl, in_files,
    show_statistics, output_format, checkpoint_every, keep_every, hessian, all_experts, layer_similarity, plots,
    precision,     device, memory, threads, as_json,
):  # fmt: skip
    """Measure the importance of a model's weights on a text, for `quanttool quantize --imatrix`.

    \b
    Every chunk of the text runs through the model; per weight and input channel the squares of the activations are
    summed. The perplexity is printed beside, after each chunk.
    \b
      quanttool imatrix -m model-f16.gguf -f calibration.txt -o model.imatrix.gguf
      quanttool imatrix --in-file a.gguf --in-file b.gguf -o both.gguf
      quanttool imatrix --in-file model.imatrix.gguf --show-statistics
    """
    from ..files import check_output
    from ..parallel import use_threads

    use_threads(threads)
    _check_request(model_path, files, in_files, output, show_statistics, plots)
    side_file = None if hessian == "diag" else f"{output}.hessian"
    extras = {"--hessian": side_file, "--layer-similarity": layer_similarity, "--all-experts": all_experts}
    for option in [option for option, wanted in extras.items() if wanted]:
        if checkpoint_every or not files:
            raise UsageError(
                f"{option} needs one uninterrupted run over a text; give a text, and leave --output-frequency out"
            )
    alone = pack == "document"
    if alone and (checkpoint_every or keep_every or layer_similarity):
        raise UsageError(
            "--pack document is one pass over documents of any length: leave out --output-frequency, --save-frequency "
            "and --layer-similarity"
        )
    for path in filter(None, (output, side_file)):
        check_output(path, inputs=[*([model_path] if model_path else []), *files, *in_files])

    from ..imatrix import load, merge, save

    earlier = [load(path).in_rows(n_ctx) for path in in_files]
    summary: dict[str, Any] = {}
    similarity = None
    if files:
        from ..evaluate import split
        from ..imatrix.hessian import HessianWriter
        from ..imatrix.similarity import Similarity
        from ..models import load_model

        def merged(imatrix):
            return merge([*earlier, imatrix], [*in_files, model_path])

        model = load_model(model_path, precision, device=device)
        documents, bos_id = read_documents(model_path, files, parse_special)
        tokens = joined(documents)
        if alone:
            chunks, every = None, pieces(documents, n_ctx)
            cut = every[from_chunk:][:n_chunks]
            used, skipped = sum(map(len, cut)), sum(map(len, every[:from_chunk]))
            note(f"{len(documents)} documents of {len(tokens)} tokens; {len(cut)} sequences of up to {n_ctx}")
        else:
            chunks = cut = split(tokens, n_ctx, n_chunks, from_chunk, bos_id)
            used, skipped = chunks.tokens.size, from_chunk * n_ctx
            note(f"{len(tokens)} tokens; {len(chunks)} chunks of {n_ctx}")
        summary["documents"] = shares(documents, skipped, skipped + used)
        known = provenance(model, files, n_ctx, from_chunk, parse_special, all_experts, alone)
        if all_experts:
            model.show_all_experts()
        weights = model.weights() + [model.output.name] * process_output
        covariance = HessianWriter(side_file, hessian, weights, model.file.tensors, known) if side_file else None
        if layer_similarity:
            similarity = Similarity(model.config.integer("expert_count", 0))
        run = Run(
            model,
            chunks,
            datasets=[Path(path).name for path in files],
            provenance=known,
            process_output=process_output,
            with_perplexity=not no_ppl,
            quiet=as_json,
            memory=memory,
            checkpoint=Path(f"{output}.checkpoint") if checkpoint_every else None,
            checkpoint_every=checkpoint_every or 0,
            keep_every=keep_every or 0,
            keep_copy=lambda imatrix, done: save(merged(imatrix), f"{output}.at_{done}", output_format),
            hessian=covariance,
            similarity=similarity,
        )
        with covariance or nullcontext():
            imatrix, perplexity = (run.collect_pieces(cut, n_ctx), None) if alone else run.collect()
        if covariance is not None:
            note(f"{side_file}: {len(weights)} weights, {covariance.n_bytes / 1e9:.2f} GB")
            summary["hessian"] = side_file
        if similarity is not None:
            summary |= _similarity(similarity, as_json)
        result = merged(imatrix)
        summary["n_chunks"] = len(cut)
        if perplexity is not None:
            summary |= {"perplexity": perplexity.estimate._asdict(), "running": perplexity.running().tolist()}
    else:
        result = merge(earlier, in_files)
    _warn_of_unreached_experts(result)
    if output:
        save(result, output, output_format)
        Path(f"{output}.checkpoint").unlink(missing_ok=True)
        note(f"{output}: {len(result.entries)} weights, {result.chunk_count} chunks of {result.chunk_size} tokens")
    if plots:
        write_plots(plots, result, similarity)
    summary = {"output": output, **_described(result), **summary}
    if show_statistics:
        summary |= _statistics(result, as_json)
    if as_json:
        print_json(summary)


def _check_request(model_path, files, in_files, output, show_statistics, plots) -> None:
    if not files and not in_files:
        raise UsageError("nothing to do; give a text with -f FILE and a model with -m MODEL, or an --in-file")
    if files and not model_path:
        raise UsageError("a text needs a model to run; give one with -m MODEL")
    if model_path and not files:
        raise UsageError("no text to run; give one with -f FILE")
    if not output and not ((show_statistics or plots) and not files):
        raise UsageError("no file to write; give one with -o OUT")


def _warn_of_unreached_experts(imatrix: "Imatrix") -> None:
    gaps = {name: int((entry.counts == 0).sum()) for name, entry in imatrix.entries.items()}
    gaps = {name: n for name, n in gaps.items() if n}
    if gaps:
        worst = max(gaps, key=gaps.get)
        most = f"{gaps[worst]} of {len(imatrix.entries[worst].counts)}"
        warn(
            f"the text never reached {sum(gaps.values())} experts of {len(gaps)} weights (most in {worst}: {most}); "
            "all their channels will count the same. A longer text helps"
        )


def _described(imatrix: "Imatrix") -> dict[str, Any]:
    return {
        "weights": len(imatrix.entries),
        "chunk_size": imatrix.chunk_size,
        "chunk_count": imatrix.chunk_count,
        "datasets": imatrix.datasets,
        "provenance": imatrix.provenance,
    }


def _statistics(imatrix: "Imatrix", as_json: bool) -> dict[str, Any]:
    """Statistics of weights, layers and experts, for JSON; printed as tables otherwise."""
    from ..imatrix.statistics import expert_hits, layer_statistics, weight_statistics

    weights = weight_statistics(imatrix)
    layers, experts = layer_statistics(weights), expert_hits(imatrix)
    if not as_json:
        columns = (
            ">layer", "weight", ">Σ(act²)", ">min", ">max", ">μ", ">σ", ">% active", ">N", ">entropy", ">E (norm)",
            ">ZD", ">cos",
        )  # fmt: skip
        rows = [
            [
                "-" if w.layer is None else str(w.layer), w.kind, f"{w.total:.2f}", f"{w.minimum:.4f}",
                f"{w.maximum:.4f}", f"{w.mean:.2f}", f"{w.sigma:.2f}", f"{100 * w.active:.2f}", str(w.n),
                f"{w.entropy:.4f}", f"{100 * w.relative_entropy:.2f} %", f"{100 * w.outliers:.2f} %",
                "-" if w.cosine is None else f"{w.cosine:.4f}",
            ]
            for w in weights
        ]  # fmt: skip
        print_table(columns, rows, "Weights")
        rows = [[str(x.layer), f"{x.total:.2f}", f"{100 * x.outliers:.4f} %", f"{x.cosine:.4f}"] for x in layers]
        print_table((">layer", ">Σ(act²)", ">ZD", ">cos"), rows, "Layers, averaged over channels")
    if experts and not as_json:
        _print_experts(experts)
    return {
        "weight_statistics": [asdict(w) for w in weights],
        "layer_statistics": [asdict(x) for x in layers],
        "expert_hits": [asdict(x) for x in experts],
    }


def _print_experts(experts: "list[ExpertHits]") -> None:
    rows = []
    for layer in experts:
        hits = sorted(layer.hits)
        numbers = (layer.layer, len(hits), layer.unreached, hits[0], hits[len(hits) // 2], hits[-1])
        rows.append([*map(str, numbers), f"{100 * layer.balance:.2f} %"])
    columns = (">layer", ">experts", ">unreached", ">fewest hits", ">median", ">most hits", ">balance")
    print_table(columns, rows, "Experts, by tokens routed to them")


def _similarity(similarity: "Similarity", as_json: bool) -> dict[str, Any]:
    """Similarity of layers and saliency of experts, for JSON; printed as tables otherwise."""
    layers, experts = similarity.layers(), similarity.experts()
    if not as_json:
        order = sorted(layers, key=lambda layer: layer.whole)
        cosines = [(layer.layer, layer.whole, layer.attention, layer.ffn) for layer in order]
        rows = [[str(i), *("-" if value is None else f"{value:.6f}" for value in values)] for i, *values in cosines]
        print_table((">layer", ">whole", ">attention", ">ffn"), rows, "Layers, by cosine of input and output")
    if experts and not as_json:
        rows = []
        for layer in experts:
            ranked = sorted((value, expert) for expert, value in enumerate(layer.saliency) if value is not None)
            least = " ".join(f"{expert} ({value:.3g})" for value, expert in ranked[:3])
            rows.append([str(layer.layer), f"{ranked[len(ranked) // 2][0]:.3g}", f"{ranked[-1][0]:.3g}", least])
        print_table((">layer", ">median", ">most", "least salient"), rows, "Experts, by router weight x output norm")
    return {
        "layer_similarity": [asdict(layer) for layer in layers],
        "expert_saliency": [asdict(layer) for layer in experts],
    }
