"""Perplexity against a base: ours in one pass and with a base file, next to llama-perplexity's two runs.

    python -m benchmarks.perplexity BASE QUANT TEXT --chunks 20 --llama-perplexity PATH

Whole programs are timed, one after the other, in several rounds: what else the machine does hits all alike, and ratios
are taken within a round. Memory is the most that one program of a way had (its resident set, mapped files included).
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import click

Command = Sequence[str]


class Run(NamedTuple):
    seconds: float
    processor_seconds: float
    peak_bytes: int


@click.command()
@click.argument("base")
@click.argument("quant")
@click.argument("text")
@click.option("--chunks", default=20, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("-t", "--threads", default=2, show_default=True)
@click.option("--llama-perplexity", "peer", help="llama-perplexity to compare with.")
def main(base, quant, text, chunks, rounds, threads, peer):
    """Time how QUANT is compared with BASE on TEXT."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["-t", str(threads)]
        ways = {}
        if peer:
            file = str(Path(folder) / "llama.kld")
            ways["llama-perplexity, two runs"] = two_runs([peer], base, quant, text, chunks, file, options)
        ours = [sys.executable, "-m", "quanttool", "perplexity"]
        for precision in ("f32", "bf16"):
            own = [*options, "--precision", precision]
            file = str(Path(folder) / f"{precision}.base")
            ways[f"quanttool {precision}, two runs"] = two_runs(ours, base, quant, text, chunks, file, own)
            one_pass = [*ours, "-m", quant, "--base-model", base, "-f", text, "--chunks", str(chunks), *own]
            ways[f"quanttool {precision}, one pass"] = [one_pass]
        report(ways, rounds)
        for file in sorted(Path(folder).iterdir()):
            print(f"{file.stat().st_size / 1e6:10.1f} MB  {file.name}")


def two_runs(
    program: Command, base: str, quant: str, text: str, chunks: int, file: str, options: Command
) -> list[Command]:
    """Write a base file, then compare with it."""
    write = [*program, "-m", base, "-f", text, "--chunks", str(chunks), "--kl-divergence-base", file, *options]
    return [write, [*program, "-m", quant, "--kl-divergence-base", file, "--kl-divergence", *options]]


def report(ways: dict[str, list[Command]], rounds: int) -> None:
    """Run every way once per round; print medians, and ratios to the first way within a round."""
    for commands in ways.values():  # compiles kernels, and brings the models into the page cache
        for command in commands:
            run(command)
    measured = [
        {name: [run(command) for command in commands] for name, commands in ways.items()} for _ in range(rounds)
    ]
    first = next(iter(ways))
    print(f"{'seconds':>8} {'processor':>10} {'times first':>12} {'peak MB':>8}  (medians of {rounds} rounds)")
    for name in ways:
        rows = [round[name] for round in measured]
        seconds = median(sum(one.seconds for one in row) for row in rows)
        processor = median(sum(one.processor_seconds for one in row) for row in rows)
        ratio = median(
            sum(one.seconds for one in round[name]) / sum(one.seconds for one in round[first]) for round in measured
        )
        peak = max(one.peak_bytes for row in rows for one in row)
        print(f"{seconds:8.2f} {processor:10.2f} {ratio:12.2f} {peak / 1e6:8.0f}  {name}")


def run(command: Command) -> Run:
    """Run a program to its end. Raises SystemExit with its output if it fails."""
    with tempfile.TemporaryFile() as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            output.seek(0)
            raise SystemExit(f"{' '.join(command)} failed:\n{output.read()[-2000:].decode(errors='replace')}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


if __name__ == "__main__":
    main()
