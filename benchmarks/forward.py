"""The forward pass: how fast, what of, and next to llama.cpp's programs.

    python -m benchmarks.forward MODEL TEXT --chunks 40 --llama-imatrix PATH --llama-perplexity PATH

Programs run one after the other, in several rounds, each round all of them: so what else the machine does hits all
alike, and ratios are taken within a round. The whole program is timed, from its start to its end. Then one thread of
our own is looked into: where its processor time goes.
"""

import cProfile
import pstats
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from types import MappingProxyType

import click

PROFILED_CHUNKS = 8

# Where a function's own time counts. The first match of "file:function" is taken.
SHARES = {
    "kernels/products.py:pack": "expanding and packing weights",
    "kernels/products.py": "products with weights",
    "built-in method numpy.matmul": "products with weights",
    "kernels/attention.py": "attention",
    "kernels/moments.py": "observer (sums of squares)",
    "kernels/log_softmax.py": "statistics of logits",
    "kernels/nn.py": "norms, rope, activations",
    "quanttool/formats/": "expanding and packing weights",
    "quanttool/kernels/": "expanding and packing weights",
}
REST = "everything else"


@click.command()
@click.argument("model")
@click.argument("text")
@click.option("--chunks", default=40, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("-t", "--threads", default=2, show_default=True)
@click.option("--precision", "precisions", multiple=True, default=["auto", "f32"], help="Of our imatrix; repeatable.")
@click.option("--llama-imatrix", "imatrix_programs", multiple=True, help="llama-imatrix to compare with; repeatable.")
@click.option("--llama-perplexity", "perplexity_programs", multiple=True, help="llama-perplexity to compare with.")
def main(model, text, chunks, rounds, threads, precisions, imatrix_programs, perplexity_programs):
    """Time imatrix and perplexity of MODEL on TEXT, and show what takes the time."""
    common = ["-m", model, "-f", text, "--chunks", str(chunks), "-t", str(threads)]
    n_tokens = 512 * chunks
    with tempfile.TemporaryDirectory() as folder:
        out = ["-o", str(Path(folder) / "imatrix")]
        ours = [sys.executable, "-m", "quanttool"]
        commands = {
            f"quanttool imatrix --precision {precision}": [*ours, "imatrix", *common, *out, "--precision", precision]
            for precision in precisions
        }
        commands |= {program: [program, *common, *out] for program in imatrix_programs}
        compare(commands, rounds, n_tokens)
        if perplexity_programs:
            commands = {"quanttool perplexity": [*ours, "perplexity", *common]}
            commands |= {program: [program, *common] for program in perplexity_programs}
            compare(commands, rounds, n_tokens)
    for precision in precisions:
        profile(model, text, precision)


def compare(commands: dict[str, Sequence[str]], rounds: int, n_tokens: int) -> None:
    """Time each command once per round; print tokens/s, and how many times as long as the first each takes."""
    run(next(iter(commands.values())))  # compiles kernels, and brings the model into the page cache
    times = [[run(command) for command in commands.values()] for _ in range(rounds)]
    print(f"\n{'seconds':>8} {'tokens/s':>9} {'times as long':>14}  program (medians of {rounds} rounds)")
    for i, name in enumerate(commands):
        seconds = median(round[i] for round in times)
        ratio = median(round[i] / round[0] for round in times)
        print(f"{seconds:8.2f} {n_tokens / seconds:9.0f} {ratio:14.2f}  {name}")


def run(command: Sequence[str]) -> float:
    """Seconds that a command takes. Raises SystemExit with its output if it fails."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return time.perf_counter() - start


def profile(model_path: str, text: str, precision: str) -> None:
    """Print which part of the processor time of one thread goes where, over a few chunks of an imatrix run."""
    from quanttool.cli.texts import read_tokens
    from quanttool.evaluate import negative_log_likelihood, split
    from quanttool.imatrix.collect import Collector
    from quanttool.models import load_model
    from quanttool.parallel import use_threads

    use_threads(1)
    model = load_model(model_path, precision)
    tokens, bos_id = read_tokens(model_path, [text])
    chunks = split(tokens, 512, PROFILED_CHUNKS, bos_id=bos_id)
    model.logits(chunks.tokens[0, :16])  # compiles
    collector = Collector(model.file.tensors, chunks.n_ctx)
    shares: dict[str, float] = defaultdict(float)
    with timed(shares):
        hidden = chunks.scored(model.hidden_states(chunks.tokens, collector))
    with timed(shares, {"products with weights": "product with the output matrix"}):
        negative_log_likelihood(model, hidden, chunks.targets.ravel())
    total = sum(shares.values())
    print(f"\n{model.precision}, one thread: {chunks.tokens.size / total:.0f} tokens/s of processor time")
    for name, seconds in sorted(shares.items(), key=lambda item: -item[1]):
        print(f"{100 * seconds / total:6.1f} %  {name}")


@contextmanager
def timed(shares: dict[str, float], names: Mapping[str, str] = MappingProxyType({})) -> Iterator[None]:
    """Add the processor time of the context to shares; `names` renames some of them."""
    profiler = cProfile.Profile(time.process_time)
    profiler.enable()
    yield
    profiler.disable()
    for (file, _, function), (_, _, own_time, _, _) in pstats.Stats(profiler).stats.items():
        place = f"{file}:{function}"
        name = next((share for part, share in SHARES.items() if part in place), REST)
        shares[names.get(name, name)] += own_time


if __name__ == "__main__":
    main()
