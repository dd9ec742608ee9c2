"""`quanttool quantize`: plan, show or write."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .calibration import calibration_options, outcomes, prepare, show_outcomes
from .console import Size, json_option, note, print_json, print_table, progress_bar, search_option, threads_option, warn
from .quantize_report import write_report
from .recipes import dialect_option, given_rules

if TYPE_CHECKING:
    from ..container import TensorInfo
    from ..imatrix import Imatrix
    from ..quantize.plan import Plan
    from ..recipes.repack import Repacking

EPILOG = """
\b
TYPE, any case, is a mix of llama.cpp:
  Q8_0 Q6_K Q5_K_M Q5_K_S Q4_K_M Q4_K_S Q3_K_L Q3_K_M Q3_K_S Q2_K Q2_K_S (Q5_K, Q4_K, Q3_K: the _M ones)
  IQ4_NL IQ4_XS IQ3_M IQ3_S IQ3_XS IQ3_XXS IQ2_M IQ2_S IQ2_XS IQ2_XXS IQ1_M IQ1_S
  Q5_1 Q5_0 Q4_1 Q4_0 Q2_0 Q1_0 TQ2_0 TQ1_0 MXFP4_MOE F32 BF16 F16
a mix of ik_llama.cpp:
  IQ6_K IQ5_K IQ5_KS IQ4_K IQ4_KS IQ4_KSS IQ4_KT IQ3_KL IQ3_K IQ3_KS IQ3_KT IQ2_KL IQ2_K IQ2_KS IQ2_KT IQ1_KT
  Q8_KV Q6_0 MXFP4 IQ2_BN IQ1_BN, and with rows woven together:
  BF16_R16 Q8_0_R8 Q8_KV_R8 Q8_K_R8 Q6_0_R4 Q5_0_R4 Q4_0_R8 MXFP4_R8 Q6_K_R4 Q5_K_R4 Q4_K_R4 Q3_K_R4 Q2_K_R4
  IQ5_K_R4 IQ5_KS_R4 IQ4_K_R4 IQ4_KS_R4 IQ4_NL_R4 IQ4_XS_R8 IQ3_K_R4 IQ3_S_R4 IQ3_XXS_R4 IQ2_K_R4 IQ2_M_R4
  IQ2_XS_R4 IQ2_XXS_R4 IQ1_M_R4 IQ1_S_R4 IQ2_BN_R4
or any ggml type (every tensor gets it), or COPY.

\b
Examples:
  quanttool quantize model-f16.gguf model-Q4_K_M.gguf Q4_K_M
  quanttool quantize --imatrix model.imatrix.gguf model-f16.gguf model-IQ4_XS.gguf IQ4_XS
  quanttool quantize --dry-run --tensor-type 'ffn_down=Q6_K' model-f16.gguf Q4_K_S
  quanttool quantize --recipe my.recipe model-f16.gguf model-mine.gguf IQ4_XS
  quanttool quantize --split-max-size 45G model-bf16-00001-of-00030.gguf model-Q4_K_M.gguf Q4_K_M
