"""Input covariances: against plain float64 sums, in a file that is added to in place."""

import subprocess
import sys

import numpy as np
import pytest

from quanttool.container import GGUFFile, TensorInfo
from quanttool.errors import FileFormatError, ImatrixError, UsageError
from quanttool.ggml_types import ggml_type
from quanttool.imatrix.hessian import HessianFile, HessianWriter
from quanttool.models import load_model
from tests import naive_evaluate as naive
from tests.models import tiny

F32 = ggml_type("F32")
TENSORS = {
    "blk.0.attn_q.weight": TensorInfo("blk.0.attn_q.weight", F32, (600, 8)),
    "blk.1.ffn_up_exps.weight": TensorInfo("blk.1.ffn_up_exps.weight", F32, (300, 8, 3)),
    "blk.1.ffn_gate_inp_shexp.weight": TensorInfo("blk.1.ffn_gate_inp_shexp.weight", F32, (300,)),
}


def rows(n, seed, n_cols):
    return np.random.default_rng(seed).standard_normal((n, n_cols)).astype(np.float32) * 10


def expected(kind, x):
    return naive.gram(x) if kind == "full" else naive.gram_blocks(x)


def assert_close(found, expected):
    """1e-5 of what the two channels' own squares allow the sum to be."""
    size = np.sqrt(np.diagonal(expected, axis1=-2, axis2=-1))
    error = np.abs(found - expected)
    assert found.shape == expected.shape and found.dtype == np.float32
    assert (error <= 1e-5 * size[..., :, None] * size[..., None, :]).all(), error.max()


@pytest.mark.parametrize("kind", ["block", "full"])
def test_several_batches_several_passes_and_experts(tmp_path, kind):
    """A layer comes again with the next group of chunks: its sums go on."""
    seen: dict[tuple, list] = {}
    with HessianWriter(tmp_path / "h", kind, TENSORS, TENSORS, {"options": "-c 8"}) as writer:
        for seed in (1, 2):
            for name, expert, n in [
                ("blk.0.attn_q.weight", None, 40), ("blk.0.attn_q.weight", None, 7), ("blk.1.ffn_up_exps.weight", 2, 5),
                ("blk.1.ffn_gate_inp_shexp.weight", None, 9), ("blk.1.ffn_up_exps.weight", 0, 3),
                ("blk.1.attn_k.weight", None, 4),
            ]:  # fmt: skip
                x = rows(n, seed + n, TENSORS[name].n_cols if name in TENSORS else 10)
                writer(name, x, expert)
                seen.setdefault((name, expert or 0), []).append(x)
        assert not (tmp_path / "h").exists()
    file = HessianFile(tmp_path / "h")
    assert file.kind == kind and file.weights == list(TENSORS)
    for (name, expert), parts in seen.items():
        if name in TENSORS:
            assert_close(file[name][expert], expected(kind, np.concatenate(parts)))
    assert file.counts("blk.0.attn_q.weight").tolist() == [94]
    assert file.counts("blk.1.ffn_up_exps.weight").tolist() == [6, 0, 10]
    assert not file["blk.1.ffn_up_exps.weight"][1].any()
    assert GGUFFile(tmp_path / "h").metadata["quanttool.hessian.options"] == "-c 8"


@pytest.mark.parametrize("kind", ["block", "full"])
def test_every_weight_of_a_model(tmp_path, kind):
    model = load_model(tiny.write(tmp_path / "llama.gguf", *tiny.llama()))
    tokens = np.random.default_rng(5).integers(0, tiny.N_VOCAB, (3, 20))
    seen: dict[str, list] = {}
    with HessianWriter(tmp_path / "h", kind, model.weights(), model.file.tensors) as writer:

        def observer(name, x, expert):
            seen.setdefault(name, []).append(x.copy())
            writer(name, x, expert)

        model.hidden_states(tokens, observer)
    file = HessianFile(tmp_path / "h")
    assert set(file.weights) == set(seen) and len(seen) == 14
    for name, parts in seen.items():
        assert_close(file[name][0], expected(kind, np.concatenate(parts)))
        assert file.counts(name).tolist() == [60]


def test_every_expert_of_a_model(shared, tmp_path):
    """mixtral, and the heads of latent attention."""
    script = shared / "models" / "make_tiny_models.py"
    names = ["mixtral", "deepseek2"]
    subprocess.run([sys.executable, str(script), str(tmp_path), "--only", ",".join(names)], check=True)
    for name in names:
        model = load_model(tmp_path / f"{name}.gguf")
        seen: dict[tuple, list] = {}
        with HessianWriter(tmp_path / "h", "full", model.weights(), model.file.tensors) as writer:

            def observer(name, x, expert, writer=writer, seen=seen):
                seen.setdefault((name, expert or 0), []).append(x.copy())
                writer(name, x, expert)

            model.hidden_states(np.arange(48).reshape(2, 24), observer)
        file = HessianFile(tmp_path / "h")
        assert set(file.weights) == {name for name, _ in seen}
        for (name, matrix), parts in seen.items():
            assert_close(file[name][matrix], naive.gram(np.concatenate(parts)))


def test_a_failure_leaves_nothing_behind(tmp_path):
    with pytest.raises(KeyboardInterrupt), HessianWriter(tmp_path / "h", "full", TENSORS, TENSORS) as writer:
        writer("blk.0.attn_q.weight", rows(4, 1, 600))
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_errors(tmp_path):
    with pytest.raises(UsageError, match="unknown kind of Hessian 'diag'; known are block, full"):
        HessianWriter(tmp_path / "h", "diag", TENSORS, TENSORS)
    path = tiny.write(tmp_path / "llama.gguf", *tiny.llama())
    with pytest.raises(FileFormatError, match="is no file of input covariances"):
        HessianFile(path)
    with HessianWriter(tmp_path / "h", "full", TENSORS, TENSORS):
        pass
    with pytest.raises(ImatrixError, match=r"blk\.7\.attn_q\.weight: .* has no covariance"):
        HessianFile(tmp_path / "h")["blk.7.attn_q.weight"]
