"""The only place that calls numba.

Two decorators: `kernel` for exact arithmetic (what quantizers are made of) and `fast_kernel` for the forward pass,
where the order of additions may be changed. Both release the GIL and are cached on disk.

numba's cache looks at the file of the cached function only, so a change in a file that it calls would go unnoticed.
Therefore the cache folder's name carries a hash of all kernel sources.
"""

import hashlib
import os
import shutil
from functools import cache
from pathlib import Path

import numba


def _source_hash() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _use_cache_folder() -> None:
    """Point numba's cache at <cache home>/quanttool/kernels-<hash>, and drop the folders of older sources."""
    if os.environ.get("NUMBA_CACHE_DIR"):
        return
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "quanttool"
    folder = home / f"kernels-{_source_hash()}"
    numba.config.CACHE_DIR = str(folder)
    if not folder.exists():
        # Keep the three most recent: checkouts side by side should not recompile in turn.
        older = sorted(home.glob("kernels-*"), key=lambda path: path.stat().st_mtime)
        for path in older[:-3]:
            shutil.rmtree(path, ignore_errors=True)


_use_cache_folder()


def nothing_compiled() -> bool:
    """Whether the cache is empty: then the kernels of this run take a few seconds to compile first."""
    return not Path(numba.config.CACHE_DIR).is_dir()


@cache
def processor_has(feature: str) -> bool:
    """Whether numba compiles for a processor with this feature, by LLVM's name ("avx512bf16")."""
    from numba.core.registry import cpu_target

    _, _, features = cpu_target.target_context.codegen().magic_tuple()
    return f"+{feature}" in features.split(",")


# error_model="numpy": a division by zero gives inf or nan instead of a Python exception, and costs no branch.
kernel = numba.njit(nogil=True, cache=True, error_model="numpy")

# Reassociation and fused multiply-add are fine where results are compared with a tolerance anyway. NaN and infinity
# stay what they are ("fast" without nnan and ninf), so that a damaged weight shows in the result.
FAST = {"reassoc", "contract", "arcp", "afn", "nsz"}
fast_kernel = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=FAST)

# Scalar helpers that LLVM inlines into their callers; compiled with them, so they need no cache entry of their own.
# (A helper is compiled once, with the flags of its first caller: share none between `kernel` and `fast_kernel`.)
helper = numba.njit(nogil=True, error_model="numpy")

# A helper that neither makes nor returns arrays, nor reduces them by numpy's methods, need not count who refers to
# those that it is handed. Counting is atomic and stays in loops: in searches that look at few numbers it took a sixth.
leaf = numba.njit(nogil=True, error_model="numpy", _nrt=False)
