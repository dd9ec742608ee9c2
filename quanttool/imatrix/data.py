"""What an imatrix holds: how strongly each input channel of each weight is used."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..errors import ImatrixError

LEGACY_BATCH = 512  # ik_llama.cpp's default micro-batch: what one call of a weight sees at most


@dataclass
class Entry:
    """Activations that met one weight tensor. A matrix is an expert; dense tensors have one.

    sums_of_squares:  f64 [n_matrices, n_cols], sum over rows of x * x per input channel
    counts:           i64 [n_matrices], number of rows summed; 0 for an expert that the text never reached
    sums:             f64 [n_matrices, n_cols], sum over rows of x; None if the file does not have it

    A dense tensor with several slices (MLA's attn_k_b) has one count: its slices lie side by side in n_cols.
    """

    sums_of_squares: NDArray[np.float64]
    counts: NDArray[np.int64]
    sums: NDArray[np.float64] | None = None

    def importance(self) -> NDArray[np.float32]:
        """Mean square per channel, f32 [n_matrices, n_cols]; ones where nothing was counted.

        Divides in float32, so that the bits are those of llama-quantize (quantize.cpp, load_imatrix).
        """
        sums = self.sums_of_squares.astype(np.float32)
        counts = self.counts.astype(np.float32)[:, None]  # [n_matrices, 1]
        return np.divide(sums, counts, out=np.ones_like(sums), where=counts > 0)


class LazyEntries(Mapping[str, Entry]):
    """Entries that are made when asked for and not kept: experts' importance can be larger than what memory is for."""

    def __init__(self, makers: Mapping[str, Callable[[], Entry]]):
        self._makers = dict(makers)

    def __getitem__(self, name: str) -> Entry:
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def __contains__(self, name: object) -> bool:
        return name in self._makers


@dataclass
class Imatrix:
    """Sums of squared activations per weight tensor, and where they come from.

    entries:             weight tensor name -> Entry; LazyEntries where they are only read
    datasets:            names of the texts, first to last
    chunk_count:         chunks of text that were run
    chunk_size:          tokens per chunk; 0 if unknown (a legacy file): then counts are calls, not rows
    calls_are_batches:   of a legacy file: a call was a batch of at most 512 tokens, not a chunk (ik_llama.cpp)
    provenance:          what else is known about the run: key (without prefix) -> text
    """

    entries: Mapping[str, Entry] = field(default_factory=dict)
    datasets: list[str] = field(default_factory=list)
    chunk_count: int = 0
    chunk_size: int = 0
    calls_are_batches: bool = False
    provenance: dict[str, str] = field(default_factory=dict)

    def importance(self, name: str, n_cols: int | None = None) -> NDArray[np.float32] | None:
        """Importance of a weight's input channels as llama-quantize computes it, or None if nothing is known.

        `n_cols` is the width of the weight's rows: the result is f32 [n_matrices, n_cols], whatever way the file
        divides it. Raises ImatrixError if the entry does not divide into such rows.
        """
        entry = self.entries.get(name)
        if entry is None:
            return None
        values = entry.importance()
        if n_cols is None:
            return values
        if values.size % n_cols:
            raise ImatrixError(
                f"{name}: the imatrix has {values.size} channels, the tensor's rows are {n_cols} wide; "
                "use an imatrix made from this model"
            )
        return values.reshape(-1, n_cols)

    def in_rows(self, chunk_size: int) -> "Imatrix":
        """The same means with counts in rows, for a legacy file whose chunks had `chunk_size` tokens."""
        if self.chunk_size:
            return self
        rows = min(chunk_size, LEGACY_BATCH) if self.calls_are_batches else chunk_size
        entries = {
            name: Entry(entry.sums_of_squares * rows, entry.counts * rows) for name, entry in self.entries.items()
        }
        chunk_count = max(int(entry.counts.max()) for entry in entries.values()) // chunk_size
        return Imatrix(entries, list(self.datasets), chunk_count, chunk_size)
