"""Figures of an imatrix, read back from their SVG."""

import re
from xml.etree import ElementTree

from quanttool.plots.importance import expert_map, importance_map, layer_similarity


def shades(svg):
    """Title -> brightness of its cell, 0 to 255 * 3."""
    ElementTree.fromstring(svg)  # well-formed
    cells = re.findall(r'fill="#(\w{6})"><title>([^<]*)</title>', svg)
    return {title: sum(bytes.fromhex(color)) for color, title in cells}


def test_importance_map():
    svg = importance_map({(0, "attn_q"): 0.01, (0, "ffn_down"): 100.0, (1, "attn_q"): 1.0, (1, "ffn_down"): 0.0})
    found = shades(svg)
    assert found.keys() == {"0, attn_q: 0.01", "0, ffn_down: 100", "1, attn_q: 1"}
    low, middle, high = found["0, attn_q: 0.01"], found["1, attn_q: 1"], found["0, ffn_down: 100"]
    assert abs(middle - (low + high) / 2) < 3  # halfway on a logarithmic scale
    assert low > high


def test_expert_map():
    found = shades(expert_map({0: [10, 0, 30], 2: [5, 5, 0]}))
    assert list(found) == [
        "0, 0: 10 tokens, 25.00 %", "0, 2: 30 tokens, 75.00 %", "2, 0: 5 tokens, 50.00 %", "2, 1: 5 tokens, 50.00 %",
    ]  # fmt: skip
    assert found["0, 0: 10 tokens, 25.00 %"] > found["0, 2: 30 tokens, 75.00 %"] == found["2, 0: 5 tokens, 50.00 %"]


def test_layer_similarity():
    svg = layer_similarity({"layer": [(0, 0.5), (1, 0.9), (2, 1.0)], "attention": [(0, 0.8)], "ffn": []})
    ElementTree.fromstring(svg)
    titles = re.findall(r"<title>([^<]*)</title>", svg)
    assert titles == ["layer: 0, 0.5", "layer: 1, 0.1", "layer: 2, 1e-09", "attention: 0, 0.2"]


def test_nothing_to_show():
    for svg in (importance_map({}), expert_map({})):
        assert not shades(svg)
