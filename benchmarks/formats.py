"""Speed of quantizers: ours beside ggml's own (`pip install libggml-python`), in millions of weights per second.

    python -m benchmarks.formats [--threads N] [--rows N] [--ik-library libggml.so] [TYPE ...]

The two take turns, so that a busy machine slows both; the best of seven rounds counts. `plain` is without importance,
`weighted` with, `best` the search of that name (beside ggml's only one), `expand` is back to float32. ggml's
`ggml_quantize_chunk` gets one slab of rows per thread. Both write where there is memory already. Rows whose bytes
differ are counted. With --processor-time a second is one of a processor's, whoever else uses the machine.
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
    """The few functions of a ggml library that quantize and dequantize."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))
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
                None,  # ik_llama.cpp has one argument more: the user's own settings
            )

        each_thread(work, len(rows), threads)

    def dequantize(self, data, type_name, out, threads) -> None:
        """data u8 [n_rows, row_bytes] -> out f32 [n_rows, n_cols], each thread one slab."""
        function = getattr(self.library, "dequantize_row_" + type_name.lower().replace("_k", "_K"))

        def work(slab: slice) -> None:
            pointers = (array[slab].ctypes.data_as(ctypes.c_void_p) for array in (data, out))
            function(*pointers, ctypes.c_int64(out[slab].size))

        each_thread(work, len(data), threads)


def each_thread(work, n_rows: int, threads: int) -> None:
    """Call work(slab) with one slab of rows for each thread."""
    step = -(-n_rows // threads)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, [slice(start, start + step) for start in range(0, n_rows, step)]))


def load_ggml() -> Ggml | None:
    """llama.cpp's library, from the package of that name."""
    try:
        import libggml

        return Ggml(Path(libggml.__file__).parent / "lib64" / "libggml-base.so")
    except (ImportError, OSError) as error:
        print(f"ggml absent ({error}); install libggml-python to compare")
        return None


def seconds(work, clock) -> float:
    start = clock()
    work()
    return clock() - start


def compare(works: list, n_weights: int, clock) -> list[float]:
    """Millions of weights per second of each piece of work, taking turns."""
    works[0]()  # compiles
    best = [
        min(times) for times in zip(*[[seconds(work, clock) for work in works] for _ in range(ROUNDS)], strict=True)
    ]
    return [n_weights / time / 1e6 for time in best]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", metavar="TYPE", help="default: all")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--rows", type=int, default=1024, help=f"rows of {COLUMNS} weights (default: 1024)")
    parser.add_argument("--ik-library", type=Path, help="libggml.so of ik_llama.cpp, to compare its types with")
    parser.add_argument("--processor-time", action="store_true", help="seconds of a processor, not of the clock")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.processor_time else time.perf_counter

    rng = np.random.default_rng(1)
    rows = rng.standard_normal((arguments.rows, COLUMNS), np.float32) * np.float32(0.02)
    importance = rng.gamma(0.5, 1.0, COLUMNS).astype(np.float32)
    libraries = {"llama.cpp": load_ggml()}
    libraries["ik_llama.cpp"] = arguments.ik_library and Ggml(arguments.ik_library)
    print(f"{'type':8} {'':9}{'ours':>8}{'ggml':>8}{'ratio':>7}   million weights/s, {arguments.threads} threads")
    for name in arguments.types or available_formats():
        library = libraries[block_format(name).type.origin]
        benchmark(name, read_only(rows), read_only(importance), library, arguments.threads, clock)


def benchmark(name: str, rows, importance, ggml: Ggml | None, threads: int, clock) -> None:
    """Print the speeds of one type: without and with importance, and expanding."""
    fmt = block_format(name)
    data = np.zeros((len(rows), fmt.type.row_bytes(COLUMNS)), np.uint8)
    values = np.zeros_like(rows)
    step = min(rows_per_slab(COLUMNS, fmt.type.rows_interleaved), -(-len(rows) // threads))
    searches = {"plain": (None, "reference"), "weighted": (importance, "reference"), "best": (importance, "best")}
    for label, (weights, search) in searches.items():
        if (weights is None and fmt.importance == "required") or (search == "best" and not fmt.has_best):
            continue

        def quantize(slab: slice, weights=weights, search=search) -> None:
            fmt.quantize(rows[slab], weights, search, data[slab])

        works = [lambda work=quantize: for_each_slab(work, len(rows), step, threads)]
        if ggml:
            ggml.prepare(name)
            theirs = np.zeros_like(data)
            works.append(lambda w=weights, out=theirs: ggml.quantize(rows, name, w, out, threads))
        report(name, label, compare(works, rows.size, clock))
        comparable = len(works) == 2 and search == "reference" and fmt.type.origin == "llama.cpp"
        if comparable and not np.array_equal(data, theirs):
            print(f"{'':18}{(data != theirs).any(1).mean():.1%} of the rows differ")

    def dequantize(slab: slice) -> None:
        fmt.dequantize(read_only(data[slab]), values[slab])

    works = [lambda: for_each_slab(dequantize, len(rows), step, threads)]
    if ggml and fmt.type.origin == "llama.cpp":
        their_values = np.zeros_like(values)
        works.append(lambda: ggml.dequantize(data, name, their_values, threads))
    report(name, "expand", compare(works, rows.size, clock))
    if len(works) == 2 and not np.array_equal(values, their_values):
        print(f"{'':18}values differ")


def report(name: str, label: str, speeds: list[float]) -> None:
    theirs = f"{speeds[1]:8.0f}{speeds[0] / speeds[1]:7.1f}" if len(speeds) == 2 else ""
    print(f"{name:8} {label:9}{speeds[0]:8.0f}{theirs}", flush=True)


if __name__ == "__main__":
    main()
