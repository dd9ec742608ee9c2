"""llama.cpp's base files: log-probabilities of every token of the vocabulary in 16 bits (docs/file-formats/base.md)."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import FileFormatError, UsageError
from ..files import atomic_output
from ..kernels.log_probs import HEADER, decode_log_probs, encode_log_probs
from ..parallel import for_each_slab
from .chunks import Chunks, chunks_of
from .predictions import ROWS_PER_THREAD, LanguageModel, Logits, ModelPredictions, Normalizer, Part, Rows, parts

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
        self._rows = RowsInFile(self.path, start, places)

    def chunks(self, bos_id: int | None) -> Chunks:
        """The text of the file as a model with this BOS is fed it."""
        return chunks_of(self.text, self.n_scored, bos_id)

    def predictions(self, n_chunks: int) -> "LlamaBasePredictions":
        """What the file says about its first chunks. Raises FileFormatError for impossible numbers."""
        n_rows = n_chunks * self.n_scored
        headers = self._rows.read(slice(0, n_rows), slice(0, 0)).view("<f4")
        bad = ~(np.abs(headers) < LARGEST_HEADER_VALUE).all(axis=1) | (headers[:, 0] < 0)
        if bad.any():
            chunk = int(bad.argmax()) // self.n_scored + 1
            raise FileFormatError(f"{self.path}: chunk {chunk} holds no log-probabilities: is damaged, write it anew")
        return LlamaBasePredictions(self._rows, n_rows, self.n_vocab)


class RowsInFile:
    """Rows of 16-bit places in a file. They are read, not mapped: mapped pages would count as this process's memory."""

    def __init__(self, path: Path, start: int, places: int):
        self._file, self._start, self._row_bytes = path.open("rb", buffering=0), start, 2 * places

    def read(self, rows: slice, tokens: slice) -> NDArray[np.uint16]:
        """Header and codes of some tokens, u16 [n_rows, 4 + n_tokens]."""
        out = np.empty((rows.stop - rows.start, HEADER + tokens.stop - tokens.start), "<u2")
        for row, line in zip(range(rows.start, rows.stop), out, strict=True):
            position = self._start + row * self._row_bytes
            self._read_into(line[:HEADER], position)
            self._read_into(line[HEADER:], position + 2 * (HEADER + tokens.start))
        return out

    def _read_into(self, places: NDArray[np.uint16], position: int) -> None:
        self._file.seek(position)
        if self._file.readinto(memoryview(places).cast("B")) != places.nbytes:
            raise FileFormatError(f"{self._file.name}: became shorter while it was read")


class LlamaBasePredictions:
    """Log-probabilities as the codes give them: those of rare tokens, cut off, are only small."""

    token_bytes, is_normalized, floor = 0, True, FLOOR

    def __init__(self, rows: RowsInFile, n_rows: int, n_vocab: int):
        self._rows, self._n_rows, self.n_vocab = rows, n_rows, n_vocab

    def __len__(self) -> int:
        return self._n_rows

    def part(self, tokens: slice) -> Callable[[slice], Logits]:
        def decode(rows: slice) -> Logits:
            codes = self._rows.read(rows, tokens)
            out = np.empty((len(codes), tokens.stop - tokens.start), np.float32)
            for_each_slab(lambda slab: decode_log_probs(codes[slab], out[slab]), len(out), ROWS_PER_THREAD)
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
    predictions, normalizer = ModelPredictions(model, hidden), Normalizer(chunks.targets.ravel())
    smallest = np.full(len(hidden), np.inf, np.float32)
    with atomic_output(path) as file:
        file.write(MAGIC + np.array([chunks.n_ctx, model.n_vocab, len(chunks)], "<i4").tobytes())
        file.write(chunks.text.astype("<i4").tobytes())
        writer = _RowWriter(file, normalizer, smallest, window, model.n_vocab)
        for part in parts([predictions]):
            (logits,) = part.logits
            normalizer.add(part, logits)
            np.minimum(smallest[part.rows], logits.min(axis=1), out=smallest[part.rows])
            at_once = len(logits[0]) == model.n_vocab
            if at_once:
                writer.write(part)
        for part in [] if at_once else parts([predictions]):
            writer.write(part)
    return normalizer.nll().reshape(chunks.targets.shape)


class _RowWriter:
    """Writes parts of rows to their places in a file, once largest, smallest and sum of the rows are known."""

    def __init__(
        self, file: BinaryIO, normalizer: Normalizer, smallest: NDArray[np.float32], window: float, n_vocab: int
    ):
        self._file, self._start, self._row_bytes = file, file.tell(), 2 * row_places(n_vocab)
        self._normalizer, self._smallest, self._window = normalizer, smallest, np.float32(window)
        self._padding = n_vocab % 2

    def write(self, part: Part) -> None:
        (logits,), tokens = part.logits, part.tokens
        largest = self._normalizer.highest[part.rows].astype(np.float32)
        smallest, total = self._smallest[part.rows], self._normalizer.total[part.rows]
        codes = np.empty((len(logits), HEADER + logits.shape[1] + self._padding), np.uint16)

        def encode(rows: slice) -> None:
            encode_log_probs(logits[rows], largest[rows], smallest[rows], total[rows], self._window, codes[rows])

        for_each_slab(encode, len(codes), ROWS_PER_THREAD)
        codes = codes.astype("<u2", copy=False)
        for row, line in zip(range(part.rows.start, part.rows.stop), codes, strict=True):
            position = self._start + row * self._row_bytes
            self._write_at(position, line[:HEADER])
            self._write_at(position + 2 * (HEADER + tokens.start), line[HEADER:])  # padding: the next part goes over it

    def _write_at(self, position: int, places: NDArray[np.uint16]) -> None:
        self._file.seek(position)
        self._file.write(places.tobytes())
