"""`quanttool quantize --calibrate`: a text that weights are rounded with."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from .console import print_table
from .texts import read_tokens

if TYPE_CHECKING:
    from ..feedback.layers import Calibration, Settings
    from ..feedback.matrices import HessianRounding
    from ..quantize.plan import Plan

CONTEXT = 512  # tokens per chunk

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

    def mark(self, plan: "Plan") -> None:
        """Note in the plan what its calibrated tensors depend on."""
        text = hashlib.sha256(self.tokens.tobytes()).hexdigest()
        plan.calibration = f"{text} {len(self.tokens)} x {self.tokens.shape[1]} {self.settings}"

    def calibration(self, plan: "Plan") -> "Calibration":
        from ..feedback.layers import Calibration
        from ..formats import block_format
        from ..models import load_model

        formats = {tensor.name: block_format(tensor.type) for tensor in plan.tensors if tensor.calibrated}
        return Calibration(self.model, load_model(self.path), formats, self.tokens, self.settings)


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

        plan.calibration = f"hessian {fingerprint(GGUFFile(self.path))}"

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
    path: str, files: Sequence[str], n_chunks: int | None, hessian_path: str | None, search: str
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
    from ..models import load_model

    tokens, bos_id = read_tokens(path, files)
    chunks = split(tokens, CONTEXT, n_chunks, bos_id=bos_id)
    if len(chunks) < 2:
        raise UsageError(f"{files[0]}: has {len(chunks)} chunk of {CONTEXT} tokens, calibration needs at least two")
    model = load_model(path)
    return Calibrating(model, path, chunks.tokens, model.weights(), Settings(search))


def show_outcomes(calibration: "Calibration") -> None:
    """What feedback brought, by class of tensors, on the chunks that were held out."""
    from ..quantize.proof import tensor_class

    classes: dict[str, list] = {}
    for outcome in calibration.outcomes:
        classes.setdefault(tensor_class(outcome.name), []).append(outcome)
    rows = [
        (
            name,
            str(len(members)),
            f"{sum(one.correction for one in members) / len(members):.2f}",
            str(sum(one.kept_plain for one in members)),
        )
        for name, members in classes.items()
    ]
    print_table(["calibrated", ">tensors", ">correction", ">kept plain"], rows)
