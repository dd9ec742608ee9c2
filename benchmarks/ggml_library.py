"""The few functions of a ggml library that quantize and dequantize, called through ctypes."""

import ctypes
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from quanttool.formats import block_format


class Ggml:
    """A libggml of llama.cpp or ik_llama.cpp."""

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
    slabs = [slice(start, start + step) for start in range(0, n_rows, step)]
    if threads == 1:
        work(slabs[0])
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, slabs))


def load_ggml() -> Ggml | None:
    """llama.cpp's library, from the package of that name."""
    try:
        import libggml

        return Ggml(Path(libggml.__file__).parent / "lib64" / "libggml-base.so")
    except (ImportError, OSError) as error:
        print(f"ggml absent ({error}); install libggml-python to compare")
        return None
