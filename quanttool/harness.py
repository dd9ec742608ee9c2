"""GGUF models in EleutherAI's lm-evaluation-harness: its log-likelihood tasks, all requests in one pass.

    python -m quanttool.harness --model quanttool --model_args path=model.gguf --tasks arc_easy

takes the options of `lm_eval`; importing this module registers the model "quanttool".
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from .errors import QuanttoolError, UsageError
from .evaluate.sequences import Likelihoods, Scored, log_likelihoods
from .models import KVCache, load_model
from .parallel import use_threads
from .tokenizer import load_tokenizer

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ModuleNotFoundError as error:
    raise QuanttoolError(f"{error.name} is missing; install it with pip install quanttool[lm-eval]") from None

Tokens = list[int]


@register_model("quanttool")
class QuanttoolLM(TemplateLM):
    """A GGUF model for the harness.

    path:           GGUF file
    precision:      of products with weights, as in `load_model`
    max_length:     tokens per sequence; longer ones lose their beginning, as with the harness's own models
    cache_type_k, cache_type_v:  types that keys and values are rounded to
    add_bos_token:  begin texts with BOS; default: if the model's tokenizer does
    threads:        default: all processors
    """

    def __init__(
        self,
        path: str,
        precision: str = "f32",
        max_length: int = 2048,
        cache_type_k: str = "f32",
        cache_type_v: str = "f32",
        add_bos_token: bool | None = None,
        threads: int | None = None,
        **others: Any,
    ):
        super().__init__()
        unknown = set(others) - {"batch_size", "max_batch_size", "device"}  # which the harness passes on by itself
        if unknown:
            raise UsageError(f"unknown model argument {sorted(unknown)[0]!r}; see docs/tasks.md for those that exist")
        use_threads(threads)
        self.max_length = int(max_length)
        self._model = load_model(path, precision, KVCache(cache_type_k.upper(), cache_type_v.upper()))
        self._tokenizer = load_tokenizer(path)
        self._add_bos = self._tokenizer.add_bos if add_bos_token is None else add_bos_token
        if self._tokenizer.eos_id is None and self._tokenizer.bos_id is None:
            raise UsageError(f"{path}: its tokenizer has neither BOS nor EOS, and texts without context need one")

    @property
    def eot_token_id(self) -> int:
        tokenizer = self._tokenizer
        return tokenizer.bos_id if tokenizer.eos_id is None else tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context."""
        return self.eot_token_id if self._tokenizer.bos_id is None else self._tokenizer.bos_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> Tokens:
        tokens = self._tokenizer.encode(string, add_special=False, parse_special=True)
        wanted = self._add_bos if add_special_tokens is None else add_special_tokens
        bos = self._tokenizer.bos_id
        return [bos, *tokens] if wanted and bos is not None and tokens[:1] != [bos] else tokens

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, Tokens, Tokens]], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        sequences = [self._scored(context, continuation) for _, context, continuation in requests]
        answers = [_summed(found) for found in log_likelihoods(self._model, sequences)]
        for (texts, _, _), answer in zip(requests, answers, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def _scored(self, context: Tokens, continuation: Tokens) -> Scored:
        if len(continuation) > self.max_length:
            raise UsageError(
                f"a continuation has {len(continuation)} tokens, more than max_length={self.max_length}; raise it"
            )
        tokens = (context + continuation)[-(self.max_length + 1) :]  # the last one is only predicted
        return Scored(tokens, len(tokens) - len(continuation), len(tokens))

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, in windows of max_length; each token is scored once."""
        texts = [request.args[0] for request in requests]
        windows = [[(None, *make_disjoint_window(window)) for window in self._windows(text)] for text in texts]
        scores = iter(self._loglikelihood_tokens([window for text in windows for window in text]))
        totals = [sum(next(scores)[0] for _ in text) for text in windows]
        for text, total in zip(texts, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return totals

    def _windows(self, text: str) -> Iterator[tuple[Tokens, Tokens]]:
        tokens = self.tok_encode(text, add_special_tokens=False)
        return get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, 1)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        raise UsageError(
            "this task wants generated text (generate_until), and quanttool generates none; choose tasks whose output "
            "type is loglikelihood, multiple_choice or loglikelihood_rolling"
        )


def _summed(found: Likelihoods) -> tuple[float, bool]:
    return float(found.log_p.sum()), bool(found.is_top.all())


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except QuanttoolError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
