"""Quantizing large files: runs that are killed again and again, and the memory of a run that is told a bound.

    python -m benchmarks.large_quantize kill --kills 10
    python -m benchmarks.large_quantize memory --bound 1GB

`kill` writes a model of 2.9 GB with random weights, quantizes it whole, then again with kill -9 at random moments, as
one file and as several, and compares the bytes. `memory` writes one whose largest tensor has 4 GiB in float32 and
samples what the process holds. Both delete what they wrote.
"""

import hashlib
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np

from quanttool.cli.console import Size
from quanttool.container import GGUFFile, GGUFValueType, GGUFWriter, TensorInfo
from quanttool.container.writer import encode_value
from quanttool.ggml_types import BY_NAME

N_EMBD, N_FF = 2048, 5632
ROWS_AT_A_TIME = 1 << 12


def tensors(n_layer: int, n_vocab: int) -> list[TensorInfo]:
    f32, square, wide, tall = BY_NAME["F32"], (N_EMBD, N_EMBD), (N_EMBD, N_FF), (N_FF, N_EMBD)
    names = {"attn_q": square, "attn_k": square, "attn_v": square, "attn_output": square}
    names |= {"ffn_gate": wide, "ffn_up": wide, "ffn_down": tall}
    layers = [(f"blk.{i}.{name}.weight", ne) for i in range(n_layer) for name, ne in names.items()]
    return [TensorInfo(name, f32, ne) for name, ne in [("token_embd.weight", (N_EMBD, n_vocab)), *layers]]


def write_model(path: Path, n_layer: int, n_vocab: int) -> None:
    string, u32 = GGUFValueType.STRING, GGUFValueType.UINT32
    metadata = {
        "general.architecture": (string, encode_value("llama", string)),
        "llama.block_count": (u32, encode_value(n_layer, u32)),
    }
    rng, infos = np.random.default_rng(7), tensors(n_layer, n_vocab)
    with GGUFWriter(path, metadata, infos) as writer:
        for tensor in infos:
            for start in range(0, tensor.n_rows, ROWS_AT_A_TIME):
                shape = min(ROWS_AT_A_TIME, tensor.n_rows - start), tensor.n_cols
                writer.write_rows(tensor.name, start, rng.standard_normal(shape, np.float32).view(np.uint8))


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "quanttool", "quantize", *map(str, words)]


def digest(folder: Path, stem: str) -> str:
    """SHA-256 of a result's files, in order."""
    found = hashlib.sha256()
    for path in sorted(folder.glob(f"{stem}*.gguf")):
        with path.open("rb") as file:
            while piece := file.read(1 << 24):
                found.update(piece)
    return found.hexdigest()


@contextmanager
def processor_time() -> Iterator[list[float]]:
    """Seconds of all child processes that end in this block, as the list's only entry."""
    before, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), []
    yield seconds
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


@click.group()
def main() -> None:
    pass


