"""Our own base files: hidden states, from which logits are recomputed exactly (docs/file-formats/base.md).

A GGUF file with the scored hidden states of the base model: n_vocab / (2 n_embd) times smaller than 16-bit codes of
all logits. The output matrix stays in the model's file, or goes along (`embed_output`): then the file is a model
without layers for the forward pass.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..container import GGUFFile, GGUFValueType, GGUFWriter, TensorInfo
from ..container.fingerprint import fingerprint
from ..container.layout import BASE_FILE_TYPE
from ..container.writer import encode_value
from ..errors import FileFormatError, UsageError
from ..ggml_types import ggml_type
from ..kernels.products import round_to_bf16
from .chunks import Chunks, chunks_of
from .predictions import LanguageModel, Rows

PREFIX = "quanttool.base."
VERSION = 1
HIDDEN, TOKENS, NLL = "base.hidden_states", "base.tokens", "base.nll"
HIDDEN_TYPES = {"f32": "F32", "bf16": "BF16"}
ROWS_PER_WRITE = 4096
NO_BOS = -1
# How far recomputed -log p may be from those in the file, nats: another order of additions moves them by 1e-5, the
# wrong output matrix by whole nats; bfloat16 states are rounded to 1 part in 512.
TOLERANCE = {"F32": 0.01, "BF16": 1.0}


class BaseModel(LanguageModel, Protocol):
    """What is asked of the model that a base file is written for (quanttool.models.Model is one)."""

    file: GGUFFile
    precision: str
    output_name: str


def tokenizer_hash(file: GGUFFile) -> str:
    """SHA-256, in hex, of the vocabulary: all tokens in their order; of nothing if the file has none."""
    key = "tokenizer.ggml.tokens"
    return hashlib.sha256(file.metadata.raw(key)[1] if key in file.metadata else b"").hexdigest()


def output_hash(model: BaseModel) -> str:
    """SHA-256, in hex, of the output matrix: type, shape, bytes, and its bias."""
    digest = hashlib.sha256()
    for name in (model.output_name, model.output_name.replace(".weight", ".bias")):
        if name in model.file.tensors:
            info = model.file.tensors[name]
            digest.update(f"{info.type} {info.ne}".encode())
            digest.update(model.file.data(name))
    return digest.hexdigest()


def write_base_file(
    path: str | os.PathLike,
    model: BaseModel,
    hidden: Rows,
    chunks: Chunks,
    nll: NDArray[np.float64],
    hidden_type: str = "f32",
    embed_output: bool = False,
    provenance: Mapping[str, str] | None = None,
) -> None:
    """Write the hidden states of a base model.

    hidden:        f32 [n_chunks * n_scored, n_embd]
    nll:           f64 [n_chunks, n_scored], -log p of the targets
    hidden_type:   "f32", or "bf16" for half the size and rounded states
    embed_output:  let the output matrix go along
    provenance:    more that is known about the run: key -> text

    Raises QuanttoolError if the disk is full.
    """
    n_embd, kind = model.n_embd, HIDDEN_TYPES[hidden_type]
    infos = [
        TensorInfo(TOKENS, ggml_type("I32"), (chunks.n_ctx, len(chunks))),
        TensorInfo(NLL, ggml_type("F64"), (chunks.n_scored, len(chunks))),
        TensorInfo(HIDDEN, ggml_type(kind), (n_embd, chunks.n_scored, len(chunks))),
    ]
    copied = list(_output_tensors(model)) if embed_output else []
    infos += [TensorInfo(name, model.file.tensors[name].type, model.file.tensors[name].ne) for name in copied]
    with GGUFWriter(path, _metadata(model, chunks, embed_output, provenance or {}), infos) as writer:
        writer.write_rows(TOKENS, 0, chunks.text.astype("<i4").view(np.uint8))
        writer.write_rows(NLL, 0, nll.astype("<f8").view(np.uint8))
        for start in range(0, len(hidden), ROWS_PER_WRITE):
            rows = np.ascontiguousarray(hidden[start : start + ROWS_PER_WRITE], np.float32)
            writer.write_rows(HIDDEN, start, _as_bytes(rows, kind))
        for name in copied:
            writer.write_rows(name, 0, model.file.data(name))


def _output_tensors(model: BaseModel) -> Iterable[str]:
    """Names of what the last product needs: all tensors outside of layers, but the embeddings where they are not it."""
    for name in model.file.tensors:
        if not name.startswith("blk.") and (name != "token_embd.weight" or name == model.output_name):
            yield name


def _metadata(
    model: BaseModel, chunks: Chunks, embed_output: bool, provenance: Mapping[str, str]
) -> dict[str, tuple[GGUFValueType, bytes]]:
    texts = {
        "program": f"quanttool {__version__}",
        "model": str(model.file.metadata.get("general.name", "")),
        "model_path": os.path.abspath(model.file.path),
        "model_fingerprint": fingerprint(model.file),
        "output_sha256": output_hash(model),
        "tokenizer_sha256": tokenizer_hash(model.file),
        "precision": model.precision,
    } | dict(provenance)
    starts_with_bos = bool((chunks.tokens[:, 0] != chunks.text[:, 0]).any())
    bos_id = int(chunks.tokens[0, 0]) if starts_with_bos else NO_BOS
    string, i32 = GGUFValueType.STRING, GGUFValueType.INT32
    values = {"general.type": (string, BASE_FILE_TYPE), PREFIX + "version": (i32, VERSION)}
    values |= {PREFIX + "n_vocab": (i32, model.n_vocab), PREFIX + "bos_id": (i32, bos_id)}
    values |= {PREFIX + key: (string, text) for key, text in texts.items()}
    encoded = {key: (kind, encode_value(value, kind)) for key, (kind, value) in values.items()}
    if embed_output:
        metadata = model.file.metadata
        architecture = metadata["general.architecture"]
        kept = [key for key in metadata if key == "general.architecture" or key.startswith(f"{architecture}.")]
        encoded |= {key: metadata.raw(key) for key in kept}
        n_vocab = np.uint32(model.n_vocab).tobytes()  # no longer known from the embeddings
        encoded |= {f"{architecture}.vocab_size": (GGUFValueType.UINT32, n_vocab)}
    return encoded


def _as_bytes(rows: NDArray[np.float32], kind: str) -> NDArray[np.uint8]:
    if kind == "F32":
        return rows.astype("<f4", copy=False).view(np.uint8)
    halves = np.empty(rows.shape, np.uint16)
    round_to_bf16(rows, halves)
    return halves.astype("<u2", copy=False).view(np.uint8)


class BaseFile:
    """A base file of ours, mapped: hidden states are read as needed.

    text:             i32 [n_chunks, n_ctx], the tokens as they stand in the text, BOS not yet put in
    nll:              f64 [n_chunks, n_scored], -log p of the targets
    n_vocab, bos_id:  the base model's; None if it does not begin texts with BOS
    has_output:       whether the output matrix is in the file
    facts:            what else the file says, key -> text: model, model_path, output_sha256, tokenizer_sha256, ...

    Raises FileFormatError if it is no such file, damaged or truncated.
    """

    def __init__(self, path: str | os.PathLike):
        self._file = GGUFFile(path)
        self.path = self._file.path
        metadata = self._file.metadata
        if metadata.get("general.type") != BASE_FILE_TYPE:
            raise FileFormatError(f"{path}: is a GGUF file, but no base file; write one with --kl-divergence-base")
        version = metadata.get(PREFIX + "version")
        if version != VERSION:
            raise FileFormatError(f"{path}: is a base file of version {version}, known is {VERSION}; write it anew")
        self.facts = {key.removeprefix(PREFIX): value for key, value in metadata.items() if isinstance(value, str)}
        self.n_vocab, bos_id = (self._integer(key) for key in ("n_vocab", "bos_id"))
        self.bos_id = None if bos_id == NO_BOS else bos_id
        self.text = self._tensor(TOKENS, "I32", 2).view("<i4")
        self.nll = self._tensor(NLL, "F64", 2).view("<f8")
        hidden = self._file.tensors.get(HIDDEN)
        self._kind = hidden.type.name if hidden else "F32"
        if self._kind not in TOLERANCE:
            raise FileFormatError(f"{path}: {HIDDEN} is {self._kind}, expected F32 or BF16; write it anew")
        self._hidden = self._tensor(HIDDEN, self._kind, 3).view("<f4" if self._kind == "F32" else "<u2")
        self.n_embd = self._hidden.shape[1]
        self._check()
        self.has_output = len(self._file.tensors) > 3

    def _integer(self, key: str) -> int:
        value = self._file.metadata.get(PREFIX + key)
        if not isinstance(value, int):
            raise FileFormatError(f"{self.path}: {PREFIX}{key} is {value!r}, expected a number; write it anew")
        return value

    def _tensor(self, name: str, kind: str, n_dims: int) -> NDArray[np.uint8]:
        info = self._file.tensors.get(name)
        if info is None or info.type.name != kind or len(info.ne) != n_dims:
            found = f"is {info.type} {list(info.ne)}" if info else "is missing"
            raise FileFormatError(f"{self.path}: {name} {found}, expected {kind} of {n_dims} dimensions; write it anew")
        return self._file.data(name)

    def _check(self) -> None:
        (n_chunks, n_ctx), n_scored = self.text.shape, self.nll.shape[1]
        hidden = tuple(self._file.tensors[HIDDEN].ne)
        if len(self.nll) != n_chunks or hidden[1:] != (n_scored, n_chunks) or n_scored >= n_ctx:
            raise FileFormatError(
                f"{self.path}: {n_chunks} chunks of {n_ctx} tokens, -log p {list(self.nll.shape)} and hidden states "
                f"{list(hidden)} do not belong together; write it anew"
            )
        ids = [self.text.min(), self.text.max(), self.bos_id or 0]
        if min(ids) < 0 or max(ids) >= self.n_vocab:
            raise FileFormatError(f"{self.path}: has tokens outside its vocabulary of {self.n_vocab}; write it anew")

    def chunks(self) -> Chunks:
        """The text of the file as the base model was fed it."""
        return chunks_of(self.text, self.nll.shape[1], self.bos_id)

    def hidden(self, n_chunks: int) -> "StoredRows":
        """Hidden states of the first chunks, f32 [n_chunks * n_scored, n_embd] as `ModelPredictions` wants them."""
        return StoredRows(self._hidden[: n_chunks * self.nll.shape[1]])

    def check_nll(self, nll: NDArray[np.float64]) -> None:
        """UsageError if recomputed -log p, f64 [n_chunks, n_scored], are not those in the file."""
        worst = float(np.abs(nll - self.nll[: len(nll)]).max())
        if not worst <= TOLERANCE[self._kind]:
            raise UsageError(
                f"{self.path}: logits recomputed from its hidden states are off by {worst:.3g} nats; the file is "
                "damaged, or the base model's metadata have changed: write it anew"
            )


class StoredRows:
    """Hidden states as float32, of which only the rows that are asked for are read: float32, or bfloat16 bits."""

    def __init__(self, rows: NDArray):
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        taken = self._rows[rows]
        if taken.dtype.itemsize == 4:
            return taken.astype(np.float32)
        return (taken.astype(np.uint32) << 16).view(np.float32)
