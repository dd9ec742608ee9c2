"""Experts with covariances of their own, and files of covariances."""

import numpy as np
import pytest

from quanttool.feedback.matrices import HessianRounding, round_matrices, shrunk
from quanttool.formats import block_format, dequantize_rows, quantize_rows
from quanttool.imatrix.hessian import HessianFile, HessianWriter
from quanttool.models import load_model
from tests.feedback.test_layers import texts
from tests.feedback.test_rounding import inputs, loss
from tests.models import tiny


def test_a_matrix_without_rows_is_rounded_for_the_inputs_of_all():
    pooled = np.diag([1.0, 2.0])
    assert np.array_equal(shrunk(np.zeros((2, 2), np.float32), 0, pooled), pooled)
    own = np.array([[6, 1], [1, 6]], np.float32)
    assert np.allclose(shrunk(own, 2, pooled), [[2, 0.25], [0.25, 2.5]])


def test_each_matrix_is_rounded_for_its_own_inputs():
    xs = [inputs(4000, 256, seed) for seed in (1, 2)]
    weights = np.random.default_rng(3).standard_normal((2 * 64, 256)).astype(np.float32)
    seconds, counts = np.stack([x.T @ x for x in xs]), np.array([4000, 4000])
    data = round_matrices(weights, block_format("Q4_0"), seconds, counts, "reference", 0, 0.01)
    for i, second in enumerate(seconds):
        mine = weights[64 * i : 64 * (i + 1)]
        h = second.astype(np.float64) / 4000
        plain = quantize_rows(mine, "Q4_0", np.diagonal(h).astype(np.float32))
        fed = data[64 * i : 64 * (i + 1)]
        assert loss(dequantize_rows(fed, "Q4_0", 256), mine, h) < 0.7 * loss(
            dequantize_rows(plain, "Q4_0", 256), mine, h
        )


@pytest.mark.parametrize("kind", ["full", "block"])
def test_a_file_of_covariances_lowers_the_loss_without_running_the_model(kind, tmp_path):
    metadata, tensors = tiny.llama()
    path = tiny.write(tmp_path / "tiny.gguf", metadata, tensors)
    model, name = load_model(path), "blk.1.attn_q.weight"
    with HessianWriter(tmp_path / "hessian.gguf", kind, [name], model.file.tensors) as writer:
        model.hidden_states(texts(40, seed=1), writer)
    hessian = HessianFile(tmp_path / "hessian.gguf")
    made = dict(HessianRounding(model.tensors.expand, hessian, {name: block_format("Q4_0")}).tensors())
    h = hessian[name][0].reshape(256, 256) / hessian.counts(name)[0]
    weights = model.tensors.expand(name)
    plain = quantize_rows(weights, "Q4_0", np.diagonal(h))
    losses = [loss(dequantize_rows(data, "Q4_0", 256), weights, h) for data in (plain, made[name])]
    assert losses[1] < 0.67 * losses[0]
