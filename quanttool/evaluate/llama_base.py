"""llama.cpp's base files: log-probabilities of every token of the vocabulary in 16 bits (docs/file-formats/base.md)."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import FileFormatError, UsageError
from ..files import atomic_output
from ..kernels.log_probs import HEADER, decode_log_probs, encode_log_probs
from ..parallel import for_each_slab
from .chunks import Chunks, chunks_of
from .predictions import LOGIT_BYTES, ROWS_PER_THREAD, LanguageModel, Logits, Normalizer, Part, Rows

MAGIC = b"_logits_"
HEADER_BYTES = len(MAGIC) + 3 * 4  # n_ctx, n_vocab, n_chunks
# How far below the largest logit each program's writer cuts off
WINDOWS = {"llama.cpp": 16.0, "ik_llama.cpp": 24.0}
# Both readers count only tokens with a log-probability above it: what is cut off stays out of the divergence.
FLOOR = -16.0
LARGEST_HEADER_VALUE = 1e9  # of a row's scale and minimum: beyond, the bytes are no log-probabilities


def row_places(n_vocab: int) -> int:
    """16-bit places of a row."""
    return HEADER + n_vocab + n_vocab % 2


class LlamaBaseFile:
    """A base file that llama-perplexity, that of ik_llama.cpp or `write_llama_base` wrote; mapped, read as needed.

    text:  i32 [n_chunks, n_ctx], the tokens as they stand in the text, BOS not yet put in

    Raises FileFormatError if it is no such file, damaged or truncated.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        if not self.path.is_file():
            raise UsageError(f"{path}: no such file")
        n_bytes = self.path.stat().st_size
        with self.path.open("rb") as file:
            header = file.read(HEADER_BYTES)
        if len(header) < HEADER_BYTES or not header.startswith(MAGIC):
            raise FileFormatError(f"{path}: is no base file of llama-perplexity; it does not start with {MAGIC!r}")
        n_ctx, self.n_vocab, n_chunks = np.frombuffer(header, "<i4", 3, len(MAGIC)).tolist()
        if n_ctx < 2 or self.n_vocab < 1 or n_chunks < 1:
            raise FileFormatError(f"{path}: says n_ctx {n_ctx}, n_vocab {self.n_vocab}, {n_chunks} chunks: is damaged")
        self.n_scored = n_ctx - 1 - n_ctx // 2
        places, start = row_places(self.n_vocab), HEADER_BYTES + 4 * n_chunks * n_ctx
        expected = start + 2 * n_chunks * self.n_scored * places
        if n_bytes != expected:
            what = "is truncated, write it anew" if n_bytes < expected else "has more than belongs to it, is damaged"
            raise FileFormatError(
                f"{path}: {n_chunks} chunks of {n_ctx} tokens take {expected} bytes, the file has {n_bytes}: {what}"
            )
        self.text = np.fromfile(self.path, "<i4", n_chunks * n_ctx, offset=HEADER_BYTES).reshape(n_chunks, n_ctx)
        if self.text.min() < 0 or self.text.max() >= self.n_vocab:
            raise FileFormatError(f"{path}: has tokens outside its vocabulary of {self.n_vocab}: is damaged")
        self._rows = np.memmap(self.path, "<u2", "r", start, (n_chunks * self.n_scored, places))

    def chunks(self, bos_id: int | None) -> Chunks:
        """The text of the file as a model with this BOS is fed it."""
        return chunks_of(self.text, self.n_scored, bos_id)

    def predictions(self, n_chunks: int) -> "LlamaBasePredictions":
        """What the file says about its first chunks. Raises FileFormatError for impossible numbers."""
        rows = self._rows[: n_chunks * self.n_scored]
        headers = np.ascontiguousarray(rows[:, :HEADER]).view("<f4")[:, :2]
        bad = ~(np.abs(headers) < LARGEST_HEADER_VALUE).all(axis=1) | (headers[:, 0] < 0)
        if bad.any():
            chunk = int(bad.argmax()) // self.n_scored + 1
            raise FileFormatError(f"{self.path}: chunk {chunk} holds no log-probabilities: is damaged, write it anew")
        return LlamaBasePredictions(rows, self.n_vocab)


class LlamaBasePredictions:
    """Log-probabilities as the codes give them: those of rare tokens, cut off, are only small."""

    token_bytes, is_normalized, floor = 0, True, FLOOR

    def __init__(self, rows: NDArray[np.uint16], n_vocab: int):
        self._rows, self.n_vocab = rows, n_vocab

    def __len__(self) -> int:
        return len(self._rows)

    def part(self, tokens: slice) -> Callable[[slice], Logits]:
        def decode(rows: slice) -> Logits:
            codes = np.ascontiguousarray(self._rows[rows])
            out = np.empty((len(codes), tokens.stop - tokens.start), np.float32)
            for_each_slab(
                lambda slab: decode_log_probs(codes[slab], tokens.start, out[slab]), len(out), ROWS_PER_THREAD
            )
            return out

        return decode


def write_llama_base(
    path: str | os.PathLike, model: LanguageModel, hidden: Rows, chunks: Chunks, window: float
) -> NDArray[np.float64]:
    """Write a base file in llama.cpp's format; returns -log p of the targets, f64 [n_chunks, n_scored], unrounded.

    hidden:  f32 [n_chunks * n_scored, n_embd]
    window:  see WINDOWS

    Raises UsageError for chunks that the format cannot tell (of a stride), QuanttoolError if the disk is full.
    """
    if chunks.n_scored != chunks.n_ctx - 1 - chunks.n_ctx // 2:
        raise UsageError(f"{path}: llama.cpp's base files know no stride; choose another --base-format")
    product = model.output_part(slice(0, model.n_vocab))
    normalizer = Normalizer(chunks.targets.ravel())
    step = max(1, LOGIT_BYTES // (4 * model.n_vocab))
    with atomic_output(path) as file:
        file.write(MAGIC + np.array([chunks.n_ctx, model.n_vocab, len(chunks)], "<i4").tobytes())
        file.write(chunks.text.astype("<i4").tobytes())
        for start in range(0, len(hidden), step):
            rows = slice(start, min(start + step, len(hidden)))
            logits = product(hidden[rows])
            normalizer.add(Part(slice(0, model.n_vocab), rows, [logits]), logits)
            file.write(_encoded(logits, normalizer.total[rows], window).astype("<u2", copy=False).tobytes())
    return normalizer.nll().reshape(chunks.targets.shape)


def _encoded(logits: Logits, total: NDArray[np.float64], window: float) -> NDArray[np.uint16]:
    out = np.empty((len(logits), row_places(logits.shape[1])), np.uint16)

    def work(rows: slice) -> None:
        encode_log_probs(logits[rows], total[rows], np.float32(window), out[rows])

    for_each_slab(work, len(out), ROWS_PER_THREAD)
    return out
