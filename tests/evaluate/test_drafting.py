"""Speculative drafts: the estimate from a text against the exact answer and against brute force.

Models that only look at one token before: a table of probabilities each. The text is what the target writes.
"""

import numpy as np
import pytest

from quanttool.evaluate.divergence import Divergence
from quanttool.evaluate.drafting import Draft

N_VOCAB, N_TOKENS = 6, 200_000


@pytest.fixture(scope="module")
def tables():
    """p, q: f64 [N_VOCAB, N_VOCAB], the probabilities of what follows each token."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(N_VOCAB, 0.7), N_VOCAB)
    return p, 0.6 * p + 0.4 * rng.dirichlet(np.full(N_VOCAB, 0.7), N_VOCAB)


def written(p, start, n, rng):
    """n tokens that follow each token of `start`: i64 [len(start), n]."""
    out, now = [], start
    for _ in range(n):
        now = (rng.random((len(now), 1)) > p[now].cumsum(axis=1)).sum(axis=1).clip(max=N_VOCAB - 1)
        out.append(now)
    return np.stack(out, axis=1)


@pytest.fixture(scope="module")
def draft(tables):
    p, q = tables
    rng = np.random.default_rng(1)
    text = written(p, written(p, np.zeros(400, int), 50, rng)[:, -1], N_TOKENS // 400, rng)
    before, target = text[:, :-1], text[:, 1:]
    return Draft(
        Divergence(
            nll_base=-np.log(p[before, target]),
            nll=-np.log(q[before, target]),
            kld=(p * np.log(p / q)).sum(axis=1)[before],
            same_top=(p.argmax(axis=1) == q.argmax(axis=1))[before],
            overlap=np.minimum(p, q).sum(axis=1)[before],
        )
    )


def stationary(p):
    return np.linalg.matrix_power(p, 500)[0]


def test_against_the_exact_answer(tables, draft):
    """That the first i are accepted: i products with the matrix min(p, q), summed."""
    p, q = tables
    both, at_start = np.minimum(p, q), stationary(p)
    accepted = [float(at_start @ np.linalg.matrix_power(both, i).sum(axis=1)) for i in range(1, 17)]
    assert draft.acceptance.value == pytest.approx(accepted[0], abs=5 * draft.acceptance.uncertainty)
    np.testing.assert_allclose(draft.tokens_per_pass(), 1 + np.cumsum(accepted), rtol=0.01)


def test_against_brute_force(tables, draft):
    """Speculative sampling itself, 100 000 passes with drafts of 5 tokens."""
    p, q = tables
    rng, n, k = np.random.default_rng(2), 100_000, 5
    now = rng.choice(N_VOCAB, n, p=stationary(p))
    alive, tokens = np.ones(n, bool), np.ones(n)  # one token of the target's own in any case
    for length in range(1, k + 1):
        proposed = written(q, now, 1, rng)[:, 0]
        alive &= rng.random(n) < p[now, proposed] / q[now, proposed]
        tokens += alive
        now = proposed
        error = tokens.std() / n**0.5
        assert draft.tokens_per_pass(k)[length - 1] == pytest.approx(tokens.mean(), abs=4 * error + 0.005)


def test_independent_acceptances_give_the_geometric_sum(draft):
    """Where every place has the same overlap a and every token passes with probability a: (1 - a^(k+1)) / (1 - a)."""
    a, shape = 0.7, (4, 300)
    even = Divergence(np.zeros(shape), np.full(shape, -np.log(a)), *np.zeros((2, *shape)), np.full(shape, a))
    expected = [(1 - a ** (k + 1)) / (1 - a) for k in range(1, 17)]
    np.testing.assert_allclose(Draft(even).tokens_per_pass(), expected, rtol=1e-12)


def test_greedy():
    same = np.array([[1, 1, 0, 1, 1, 1]], bool)
    draft = Draft(Divergence(*np.zeros((3, 1, 6)), same, np.ones((1, 6))))
    assert draft.greedy_agreement.value == pytest.approx(5 / 6)
    # runs of 1: 5 of 6 starts; of 2: 3 of 5; of 3: 1 of 4; no run is longer; drafts at most as long as the chunk
    expected = 1 + np.cumsum([5 / 6, 3 / 5, 1 / 4, 0, 0, 0])
    np.testing.assert_allclose(draft.greedy_tokens_per_pass(), expected)


def test_a_perfect_draft_is_always_accepted():
    nll = np.random.default_rng(3).gamma(2.0, size=(3, 40))
    draft = Draft(Divergence(nll, nll, np.zeros((3, 40)), np.ones((3, 40), bool), np.ones((3, 40))))
    np.testing.assert_allclose(draft.tokens_per_pass(), np.arange(2, 18))
    np.testing.assert_allclose(draft.greedy_tokens_per_pass(), np.arange(2, 18))
