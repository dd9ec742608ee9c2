"""An imatrix of a model that is larger than the memory: time, and bytes read from the disk.

    python -m benchmarks.bigger_than_memory --size 6G --memory 2G --chunks 40 --llama-imatrix PATH

Writes a mixture of experts with random weights (architecture olmoe, Q4_0, 64 experts a layer), runs it in a control
group that bounds memory, page cache included, and deletes it. Where no group can be made it says so and runs without a
bound: the bytes read then show one pass over the file, the time nothing about a lack of memory.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import click
import numpy as np

from benchmarks.smollm2 import smollm2
from quanttool.cli.console import Size
from quanttool.container import GGUFFile, GGUFValueType, GGUFWriter, TensorInfo
from quanttool.container.writer import encode_value
from quanttool.data_folders import data_folder
from quanttool.ggml_types import ggml_type

N_EMBD, N_HEAD, N_FF, N_EXPERT = 1024, 8, 1024, 64
ROWS_AT_A_TIME = 1 << 14
# Pairs of digits of Q4_0, which stand for -8..7. Without -8, or weights had a mean and all tokens the same direction.
DIGITS = np.array([(high or 8) << 4 | (low or 8) for high in range(16) for low in range(16)], np.uint8)
# Root of the mean square of what a weight gives, 1 if not told. Layers add little to embedded tokens: so tokens stay
# different from each other, and all experts are reached.
GAIN = {"token_embd.weight": 32.0, "attn_output.weight": 0.1, "ffn_down_exps.weight": 0.1}
CGROUPS = Path("/sys/fs/cgroup")
MIB = 1 << 20


def layer_tensors(i: int) -> list[TensorInfo]:
    f32, q4_0, name = ggml_type("F32"), ggml_type("Q4_0"), f"blk.{i}."
    vectors = ("attn_norm", "attn_q_norm", "attn_k_norm", "ffn_norm")
    return [
        *(TensorInfo(f"{name}{kind}.weight", f32, (N_EMBD,)) for kind in vectors),
        *(TensorInfo(f"{name}attn_{kind}.weight", q4_0, (N_EMBD, N_EMBD)) for kind in ("q", "k", "v", "output")),
        TensorInfo(f"{name}ffn_gate_inp.weight", f32, (N_EMBD, N_EXPERT)),
        *(TensorInfo(f"{name}ffn_{kind}_exps.weight", q4_0, (N_EMBD, N_FF, N_EXPERT)) for kind in ("gate", "up")),
        TensorInfo(f"{name}ffn_down_exps.weight", q4_0, (N_FF, N_EMBD, N_EXPERT)),
    ]


def write_model(path: Path, n_bytes: int, n_used: int) -> None:
    """A model of about n_bytes with a real tokenizer, SmolLM2's, written as it is drawn."""
    n_layer = max(1, round(n_bytes / sum(tensor.n_bytes for tensor in layer_tensors(0))))
    tokenizer = GGUFFile(smollm2()).metadata
    n_vocab = len(tokenizer["tokenizer.ggml.tokens"])
    integers = {
        "block_count": n_layer, "context_length": 4096, "embedding_length": N_EMBD, "feed_forward_length": N_FF,
        "attention.head_count": N_HEAD, "attention.head_count_kv": N_HEAD, "expert_count": N_EXPERT,
        "expert_used_count": n_used,
    }  # fmt: skip
    numbers = {"attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 10000.0}
    metadata = {"general.architecture": _encoded(GGUFValueType.STRING, "olmoe")}
    metadata |= {f"olmoe.{key}": _encoded(GGUFValueType.UINT32, value) for key, value in integers.items()}
    metadata |= {f"olmoe.{key}": _encoded(GGUFValueType.FLOAT32, value) for key, value in numbers.items()}
    metadata |= {key: tokenizer.raw(key) for key in tokenizer if key.startswith("tokenizer.ggml.")}
    tensors = [
        TensorInfo("token_embd.weight", ggml_type("Q4_0"), (N_EMBD, n_vocab)),
        TensorInfo("output_norm.weight", ggml_type("F32"), (N_EMBD,)),
        TensorInfo("output.weight", ggml_type("Q4_0"), (N_EMBD, n_vocab)),
        *(tensor for i in range(n_layer) for tensor in layer_tensors(i)),
    ]
    rng = np.random.default_rng(7)
    with GGUFWriter(path, metadata, tensors) as writer:
        for tensor in tensors:
            for start in range(0, tensor.n_rows, ROWS_AT_A_TIME):
                n_rows = min(ROWS_AT_A_TIME, tensor.n_rows - start)
                writer.write_rows(tensor.name, start, random_rows(rng, tensor, n_rows))


def _encoded(kind: GGUFValueType, value: object) -> tuple[GGUFValueType, bytes]:
    return kind, encode_value(value, kind)


def random_rows(rng: np.random.Generator, tensor: TensorInfo, n_rows: int) -> np.ndarray:
    """u8 [n_rows, row_bytes]: norms are 1, weights have mean square about GAIN^2 / n_cols."""
    if len(tensor.ne) == 1:
        return np.ones((1, tensor.n_cols), np.float32).view(np.uint8)
    if tensor.type.name == "F32":
        return (rng.standard_normal((n_rows, tensor.n_cols), np.float32) / sqrt(tensor.n_cols)).view(np.uint8)
    blocks = DIGITS[rng.integers(0, 256, (n_rows, tensor.row_bytes // 18, 18), np.uint8)]  # Q4_0: f16 scale, 32 digits
    gain = GAIN.get(tensor.name.split(".", 2)[-1] if tensor.name.startswith("blk.") else tensor.name, 1.0)
    scale = np.float16(gain / (4.2 * sqrt(tensor.n_cols)))  # 4.2: deviation of a digit
    blocks[:, :, :2] = np.frombuffer(scale.tobytes(), np.uint8)
    return blocks.reshape(n_rows, -1)


@dataclass
class Bound:
    """How a program is kept within some memory.

    prefix:  goes in front of its command
    group:   control group that it joins
    """

    words: str
    prefix: Sequence[str] = ()
    group: Path | None = None


@contextmanager
def memory_bound(n_bytes: int) -> Iterator[Bound]:
    """A control group of version 2, made here or by systemd; neither may be possible."""
    group = CGROUPS / f"quanttool-{os.getpid()}"
    try:
        if "memory" not in (CGROUPS / "cgroup.subtree_control").read_text().split():
            raise OSError("the memory controller is not there")
        group.mkdir()
    except OSError:
        yield _systemd_bound(n_bytes)
        return
    try:
        (group / "memory.max").write_text(str(n_bytes))
        if (group / "memory.swap.max").exists():
            (group / "memory.swap.max").write_text("0")
        yield Bound(f"control group of {n_bytes / MIB:.0f} MiB", group=group)
    finally:
        group.rmdir()


def _systemd_bound(n_bytes: int) -> Bound:
    command = ["systemd-run", "--scope", "--quiet", *(["--user"] if os.getuid() else [])]
    command += ["-p", f"MemoryMax={n_bytes}", "-p", "MemorySwapMax=0"]
    if shutil.which(command[0]) and subprocess.run([*command, "true"], capture_output=True).returncode == 0:
        return Bound(f"systemd scope of {n_bytes / MIB:.0f} MiB", prefix=command)
    return Bound("NO bound: neither a control group (version 2) nor a systemd scope can be made here")


@dataclass
class Measured:
    seconds: float
    read: int  # bytes that the process had the disk read
    device_read: int | None  # bytes that the device read meanwhile, for anyone
    peak: int  # resident bytes that are no pages of files: what it cannot do without


def measure(command: Sequence[str], bound: Bound, model: Path) -> Measured:
    """Run a command with a cold cache; exits with its messages if it fails."""
    with open(model, "rb") as file:
        os.sync()  # pages that are not yet written would stay
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def join() -> None:
        if bound.group is not None:
            (bound.group / "cgroup.procs").write_text(str(os.getpid()))

    before, start = device_bytes(model), time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([*bound.prefix, *command], stdout=log, stderr=log, preexec_fn=join)
        peak = 0
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            peak = max(peak, 1024 * int(process_numbers(process.pid, "status").get("RssAnon", "0 kB").split()[0]))
            time.sleep(0.05)
        seconds, after = time.perf_counter() - start, device_bytes(model)
        read = int(process_numbers(process.pid, "io")["read_bytes"])  # it has ended, but is not yet waited for
        if process.wait():
            log.seek(0)
            sys.exit(f"{' '.join(command)} ended with {process.returncode}\n{log.read()[-2000:].decode()}")
    device = None if before is None or after is None else after - before
    return Measured(seconds, read, device, peak)


def process_numbers(pid: int, file: str) -> dict[str, str]:
    """Lines `name: value` of /proc/pid/file."""
    lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def device_bytes(path: Path) -> int | None:
    """Bytes that the device of a file has read so far (Linux Documentation/block/stat.rst)."""
    number = path.stat().st_dev
    statistics = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat")
    return 512 * int(statistics.read_text().split()[2]) if statistics.exists() else None


@click.command()
@click.option("--size", type=Size(), default="6G", show_default=True, help="Bytes of the model.")
@click.option("--memory", type=Size(), default="2G", show_default=True, help="Bound of memory, page cache included.")
@click.option("--chunks", default=40, show_default=True, help="Chunks of 512 tokens.")
@click.option("--experts-used", default=2, show_default=True, help="Experts per token.")
@click.option("--threads", default=os.cpu_count(), show_default=True)
@click.option("--folder", default=None, help="Where the model is written; default: the temporary folder.")
@click.option("--llama-imatrix", "peer", default=None, help="Run this program, too.")
def main(size, memory, chunks, experts_used, threads, folder, peer) -> None:
    """Measure and print a line per program."""
    text = str(data_folder("calibration") / "calibration.txt")
    with tempfile.TemporaryDirectory(dir=folder) as place, memory_bound(memory) as bound:
        model, out = Path(place) / "model.gguf", str(Path(place) / "imatrix.gguf")
        write_model(model, size, experts_used)
        common = ["-m", str(model), "-f", text, "-c", "512", "--chunks", str(chunks), "-t", str(threads), "--no-ppl"]
        programs = {"quanttool": [sys.executable, "-m", "quanttool", "imatrix", *common, "-o", out]}
        if peer:
            programs["llama-imatrix"] = [peer, *common, "-o", out + ".peer"]
        n_bytes = model.stat().st_size
        print(
            f"model of {n_bytes / 1e9:.2f} GB, {chunks} chunks of 512 tokens, {threads} threads; {bound.words}",
            flush=True,
        )
        for name, command in programs.items():
            m = measure(command, bound, model)
            device = "-" if m.device_read is None else f"{m.device_read / 1e9:.2f}"
            print(
                f"{name:14}{m.seconds:6.0f} s; {m.read / 1e9:6.2f} GB read, {device} GB by the device; at most "
                f"{m.peak / 1e9:.2f} GB of its own",
                flush=True,
            )


if __name__ == "__main__":
    main()
