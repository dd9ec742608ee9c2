"""The long part of `quanttool imatrix`: a text through the model, with checkpoints."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import UsageError
from .console import note, progress_bar
from .running import Passes, RunningPerplexity, scored_likelihoods

if TYPE_CHECKING:
    from ..evaluate import Chunks, Perplexity
    from ..imatrix import Imatrix
    from ..imatrix.collect import Collector
    from ..imatrix.hessian import HessianWriter
    from ..imatrix.similarity import Similarity
    from ..models import Model
    from ..models.tensors import Array, Observer


@dataclass
class Run:
    """What is run, and how often it is saved.

    checkpoint:     file to go on from after an interruption; None for none
    memory:         bytes of hidden states that are kept in memory; None for half of what is free
    checkpoint_every, keep_every:  chunks between checkpoints, and between kept copies of the imatrix; 0 for never
    keep_copy:      called as keep_copy(imatrix so far, chunks done)
    similarity:     collects the similarity of layers; None for none
    hessian:        also sees the inputs of every product; None for none
    """

    model: "Model"
    chunks: "Chunks | None"
    datasets: Sequence[str]
    provenance: dict[str, str]
    process_output: bool
    with_perplexity: bool
    quiet: bool
    memory: int | None
    checkpoint: Path | None
    checkpoint_every: int
    keep_every: int
    keep_copy: "Callable[[Imatrix, int], None]"
    hessian: "HessianWriter | None" = None
    similarity: "Similarity | None" = None

    def collect(self) -> "tuple[Imatrix, Perplexity | None]":
        """Run all chunks, or those that an interrupted run has left."""
        from ..imatrix.collect import Collector

        model, chunks = self.model, self.chunks
        collector = Collector(model.file.tensors, chunks.n_ctx, chunks.number)
        running = RunningPerplexity(self.quiet)
        done = self._go_on(collector, running)
        stops = [every for every in (self.checkpoint_every, self.keep_every) if every]
        with progress_bar("imatrix", "tok", scale=True) as progress:
            passes = Passes(progress, chunks.tokens.size, self.memory, done * chunks.n_ctx)
            for group in chunks.groups(done, stops):
                hidden = passes.hidden_states(model, group, self._observer(collector), self.similarity)
                if self.process_output:
                    self._observer(collector.add)(model.output.name, hidden.reshape(-1, model.n_embd))
                if self.with_perplexity:
                    running.add(scored_likelihoods(model, group, hidden))
                done += len(group)
                self._save(collector, running, done)
        return self._imatrix(collector, done), running.finish() if self.with_perplexity else None

    def collect_pieces(self, pieces: "Sequence[Sequence[int]]", n_ctx: int) -> "Imatrix":
        """Run sequences of any length instead, in one pass, those of one length together; no perplexity."""
        import numpy as np

        from ..imatrix.collect import Collector

        model = self.model
        collector = Collector(model.file.tensors, n_ctx)
        lengths = sorted({len(piece) for piece in pieces})
        groups = [np.array([piece for piece in pieces if len(piece) == n], np.int32) for n in lengths]
        with progress_bar("imatrix", "step") as progress:
            hidden = model.hidden_states_of_groups(groups, progress, self.memory, self._observer(collector))
        if self.process_output:
            for states in hidden:
                self._observer(collector.add)(model.output.name, states.reshape(-1, model.n_embd))
        return self._imatrix(collector, max(1, round(sum(map(len, pieces)) / n_ctx)))

    def _observer(self, record: "Observer") -> "Observer":
        """`record`, and after it the Hessian if one is wanted."""
        hessian = self.hessian
        if hessian is None:
            return record

        def both(name: str, x: "Array", expert: int | None = None, *shares: "Array") -> None:
            record(name, x, expert, *shares)  # first: it refuses values that are not finite
            hessian(name, x, expert, *shares)

        return both

    def _imatrix(self, collector: "Collector", done: int) -> "Imatrix":
        imatrix = collector.imatrix(list(self.datasets), done)
        imatrix.provenance = dict(self.provenance)
        return imatrix

    def _settings(self) -> dict[str, Any]:
        return self.provenance | {"process_output": self.process_output, "perplexity": self.with_perplexity}

    def _go_on(self, collector: "Collector", running: RunningPerplexity) -> int:
        """Take over what an interrupted run has saved; returns how many chunks are done."""
        from ..imatrix.checkpoint import load_checkpoint

        found = load_checkpoint(self.checkpoint, self._settings()) if self.checkpoint else None
        if found is None:
            return 0
        if found.n_chunks > len(self.chunks):
            raise UsageError(
                f"{self.checkpoint}: has {found.n_chunks} chunks, only {len(self.chunks)} are wanted; delete it"
            )
        note(f"{self.checkpoint}: going on after {found.n_chunks} chunks")
        collector.entries = found.entries
        running.add(found.nll)
        return found.n_chunks

    def _save(self, collector: "Collector", running: RunningPerplexity, done: int) -> None:
        import numpy as np

        from ..imatrix.checkpoint import Checkpoint, save_checkpoint

        if self.checkpoint and self.checkpoint_every and done % self.checkpoint_every == 0:
            nll = running.result().nll if self.with_perplexity else np.empty((0, self.chunks.n_scored))
            save_checkpoint(self.checkpoint, Checkpoint(collector.entries, nll, done), self._settings())
        if self.keep_every and done % self.keep_every == 0:
            self.keep_copy(self._imatrix(collector, done), done)


def provenance(
    model: "Model",
    files: Sequence[str],
    n_ctx: int,
    from_chunk: int,
    parse_special: bool,
    all_experts: bool,
    alone: bool = False,
) -> dict[str, str]:
    """What identifies a run, and does not depend on where files lie or what they are called."""
    from ..container.fingerprint import fingerprint

    options = f"-c {n_ctx}" + f" --from-chunk {from_chunk}" * bool(from_chunk) + " --parse-special" * parse_special
    options += " --all-experts" * all_experts + " --pack document" * alone
    options += f" --precision {model.precision}"
    if (device := model.tensors.device.name) is not None:
        options += f" --device {device}"
    return {
        "program": f"quanttool {__version__}",
        "options": options,
        "model": str(model.file.metadata.get("general.name", "")),
        "model_fingerprint": fingerprint(model.file),
        "text_sha256": ",".join(hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in files),
    }
