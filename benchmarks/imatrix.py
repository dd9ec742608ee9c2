"""An imatrix beside llama-imatrix and ik_llama.cpp's: time, memory, and how far the values are apart.

    python -m benchmarks.imatrix MODEL TEXT --chunks 40 --llama-imatrix PATH --ik-imatrix PATH

Programs run one after the other in several rounds, each round all of them, so that what else the machine does hits all
alike; ratios are taken within a round and their median is shown. The whole program is timed, perplexity included, with
its processor time and the most memory that it held. Differences are relative, channel by channel, from our file: of all
channels of all weights that both files have.
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
import numpy as np

from quanttool.cli.console import print_table
from quanttool.imatrix import Imatrix, load

OURS = "quanttool"


class Cost(NamedTuple):
    """seconds: by the clock; cpu_seconds: of all threads; memory: most bytes that were resident."""

    seconds: float
    cpu_seconds: float
    memory: int


def run(command: Sequence[str]) -> Cost:
    """Run a program to its end. Raises CalledProcessError with what it said if it fails."""
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise subprocess.CalledProcessError(
                process.returncode, command, said.read().decode(errors="replace")[-2000:]
            )
    return Cost(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


def differences(ours: Imatrix, theirs: Imatrix) -> np.ndarray:
    """|theirs - ours| / ours of every channel of the weights that both have, f64 [n]; ours of 0 are left out."""
    parts = []
    for name in ours.entries.keys() & theirs.entries.keys():
        a, b = ours.importance(name).astype(np.float64).ravel(), theirs.importance(name).astype(np.float64).ravel()
        parts.append(np.abs(b - a)[a > 0] / a[a > 0])
    return np.concatenate(parts)


@click.command()
@click.argument("model", type=click.Path(exists=True))
@click.argument("text", type=click.Path(exists=True))
@click.option("--chunks", type=click.IntRange(min=2), default=40, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=os.cpu_count() or 1, show_default=True)
@click.option("--precision", default="auto", show_default=True, help="Of ours.")
@click.option("--llama-imatrix", type=click.Path(exists=True), help="llama.cpp's program.")
@click.option("--ik-imatrix", type=click.Path(exists=True), help="ik_llama.cpp's program; it writes .dat files.")
def main(model, text, chunks, rounds, threads, precision, llama_imatrix, ik_imatrix):
    """Compare the imatrix of MODEL on TEXT."""
    with tempfile.TemporaryDirectory() as folder:
        common = ["-m", model, "-f", text, "-c", "512", "--chunks", str(chunks), "-t", str(threads)]
        outputs = {OURS: Path(folder) / "ours.gguf"}
        commands = {OURS: [sys.executable, "-m", "quanttool", "imatrix", *common, "--precision", precision]}
        for name, program, suffix in (("llama.cpp", llama_imatrix, "gguf"), ("ik_llama.cpp", ik_imatrix, "dat")):
            if program:
                outputs[name] = Path(folder) / f"{name}.{suffix}"
                commands[name] = [program, *common]
        costs: dict[str, list[Cost]] = {name: [] for name in commands}
        run([*commands[OURS], "-o", str(outputs[OURS])])  # compiles what is not compiled yet
        for number in range(rounds):
            for name, command in commands.items():
                costs[name].append(run([*command, "-o", str(outputs[name])]))
                click.echo(f"round {number + 1}: {name} {costs[name][-1].seconds:.1f} s", err=True)
        ours, rows = load(outputs[OURS]), []
        for name, found in costs.items():
            values = [f"{median(cost.seconds for cost in found):.1f}", f"{median(c.cpu_seconds for c in found):.1f}"]
            values.append(f"{max(cost.memory for cost in found) / 1e6:.0f}")
            for kind in range(3):
                values.append(f"{median(c[kind] / o[kind] for c, o in zip(found, costs[OURS], strict=True)):.2f}")
            if name != OURS:
                off = differences(ours, load(outputs[name]))
                values += [
                    f"{100 * np.median(off):.3f} %",
                    f"{100 * np.quantile(off, 0.99):.2f} %",
                    f"{100 * off.max():.1f} %",
                ]
            rows.append([name, *values, *["-"] * (9 - len(values))])
    columns = (
        "program", ">s", ">processor s", ">MB", ">s ratio", ">processor ratio", ">MB ratio", ">median off", ">99 % off",
        ">most off",
    )  # fmt: skip
    print_table(columns, rows, f"{Path(model).name}, {chunks} chunks of 512, {threads} threads; ratios to {OURS}")


if __name__ == "__main__":
    main()
