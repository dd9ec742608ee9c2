"""Speed of quantizers: ours beside ggml's own (`pip install libggml-python`), in millions of weights per second.

    python -m benchmarks.formats [--threads N] [--rows N] [TYPE ...]

The two take turns, so that a busy machine slows both; the best of seven rounds counts. `plain` is without importance,
`weighted` with, `expand` is back to float32. ggml's `ggml_quantize_chunk` gets one slab of rows per thread. Both write
where there is memory already. Rows whose bytes differ are counted.
"""

import argparse
import ctypes
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from quanttool.formats import available_formats, block_format, read_only, rows_per_slab
from quanttool.parallel import default_threads, for_each_slab

COLUMNS = 4096
ROUNDS = 7


class Ggml:
    """The few functions of libggml-base that quantize and dequantize."""

    def __init__(self) -> None:
        import libggml

        folder = Path(libggml.__file__).parent / "lib64"
        self.library = ctypes.CDLL(str(folder / "libggml-base.so"))
        self.library.ggml_quantize_chunk.restype = ctypes.c_size_t
        self.library.ggml_quantize_init.argtypes = [ctypes.c_int]

    def prepare(self, type_name: str) -> None:
        """Build the tables of the IQ types once, before threads want them."""
        self.library.ggml_quantize_init(block_format(type_name).type.id)

    def quantize(self, rows, type_name, importance, out, threads) -> None:
        """rows f32 [n_rows, n_cols] -> out u8 [n_rows, row_bytes], each thread one slab."""

        def work(slab: slice) -> None:
            part, data = rows[slab], out[slab]
            self.library.ggml_quantize_chunk(
                ctypes.c_int(block_format(type_name).type.id),
                part.ctypes.data_as(ctypes.c_void_p),
                data.ctypes.data_as(ctypes.c_void_p),
                ctypes.c_int64(0),
                ctypes.c_int64(part.shape[0]),
                ctypes.c_int64(part.shape[1]),
                None if importance is None else importance.ctypes.data_as(ctypes.c_void_p),
            )

        step = -(-len(rows) // threads)
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, [slice(start, start + step) for start in range(0, len(rows), step)]))


def load_ggml() -> Ggml | None:
    try:
        return Ggml()
    except (ImportError, OSError) as error:
        print(f"ggml absent ({error}); install libggml-python to compare")
        return None


def seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(works: list, n_weights: int) -> list[float]:
    """Millions of weights per second of each piece of work, taking turns."""
    works[0]()  # compiles
    best = [min(times) for times in zip(*[[seconds(work) for work in works] for _ in range(ROUNDS)], strict=True)]
    return [n_weights / time / 1e6 for time in best]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", metavar="TYPE", help="default: all")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--rows", type=int, default=1024, help=f"rows of {COLUMNS} weights (default: 1024)")
    arguments = parser.parse_args()

    rng = np.random.default_rng(1)
    rows = rng.standard_normal((arguments.rows, COLUMNS), np.float32) * np.float32(0.02)
    importance = rng.gamma(0.5, 1.0, COLUMNS).astype(np.float32)
    ggml = load_ggml()
    print(f"{'type':8} {'':9}{'ours':>8}{'ggml':>8}{'ratio':>7}   million weights/s, {arguments.threads} threads")
    for name in arguments.types or available_formats():
        benchmark(name, read_only(rows), read_only(importance), ggml, arguments.threads)


def benchmark(name: str, rows, importance, ggml: Ggml | None, threads: int) -> None:
    """Print the speeds of one type: without and with importance, and expanding."""
    fmt = block_format(name)
    data = np.zeros((len(rows), fmt.type.row_bytes(COLUMNS)), np.uint8)
    values = np.zeros_like(rows)
    step = rows_per_slab(COLUMNS, fmt.type.rows_interleaved)
    for label, weights in (("plain", None), ("weighted", importance)):
        if weights is None and fmt.importance == "required":
            continue

        def quantize(slab: slice, weights=weights) -> None:
            fmt.quantize(rows[slab], weights, "reference", data[slab])

        works = [lambda work=quantize: for_each_slab(work, len(rows), step, threads)]
        if ggml and fmt.type.origin == "llama.cpp":
            ggml.prepare(name)
            theirs = np.zeros_like(data)
            works.append(lambda w=weights, out=theirs: ggml.quantize(rows, name, w, out, threads))
        report(name, label, compare(works, rows.size))
        if len(works) == 2 and not np.array_equal(data, theirs):
            print(f"{'':18}{(data != theirs).any(1).mean():.1%} of the rows differ")

    def dequantize(slab: slice) -> None:
        fmt.dequantize(read_only(data[slab]), values[slab])

    report(name, "expand", compare([lambda: for_each_slab(dequantize, len(rows), step, threads)], rows.size))


def report(name: str, label: str, speeds: list[float]) -> None:
    theirs = f"{speeds[1]:8.0f}{speeds[0] / speeds[1]:7.1f}" if len(speeds) == 2 else ""
    print(f"{name:8} {label:9}{speeds[0]:8.0f}{theirs}", flush=True)


if __name__ == "__main__":
    main()