"""


@click.command(epilog=EPILOG, no_args_is_help=True)
@click.argument("model", metavar="IN.gguf")
@click.argument("output_and_type", nargs=-1, metavar="OUT.gguf TYPE")
@click.option("--imatrix", "imatrix_path", metavar="FILE", help="Importance of input channels, GGUF or .dat.")
@click.option("--include-weights", multiple=True, metavar="TEXT", help="Only imatrix entries whose name contains it.")
@click.option("--exclude-weights", multiple=True, metavar="TEXT", help="No imatrix entries whose name contains it.")
@click.option(
    "--imatrix-rules",
    type=click.Choice(["quanttool", "llama.cpp"]),
    default="quanttool",
    show_default=True,
    help="How gaps in the imatrix are filled, as experts that the text never reached.",
)
@search_option(
    "How scales and codes are found: as the type's own program does; with less weighted error in the same bytes, "
    "which needs an imatrix; or per type what is measured to diverge less. [default: best for weights that a text or "
    "covariances tell about, else reference]",
    default=None,
)
@click.option(
    "--mix-rules",
    type=click.Choice(["quanttool", "llama.cpp", "ik_llama.cpp"]),
    default="quanttool",
    show_default=True,
    help="Whose choices a mix makes: ours differ from llama.cpp's for mixtures of experts only.",
)
@calibration_options
@click.option("--hide-imatrix", is_flag=True, help="Write no names and numbers of the imatrix into the file.")
@click.option("--pure", is_flag=True, help="Give every tensor the base type, without the mix's exceptions.")
@click.option("--allow-requantize", is_flag=True, help="Convert tensors that are quantized already; costs quality.")
@click.option("--leave-output-tensor", is_flag=True, help="Keep output.weight as it is.")
@click.option("--output-tensor-type", metavar="TYPE", help="ggml type for output.weight.")
@click.option("--token-embedding-type", metavar="TYPE", help="ggml type for the token embeddings.")
@click.option(
    "--tensor-type",
    "tensor_types",
    multiple=True,
    metavar="REGEX=TYPE",
    help="ggml type for tensors whose name contains a match (in lower case). Repeatable; the first that matches wins.",
)
@click.option("--tensor-type-file", metavar="FILE", help="More of these, between white space.")
@click.option("--recipe", "recipe_source", metavar="RECIPE", help="A recipe's file, or its text: 'REGEX=TYPE,...'.")
@dialect_option
@click.option(
    "--no-fallback", is_flag=True, help="Refuse types that do not suit a tensor's shape; no other takes over."
)
@click.option(
    "--fallback",
    type=click.Choice(["table", "best"]),
    default="table",
    show_default=True,
    help="What takes over: the type that llama.cpp's table names, which is larger; or, within the bits asked for, the "
    "type with the least error, measured on some of the tensor's rows.",
)
@click.option("--repack", is_flag=True, help="With COPY: weave rows together, as ik_llama.cpp's _R4 and _R8 types.")
@click.option("--unpack", is_flag=True, help="With COPY: take woven rows apart again.")
@click.option("--repack-pattern", "repack_patterns", multiple=True, metavar="REGEX", help="Only tensors that match.")
@click.option("--reuse", "reuse_path", metavar="PREVIOUS.gguf", help="Take tensors that have not changed from there.")
@click.option("--report", "report_path", metavar="FILE.json", help="Measure every tensor's error and write it there.")
@click.option("--override-kv", "overrides", multiple=True, metavar="KEY=TYPE:VALUE", help="Set a metadata key.")
@click.option(
    "--prune-layers", "pruned", metavar="LAYERS", help="Leave layers out, as in 3,10-12; the rest is renumbered."
)
@click.option("--split-max-size", type=Size(1000), metavar="SIZE", help="Write files of at most SIZE, as 45G.")
@click.option("--split-max-tensors", type=click.IntRange(min=1), metavar="N", help="At most N tensors a file.")
@click.option("--no-tensor-first-split", is_flag=True, help="With these: metadata only in the first file.")
@click.option("--keep-split", is_flag=True, help="Cut the output into files as the input is cut.")
@click.option("--no-provenance", is_flag=True, help="Do not write into the file how it was made.")
@click.option("--dry-run", is_flag=True, help="Show the plan with its exact sizes; OUT.gguf may be left out.")
@click.option(
    "--memory",
    type=Size(),
    metavar="SIZE",
    help="Memory to take at most, as 1GB; mapped files do not count. With --calibrate, half of it for hidden states: "
    "what is more lies in $TMPDIR.",
)
@threads_option
@json_option
def command(
    model: str,
    output_and_type: tuple[str, ...],
    imatrix_path: str | None,
    include_weights: tuple[str, ...],
    exclude_weights: tuple[str, ...],
    imatrix_rules: str,
    search: str | None,
    mix_rules: str,
    calibrate_files: tuple[str, ...],
    hessian_path: str | None,
    calibrate_chunks: int | None,
    hide_imatrix: bool,
    pure: bool,
    allow_requantize: bool,
    leave_output_tensor: bool,
    output_tensor_type: str | None,
    token_embedding_type: str | None,
    tensor_types: tuple[str, ...],
    tensor_type_file: str | None,
    recipe_source: str | None,
    recipe_dialect: str | None,
    no_fallback: bool,
    fallback: str,
    repack: bool,
    unpack: bool,
    repack_patterns: tuple[str, ...],
    reuse_path: str | None,
    report_path: str | None,
    overrides: tuple[str, ...],
    pruned: str | None,
    split_max_size: int | None,
    split_max_tensors: int | None,
    no_tensor_first_split: bool,
    keep_split: bool,
    no_provenance: bool,
    dry_run: bool,
    memory: int | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Quantize IN.gguf to TYPE and write OUT.gguf.

    Plans first: every tensor's type, why, and the exact size are known before any work, and --dry-run shows them. The
    output appears whole or not at all.
    """
    from ..recipes.recipe import read_recipe

    recipe = read_recipe(recipe_source, recipe_dialect) if recipe_source else None
    output, type_name = _output_and_type(output_and_type, dry_run, recipe.base if recipe else "")

    from ..container import open_gguf
    from ..files import check_output
    from ..quantize.fallbacks import measure_fallbacks
    from ..quantize.overrides import override
    from ..quantize.plan import hide_imatrix as hide_imatrix_in
    from ..quantize.plan import make_plan
    from ..quantize.provenance import add_provenance
    from ..quantize.prune import parse_layers
    from ..quantize.split import Split, split
    from ..recipes.resolve import Request, parse_target, weight_type

    request = Request(
        target=parse_target(type_name, mix_rules),
        pure=pure,
        leave_output=leave_output_tensor,
        output_type=weight_type(output_tensor_type) if output_tensor_type else None,
        token_embedding_type=weight_type(token_embedding_type) if token_embedding_type else None,
        rules=given_rules(tensor_types, tensor_type_file, recipe, pure),
        imatrix=bool(imatrix_path or calibrate_files or hessian_path),
        repacking=_repacking(repack, unpack, repack_patterns),
        allow_fallback=not no_fallback,
    )
    files = Split(split_max_size or 0, split_max_tensors or 0, keep_split, no_tensor_first_split)
    source = open_gguf(model, header_only=dry_run)
    if output and not dry_run:
        inputs = [*source.paths, *(path for path in (imatrix_path, reuse_path) if path)]
        for written in (output, report_path):
            if written:
                check_output(written, inputs)
    calibrating = prepare(model, calibrate_files, calibrate_chunks, hessian_path, search or "best", memory)
    search = search or "reference"
    if calibrating and pruned:
        raise click.UsageError("--calibrate and --hessian know the layers as they are; --prune-layers goes without")
    imatrix = None
    if imatrix_path:
        imatrix = _imatrix(imatrix_path, include_weights, exclude_weights, imatrix_rules, list(source.tensors.values()))
    plan = make_plan(
        source.metadata,
        source.tensors.values(),
        request,
        imatrix,
        imatrix_path or "",
        allow_requantize,
        parse_layers(pruned) if pruned else (),
        calibrating.weights if calibrating else (),
    )
    if calibrating:
        calibrating.mark(plan)
    if fallback == "best" and plan.n_fallbacks:
        measure_fallbacks(plan, source, imatrix, search)
    split(plan, files, source)
    if not no_provenance:
        add_provenance(plan, request, source, imatrix, search)
    override(plan, overrides)
    if hide_imatrix:
        hide_imatrix_in(plan)
    for warning in plan.warnings:
        warn(warning)
    if dry_run:
        _show_plan(plan, as_json)
        return

    from ..kernels.jit import nothing_compiled
    from ..quantize.run import run

    reuse = open_gguf(reuse_path) if reuse_path else None
    if nothing_compiled():
        note("first run: compiling kernels for this machine, a few seconds")
    calibration = calibrating.calibration(plan) if calibrating else None
    started = time.monotonic()
    try:
        with progress_bar(f"{Path(output).name}", unit=" weights", scale=True) as progress:
            result = run(
                source,
                plan,
                output,
                imatrix,
                search,
                threads=threads,
                progress=progress,
                reuse=reuse,
                measure=bool(report_path),
                memory=memory,
                calibration=calibration,
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"the same command goes on from {output}.part") from None
    if as_json:
        print_json(plan_rows(plan))
    else:
        _print_types(plan)
    brought = outcomes(calibration) if calibrate_files and not (as_json and not report_path) else None
    if brought and not as_json:
        show_outcomes(brought)
    if report_path:
        write_report(report_path, plan, result, show=not as_json, calibration=brought)
    for names, origin in ((result.resumed, "the interrupted run"), (result.reused, reuse_path)):
        if names:
            note(f"{len(names)} of {len(plan.tensors)} tensors taken from {origin}")
    if plan.shards:
        output = f"{len(plan.shards)} files, {plan.writer(output).paths[0]} the first"
    note(f"{output}: {plan.file_bytes:,} bytes, {plan.bpw:.3f} bpw, {time.monotonic() - started:.1f} s")


