"""Hidden states that do not fit into memory."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest

from quanttool.errors import QuanttoolError
from quanttool.models import load_model, scratch
from tests.models import tiny


def test_a_file_gives_the_same_numbers_and_leaves_nothing_behind(tmp_path, monkeypatch):
    model = load_model(tiny.write(tmp_path / "llama.gguf", *tiny.llama()))
    chunks = np.random.default_rng(5).integers(0, tiny.N_VOCAB, (3, 50))
    expected = model.hidden_states(chunks)
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(scratch.tempfile, "tempdir", str(folder))
    found = model.hidden_states(chunks, memory=4 * chunks.size * tiny.N_EMBD - 1)
    assert isinstance(found.base.base.obj, scratch.mmap.mmap)
    np.testing.assert_array_equal(found, expected)
    assert not list(folder.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="there, a temporary file has a name until it is closed")
def test_a_killed_process_leaves_nothing_behind(tmp_path):
    code = (
        "import os; from quanttool.models import scratch; "
        "x = scratch.room(1000, 1000, memory=0); x[:] = 1; os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)})
    assert done.returncode == -9 and not list(tmp_path.iterdir())


def test_a_full_disk_says_how_much_is_needed(monkeypatch):
    def full(descriptor, n_bytes):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(scratch, "_reserve", full)
    with pytest.raises(QuanttoolError, match=r"take 4\.0 GB, and .* has no room .*TMPDIR"):
        scratch.room(1000, 1000, 1000, memory=0)


def test_small_texts_stay_in_memory():
    assert scratch.room(3, 4).base is None
    assert scratch.room(3, 4, memory=48).base is None


def test_half_of_what_is_free_is_the_default(monkeypatch):
    monkeypatch.setattr(scratch, "free_memory", lambda: 96)
    assert scratch.room(3, 4).base is None and scratch.room(13).base is not None
