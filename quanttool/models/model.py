"""The layer-major forward pass that all architectures share."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import blas
from ..container import GGUFFile
from ..errors import ModelError, QuanttoolError, UsageError
from ..formats import dequantize_rows
from ..ggml_types import ggml_type
from .config import Config
from .device import Device, OwnKernels
from .kv_cache import KVCache
from .layers import ROWS_PER_BATCH, GatedFFN, RMSNorm
from .memory import free_memory
from .moe import MoE
from .products import block_precision
from .scratch import room
from .tensors import Array, Inspector, Linear, Observer, Tensors

EMBEDDED_TOKENS = 16384  # at a time

# Tensors that results do not depend on: tables that are computed anew, another head of ik_llama.cpp, hidden states of
# a base file
UNUSED = ("rope_", "output_extra.", "base.")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Step:
    """A part of a layer, which all chunks pass through before the next part."""

    work: Callable[[Array], Array]  # [n_seq, n_ctx, n_embd] -> the same shape
    rows_per_batch: int = ROWS_PER_BATCH
    part: str = ""  # of the layer, for an inspector: "attention" or "ffn"
    uses_threads: bool = False  # if not, batches run side by side, each in one thread


class Layer:
    """One block: takes its tensors in `__init__`, under their GGUF names.

    It runs as steps, each over all chunks before the next, because experts want larger batches than attention. These
    are the steps of most architectures; the others override them.
    """

    attn_norm: Callable[[Array], Array]
    attn: Callable[[Array], Array]
    ffn_norm: Callable[[Array], Array]
    ffn: GatedFFN | MoE

    def steps(self) -> list[Step]:
        return [
            Step(self.attention_step, part="attention"),
            Step(self.ffn_step, self.ffn.rows_per_batch, "ffn", self.ffn.uses_threads),
        ]

    def attention_step(self, x: Array) -> Array:
        return x + self.attn(self.attn_norm(x))

    def ffn_step(self, x: Array) -> Array:
        return x + self.ffn(self.ffn_norm(x))


class Model:
    """A model that computes hidden states and logits for whole texts at once.

    A subclass, one per architecture, gives its layers in `layer` and overrides what differs.
    """

    def __init__(
        self, file: GGUFFile, precision: str = "f32", cache: KVCache | None = None, device: Device | None = None
    ):
        self.file, self.config, self.precision = file, Config(file), precision
        self.tensors = Tensors(file, precision, cache or KVCache(), device or OwnKernels())
        in_blocks = block_precision(precision, has_experts=self.config.integer("expert_count", 0) > 0)
        self.n_embd = self.config.n_embd
        self.n_vocab = self._vocabulary_size()
        self.output = self._output()
        self.output_norm = self.norm("output_norm")
        self.prepare(self.config, self.tensors)
        self.blocks = [self.tensors.block(i, in_blocks) for i in range(self.config.n_layer)]
        self.layers = [self.layer(self.config, block, i) for i, block in enumerate(self.blocks)]
        self._refuse_unknown_tensors()

    def _refuse_unknown_tensors(self) -> None:
        """A tensor that is not used is part of a model that this is not: its results would be wrong."""
        taken = self.tensors.taken.union(*(block.taken for block in self.blocks))
        beyond = tuple(f"blk.{i}." for i in range(self.config.n_layer, self.config.count("block_count")))
        unknown = [name for name in self.file.tensors if name not in taken and not name.startswith(beyond + UNUSED)]
        if unknown:
            raise ModelError(
                f"{self.file.path}: {unknown[0]}"
                + (f" and {len(unknown) - 1} more tensors" if len(unknown) > 1 else "")
                + f" have no part in the forward pass of {self.config.architecture}; this variant is not supported"
            )

    def prepare(self, c: Config, t: Tensors) -> None:
        """Make what all layers share."""

    def layer(self, c: Config, t: Tensors, i: int) -> Layer:
        """Layer i with tensors t; nothing is expanded yet."""
        raise NotImplementedError

    def norm(self, name: str) -> Callable[[Array], Array]:
        return RMSNorm(self.config, self.tensors, name)

    def _vocabulary_size(self) -> int:
        embd = self.file.tensors.get("token_embd.weight")
        n_vocab = embd.n_rows if embd else self.config.count("vocab_size")
        if embd or self.config.n_layer:  # without layers there is nothing to embed for
            self.tensors.check("token_embd.weight", n_vocab, self.n_embd)
        return n_vocab

    def _output(self) -> Linear:
        name = "output" if self.tensors.has("output.weight") else "token_embd"  # tied embeddings
        return self.tensors.linear(name, self.n_vocab, self.n_embd)

    def embed(self, tokens: NDArray[np.int32]) -> Array:  # [...] -> [..., n_embd]
        """Rows of token_embd.weight; each that occurs is expanded once."""
        info = self.file.tensors["token_embd.weight"]
        data, type_name = self.tensors.stored("token_embd.weight")
        unique, index = np.unique(tokens, return_inverse=True)
        if ggml_type(type_name).rows_interleaved == 1:
            rows = dequantize_rows(data[unique], type_name, info.n_cols)
        else:
            rows = dequantize_rows(data, type_name, info.n_cols)[unique]
        return rows[index.reshape(tokens.shape)]

    def embedded(self, tokens: ArrayLike, memory: int | None = None) -> Array:
        """Hidden states before the first layer, f32 [n_chunks, n_ctx, n_embd]; arguments as in `hidden_states`."""
        checked = self._checked(tokens)
        x = room(*checked.shape, self.n_embd, memory=memory)
        self._embed_into([checked], [x])
        return x

    def _embed_into(self, groups: Sequence[NDArray[np.int32]], states: Sequence[Array]) -> None:
        for tokens, x in zip(groups, states, strict=True):
            for batch in _slices(len(tokens), EMBEDDED_TOKENS // tokens.shape[1]):
                x[batch] = self.embed(tokens[batch])
        self.file.release("token_embd.weight", 0, self.n_vocab)

    def scale_logits(self, logits: Array) -> Array:
        """What an architecture does to the product with the output matrix; nothing for most."""
        return logits

    @property
    def output_name(self) -> str:
        """Name of the output matrix: "output.weight", or "token_embd.weight" if it is tied."""
        return self.output.name

    def weights(self) -> list[str]:
        """Names of the blocks' weights that are multiplied with, which an observer hears of; first to last block."""
        return [name for block in self.blocks for name in block.multiplied]

    def show_all_experts(self) -> None:
        """From now on have observers see every expert with every row, instead of the rows that are routed to it.

        They are called with a fourth argument then: f32 [n_rows], the router's probability of the expert times the
        number of experts per row. Hidden states stay what they are. Raises UsageError if the model has no experts.
        """
        if not self.config.integer("expert_count", 0):
            raise UsageError(f"{self.file.path}: has no experts to show all of; leave --all-experts out")
        self.tensors.watch.all_experts = True

    def hidden_states(
        self,
        tokens: ArrayLike,
        observer: Observer | None = None,
        progress: Progress | None = None,
        memory: int | None = None,
        first_chunk: int = 1,
        inspector: Inspector | None = None,
    ) -> Array:
        """Normalized input of the output matrix, for chunks that are independent sequences.

        tokens:    i32 [n_chunks, n_ctx]
        observer:  called as observer(tensor name, x f32 [n_rows, n_cols], expert) with the input rows of every product
                   with a weight; expert is None for weights that are no experts'
        progress:  called as progress(done, total) after each batch of chunks of each layer
        memory:    bytes that the result may take in memory; default: half of what is free
        first_chunk:  the number of the first of these chunks in its text, for errors
        inspector: sees what becomes of the hidden states; takes another `memory` for those before the layer
        returns:   f32 [n_chunks, n_ctx, n_embd]; where that is more than `memory`, a temporary file is behind it, which
                   goes away with the array

        Raises UsageError for tokens outside the vocabulary, ModelError (layer and chunk) for a NaN or infinite
        result.
        """
        return self._pass([tokens], observer, progress, memory, first_chunk, inspector)[0]

    def hidden_states_of_groups(
        self,
        groups: Sequence[ArrayLike],
        progress: Progress | None = None,
        memory: int | None = None,
        observer: Observer | None = None,
    ) -> list[Array]:
        """The same in one pass for sequences of several lengths, those of each group of one length.

        groups:   each i32 [n_sequences, n_tokens]; fill short sequences up at their end: nothing there changes what
                  comes before. Errors count sequences from 1, group after group
        returns:  one f32 [n_sequences, n_tokens, n_embd] per group
        """
        return self._pass(groups, observer, progress, memory, 1, None)

    def _pass(
        self,
        groups: Sequence[ArrayLike],
        observer: Observer | None,
        progress: Progress | None,
        memory: int | None,
        first_chunk: int,
        inspector: Inspector | None,
    ) -> list[Array]:
        checked = [self._checked(tokens) for tokens in groups]
        storage = room(sum(tokens.size for tokens in checked), self.n_embd, memory=memory)
        before = None if inspector is None else room(*storage.shape, memory=memory)
        ends = np.cumsum([tokens.size for tokens in checked])[:-1]
        states = [
            part.reshape(*tokens.shape, self.n_embd)
            for tokens, part in zip(checked, np.split(storage, ends), strict=True)
        ]
        self._embed_into(checked, states)
        plans = [
            [(step, self._batches_of(step, states, first_chunk)) for step in layer.steps()] for layer in self.layers
        ]
        done, total = 0, sum(len(batches) for plan in plans for _, batches in plan)
        ahead = self._has_room_to_read_ahead()
        with self.watched_by(observer, inspector), blas.threads(1):
            for i, (block, plan) in enumerate(zip(self.blocks, plans, strict=True)):
                with block.loaded():
                    if ahead and i + 1 < len(self.blocks):
                        self.blocks[i + 1].read_ahead()
                    if before is not None:
                        before[:] = storage
                    for step, batches in plan:
                        for _ in self._run(step, batches, i):
                            done += 1
                            if progress is not None:
                                progress(done, total)
                if before is not None:
                    for rows in _slices(len(storage), ROWS_PER_BATCH):
                        inspector.on_part(i, "layer", row_cosines(before[rows], storage[rows]))
            for _ in self._run(Step(self.output_norm), _batches(states, ROWS_PER_BATCH, first_chunk), len(plans) - 1):
                pass
        return states

    def _has_room_to_read_ahead(self) -> bool:
        """Whether two layers of the file fit into free memory: else the next would displace the rest of this one."""
        try:
            return 2 * max((block.n_bytes for block in self.blocks), default=0) < free_memory()
        except QuanttoolError:  # the system does not say
            return False

    def run_layer(self, i: int, x: Array) -> None:
        """Take hidden states f32 [n_chunks, n_ctx, n_embd] through layer i, in place; its weights must be loaded."""
        with blas.threads(1):
            for step in self.layers[i].steps():
                for _ in self._run(step, self._batches_of(step, [x], 1), i):
                    pass

    def normalize(self, x: Array) -> None:
        """Take hidden states past the last layer to what the output matrix is multiplied with, in place."""
        with blas.threads(1):
            for _ in self._run(Step(self.output_norm), _batches([x], ROWS_PER_BATCH, 1), len(self.layers) - 1):
                pass

    def _batches_of(self, step: Step, states: Sequence[Array], first_chunk: int) -> "list[Batch]":
        return _batches(states, max(step.rows_per_batch, self.tensors.device.rows_per_batch), first_chunk)

    def _run(self, step: Step, batches: "list[Batch]", layer: int) -> Iterator[None]:
        """Take batches, in place, through a step; yields after each."""
        watch = self.tensors.watch
        inspector = watch.inspector if step.part else None

        def work(batch: Batch) -> NDArray[np.float64] | None:
            out = step.work(batch.x)
            self._check_finite(out, layer, batch.first_chunk)
            cosines = None if inspector is None else row_cosines(batch.x, out)
            batch.x[:] = out
            return cosines

        for cosines in (map if step.uses_threads else watch.in_order)(work, batches):
            if inspector is not None:
                inspector.on_part(layer, step.part, cosines)
            yield

    def output_logits(self, hidden: Array, observer: Observer | None = None) -> Array:
        """Logits of a few rows of hidden states: f32 [n, n_embd] -> f32 [n, n_vocab]."""
        hidden = np.ascontiguousarray(hidden, np.float32)
        with self.watched_by(observer), blas.threads(1):
            logits = self.output(hidden)
        return self.scale_logits(logits)

    def output_part(self, tokens: slice) -> Callable[[Array], Array]:
        """The same for a part of the vocabulary, expanded only as long as the function lives.

        tokens:  a slice that begins at a multiple of 256, so that types that weave rows together stay whole

        Returns a function f32 [n, n_embd] -> f32 [n, n_tokens].
        """
        product = self.output.part(tokens)
        self.file.release(self.output.name, tokens.start, tokens.stop - tokens.start)

        def logits(hidden: Array) -> Array:
            with blas.threads(1):
                return self.scale_logits(product(np.ascontiguousarray(hidden, np.float32)))

        return logits

    @contextmanager
    def watched_by(self, observer: Observer | None, inspector: Inspector | None = None) -> Iterator[None]:
        """A context in which an observer and an inspector see what happens in the layers' steps."""
        watch = self.tensors.watch
        watch.observer, watch.inspector = observer, inspector
        try:
            yield
        finally:
            watch.observer = watch.inspector = None

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
            damaged = ", ".join(self.blocks[layer].damaged()) or "an embedded token"
            raise ModelError(
                f"{self.file.path}: hidden states of chunk {first_chunk + int(bad.argmax())} are not finite after "
                f"layer {layer}: {damaged} holds NaN or infinity, or values grew beyond float32's range"
            )


def row_cosines(a: Array, b: Array) -> NDArray[np.float64]:
    """Cosine of each row of a with that of b: two of [..., n] -> [...]; 0 where one of them is all zero."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    product = np.einsum("...i,...i", a, b)
    size = np.sqrt(np.einsum("...i,...i", a, a) * np.einsum("...i,...i", b, b))
    return np.divide(product, size, out=np.zeros_like(product), where=size > 0)


class Batch(NamedTuple):
    """Sequences of one length that go through a step together.

    x:            f32 [n_seq, n_ctx, n_embd], a view of the hidden states
    first_chunk:  the number of the first of them
    """

    x: Array
    first_chunk: int


def _batches(states: Sequence[Array], rows_per_batch: int, first_chunk: int) -> list[Batch]:
    batches = []
    for x in states:
        slices = _slices(len(x), rows_per_batch // x.shape[1])
        batches += [Batch(x[part], first_chunk + part.start) for part in slices]
        first_chunk += len(x)
    return batches


def _slices(n: int, step: int) -> list[slice]:
    step = max(1, step)
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]
