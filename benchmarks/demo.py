"""The whole path on a real model: imatrix -> quantize -> perplexity, ended by a table that says what each type cost.

    make demo

Every quantized file is made twice, without and with the imatrix, at the same size.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.smollm2 import ModelUnavailable, smollm2
from quanttool.cli.console import print_table
from quanttool.container import GGUFFile
from quanttool.data_folders import data_folder

ROOT = Path(__file__).parents[1]
FOLDER = Path("demo")
CALIBRATION_CHUNKS, EVALUATION_CHUNKS = 48, 16
# Every type as --pure, so that both files of a pair hold the same types and differ in their rounding alone.
TYPES = ("Q4_0", "IQ4_NL", "Q5_0")


def quanttool(*arguments: object, capture: bool = False) -> str:
    """Run one quanttool command, shown first as a person would type it."""
    words = [str(argument) for argument in arguments]
    print("\n$ quanttool " + " ".join(words), flush=True)
    command = [sys.executable, "-m", "quanttool", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE if capture else None, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout or ""


def bits_per_weight(path: Path) -> float:
    tensors = GGUFFile(path).tensors.values()
    return 8 * sum(t.n_bytes for t in tensors) / sum(t.n_values for t in tensors)


def table_row(path: Path, perplexity: dict, kld: dict | None, same_top: dict | None) -> list[str]:
    return [
        path.stem,
        f"{path.stat().st_size / 1e6:.1f}",
        f"{bits_per_weight(path):.2f}",
        f"{perplexity['value']:.3f} ± {perplexity['uncertainty']:.3f}",
        f"{kld['value']:.5f} ± {kld['uncertainty']:.5f}" if kld else "0",
        f"{100 * same_top['value']:.2f}" if same_top else "100",
    ]


def main() -> None:
    os.chdir(ROOT)
    started = time.perf_counter()
    try:
        source = smollm2()
    except ModelUnavailable as error:
        sys.exit(f"error: {error}")
    print(f"SmolLM2-135M-Instruct is in {source} ({time.perf_counter() - started:.0f} s)")
    started = time.perf_counter()
    FOLDER.mkdir(exist_ok=True)
    texts = data_folder("calibration").relative_to(ROOT)
    imatrix = FOLDER / "smollm2.imatrix.gguf"
    quanttool("imatrix", "-m", source, "-f", texts / "calibration.txt", "--chunks", CALIBRATION_CHUNKS, "-o", imatrix)

    quantized = []
    for name in TYPES:
        for suffix, options in (("", ()), ("-imatrix", ("--imatrix", imatrix))):
            out = FOLDER / f"smollm2-{name}{suffix}.gguf"
            # The source is itself quantized (Q4_1), which the command wants to be told is on purpose.
            quanttool("quantize", "--allow-requantize", "--pure", *options, source, out, name)
            quantized.append(out)

    models = [argument for path in quantized for argument in ("-m", path)]
    text = texts / "evaluation.txt"
    compared = ("--base-model", source, "-f", text, "--chunks", EVALUATION_CHUNKS, "--json")
    results = json.loads(quanttool("perplexity", *models, *compared, capture=True))["models"]

    rows = [table_row(source, results[0]["perplexity_base"], None, None)]
    rows += [
        table_row(path, result["perplexity"], result["mean_kld"], result["same_top"])
        for path, result in zip(quantized, results, strict=True)
    ]
    print()
    print_table(["file", ">MB", ">bpw", ">perplexity", ">mean KLD (nats)", ">same top token %"], rows)
    for plain, weighted in zip(results[::2], results[1::2], strict=True):
        before, after = plain["mean_kld"]["value"], weighted["mean_kld"]["value"]
        name = Path(plain["model"]).stem.removeprefix("smollm2-")
        print(f"{name}: the imatrix changes the mean KLD by {100 * (after / before - 1):+.1f} % at the same size")
    print(f"\nThe files are in {FOLDER}/. {time.perf_counter() - started:.0f} s after the download.")


if __name__ == "__main__":
    main()
