"""Classes of tokens: each where it belongs, and sums that add up."""

import numpy as np
import pytest

from quanttool.evaluate.breakdown import KINDS, breakdown, kind_of, token_classes
from quanttool.evaluate.divergence import Divergence
from tests import naive_evaluate as naive


@pytest.mark.parametrize(
    ("piece", "kind"),
    [
        (b" the", "word, its begin"),
        (b"ing", "word, inside"),
        ("é".encode(), "word, inside"),
        (b"\n\n", "white space"),
        (b"  ", "white space"),
        (b" 2024", "digits"),
        (b"x1", "digits"),
        (b" {", "code symbols"),
        (b"==", "code symbols"),
        (b",", "punctuation"),
        (" —".encode(), "punctuation"),
        ("語".encode(), "word, inside"),
        ("→".encode(), "other"),
        (b"\xe8", "other"),
    ],
)
def test_kinds(piece, kind):
    assert kind_of(piece) == kind


PIECES = {0: b"\n", 1: b" big", 2: b"ger", 3: b" 7", 4: b"."}
TEXT = np.array([[1, 2, 4, 0, 1, 3], [0, 1, 2, 4, 0, 1]], np.int32)
NLL_BASE = np.array([[0.05, 1.0, 5.0], [0.01, 0.5, 3.0]])


def test_classes():
    classes = token_classes(TEXT, NLL_BASE, PIECES)  # targets: newline, big, 7 | ., newline, big
    expected = {
        "kind: word, its begin": [[0, 1, 0], [0, 0, 1]],
        "kind: digits": [[0, 0, 1], [0, 0, 0]],
        "kind: white space": [[1, 0, 0], [0, 1, 0]],
        "token: after a newline": [[0, 1, 0], [0, 0, 1]],
        "token: at most 2 in the text": [[0, 0, 1], [1, 0, 0]],  # 7 once, the full stop twice
        "base: p > 0.9": [[1, 0, 0], [1, 0, 0]],
        "base: p < 0.1": [[0, 0, 1], [0, 0, 1]],
        "place: 3 to 3": [[1, 0, 0], [1, 0, 0]],
        "place: 5 to 5": [[0, 0, 1], [0, 0, 1]],
    }
    for name, mask in expected.items():
        assert np.array_equal(classes[name], np.array(mask, bool)), name
    for family in ("kind", "base", "place"):
        masks = [mask for name, mask in classes.items() if name.startswith(family)]
        assert (np.sum(masks, axis=0) == 1).all(), family
    assert sum(name.startswith("kind") for name in classes) == len(KINDS)


def test_statistics_of_classes():
    rng = np.random.default_rng(1)
    nll_base, kld = rng.gamma(1.0, size=(2, 6, 50))
    nll = nll_base + 0.1 * rng.standard_normal((6, 50))
    divergence = Divergence(nll_base, nll, kld, np.ones((6, 50), bool))
    mask = rng.random((6, 50)) < 0.3
    some, rest = breakdown(divergence, {"some": mask, "none": np.zeros_like(mask), "rest": ~mask})
    assert some.share == mask.mean() and some.share + rest.share == pytest.approx(1)
    assert some.kld == pytest.approx(naive.mean_and_uncertainty(kld[mask]))
    assert some.kld_share + rest.kld_share == pytest.approx(1)
    assert some.kld_share == pytest.approx(kld[mask].sum() / kld.sum())
    assert some.nll_change == pytest.approx(naive.mean_and_uncertainty((nll - nll_base)[mask]), rel=1e-9)
