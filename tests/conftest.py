"""What several tests need: golden numbers, reference files that are too big to ship, a real model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from benchmarks.smollm2 import ModelUnavailable, cache_folder, smollm2

# The same cases in every run: a failure can be repeated, and no run fails for a case that another never saw.
settings.register_profile("seeded", derandomize=True, deadline=None)
settings.load_profile("seeded")

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden"
SHARED = Path(os.environ.get("QUANTTOOL_SHARED") or ROOT.parent / "shared")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the reference programs' numbers that ship with the tests."""
    return GOLDEN


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with reference files too big to ship; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the reference files in {SHARED} (set QUANTTOOL_SHARED)")
    return SHARED


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """SmolLM2-135M-Instruct, Q4_1: the real model of the demo."""
    try:
        return smollm2()
    except ModelUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def smollm2_768(shared, smollm2_path) -> Path:
    """SmolLM2 made 768 wide, float32: a real model whose rows divide into 256-blocks."""
    path = cache_folder() / "smollm2-768-f32.gguf"
    if not path.exists():
        part = path.with_suffix(".part")
        script = shared / "models" / "make_smollm2_768.py"
        command = [sys.executable, str(script), str(part), "--type", "f32", "--source", str(smollm2_path)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        part.rename(path)
    return path
