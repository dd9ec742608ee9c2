"""What `quantize --calibrate` brings, type by type, beside `--imatrix` made of the same text.

    python -m benchmarks.calibrate model-f32.gguf text.txt --types Q2_K,Q4_K --test wiki.test.raw --test other.txt

For each type: all layers in it (a mix with --mixes), embeddings as they are; rounded with the imatrix, with the imatrix
and `--search best`, and calibrated. Divergences from the model in nats; the paired difference is how much lower it is
calibrated than with the imatrix. Files that stand in the folder already are not made again.
"""

import json
import subprocess
import sys
from pathlib import Path

import click

WAYS = {"imatrix": [], "imatrix-best": ["--search", "best"], "calibrated": []}


class Bench:
    def __init__(self, model: str, text: str, chunks: int, test_chunks: int, precision: str, threads: int, out: str):
        self.model, self.text, self.chunks, self.test_chunks = Path(model), text, str(chunks), str(test_chunks)
        self.precision, self.threads, self.out = precision, str(threads), Path(out)
        self.out.mkdir(parents=True, exist_ok=True)

    def quanttool(self, *words: str | Path) -> str:
        command = [sys.executable, "-m", "quanttool", *map(str, words), "-t", self.threads]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout

    @property
    def imatrix(self) -> Path:
        path = self.out / f"{self.model.stem}-{self.chunks}.imatrix.gguf"
        if not path.exists():
            self.quanttool(
                "imatrix", "-m", self.model, "-f", self.text, "--chunks", self.chunks, "--no-ppl", "-o", path
            )
        return path

    def quantized(self, name: str, way: str, mix: bool) -> Path:
        path = self.out / f"{self.model.stem}-{name}-{way}{'-mix' if mix else ''}.gguf"
        if not path.exists():
            how = ["--imatrix", self.imatrix]
            if way == "calibrated":
                how = [
                    "--calibrate",
                    self.text,
                    "--calibrate-chunks",
                    self.chunks,
                    "--report",
                    path.with_suffix(".json"),
                ]
            if not mix:
                how += ["--pure", "--token-embedding-type", "F32"]
            elif way == "calibrated":
                how += ["--imatrix", self.imatrix]  # for the embeddings
            self.quanttool("quantize", *how, *WAYS[way], self.model, path, name)
        return path

    def base(self, test: str) -> Path:
        path = self.out / f"{self.model.stem}-{Path(test).stem}-{self.test_chunks}.base.gguf"
        if not path.exists():
            self._run(test, "-m", self.model, "--kl-divergence-base", path)
        return path

    def compared(self, name: str, mix: bool, test: str) -> dict:
        path = self.out / f"{self.model.stem}-{name}-{Path(test).stem}{'-mix' if mix else ''}.compared.json"
        if not path.exists():
            path.write_text(self.divergences(test, [self.quantized(name, way, mix) for way in WAYS]))
        return json.loads(path.read_text())

    def divergences(self, test: str, paths: list[Path]) -> str:
        models = [word for path in paths for word in ("-m", path)]
        return self._run(test, *models, "--kl-divergence-base", self.base(test), "--kl-divergence", "--json")

    def _run(self, test: str, *words: str | Path) -> str:
        limits = ["--chunks", self.test_chunks, "--precision", self.precision]
        return self.quanttool("perplexity", "-f", test, *limits, *words)


def line(name: str, test: str, found: dict) -> str:
    klds = [model["mean_kld"] for model in found["models"]]
    lower = paired(found, 0, 2)
    against = [f"{100 * (klds[2]['value'] / one['value'] - 1):+.0f} %" for one in klds[:2]]
    values = [f"{one['value']:.4f} ± {one['uncertainty']:.4f}" for one in klds]
    return f"| {name} | {Path(test).name} | {' | '.join([*values, *against, lower])} |"


def paired(found: dict, one: int, other: int) -> str:
    """How much higher one model's divergence is than the other's, token by token."""
    names = [found["models"][i]["model"] for i in (one, other)]
    for pair in found["comparisons"]["kld"]:
        if {pair["better"], pair["worse"]} == set(names):
            sign = 1 if pair["better"] == names[1] else -1
            return f"{sign * pair['difference']:.4f} ± {pair['uncertainty']:.4f}"
    return "-"


def bench_options(command):
    """What the benchmarks of calibration have in common."""
    for option in (
        click.option("-o", "--output", default="calibrate", show_default=True, help="Folder of all that is made."),
        click.option("-t", "--threads", default=1, show_default=True),
        click.option("--precision", default="bf16", show_default=True, help="Of the passes that measure."),
        click.option("--test-chunks", default=20, show_default=True),
        click.option("--chunks", default=64, show_default=True, help="Of the calibration text."),
        click.option("--test", "tests", multiple=True, required=True, help="Text to measure on."),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("model")
@click.argument("text")
@click.option("--types", default="", help="Types of all layers' weights, between commas.")
@click.option("--mixes", default="", help="Mixes, as users ask for them.")
@bench_options
def main(model, text, types, mixes, tests, chunks, test_chunks, precision, threads, output):
    bench = Bench(model, text, chunks, test_chunks, precision, threads, output)
    print("| type | text | imatrix | imatrix, best | calibrated | against imatrix | against best | paired difference |")
    print("|---|---|---|---|---|---|---|---|")
    wanted = [(name, False) for name in types.split(",") if name] + [(name, True) for name in mixes.split(",") if name]
    for name, mix in wanted:
        for test in tests:
            print(line(f"{name} mix" if mix else name, test, bench.compared(name, mix, test)), flush=True)


if __name__ == "__main__":
    main()
