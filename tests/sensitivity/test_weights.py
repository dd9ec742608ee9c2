"""Errors of samples against sums over all weights."""

import numpy as np
import pytest

from quanttool.container import GGUFFile
from quanttool.formats import dequantize_rows, quantize_rows
from quanttool.imatrix import load
from quanttool.imatrix.hessian import HessianFile, HessianWriter
from quanttool.sensitivity.weights import Weights
from tests.quantize.small_model import write_imatrix, write_model

NAME = "blk.1.ffn_down_exps.weight"  # 4 experts of 512 rows of 256


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    write_model(folder / "small.gguf")
    write_imatrix(folder / "small.imatrix.gguf")
    return folder


def whole_error(file, imatrix, name, kind, weigh):
    """Mean over all rows of weigh(matrix, differences)."""
    info = file.tensors[name]
    rows = file.data(name).view(np.float32).reshape(-1, info.ne[1], info.n_cols)
    total = 0.0
    for matrix, own in enumerate(rows):
        importance = imatrix.importance(name, info.n_cols)[matrix]
        delta = own - dequantize_rows(quantize_rows(own, kind, importance), kind, info.n_cols)
        total += weigh(matrix, delta.astype(np.float64))
    return total / info.n_rows


def test_a_sample_of_all_rows_is_the_whole(folder, monkeypatch):
    monkeypatch.setattr("quanttool.sensitivity.weights.SAMPLED_ROWS", 4 * 512)
    file, imatrix = GGUFFile(folder / "small.gguf"), load(folder / "small.imatrix.gguf")
    sample = Weights(file, imatrix).sample(NAME)
    for kind in ("Q2_K", "Q4_K", "Q8_0"):
        expected = whole_error(file, imatrix, NAME, kind, lambda m, d: (d**2 * imatrix.importance(NAME, 256)[m]).sum())
        assert sample.error(kind) == pytest.approx(expected, rel=1e-6)


def test_few_rows_come_near(folder):
    file, imatrix = GGUFFile(folder / "small.gguf"), load(folder / "small.imatrix.gguf")
    sample = Weights(file, imatrix).sample(NAME)
    expected = whole_error(file, imatrix, NAME, "Q3_K", lambda m, d: (d**2 * imatrix.importance(NAME, 256)[m]).sum())
    assert sample.error("Q3_K") == pytest.approx(expected, rel=0.3)
    assert sample.error("Q2_K") > sample.error("Q3_K") > sample.error("Q4_K") > sample.error("Q8_0") > 0


@pytest.mark.parametrize("kind", ["block", "full"])
def test_a_hessian_counts_products(kind, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("quanttool.sensitivity.weights.SAMPLED_ROWS", 512)
    file, imatrix = GGUFFile(folder / "small.gguf"), load(folder / "small.imatrix.gguf")
    name = "blk.0.attn_q.weight"
    x = np.random.default_rng(3).standard_normal((40, 512)).astype(np.float32)
    with HessianWriter(tmp_path / "h.gguf", kind, [name], file.tensors) as writer:
        writer(name, x)
    sample = Weights(file, imatrix).sample(name, HessianFile(tmp_path / "h.gguf"))

    def weigh(_, delta):
        if kind == "full":
            return ((delta @ x.T.astype(np.float64)) ** 2).sum() / len(x)
        return sum(((delta[:, c : c + 256] @ x.T[c : c + 256]) ** 2).sum() for c in (0, 256)) / len(x)

    assert sample.error("Q3_K") == pytest.approx(whole_error(file, imatrix, name, "Q3_K", weigh), rel=1e-4)


def test_whole_tensors_are_what_quantize_writes(folder, tmp_path):
    from quanttool.cli import main

    out = tmp_path / "out.gguf"
    files = [str(folder / name) for name in ("small.imatrix.gguf", "small.gguf")]
    with pytest.raises(SystemExit):
        main(["quantize", "--pure", "--imatrix-rules", "llama.cpp", "--imatrix", *files, str(out), "Q3_K_S"])
    written = GGUFFile(out)
    weights = Weights(GGUFFile(folder / "small.gguf"), load(folder / "small.imatrix.gguf"))
    for name in ("blk.0.attn_q.weight", "blk.1.ffn_gate_exps.weight"):
        kind = written.tensors[name].type.name
        assert np.array_equal(weights.quantized(name, kind), written.data(name)), name