@main.command()
@click.option("--kills", default=10)
@click.option("--type", "target", default="Q4_K_M")
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Where to write; default: the system's folder for that."
)
def kill(kills: int, target: str, folder: Path | None) -> None:
    """Kill runs at random moments; the final bytes must be those of an uninterrupted one."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        folder = Path(name)
        write_model(folder / "model.gguf", n_layer=12, n_vocab=50_000)
        file = GGUFFile(folder / "model.gguf")
        largest = max(tensor.n_values for tensor in file.tensors.values())
        share = largest / sum(tensor.n_values for tensor in file.tensors.values())
        print(f"model: {file.n_bytes / 1e9:.2f} GB, the largest tensor has {share:.1%} of the weights")
        subprocess.run(command(folder / "model.gguf", folder / "warm.gguf", target), check=True, capture_output=True)
        for title, options in (("one file", ()), ("files of 300 MB", ("--split-max-size", "300M"))):
            _kill_one(folder, target, title, options, kills, share)


def _kill_one(folder: Path, target: str, title: str, options: tuple, kills: int, share: float) -> None:
    model = folder / "model.gguf"
    started = time.monotonic()
    with processor_time() as whole:
        subprocess.run(command(model, folder / "whole.gguf", target, *options), check=True, capture_output=True)
    wall = time.monotonic() - started
    expected = digest(folder, "whole")
    words, journal = command(model, folder / "cut.gguf", target, *options), folder / "cut.gguf.journal"
    chance, runs = random.Random(11), 0
    with processor_time() as used:
        done = 0
        while done < kills:
            whole_run = _run_and_kill(words, journal, chance.uniform(0, wall / 4))
            if whole_run:
                runs += 1
                _expect(folder, expected)
                continue
            done += 1
            print(f"  kill {done}: {len(journal.read_text().splitlines()) - 1} tensors whole")
        subprocess.run(words, check=True, capture_output=True)
        runs += 1
        _expect(folder, expected)
    lost = (used[0] - runs * whole[0]) / kills
    print(
        f"{title}: bytes equal; uninterrupted {wall:.1f} s, {whole[0]:.1f} s of processor time; per kill {lost:.2f} s "
        f"of processor time more, starting and checking included; the largest tensor takes {whole[0] * share:.2f} s"
    )
    for path in (*folder.glob("whole*"), *folder.glob("cut*")):
        path.unlink()


def _run_and_kill(words: list[str], journal: Path, seconds: float) -> bool:
    """Kill a run so long after it began to compute; True if it was over before."""
    before = journal.stat().st_ino if journal.exists() else None
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and (not journal.exists() or journal.stat().st_ino == before):
        time.sleep(0.005)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return not journal.exists()


def _expect(folder: Path, expected: str) -> None:
    if digest(folder, "cut") != expected:
        raise click.ClickException("the bytes differ from those of the uninterrupted run")
    for path in folder.glob("cut*"):
        path.unlink()


@main.command()
@click.option("--bound", type=Size(), default="1GB")
@click.option("--type", "target", default="Q4_K_M")
@click.option("--repeat", default=2, help="Runs of each kind, alternating; the fastest counts.")
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Where to write; default: the system's folder for that."
)
def memory(bound: int, target: str, repeat: int, folder: Path | None) -> None:
    """Peak memory with and without a bound, on a model whose largest tensor has 4 GiB in float32."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        folder = Path(name)
        write_model(folder / "model.gguf", n_layer=1, n_vocab=1 << 19)
        file = GGUFFile(folder / "model.gguf")
        largest = max(tensor.n_bytes for tensor in file.tensors.values())
        print(f"model: {file.n_bytes / 1e9:.2f} GB, largest tensor {largest / 2**30} GiB")
        seconds: dict[str, list[float]] = {}
        for _ in range(repeat):
            for title, options in ((f"--memory {bound >> 20}M", ("--memory", bound)), ("no bound", ())):
                started = time.monotonic()
                with processor_time() as used:
                    own, all_pages = _peak(command(folder / "model.gguf", folder / "out.gguf", target, *options))
                seconds.setdefault(title, []).append(time.monotonic() - started)
                print(
                    f"{title}: {seconds[title][-1]:.1f} s, {used[0]:.1f} s of processor time; at most "
                    f"{own / 2**20:.0f} MiB of its own, {all_pages / 2**20:.0f} MiB with mapped pages; "
                    f"sha256 {digest(folder, 'out')[:12]}"
                )
        print(", ".join(f"{title}: fastest {min(times):.1f} s" for title, times in seconds.items()))


def _peak(words: list[str]) -> tuple[int, int]:
    """Largest RssAnon of a process, sampled 50 times a second, and its largest resident size, bytes."""
    process, own = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), 0
    while process.poll() is None:
        own = max(own, _status(process.pid, "RssAnon:"))
        time.sleep(0.02)
    if process.returncode:
        raise click.ClickException(f"{' '.join(words)}: exit code {process.returncode}")
    return own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def _status(pid: int, key: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key)), 0)


if __name__ == "__main__":
    main()
