"""What is shown while a text runs through models: tokens done of all, and the perplexity so far."""

from typing import TYPE_CHECKING, Any

from . import reports
from .console import Progress

if TYPE_CHECKING:
    from ..evaluate import Chunks, Perplexity
    from ..models import Model


def say(text: str) -> None:
    """A line on standard output, above the progress bar if there is one."""
    from tqdm import tqdm

    tqdm.write(text)


class Passes:
    """Forward passes that share one progress bar, which counts their tokens.

    memory: bytes of hidden states of each pass that are kept in memory; None: half of what is free
    """

    def __init__(self, progress: Progress, n_tokens: int, memory: int | None = None, n_done: int = 0):
        self._progress, self._n_tokens, self._memory, self._done = progress, n_tokens, memory, n_done

    def hidden_states(self, model: "Model", chunks: "Chunks", observer: Any = None, inspector: Any = None) -> Any:
        """f32 [n_chunks, n_ctx, n_embd]"""

        def step(done: int, total: int) -> None:
            self._progress(self._done + chunks.tokens.size * done // total, self._n_tokens)

        hidden = model.hidden_states(chunks.tokens, observer, step, self._memory, chunks.number, inspector)
        self._done += chunks.tokens.size
        return hidden


def scored_likelihoods(model: "Model", chunks: "Chunks", hidden: Any) -> Any:
    """-log p of the scored tokens: f32 [n_chunks, n_ctx, n_embd] -> f64 [n_chunks, n_scored], nats."""
    from ..evaluate import negative_log_likelihood

    nll = negative_log_likelihood(model, chunks.scored(hidden), chunks.targets.ravel())
    return nll.reshape(chunks.targets.shape)


class RunningPerplexity:
    """Prints the perplexity after each chunk, when the pass through the model that they went together is done."""

    def __init__(self, quiet: bool, nll: Any = ()):
        self._quiet = quiet
        self._groups: list[Any] = []
        self.add(nll)

    def add(self, nll: Any) -> None:
        """nll: f64 [n_chunks, n_scored] of the next group."""
        if not len(nll):
            return
        shown = sum(map(len, self._groups))
        self._groups.append(nll)
        if not self._quiet:
            say(reports.running_perplexity(self.result(), shown))

    def finish(self) -> "Perplexity":
        """Print the last line; returns the perplexity of all chunks."""
        result = self.result()
        if not self._quiet:
            say(reports.final_estimate(result))
        return result

    def result(self) -> "Perplexity":
        """The perplexity of the chunks so far."""
        import numpy as np

        from ..evaluate import Perplexity

        return Perplexity(np.concatenate(self._groups))
