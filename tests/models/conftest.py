"""The reference models of golden/logits."""

import os
import subprocess
import sys

import pytest


@pytest.fixture(scope="session")
def tiny_models(shared, tmp_path_factory):
    """Folder with the reference models, written anew: the same seed gives the same weights."""
    folder = tmp_path_factory.mktemp("tiny-models")
    command = [sys.executable, str(shared / "models" / "make_tiny_models.py"), str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    return folder
