"""How long the optimizer takes, and how far from the optimum it can be: processor and wall time, and the gap.

    python -m benchmarks.optimize                                               made-up tables
    python -m benchmarks.optimize --map tensors.bf16.map --csv kld_results.csv  and a published one

`plain`: 1,200 tensors of three sizes and 30 types. `experts`: names and shapes of a DeepSeek-V3 of 61 layers, with a
measured curve over types and gains that differ by tensor, where hundreds of tensors have the same shape. Each with one
budget (the file), and with three (the file, experts, everything else). All is timed that `quanttool recipe optimize`
does with its inputs once they are read: choosing, the recipe, and the size of the file that it makes.
"""

import math
import re
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np

from quanttool.cli.recipe_optimize import Search, Target
from quanttool.container import GGUFValueType, GGUFWriter, TensorInfo
from quanttool.container.writer import encode_value
from quanttool.ggml_types import BY_NAME, GGMLType, ggml_type
from quanttool.optimize.allocation import Problem, Wishes
from quanttool.optimize.costs import Costs
from quanttool.optimize.recipe import Budget
from quanttool.sensitivity import load_sensitivity
from quanttool.sensitivity.table import Interaction
from quanttool.sensitivity.thireus import read_map

N_TYPES = 30
BUDGETS_BPW = (2.5, 3.5, 4.8)
CLASSES = ((r"_exps|blk\.\d+\.a", 0.85), (".", 1.1))  # pattern, share of the file's budget per weight
NATS_PER_BIT = 1.35  # fall of the logarithm of a divergence, as measured curves have it
EXPERT_SHAPES = {
    "attn_q_a": (7168, 1536), "attn_q_b": (1536, 24576), "attn_kv_a_mqa": (7168, 576), "attn_kv_b": (512, 32768),
    "attn_k_b": (128, 65536), "attn_v_b": (512, 16384), "attn_output": (16384, 7168),
    "ffn_gate_exps": (7168, 2048, 256), "ffn_up_exps": (7168, 2048, 256), "ffn_down_exps": (2048, 7168, 256),
    "ffn_gate_shexp": (7168, 2048), "ffn_up_shexp": (7168, 2048), "ffn_down_shexp": (2048, 7168),
}  # fmt: skip
DENSE_SHAPES = {"ffn_gate": (7168, 18432), "ffn_up": (7168, 18432), "ffn_down": (18432, 7168)}
N_LAYERS, N_DENSE = 61, 3


def plain() -> list[TensorInfo]:
    shapes = np.random.default_rng(1).choice([4096, 11008, 14336], 1200)
    return [_tensor(f"blk.{i // 8}.w{i % 8}", (4096, int(n))) for i, n in enumerate(shapes)]


def experts() -> list[TensorInfo]:
    tensors = [_tensor("token_embd", (7168, 129280)), _tensor("output", (7168, 129280))]
    for layer in range(N_LAYERS):
        shapes = {name: ne for name, ne in EXPERT_SHAPES.items() if layer >= N_DENSE or not name.startswith("ffn")}
        shapes |= DENSE_SHAPES if layer < N_DENSE else {}
        tensors += [_tensor(f"blk.{layer}.{name}", ne) for name, ne in shapes.items()]
        tensors += [_tensor(f"blk.{layer}.indexer.{i}", (1536, 8192)) for i in range(7)]  # up to 1,200
    return tensors


def palette() -> list[GGMLType]:
    kinds = [kind for kind in BY_NAME.values() if not kind.is_plain and 1.5 < kind.bpw < 9 and kind.block_size == 256]
    kinds = [kind for kind in kinds if "_R" not in kind.name and "BN" not in kind.name]
    return sorted(kinds, key=lambda kind: kind.bpw)[:N_TYPES]


def costs(tensors: list[TensorInfo], types: list[GGMLType]) -> dict[str, dict[str, float]]:
    """Gains that differ by tensor, times a curve that all types share, with what types fare better on one tensor."""
    rng = np.random.default_rng(2)
    quality = {kind.name: math.exp(-NATS_PER_BIT * kind.bpw + rng.normal(0, 0.15)) for kind in types}
    return {
        tensor.name: {name: gain * value * math.exp(rng.normal(0, 0.1)) for name, value in quality.items()}
        for tensor, gain in zip(tensors, np.exp(rng.normal(0, 1.5, len(tensors))), strict=True)
    }


def cases(map_path: str | None, csv_path: str | None) -> Iterator[tuple[str, list[TensorInfo], dict, list[GGMLType]]]:
    types = palette()
    for name, tensors in (("plain", plain()), ("experts", experts())):
        yield name, tensors, costs(tensors, types), types
    if map_path and csv_path:
        table = load_sensitivity(csv_path)
        types = [BY_NAME[name] for name in table.types if not BY_NAME[name].is_plain]
        yield "published", read_map(map_path), table.costs, types


def budgets(tensors: list[TensorInfo], bpw: float) -> Iterator[tuple[str, Budget]]:
    n_values = [tensor.n_values for tensor in tensors]
    yield "1", Budget(file_bytes=int(sum(n_values) * bpw / 8))
    left, classes = list(tensors), []
    for pattern, share in CLASSES:
        members = [tensor for tensor in left if re.search(pattern, tensor.name)]
        left = [tensor for tensor in left if tensor not in members]
        n = sum(tensor.n_values for tensor in members if tensor.type is BY_NAME["BF16"])
        classes.append((re.compile(pattern), int(n * bpw * share / 8) + 2**20))
    yield "3", Budget(file_bytes=int(sum(n_values) * bpw / 8), classes=tuple(classes))


def _tensor(name: str, ne: tuple[int, ...]) -> TensorInfo:
    return TensorInfo(f"{name}.weight", ggml_type("BF16"), ne)


def write_header(path: Path, tensors: list[TensorInfo]) -> None:
    """A GGUF file without the data: enough for a recipe."""
    values = {"general.architecture": "deepseek2", "deepseek2.block_count": N_LAYERS, "deepseek2.expert_count": 256}
    metadata = {
        key: (kind, encode_value(value, kind))
        for key, value in values.items()
        for kind in [GGUFValueType.STRING if isinstance(value, str) else GGUFValueType.UINT32]
    }
    path.write_bytes(GGUFWriter(path, metadata, tensors).header_bytes)


@click.command()
@click.option("--map", "map_path", help="tensors.bf16.map of a model.")
@click.option("--csv", "csv_path", help="Its kld_results.csv.")
def main(map_path, csv_path):
    """Time the optimizer."""
    print(f"{'table':10} {'tensors':>7} {'types':>5} {'bpw':>4} {'budgets':>7} {'cpu s':>6} {'wall s':>6} {'gap':>9}")
    with TemporaryDirectory() as folder:
        for name, tensors, table, types in cases(map_path, csv_path):
            path = map_path if name == "published" else f"{folder}/{name}.gguf"
            if path != map_path:
                write_header(Path(path), tensors)
            for bpw in BUDGETS_BPW:
                for label, budget in budgets(tensors, bpw):
                    cpu, wall = time.process_time(), time.perf_counter()
                    wishes = Wishes(tuple(types), protect=False)
                    problem = Problem(tensors, "deepseek2", Costs(table, tensors), wishes)
                    found = Search(Target(path), problem, budget, Interaction()).best()
                    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
                    line = f"{name:10} {len(problem.units):7} {len(types):5} {bpw:4} {label:>7}"
                    print(f"{line} {cpu:6.2f} {wall:6.2f} {found.gap:9.2e}", flush=True)


if __name__ == "__main__":
    main()
