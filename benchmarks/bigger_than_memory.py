"""An imatrix of a model that is larger than the memory: time, and bytes read from the disk.

    python -m benchmarks.bigger_than_memory --size 6G --memory 2G --chunks 40 --llama-imatrix PATH

Writes a mixture of experts with random weights (architecture olmoe, Q4_0, 64 experts a layer), runs it in a control
group (version 1 or 2) that bounds memory, page cache included, and deletes it. Where none can be made it says so and
runs without a bound: the bytes read then show one pass over the file, the time nothing about a lack of memory.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
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


@dataclass(frozen=True)
class MemoryController:
    """Where control groups of a version are made, and the names of their files."""

    folder: Path
    limit: str
    swap_limit: tuple[str, bool]  # and whether memory counts towards it
    peak: str


# Linux Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst. Both count cached pages of files.
VERSION_2 = MemoryController(CGROUPS, "memory.max", ("memory.swap.max", False), "memory.peak")
VERSION_1 = MemoryController(
    CGROUPS / "memory", "memory.limit_in_bytes", ("memory.memsw.limit_in_bytes", True), "memory.max_usage_in_bytes"
)


@dataclass(frozen=True)
class Bound:
    """How a program is kept within some memory.

    prefix:      goes in front of its command
    controller:  makes a group that it joins
    """

    words: str
    n_bytes: int
    prefix: Sequence[str] = ()
    controller: MemoryController | None = None

    @contextmanager
    def group(self) -> Iterator[Path | None]:
        """The folder of a new control group, for all processes of one run."""
        if self.controller is None:
            yield None
            return
        group = self.controller.folder / f"quanttool-{os.getpid()}"
        group.mkdir()
        try:
            (group / self.controller.limit).write_text(str(self.n_bytes))
            name, with_memory = self.controller.swap_limit
            if (group / name).exists():
                (group / name).write_text(str(self.n_bytes if with_memory else 0))
            yield group
        finally:
            group.rmdir()


def memory_bound(n_bytes: int) -> Bound:
    """A control group of either version, made here or by systemd; neither may be possible."""
    for version, controller in ((2, VERSION_2), (1, VERSION_1)):
        bound = Bound(f"control group (version {version}) of {n_bytes / MIB:.0f} MiB", n_bytes, (), controller)
        if (controller.folder / "cgroup.procs").exists():
            with suppress(OSError), bound.group():
                return bound
    command = ["systemd-run", "--scope", "--quiet", *(["--user"] if os.getuid() else [])]
    command += ["-p", f"MemoryMax={n_bytes}", "-p", "MemorySwapMax=0"]
    if shutil.which(command[0]) and subprocess.run([*command, "true"], capture_output=True).returncode == 0:
        return Bound(f"systemd scope of {n_bytes / MIB:.0f} MiB", n_bytes, command)
    return Bound("NO bound: neither a control group nor a systemd scope can be made here", n_bytes)


@dataclass(frozen=True)
class Measured:
    """What a run took; in bytes unless said.

    processor:     seconds, of all threads
    read_calls:    given to the process by read and its like, cached or not
    read:          that the process had the disk read, mapped pages and read-ahead included
    device_read:   that the device read meanwhile, for anyone
    own_peak:      resident without pages of files: what it cannot do without
    group_peak:    of the control group, cached pages of files included
    """

    ended: str
    seconds: float
    processor: float
    read_calls: int
    read: int
    device_read: int | None
    own_peak: int
    group_peak: int | None

    def __str__(self) -> str:
        def gb(n: int | None) -> str:
            return "-" if n is None else f"{n / 1e9:.2f} GB"

        return (
            f"{self.ended} {self.seconds:.0f} s, processor {self.processor:.0f} s; {gb(self.read_calls)} by read(), "
            f"{gb(self.read)} from the disk, {gb(self.device_read)} by the device for everyone; at most "
            f"{gb(self.own_peak)} of its own, {gb(self.group_peak)} of the group"
        )


def measure(command: Sequence[str], bound: Bound, model: Path, limit: float) -> Measured:
    """Run a command with a cold cache, for at most `limit` seconds; prints the end of its messages if it fails."""
    with open(model, "rb") as file:
        os.sync()  # pages that are not yet written would stay
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with bound.group() as group, tempfile.TemporaryFile() as log:

        def join() -> None:
            if group is not None:
                (group / "cgroup.procs").write_text(str(os.getpid()))

        before, start = device_bytes(model), time.perf_counter()
        process = subprocess.Popen([*bound.prefix, *command], stdout=log, stderr=log, preexec_fn=join)
        own_peak, ended = 0, "finished in"
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            anonymous = process_numbers(process.pid, "status").get("RssAnon", "0 kB")
            own_peak = max(own_peak, 1024 * int(anonymous.split()[0]))
            if time.perf_counter() - start > limit:
                process.kill()
                ended = "stopped after"
            time.sleep(0.05)
        seconds, after = time.perf_counter() - start, device_bytes(model)
        io = process_numbers(process.pid, "io")  # it has ended, but is not yet waited for
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            print(f"{' '.join(command)} ended with {process.returncode}\n{log.read()[-2000:].decode()}")
            ended = ended if ended.startswith("stopped") else f"FAILED ({process.returncode}) after"
        group_peak = None
        if group is not None and (group / bound.controller.peak).exists():
            group_peak = int((group / bound.controller.peak).read_text())
    return Measured(
        ended, seconds, used.ru_utime + used.ru_stime, int(io["rchar"]), int(io["read_bytes"]),
        None if before is None or after is None else after - before, own_peak, group_peak,
    )  # fmt: skip


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
@click.option("--model", default=None, help="Written there unless it exists, and kept; default: a temporary file.")
@click.option("--options", multiple=True, default=["", "--precision bf16-experts"], help="Of ours; one run for each.")
@click.option("--llama-imatrix", "peer", default=None, help="Run this program, too.")
@click.option("--peer-options", multiple=True, default=[""], help="One run for each.")
@click.option("--limit", default=25.0, show_default=True, help="Minutes after which a run is stopped.")
def main(size, memory, chunks, experts_used, threads, model, options, peer, peer_options, limit) -> None:
    """Measure and print a line per program."""
    text = str(data_folder("calibration") / "calibration.txt")
    bound = memory_bound(memory)
    with tempfile.TemporaryDirectory() as place:
        model, out = Path(model or f"{place}/model.gguf"), f"{place}/imatrix.gguf"
        if not model.exists():
            write_model(model, size, experts_used)
        common = ["-m", str(model), "-f", text, "-c", "512", "--chunks", str(chunks), "-t", str(threads), "--no-ppl"]
        ours = [sys.executable, "-m", "quanttool", "imatrix", *common, "-o", out]
        programs = {f"quanttool {words}": [*ours, *words.split()] for words in options}
        if peer:
            programs |= {f"llama-imatrix {words}": [peer, *common, "-o", out, *words.split()] for words in peer_options}
        print(
            f"model of {model.stat().st_size / 1e9:.2f} GB, {chunks} chunks of 512 tokens, {threads} threads; "
            f"{bound.words}",
            flush=True,
        )
        for name, command in programs.items():
            print(f"{name.strip()}: {measure(command, bound, model, 60 * limit)}", flush=True)


if __name__ == "__main__":
    main()
