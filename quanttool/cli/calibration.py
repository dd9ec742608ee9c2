"""`quanttool quantize --calibrate`: a text that weights are rounded with."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from .console import note, print_table, warn
from .texts import read_tokens

if TYPE_CHECKING:
    from ..feedback.layers import Calibration, Settings
    from ..feedback.matrices import HessianRounding
    from ..quantize.plan import Plan

CONTEXT = 512  # tokens per chunk
KLD_CHUNKS = 16  # held-out chunks at most, on which the whole model is compared

options = [
    click.option(
        "--calibrate",
        "calibrate_files",
        multiple=True,
        metavar="TEXT",
        help="Round the layers' weights with error feedback for what this text does to them; may be given several "
        "times. Takes the place of --imatrix for them.",
    ),
    click.option(
        "--hessian",
        "hessian_path",
        metavar="FILE",
        help="Round with error feedback by covariances from quanttool imatrix --hessian, without running the model.",
    ),
    click.option(
        "--calibrate-chunks",
        type=click.IntRange(min=2),
        metavar="N",
        help=f"At most so many chunks of {CONTEXT} tokens; default: all.",
    ),
]


def calibration_options(command: Any) -> Any:
    for option in reversed(options):
        command = option(command)
    return command


@dataclass
class Calibrating:
    """What is known before the plan: the model, the tokens, and which weights they tell about."""

    model: Any
    path: str
    tokens: Any  # i32 [n_chunks, n_ctx]
    weights: list[str]
    settings: "Settings"
    memory: int | None  # bytes that the hidden states of one pass may take

    def mark(self, plan: "Plan") -> None:
        """Note in the plan what its calibrated tensors depend on."""
        text = hashlib.sha256(self.tokens.tobytes()).hexdigest()
        plan.calibration = f"{text} {len(self.tokens)} x {self.tokens.shape[1]} {self.settings}"

    def calibration(self, plan: "Plan") -> "Calibration":
        from ..feedback.layers import Calibration
        from ..formats import block_format
        from ..models import load_model

        formats = {tensor.name: block_format(tensor.type) for tensor in plan.tensors if tensor.calibrated}
        quantized = load_model(self.path, precision=self.model.precision)
        return Calibration(self.model, quantized, formats, self.tokens, self.settings, self.memory)


@dataclass
class ByHessian:
    """The same with covariances from a file."""

    model_path: str
    path: str
    search: str
    weights: list[str]

    def mark(self, plan: "Plan") -> None:
        from ..container import GGUFFile
        from ..container.fingerprint import fingerprint
        from ..feedback.layers import Settings

        plan.calibration = f"hessian {fingerprint(GGUFFile(self.path))} {Settings(self.search)}"

    def calibration(self, plan: "Plan") -> "HessianRounding":
        from ..container import open_gguf
        from ..feedback.matrices import HessianRounding
        from ..formats import block_format, dequantize_rows
        from ..imatrix.hessian import HessianFile

        source = open_gguf(self.model_path)

        def weights(name: str) -> Any:
            info = source.tensors[name]
            return dequantize_rows(source.data(name), info.type.name, info.n_cols)

        formats = {tensor.name: block_format(tensor.type) for tensor in plan.tensors if tensor.calibrated}
        return HessianRounding(weights, HessianFile(self.path), formats, self.search)


def prepare(
    path: str,
    files: Sequence[str],
    n_chunks: int | None,
    hessian_path: str | None,
    search: str,
    memory: int | None = None,
) -> "Calibrating | ByHessian | None":
    """What weights are calibrated with, if anything; reads the text, opens the model or the file of covariances.

    Raises UsageError for both at once, and for a text that is too short.
    """
    if hessian_path:
        from ..imatrix.hessian import HessianFile

        if files:
            raise click.UsageError("--calibrate and --hessian exclude each other")
        return ByHessian(path, hessian_path, search, HessianFile(hessian_path).weights)
    if not files:
        return None
    from ..errors import UsageError
    from ..evaluate import split
    from ..feedback.layers import Settings
    from ..kernels.jit import processor_has
    from ..models import load_model

    tokens, bos_id = read_tokens(path, files)
    chunks = split(tokens, CONTEXT, n_chunks, bos_id=bos_id)
    if len(chunks) < 2:
        raise UsageError(f"{files[0]}: has {len(chunks)} chunk of {CONTEXT} tokens, calibration needs at least two")
    precision = "bf16" if processor_has("avx512bf16") else "f32"
    model = load_model(path, precision=precision)
    states = None if memory is None else memory // 4  # of each of two passes; the rest is for weights and their sums
    return Calibrating(model, path, chunks.tokens, model.weights(), Settings(search), states)


def outcomes(calibration: "Calibration") -> dict[str, Any]:
    """What feedback brought on the chunks held out, as plain data.

    "kld": mean divergence from the original in nats, "plain" (each weight rounded for itself, by the same text) and
    with "feedback"; null if tensors of an earlier run were taken. "tensors": squared errors of outputs, relative to the
    outputs, less what exact weights would have with the quantized model's inputs: of plain rounding, of the target
    before it is rounded, and of what feedback made of it.
    """
    tensors = []
    for one in calibration.outcomes:
        errors = {key: getattr(one, key) / one.size for key in ("plain", "target", "error")}
        tensors.append({"name": one.name, "correction": one.correction, **errors, "kept_plain": one.kept_plain})
    return {"kld": _divergences(calibration), "tensors": tensors}


def _divergences(calibration: "Calibration") -> dict[str, float] | None:
    from ..evaluate.divergence import compare
    from ..evaluate.predictions import ModelPredictions

    states, tokens = calibration.held_out_states(), calibration.held_out[:KLD_CHUNKS]
    if states is None or not len(tokens):
        return None
    model, scored = calibration.original, slice(tokens.shape[1] // 2, -1)
    predictions = []
    for state in states:
        hidden = state[: len(tokens)].copy()
        model.normalize(hidden)
        predictions.append(ModelPredictions(model, hidden[:, scored].reshape(-1, model.n_embd)))
    plain, feedback = compare(predictions[0], predictions[1:], tokens[:, tokens.shape[1] // 2 + 1 :])
    return {"plain": plain.mean_kld.value, "feedback": feedback.mean_kld.value}


def show_outcomes(found: dict[str, Any]) -> None:
    """The same by class of tensors, and for the whole model; a warning if that got worse."""
    from ..quantize.proof import tensor_class

    classes: dict[str, list[dict]] = {}
    for tensor in found["tensors"]:
        classes.setdefault(tensor_class(tensor["name"]), []).append(tensor)
    rows = []
    for name, members in classes.items():
        means = [sum(one[key] for one in members) / len(members) for key in ("correction", "plain", "target", "error")]
        percent = [f"{100 * mean:.2f}" for mean in means[1:]]
        rows.append(
            (name, str(len(members)), f"{means[0]:.2f}", *percent, str(sum(one["kept_plain"] for one in members)))
        )
    print_table(
        ["calibrated", ">tensors", ">correction", ">% error, plain", ">target", ">with feedback", ">kept plain"], rows
    )
    if kld := found["kld"]:
        plain, feedback = kld["plain"], kld["feedback"]
        text = f"KLD on held-out chunks: {plain:.4f} plainly rounded, {feedback:.4f} with feedback"
        if feedback > plain:
            warn(f"{text}: worse; use --imatrix with this text instead, or more text")
        else:
            note(f"{text} ({100 * (feedback / plain - 1):+.0f} %)")
