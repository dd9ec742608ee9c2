"""Checkpoints: exact, bound to their run, and never trusted."""

import numpy as np
import pytest

from quanttool.errors import FileFormatError, UsageError
from quanttool.imatrix import Entry
from quanttool.imatrix.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

SETTINGS = {"options": "-c 32", "model_fingerprint": "abc", "perplexity": True}


@pytest.fixture
def saved(tmp_path):
    rng = np.random.default_rng(1)
    entry = Entry(rng.random((2, 3)) / 3, np.array([4, 5]), rng.standard_normal((2, 3)) / 3)
    checkpoint = Checkpoint({"blk.0.ffn_up_exps.weight": entry}, rng.random((7, 15)), 7)
    save_checkpoint(tmp_path / "x.checkpoint", checkpoint, SETTINGS)
    return tmp_path / "x.checkpoint", checkpoint


def test_every_bit_comes_back(saved):
    path, checkpoint = saved
    found = load_checkpoint(path, SETTINGS)
    assert found.n_chunks == 7 and np.array_equal(found.nll, checkpoint.nll)
    for name, entry in checkpoint.entries.items():
        assert np.array_equal(found.entries[name].sums_of_squares, entry.sums_of_squares)
        assert np.array_equal(found.entries[name].counts, entry.counts)
        assert np.array_equal(found.entries[name].sums, entry.sums)


def test_none_there(tmp_path):
    assert load_checkpoint(tmp_path / "absent", SETTINGS) is None


def test_another_run(saved):
    with pytest.raises(UsageError, match="belongs to another run \\(options was -c 32, is -c 64 now\\)"):
        load_checkpoint(saved[0], SETTINGS | {"options": "-c 64"})


def test_damage(saved):
    path = saved[0]
    whole = path.read_bytes()
    for damaged in (b"", b"text", whole[:100], whole[:-30]):
        path.write_bytes(damaged)
        with pytest.raises(FileFormatError, match="no readable checkpoint"):
            load_checkpoint(path, SETTINGS)