def _output_and_type(words: tuple[str, ...], dry_run: bool, base: str) -> tuple[str | None, str]:
    """OUT.gguf and TYPE; a dry run needs no OUT.gguf, and a recipe with a base needs no TYPE."""
    if len(words) == 2:
        return words[0], words[1]
    if len(words) == 1 and dry_run:
        return None, words[0]
    if base and len(words) == (0 if dry_run else 1):
        return (None if dry_run else words[0]), base
    raise click.UsageError("expected IN.gguf OUT.gguf TYPE" + (" or IN.gguf TYPE" if dry_run else ""))


def _imatrix(
    path: str, include: tuple[str, ...], exclude: tuple[str, ...], rules: str, tensors: "list[TensorInfo]"
) -> "Imatrix":
    """The imatrix as it will be used for a model with these tensors."""
    from ..imatrix import load
    from ..imatrix.gaps import add_aliases, selected, shrink_experts

    if include and exclude:
        raise click.UsageError("--include-weights and --exclude-weights exclude each other")
    imatrix = selected(load(path, in_memory=False), include, exclude)
    if rules == "llama.cpp":
        return imatrix
    imatrix, unseen = shrink_experts(add_aliases(imatrix, tensors))
    if unseen:
        warn(f"the imatrix never saw {unseen} of its matrices (experts); they get the average of their tensor")
    return imatrix


