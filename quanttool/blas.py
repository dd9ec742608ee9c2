"""numpy's matrix products: which kernels OpenBLAS uses, and in how many threads."""

import os
import sys
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path

# What OpenBLAS's kernels for Skylake-X need of a processor
AVX512 = {"avx512f", "avx512cd", "avx512dq", "avx512bw", "avx512vl"}


def choose_kernels() -> None:
    """Have OpenBLAS use AVX-512 where it would not by itself. Works only before numpy is imported.

    The OpenBLAS inside numpy 2.4 takes AMD's newest processors for a Haswell: 130 GFLOP/s in float32 on a core of a
    Zen 5 that does 250 with the kernels for AVX-512. An OPENBLAS_CORETYPE that is set already stays.
    """
    if "numpy" in sys.modules or "OPENBLAS_CORETYPE" in os.environ:
        return
    try:
        processor = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:  # not Linux
        return
    if "AuthenticAMD" in processor and set(processor.split()) >= AVX512:
        os.environ["OPENBLAS_CORETYPE"] = "SkylakeX"


def threads(n: int) -> AbstractContextManager:
    """A context in which a matrix product takes n threads.

    One is right for code that spreads products over threads itself: OpenBLAS's own wait for each other in busy loops,
    and become several times slower as soon as something else runs on the machine.
    """
    return _controller().limit(limits=n, user_api="blas")


@cache
def _controller():
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
