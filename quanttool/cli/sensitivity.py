"""`quanttool sensitivity`: what each tensor's quantization costs, in every type."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import FileFormatError, UsageError
from .console import (
    json_option,
    memory_option,
    note,
    precision_option,
    print_json,
    print_table,
    progress_bar,
    search_option,
    threads_option,
    warn,
)
from .texts import read_tokens, text_options

if TYPE_CHECKING:
    from ..evaluate import Chunks
    from ..sensitivity import Sensitivity
    from ..sensitivity.measure import Measurement, Settings, State

DEFAULT_CHUNKS = 4
DEFAULT_TYPES = "Q2_K,Q3_K,Q4_K,Q5_K,Q6_K,Q8_0,IQ2_XXS,IQ2_XS,IQ2_S,IQ3_XXS,IQ3_S,IQ4_XS,IQ4_NL"
IK_TYPES = "IQ2_KS,IQ2_K,IQ2_KL,IQ3_KS,IQ3_K,IQ4_KSS,IQ4_KS,IQ4_K,IQ5_KS,IQ5_K,IQ6_K"
UNSCORED = 8  # the first n_ctx / 8 tokens of a chunk are not scored
DOUBTFUL = 0.25  # cross-validated error from which predictions are said to part from what is measured

EPILOG = """
\b
  quanttool sensitivity -m model-bf16.gguf -f calibration.txt --imatrix model.imatrix.gguf -o model.json
  quanttool recipe optimize model-bf16.gguf --sensitivity model.json --size 4.2GiB -o model.toml
"""


@click.command(epilog=EPILOG)
@click.option("-m", "--model", "path", required=True, metavar="MODEL", help="GGUF model.")
@text_options
@click.option("--imatrix", "imatrix_path", metavar="FILE", help="Importance of input channels, as for quantize.")
@click.option("--hessian", "hessian_path", metavar="FILE", help="Covariance of inputs, to weight errors with.")
@click.option("--types", metavar="T,T,...", help="Candidates: names, mainline (default), ik, or mainline,ik.")
@search_option("How quantize will be told to search.")
@click.option("--probe", default="Q4_K", show_default=True, metavar="TYPE", help="Type that gains are measured at.")
@click.option(
    "--gains", "gains_path", metavar="FILE.json", help="Measure errors only, and take what they cost from this file."
)
@click.option("--checks", default=6, show_default=True, type=click.IntRange(min=0), help="Recipes to learn sums from.")
@click.option("-o", "--output", required=True, metavar="FILE.json", help="Sensitivity file to write.")
@precision_option("f32")
@memory_option
@threads_option
@json_option
def command(
    path: str,
    files: tuple[str, ...],
    n_ctx: int,
    n_chunks: int | None,
    parse_special: bool,
    imatrix_path: str | None,
    hessian_path: str | None,
    types: str | None,
    search: str,
    probe: str,
    gains_path: str | None,
    checks: int,
    output: str,
    precision: str,
    memory: int | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measure what each tensor costs in each type: the rise of the mean KL divergence.

    \b
    Errors of samples of rows, weighted by what they meet, in every type; a gain per tensor, measured with the tensor
    alone in the probe type; and a few recipes that say what sums of costs mean. --chunks are taken from all over the
    text; default: 4. A killed run goes on from FILE.json.state. With --gains only the errors are new, as for another
    --search, imatrix or other types: no text is run.
    """
    from ..parallel import use_threads

    use_threads(threads)

    from ..files import check_output
    from ..models import load_model
    from ..recipes.resolve import weight_type
    from ..sensitivity.measure import Settings
    from ..sensitivity.table import load_sensitivity, save_sensitivity

    check_output(output, [one for one in (path, imatrix_path, hessian_path, gains_path, *files) if one])
    known = load_sensitivity(gains_path) if gains_path else None
    model = load_model(path, precision)
    chunks = None if known else spread_chunks(path, files, n_ctx, n_chunks or DEFAULT_CHUNKS, parse_special)
    settings = Settings(candidates(types), weight_type(probe), checks)
    measurement = prepare(model, chunks, imatrix_path, hessian_path, settings, search, output, memory)
    note(f"{len(measurement.tensors)} tensors" + (f", {len(chunks)} chunks of {n_ctx}" if chunks else ""))
    measure_errors(measurement)
    if known is None:
        measure_divergences(measurement)
    result = measurement.result_with_gains_of(known) if known else measurement.result()
    save_sensitivity(result, output)
    state_path(output).unlink(missing_ok=True)
    if as_json:
        print_json({"interaction": vars(result.interaction), **result.details})
    else:
        show(result)


