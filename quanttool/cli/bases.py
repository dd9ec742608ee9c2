"""What models are compared with: a base model that runs along, or a base file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..errors import FileFormatError, UsageError
from .console import note
from .running import Passes, scored_likelihoods
from .texts import Cut, read_tokens

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..evaluate import BaseFile, Chunks, LlamaBaseFile, Perplexity, Predictions
    from ..models import Model

FORMATS = ("hidden", "hidden-bf16", "llama.cpp", "ik_llama.cpp")


class Base(Protocol):
    """A base of comparison.

    path:      as it was given
    n_passes:  forward passes that it takes, 0 or 1
    """

    path: str
    n_passes: int

    def predictions(self, passes: Passes, chunks: "Chunks") -> "Predictions": ...

    def check(self, nll: "NDArray[np.float64]") -> None:
        """Raise UsageError if what was computed, f64 [n_chunks, n_scored], cannot be right."""


class RunBase:
    """A base model that is run on the same text."""

    n_passes = 1

    def __init__(self, path: str, model: "Model"):
        self.path, self.model = path, model

    def predictions(self, passes: Passes, chunks: "Chunks") -> "Predictions":
        from ..evaluate import ModelPredictions

        return ModelPredictions(self.model, chunks.scored(passes.hidden_states(self.model, chunks)))

    def check(self, nll: "NDArray[np.float64]") -> None:
        """Nothing to check."""


class StoredBase:
    """A base file of ours; logits are recomputed with the output matrix."""

    n_passes = 0

    def __init__(self, file: "BaseFile", base_path: str | None, models: "dict[str, Model]"):
        self.path, self._file = str(file.path), file
        self._check_precision(models)
        self._output = self._find_output(base_path, models)

    def _check_precision(self, models: "dict[str, Model]") -> None:
        found = self._file.facts.get("precision")
        for path, model in models.items():
            if model.precision != found:
                raise UsageError(
                    f"{self.path}: was written with --precision {found}, {path} runs with {model.precision}; "
                    f"give --precision {found}"
                )

    def _find_output(self, base_path: str | None, models: "dict[str, Model]") -> "Model":
        """The output matrix: in the file itself, in the base model, or in a model that has the very same."""
        from ..evaluate.base_file import output_hash
        from ..models import load_output

        wanted = self._file.facts.get("output_sha256")
        original = self._file.facts.get("model_path", "")
        if self._file.has_output:
            candidates = [self.path]
        elif base_path:
            candidates = [base_path]
        else:
            candidates = [original] * Path(original).is_file() + list(models)
        for path in candidates:
            model = models.get(path) or load_output(path, self._file.facts["precision"])
            if output_hash(model) == wanted:
                return model
        if base_path or self._file.has_output:
            raise UsageError(f"{candidates[0]}: its output matrix is not that of the model {self.path} was written for")
        raise UsageError(
            f"{self.path}: needs the output matrix of its model, which was {original}; say where the model is with "
            "--base-model, or write the file with --embed-output"
        )

    def predictions(self, passes: Passes, chunks: "Chunks") -> "Predictions":
        from ..evaluate import ModelPredictions

        return ModelPredictions(self._output, self._file.hidden(len(chunks)))

    def check(self, nll: "NDArray[np.float64]") -> None:
        self._file.check_nll(nll)


class LlamaBase:
    """A base file of llama-perplexity."""

    n_passes = 0

    def __init__(self, file: "LlamaBaseFile"):
        self.path, self._file = str(file.path), file

    def predictions(self, passes: Passes, chunks: "Chunks") -> "Predictions":
        return self._file.predictions(len(chunks))

    def check(self, nll: "NDArray[np.float64]") -> None:
        """The format has nothing to check with."""


def open_base(
    path: str, base_path: str | None, models: "dict[str, Model]", files: Sequence[str], cut: Cut
) -> "tuple[Base, Chunks]":
    """A base file, and the text that it holds, as chunks.

    base_path:  where the base model is, if that was said
    models:     path -> models that are to be compared with it
    files:      texts, if any were given: they must be the file's
    cut:        how the text is to be cut: what was said of it must be what the file has

    Raises UsageError for whatever does not belong together.
    """
    from ..evaluate import BaseFile, LlamaBaseFile
    from ..evaluate.base_file import tokenizer_hash

    file = BaseFile(path) if _starts_with(path, b"GGUF") else LlamaBaseFile(path)
    for name, model in models.items():
        if model.n_vocab != file.n_vocab:
            raise UsageError(f"{path}: is of a vocabulary of {file.n_vocab} tokens, that of {name} has {model.n_vocab}")
        if isinstance(file, BaseFile) and tokenizer_hash(model.file) != file.facts.get("tokenizer_sha256"):
            raise UsageError(f"{path}: its model's vocabulary is not that of {name}; compare models of one family")
    if isinstance(file, BaseFile):
        chunks, base = file.chunks(), StoredBase(file, base_path, models)
    else:
        if base_path:
            raise UsageError(f"{path}: has all that is needed of the base model; leave --base-model out")
        chunks, base = file.chunks(_bos_id(next(iter(models)))), LlamaBase(file)
    cut.check(path, chunks)
    if cut.n_chunks is not None and cut.n_chunks > len(chunks):
        raise UsageError(f"{path}: has {len(chunks)} chunks, {cut.n_chunks} were asked for")
    chunks = chunks[: cut.n_chunks]
    if files:
        _check_text(path, chunks, next(iter(models)), files, cut)
    return base, chunks


def _starts_with(path: str, magic: bytes) -> bool:
    if not Path(path).is_file():
        raise UsageError(f"{path}: no such file")
    with open(path, "rb") as file:
        start = file.read(8)
    if not start.startswith((b"GGUF", b"_logits_")):
        raise FileFormatError(f"{path}: is no base file; write one with --kl-divergence-base")
    return start.startswith(magic)


def _bos_id(model_path: str) -> int | None:
    from ..tokenizer import load_tokenizer

    tokenizer = load_tokenizer(model_path)
    return tokenizer.bos_id if tokenizer.add_bos else None


def _check_text(path: str, chunks: "Chunks", model_path: str, files: Sequence[str], cut: Cut) -> None:
    tokens, _ = read_tokens(model_path, files, cut.parse_special)
    given = Cut.of(chunks, cut.parse_special).chunks(tokens, None).text
    texts = ", ".join(files)
    if given.shape != chunks.text.shape:
        raise UsageError(
            f"{path}: has {len(chunks)} chunks, {texts} gives {len(given)}; it was written for another text"
        )
    if (given != chunks.text).any():
        chunk = int((given != chunks.text).any(axis=1).argmax()) + 1
        raise UsageError(f"{path}: was written for another text than {texts}: they differ in chunk {chunk}")


def write_base(
    path: str, base_format: str, embed_output: bool, model: "Model", chunks: "Chunks", passes: Passes, text_hash: str
) -> "Perplexity":
    """Run a model and write its base file; returns its perplexity."""
    from ..evaluate import Perplexity, write_base_file, write_llama_base
    from ..evaluate.llama_base import WINDOWS

    hidden = passes.hidden_states(model, chunks)
    if base_format in WINDOWS:
        nll = write_llama_base(path, model, chunks.scored(hidden), chunks, WINDOWS[base_format])
    else:
        nll = scored_likelihoods(model, chunks, hidden)
        hidden_type = "bf16" if base_format == "hidden-bf16" else "f32"
        facts = {"text_sha256": text_hash}
        write_base_file(path, model, chunks.scored(hidden), chunks, nll, hidden_type, embed_output, facts)
    note(f"{path}: {Path(path).stat().st_size / 1e6:.1f} MB")
    return Perplexity(nll)
