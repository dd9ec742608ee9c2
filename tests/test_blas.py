"""Which kernels OpenBLAS uses can be chosen before numpy is there, and only then."""

import subprocess
import sys

import numpy as np
import pytest

from quanttool import blas


def chosen(code, **environment):
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return out.stdout.strip()


SHOW = "import os; from quanttool import blas; blas.choose_kernels(); print(os.environ.get('OPENBLAS_CORETYPE'))"


def test_what_the_user_set_stays():
    assert chosen(SHOW, OPENBLAS_CORETYPE="Haswell") == "Haswell"


def test_nothing_is_set_once_numpy_is_there():
    assert chosen("import numpy; " + SHOW) == "None"


@pytest.mark.parametrize(
    ("vendor", "flags", "expected"),
    [
        ("AuthenticAMD", "fpu avx2 avx512f avx512cd avx512dq avx512bw avx512vl sse", "SkylakeX"),
        ("AuthenticAMD", "fpu avx2", "None"),
        ("GenuineIntel", "fpu avx2 avx512f avx512cd avx512dq avx512bw avx512vl sse", "None"),  # found by itself
    ],
)
def test_only_processors_that_openblas_mistakes(tmp_path, vendor, flags, expected):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: {flags}\nbugs\t: x\n\nprocessor\t: 1\n")
    patch = f"from pathlib import Path as P; from quanttool import blas; blas.Path = lambda _: P({str(cpuinfo)!r}); "
    assert chosen(patch + SHOW) == expected


def test_products_can_be_held_to_one_thread():
    from threadpoolctl import threadpool_info

    np.ones((2, 2)) @ np.ones((2, 2))
    with blas.threads(1):
        numpy_blas = [info for info in threadpool_info() if "numpy" in info["filepath"] and info["user_api"] == "blas"]
        assert [info["num_threads"] for info in numpy_blas] == [1]