def spread_chunks(path: str, files: tuple[str, ...], n_ctx: int, wanted: int, parse_special: bool = False) -> "Chunks":
    """Chunks from all over a text, of which all but the first eighth is scored."""
    from ..evaluate import split
    from ..evaluate.chunks import chunks_of

    tokens, bos_id = read_tokens(path, files, parse_special)
    text = split(tokens, n_ctx).spread(wanted).text
    return chunks_of(text, n_ctx - 1 - n_ctx // UNSCORED, bos_id)


def prepare(
    model: Any,
    chunks: "Chunks | None",
    imatrix_path: str | None,
    hessian_path: str | None,
    settings: "Settings",
    search: str,
    output: str,
    memory: int | None = None,
) -> "Measurement":
    """A measurement, with what an interrupted one has left."""
    from ..container.fingerprint import fingerprint
    from ..imatrix.hessian import HessianFile
    from ..sensitivity.measure import Measurement, State
    from ..sensitivity.weights import Weights

    imatrix = _imatrix(imatrix_path, list(model.file.tensors.values())) if imatrix_path else None
    if imatrix and model.output.name not in imatrix.entries:
        warn(
            f"{imatrix_path}: says nothing of {model.output.name}, which often costs most; see imatrix --process-output"
        )
    identity = {
        "model": fingerprint(model.file),
        "text": _digest(chunks.tokens.tobytes() + chunks.targets.tobytes()) if chunks else "",
        "imatrix": _digest(Path(imatrix_path).read_bytes()) if imatrix_path else "",
        "hessian": hessian_path or "",
        "types": [kind.name for kind in settings.types],
        "search": search,
        "probe": settings.probe.name,
        "checks": settings.checks,
        "precision": model.precision,
    }
    part = state_path(output)

    def save(state: "State") -> None:
        from ..files import atomic_output

        with atomic_output(part) as file:
            file.write(json.dumps({"identity": identity, **vars(state)}).encode())

    state = _resumed(part, identity) or State()
    hessian = HessianFile(hessian_path) if hessian_path else None
    return Measurement(model, chunks, Weights(model.file, imatrix, search), settings, hessian, state, save, memory)


def measure_errors(measurement: "Measurement") -> None:
    with progress_bar("errors", " tensors") as progress:
        measurement.measure_errors(progress)


def measure_divergences(measurement: "Measurement") -> None:
    with progress_bar("gains", "") as progress:
        measurement.measure_gains(progress)
    with progress_bar("checks", "") as progress:
        measurement.measure_checks(progress)


def candidates(text: str | None) -> tuple:
    """Types by names, or the groups mainline and ik."""
    from ..recipes.resolve import weight_type

    groups = {"mainline": DEFAULT_TYPES, "ik": IK_TYPES}
    names = [name for word in (text or "mainline").split(",") for name in groups.get(word.strip(), word).split(",")]
    return tuple(dict.fromkeys(weight_type(name.strip()) for name in names))


def state_path(output: str) -> Path:
    return Path(f"{output}.state")


def show(result: "Sensitivity") -> None:
    """The most sensitive tensors, and how predictions fared."""
    gains = result.details["gains"]
    worst = sorted(gains, key=lambda name: -gains[name]["kld"])[:10]
    print_table(
        ["tensor", ">KLD at the probe", ">±"],
        [(name, f"{gains[name]['kld']:.6f}", f"{gains[name]['uncertainty']:.6f}") for name in worst],
        title=f"The ten that cost most in {result.details['probe']}",
    )
    checks = result.details["checks"]
    if not checks:
        return
    print_table(
        [">bpw", ">sum of costs", ">predicted KLD", ">measured KLD", ">±"],
        [
            tuple(f"{check[key]:.{digits}f}" for key, digits in _CHECK_COLUMNS)
            for check in sorted(checks, key=lambda check: check["bpw"])
        ],
        title="Whole recipes of random types",
    )
    error = result.details["cross_validated_error"]
    if error is not None:
        note(f"cross-validated error of predictions: {100 * error:.0f} %")
        if error > DOUBTFUL:
            warn("predictions part from what was measured; more --chunks or other --types may help, trust ranks only")


_CHECK_COLUMNS = (("bpw", 3), ("sum", 6), ("predicted", 6), ("measured", 6), ("uncertainty", 6))


def _imatrix(path: str, tensors: list[Any]) -> Any:
    from ..imatrix import load
    from ..imatrix.gaps import add_aliases, shrink_experts

    return shrink_experts(add_aliases(load(path), tensors))[0]


def _digest(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def _resumed(part: Path, identity: dict[str, Any]) -> "State | None":
    from ..sensitivity.measure import State

    if not part.is_file():
        return None
    try:
        data = json.loads(part.read_text())
        found, state = data["identity"], State(data["errors"], data["divergences"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise FileFormatError(f"{part}: is no readable state; delete it to start from the beginning") from None
    if found != identity:
        changed = ", ".join(key for key in identity if found.get(key) != identity[key])
        raise UsageError(f"{part}: belongs to another run (other {changed}); delete it to start from the beginning")
    note(f"{part}: going on with {len(state.errors)} tensors and {len(state.divergences)} models measured")
    return state
