"""How many chunks it takes to tell two quants apart: by paired differences, and by what a +/- over tokens says.

    python -m benchmarks.significance BASE.base A.gguf B.gguf --rounds 200

BASE.base is a base file of hidden states (quanttool perplexity --kl-divergence-base), whose base model is where it was.
Both quants run over it once; then texts of n chunks are drawn from its chunks, and each is asked whether it tells
the two apart. Also shown: how often equal models are told apart, and how far the correlation of neighbours reaches.
"""

from collections.abc import Callable

import click
import numpy as np
from numpy.typing import NDArray

from quanttool.evaluate import BaseFile, Divergence, ModelPredictions, compare
from quanttool.evaluate.comparison import compare_pairs
from quanttool.models import load_model, load_output
from quanttool.parallel import use_threads

Values = NDArray[np.float64]  # [n_chunks, n_scored]
LAGS = (1, 2, 4, 8, 16, 32, 64)


@click.command()
@click.argument("base")
@click.argument("quants", nargs=2)
@click.option("--rounds", default=200, show_default=True, help="Texts per number of chunks.")
@click.option("-t", "--threads", type=int)
def main(base, quants, rounds, threads):
    """Measure how often texts of n chunks tell two quants apart."""
    use_threads(threads)
    a, b = divergences(base, quants)
    rng = np.random.default_rng(0)
    difference = b.kld - a.kld
    print("correlation of the difference of KLD with that of a token so many further on:")
    print("  ".join(f"{lag}: {autocorrelation(difference, lag):+.3f}" for lag in LAGS))
    print("\nshare of texts that tell the two apart (p < 0.05)")
    print(f"{'chunks':>6} {'KLD':>8} {'ln PPL':>8} {'KLD, +/-':>9} {'PPL, +/-':>9} {'equal':>8}")
    for n in (5, 10, 20, 40, 80, 160, 320):
        if n > len(a.kld):
            break
        shares = [share(ask, a, b, n, rounds, rng) for ask in (kld, log_likelihood, bars_of_kld, bars_of_ppl, equal)]
        print(f"{n:6}" + " ".join(f"{100 * one:7.1f}%" for one in shares))


def divergences(base_path: str, quants: tuple[str, str]) -> list[Divergence]:
    """Both models compared with the base file."""
    file = BaseFile(base_path)
    chunks, output = file.chunks(), load_output(file.facts["model_path"])
    models = [load_model(path, file.facts["precision"]) for path in quants]
    predictions = [ModelPredictions(model, chunks.scored(model.hidden_states(chunks.tokens))) for model in models]
    return compare(ModelPredictions(output, file.hidden(len(chunks))), predictions, chunks.targets)


def share(ask: Callable, a: Divergence, b: Divergence, n: int, rounds: int, rng: np.random.Generator) -> float:
    """How many texts of n chunks, drawn with replacement, say yes."""
    return float(np.mean([ask(a, b, rng.integers(len(a.kld), size=n), seed) for seed in range(rounds)]))


def paired(a: Values, b: Values, seed: int) -> bool:
    return compare_pairs({"a": a, "b": b}, seed=seed)[0].is_significant


def kld(a: Divergence, b: Divergence, chunks: NDArray, seed: int) -> bool:
    return paired(a.kld[chunks], b.kld[chunks], seed)


def log_likelihood(a: Divergence, b: Divergence, chunks: NDArray, seed: int) -> bool:
    return paired(a.nll[chunks], b.nll[chunks], seed)


def equal(a: Divergence, b: Divergence, chunks: NDArray, seed: int) -> bool:
    """With the mean difference of all chunks taken off: whoever says yes is wrong."""
    return paired(a.kld[chunks], (b.kld - (b.kld - a.kld).mean())[chunks], seed)


def bars_of_kld(a: Divergence, b: Divergence, chunks: NDArray, seed: int) -> bool:
    return outside_bars(a.kld[chunks], b.kld[chunks])


def bars_of_ppl(a: Divergence, b: Divergence, chunks: NDArray, seed: int) -> bool:
    return outside_bars(a.nll[chunks], b.nll[chunks])


def outside_bars(a: Values, b: Values) -> bool:
    """Whether two means differ by more than twice their errors, tokens and models taken as independent."""
    return abs(a.mean() - b.mean()) > 1.96 * ((a.var() + b.var()) / (a.size - 1)) ** 0.5


def autocorrelation(values: Values, lag: int) -> float:
    """Within chunks."""
    centred = values - values.mean()
    return float((centred[:, lag:] * centred[:, :-lag]).mean() / centred.var())


if __name__ == "__main__":
    main()
