"""A run that stops half-way and goes on later, to the same bytes.

The file beside the output holds the float64 sums, and what has to be the same in the run that goes on: numpy's npz.
"""

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import FileFormatError, UsageError
from ..files import atomic_output
from .data import Entry


@dataclass
class Checkpoint:
    """What is known after n_chunks: the sums, and nll f64 [n_chunks, n_scored] (without perplexity: [0, n_scored])."""

    entries: dict[str, Entry]
    nll: NDArray[np.float64]
    n_chunks: int


def save_checkpoint(path: str | os.PathLike, checkpoint: Checkpoint, settings: Mapping[str, object]) -> None:
    """Write a checkpoint; `settings` (JSON values) say which run it belongs to."""
    head = json.dumps({"n_chunks": checkpoint.n_chunks, "settings": settings})
    arrays = {"head": np.array(head), "nll": checkpoint.nll}
    for name, entry in checkpoint.entries.items():
        arrays |= {f"{name}/squares": entry.sums_of_squares, f"{name}/counts": entry.counts, f"{name}/sums": entry.sums}
    with atomic_output(path) as file:
        np.savez(file, **arrays)


def load_checkpoint(path: str | os.PathLike, settings: Mapping[str, object]) -> Checkpoint | None:
    """Read a checkpoint, or None if there is none.

    Raises UsageError if it belongs to another run, FileFormatError if it is damaged.
    """
    if not Path(path).exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            head = json.loads(str(arrays["head"]))
            names = [key.removesuffix("/counts") for key in arrays if key.endswith("/counts")]
            entries = {
                name: Entry(arrays[f"{name}/squares"], arrays[f"{name}/counts"], arrays[f"{name}/sums"])
                for name in names
            }
            checkpoint = Checkpoint(entries, arrays["nll"], head["n_chunks"])
            theirs = head["settings"]
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise FileFormatError(f"{path}: is no readable checkpoint; delete it to start from the beginning") from error
    for key, value in settings.items():
        if theirs.get(key) != value:
            raise UsageError(
                f"{path}: belongs to another run ({key} was {theirs.get(key)}, is {value} now); "
                "repeat that command to go on with it, or delete the file to start from the beginning"
            )
    return checkpoint
