"""What bounds a quantizer on this machine: moving its bytes, or its operations."""

import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np

from benchmarks.ggml_library import each_thread
from quanttool.formats import block_format, dequantize_rows, quantize_rows
from quanttool.kernels.jit import kernel
from quanttool.kernels.lanes import LANES, broadcast, multiply_add, store

# Types and columns that do no more than read every weight once; their bound is numpy's largest value of the same rows.
READING = [("Q4_0", "plain"), ("Q4_1", "plain"), ("Q5_0", "plain"), ("Q5_1", "plain"), ("Q8_0", "plain")]
READING += [(name, "plain") for name in ("Q1_0", "Q2_0", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4")]
# Their bound is numpy filling as many floats.
WRITING = [(name, "expand") for name in ("Q4_0", "Q8_0", "Q4_K", "Q6_K", "IQ4_XS", "IQ2_XXS", "IQ3_S")]
# Vector operations on each weight, counted in the algorithms: trials of a scale, times rounding, clamping and sums for
# one; for best of the codebook types every point once for its product, and for eight scales and the lists between them.
OPERATIONS = {
    ("Q4_0", "weighted"): 19 * 10,
    ("Q4_1", "weighted"): 37 * 18,
    ("Q2_K", "plain"): 16 * 18,
    ("Q2_K", "weighted"): 37 * 18,
    ("Q4_K", "plain"): 21 * 18,
    ("Q4_K", "weighted"): 37 * 18,
    ("Q6_K", "weighted"): 19 * 10,
    ("IQ4_XS", "weighted"): 16 * 36,
    ("IQ2_S", "best"): 1024 * (8 + 8 * 3 + 7 * 2) // 8,
    ("IQ3_S", "best"): 512 * (4 + 8 * 3 + 7 * 2) // 4,
}


@kernel
def multiply_and_add(steps, x, out):
    """8 chains of multiplications with addition, each `steps` long; out f32 [1, LANES] shows that they were needed."""
    a, b, c, d = broadcast(1), broadcast(2), broadcast(3), broadcast(4)
    e, f, g, h = broadcast(5), broadcast(6), broadcast(7), broadcast(8)
    for _ in range(steps):
        a, b, c, d = multiply_add(a, x, x), multiply_add(b, x, x), multiply_add(c, x, x), multiply_add(d, x, x)
        e, f, g, h = multiply_add(e, x, x), multiply_add(f, x, x), multiply_add(g, x, x), multiply_add(h, x, x)
    store(out, 0, a + b + c + d + e + f + g + h)


def rate(work: Callable[[slice], object], n_rows: int, threads: int, count: float) -> float:
    """Millions per second of `count` things that work on n_rows does; the median of 9."""
    each_thread(work, n_rows, threads)
    times = []
    for _ in range(9):
        start = time.perf_counter()
        for _ in range(5):
            each_thread(work, n_rows, threads)
        times.append((time.perf_counter() - start) / 5)
    return count / median(times) / 1e6


def bounds_table(rows: np.ndarray, measured: dict) -> str:
    """For each group of types its bound, and how near to it we are: `measured` is of quantize.main, by threads."""
    lines = ["| | bound | million weights/s | ours, as a part of it |", "|---|---|--:|---|"]
    values = np.empty_like(rows)
    steps = 100_000
    for threads, runs in measured.items():
        read = rate(lambda s: rows[s].max(), len(rows), threads, rows.size)
        write = rate(lambda s: values[s].fill(1), len(rows), threads, rows.size)
        out = np.empty((threads, 1, LANES), np.float32)
        count = threads * 8 * LANES * steps

        def multiply(slab: slice, out=out) -> None:
            multiply_and_add(steps, np.float32(0.999), out[slab.start])

        operations = rate(multiply, threads, threads, count)
        for label, bound, cells in (("reading", read, READING), ("writing", write, WRITING)):
            parts = [part(runs, cell, bound) for cell in cells]
            lines.append(f"| {label}, threads: {threads} | numpy | {bound:.0f} | {', '.join(filter(None, parts))} |")
        for cell, count in OPERATIONS.items():
            bound = operations / count
            if shown := part(runs, cell, bound):
                lines.append(f"| operations, threads: {threads} | {count} a weight | {bound:.0f} | {shown} |")
    return "\n".join(lines) + "\n"


def part(runs: list, cell: tuple[str, str], bound: float) -> str:
    name, label = cell
    speeds = [run[name][label].speed for run in runs if label in run.get(name, {})]
    return f"{name} {label} {median(speeds) / bound:.0%}" if speeds else ""


def first_calls() -> None:
    """For the types in sys.argv: print the processor time of first calls, less that of the same calls again."""
    names = sys.argv[1:]

    def all_calls() -> float:
        start = time.process_time()
        for name in names:
            fmt = block_format(name)
            rows = np.random.default_rng(1).standard_normal((16, 1024)).astype(np.float32)
            if not fmt.can_quantize:
                continue
            for importance in (None, np.ones(1024, np.float32)):
                if importance is not None or fmt.importance != "required":
                    data = quantize_rows(rows, name, importance, "best", threads=1)
            dequantize_rows(data, name, 1024, threads=1)
        return time.process_time() - start

    print(all_calls() - all_calls())
