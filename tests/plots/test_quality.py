"""The figure of quality over size: that it holds what it is given."""

from xml.etree import ElementTree

import pytest

from quanttool.plots.quality import quality_over_size

BPW = {"Q4_0": 4.5, "Q4_K": 4.6, "same": 16.0}
PPL = {"Q4_0": 28.1, "Q4_K": 25.9, "same": 22.7}


def texts(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]


def test_models_are_named_in_both_charts():
    found = texts(quality_over_size(BPW, PPL, {"Q4_0": 0.3, "Q4_K": 0.1, "same": 0.0}, 22.7))
    assert found.count("Q4_0") == 2 and found.count("Q4_K") == 2
    assert found.count("same") == 1  # a divergence of 0 has no place on a logarithmic axis
    assert found.count("bits per weight") == 2 and "mean KLD, nats" in found and "perplexity" in found


@pytest.mark.parametrize("kld", [{}, {"same": 0.0}])
def test_without_divergences_there_is_one_chart(kld):
    found = texts(quality_over_size(BPW, PPL, kld))
    assert found.count("bits per weight") == 1 and "perplexity" in found


def test_one_model_is_enough():
    assert "Q4_0" in texts(quality_over_size({"Q4_0": 4.5}, {"Q4_0": 28.1}, {"Q4_0": 0.3}, 22.7))
