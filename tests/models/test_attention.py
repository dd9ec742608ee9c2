"""Attention in blocks, with its options, against the textbook."""

import numpy as np
import pytest

from quanttool.kernels.jit import processor_has
from quanttool.models import attention
from quanttool.parallel import use_threads
from tests import naive_nn as naive

OPTIONS = [
    {},
    {"window": 3},
    {"window": 9},
    {"window": 40},
    {"soft_cap": 2.0},
    {"sinks": np.float32([0, 1, -1, 2, 0.5, 0])},
    {"window": 5, "soft_cap": 2.0, "sinks": np.float32([0, 1, -1, 2, 0.5, 0])},
]


@pytest.fixture(params=["tiles", "blas"])
def processor(request, monkeypatch):
    """Both ways that processors choose between."""
    if request.param == "blas":
        monkeypatch.setattr(attention, "processor_has", lambda feature: False)
    elif not processor_has("avx512f"):
        pytest.skip("register tiles are made for AVX-512")


def draw(n_ctx, n_head_kv=3, size=8, size_v=5):
    rng = np.random.default_rng(3)
    heads = [(6, size), (n_head_kv, size), (n_head_kv, size_v)]
    return [rng.standard_normal((2, n_ctx, *head), dtype=np.float32) for head in heads]


def check(q, k, v, **options):
    out = attention.attend(q, k, v, 0.5, **options)
    largest = np.abs(q).max() * np.abs(k).max() * q.shape[-1]  # a score's rounding error is a part of this,
    atol = 2e-6 + 2.0**-24 * largest * np.abs(v).max()  # and moves as large a part of the weights
    for seq in range(2):
        np.testing.assert_allclose(out[seq], naive.attention(q[seq], k[seq], v[seq], 0.5, **options), atol=atol)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("n_ctx", [1, 13, 100])
def test_attention(options, n_ctx, processor, monkeypatch):
    monkeypatch.setattr(attention, "QUERY_BLOCK", 40)
    check(*draw(n_ctx), **options)


@pytest.mark.parametrize("sizes", [(1, 64, 64), (6, 33, 70), (2, 1, 1)])
def test_other_numbers_and_sizes_of_heads(sizes, processor):
    check(*draw(50, *sizes))


def test_large_scores(processor):
    q, k, v = draw(60)
    check(60 * q, 30 * k, v)


def test_not_a_number_reaches_the_queries_that_see_it_and_no_others(processor):
    q, k, v = draw(60)
    q[0, 20, 2] = k[1, 30, 1, 4] = np.nan
    out = attention.attend(q, k, v, 0.5, window=10)
    bad = np.isnan(out)
    assert bad[0, 20, 2].all() and bad[0].sum() == 5  # one query's head
    assert bad[1, 30:40, 2:4].all() and bad[1].sum() == 10 * 2 * 5  # both heads that look at this key


def test_threads_do_not_change_results(processor):
    q, k, v = draw(60)
    try:
        use_threads(1)
        expected = attention.attend(q, k, v, 0.5)
        use_threads(3)
        np.testing.assert_array_equal(attention.attend(q, k, v, 0.5), expected)
    finally:
        use_threads(None)