def _repacking(repack: bool, unpack: bool, patterns: tuple[str, ...]) -> "Repacking | None":
    from ..recipes.repack import parse_repacking

    if repack and unpack:
        raise click.UsageError("--repack and --unpack are opposites; give one of them")
    if patterns and not (repack or unpack):
        raise click.UsageError("--repack-pattern goes with --repack or --unpack")
    return parse_repacking(patterns, unpack) if repack or unpack else None


def plan_rows(plan: "Plan") -> list:
    from ..quantize.plan import rows

    return rows(plan)


def _show_plan(plan: "Plan", as_json: bool) -> None:
    if plan.problems:
        more = f" (and {len(plan.problems) - 1} more tensors)" if len(plan.problems) > 1 else ""
        warn(f"this would be refused: {plan.problems[0]}{more}")
    if as_json:
        print_json(plan_rows(plan))
        return
    print_table(
        ["tensor", ">shape", "from", "to", ">bytes", "why"],
        [
            (
                tensor.name,
                " x ".join(map(str, tensor.source.ne)),
                tensor.source.type.name,
                tensor.type.name,
                f"{tensor.target.n_bytes:,}",
                tensor.reason,
            )
            for tensor in plan.tensors
        ],
    )
    _print_types(plan)
    where = f"{len(plan.shards)} files" if plan.shards else "the file"
    click.echo(
        f"{plan.file_bytes:,} bytes in {where}, {plan.tensor_bytes:,} of them tensors: {plan.bpw:.3f} bpw over "
        f"{plan.n_values:,} weights"
    )


def _print_types(plan: "Plan") -> None:
    from ..quantize.plan import summary

    rows = [
        (kind.name, str(count), f"{n_bytes:,}", f"{100 * n_bytes / max(plan.tensor_bytes, 1):.1f}")
        for kind, (count, n_bytes) in summary(plan).items()
    ]
    print_table(["type", ">tensors", ">bytes", ">%"], rows)
