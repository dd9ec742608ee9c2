"""The layer-major forward pass that all architectures share."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..container import GGUFFile
from ..errors import ModelError, UsageError
from ..formats import dequantize_rows
from .config import Config
from .tensors import Array, Linear, Observer, Tensors

# Rows that go through a layer at a time: enough for BLAS to run at full speed, few enough to stay cheap in memory.
ROWS_PER_BATCH = 2048

Progress = Callable[[int, int], None]


class Layer:
    """One block. A subclass takes its tensors in `__init__`, under their GGUF names, and adds to x in `__call__`."""

    def __call__(self, x: Array) -> Array:  # [n_seq, n_ctx, n_embd] -> the same shape
        raise NotImplementedError

    def _linears(self) -> Iterator[Linear]:
        return (value for value in vars(self).values() if isinstance(value, Linear))

    def load(self) -> None:
        """Expand the weights."""
        for linear in self._linears():
            linear.load()

    def release(self) -> None:
        for linear in self._linears():
            linear.release()


class Model:
    """A model that computes hidden states and logits for whole texts at once.

    A subclass, one per architecture, takes its tensors in `build`: it sets `layers` and `output_norm`.
    """

    layers: list[Layer]
    output_norm: Callable[[Array], Array]

    def __init__(self, file: GGUFFile):
        self.file, self.config = file, Config(file)
        self.tensors = Tensors(file)
        embd = file.tensors.get("token_embd.weight")
        self.n_embd = self.config.n_embd
        self.n_vocab = embd.n_rows if embd else self.config.count("vocab_size")
        self.tensors.check("token_embd.weight", (self.n_vocab, self.n_embd))
        output = "output" if self.tensors.has("output.weight") else "token_embd"  # tied embeddings
        self.output = self.tensors.linear(output, self.n_vocab, self.n_embd)
        self.build(self.config, self.tensors)

    def build(self, c: Config, t: Tensors) -> None:
        """Take the tensors of all layers and of the last norm; called once, nothing is expanded yet."""
        raise NotImplementedError

    def embed(self, tokens: NDArray[np.int32]) -> Array:  # [...] -> [..., n_embd]
        """Rows of token_embd.weight; each that occurs is expanded once."""
        info = self.file.tensors["token_embd.weight"]
        data = self.file.data("token_embd.weight")
        unique, index = np.unique(tokens, return_inverse=True)
        if info.type.rows_interleaved == 1:
            rows = dequantize_rows(data[unique], info.type.name, info.n_cols)
        else:
            rows = dequantize_rows(data, info.type.name, info.n_cols)[unique]
        return rows[index.reshape(tokens.shape)]

    def scale_logits(self, logits: Array) -> Array:
        """What an architecture does to the product with the output matrix; nothing for most."""
        return logits

    def hidden_states(
        self, tokens: ArrayLike, observer: Observer | None = None, progress: Progress | None = None
    ) -> Array:
        """Normalized input of the output matrix, for chunks that are independent sequences.

        tokens:    i32 [n_chunks, n_ctx]
        observer:  called as observer(tensor name, x f32 [n_rows, n_cols], expert) with the input rows of every product
                   with a weight; expert is None for weights that are no experts'
        progress:  called as progress(done, total) after each batch of chunks of each layer
        returns:   f32 [n_chunks, n_ctx, n_embd]

        Raises UsageError for tokens outside the vocabulary, ModelError (layer and chunk) for a NaN or infinite
        result.
        """
        tokens = self._checked(tokens)
        n_chunks, n_ctx = tokens.shape
        x = self.embed(tokens)
        step = max(1, ROWS_PER_BATCH // n_ctx)
        batches = [slice(start, start + step) for start in range(0, n_chunks, step)]
        done, total = 0, len(self.layers) * len(batches)
        self.tensors.observer = observer
        try:
            for i, layer in enumerate(self.layers):
                layer.load()
                for batch in batches:
                    x[batch] = layer(x[batch])
                    self._check_finite(x[batch], i, batch.start)
                    done += 1
                    if progress is not None:
                        progress(done, total)
                layer.release()
        finally:
            self.tensors.observer = None
        for batch in batches:
            x[batch] = self.output_norm(x[batch])
        return x

    def output_logits(self, hidden: Array, observer: Observer | None = None) -> Array:
        """Logits of a few rows of hidden states: f32 [n, n_embd] -> f32 [n, n_vocab]."""
        self.tensors.observer = observer
        try:
            return self.scale_logits(self.output(np.ascontiguousarray(hidden, np.float32)))
        finally:
            self.tensors.observer = None

    def logits(self, tokens: ArrayLike) -> Array:
        """Logits of one sequence: i32 [n_tokens] -> f32 [n_tokens, n_vocab]."""
        return self.output_logits(self.hidden_states(np.asarray(tokens)[None])[0])

    def _checked(self, tokens: ArrayLike) -> NDArray[np.int32]:
        tokens = np.asarray(tokens)
        if tokens.ndim != 2 or 0 in tokens.shape:
            raise UsageError(f"tokens must have shape [n_chunks, n_ctx], got {list(tokens.shape)}")
        if tokens.min() < 0 or tokens.max() >= self.n_vocab:
            raise UsageError(
                f"tokens {tokens.min()} to {tokens.max()} are outside the model's vocabulary of {self.n_vocab}; "
                "were they made with another model's tokenizer?"
            )
        return tokens.astype(np.int32)

    def _check_finite(self, x: Array, layer: int, first_chunk: int) -> None:
        if np.isfinite(x.sum()):  # one pass; an overflow of the sum only costs the exact look below
            return
        bad = ~np.isfinite(x).all(axis=(1, 2))
        if bad.any():
            raise ModelError(
                f"{self.file.path}: hidden states of chunk {first_chunk + int(bad.argmax())} are not finite after "
                f"layer {layer}: a weight of blk.{layer} or of an embedded token is damaged, or beyond float32's range"
            )
