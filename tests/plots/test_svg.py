"""Charts are well-formed, and put points where their values say."""

import xml.etree.ElementTree as ET

import pytest

from quanttool.plots.svg import line_chart, table_map

SVG = "{http://www.w3.org/2000/svg}"


def test_a_line_chart_puts_points_in_proportion():
    root = ET.fromstring(line_chart({"a<b": [(1, 1), (2, 10), (3, 100)]}, "x", "y", log_y=True))
    places = [(float(c.get("cx")), float(c.get("cy"))) for c in root.iter(f"{SVG}circle")]
    (x1, y1), (x2, y2), (x3, y3) = places
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.11) and x2 > x1
    assert y2 - y1 == pytest.approx(y3 - y2, abs=0.11) and y2 < y1  # upwards on the screen


def test_one_point_and_marks():
    root = ET.fromstring(line_chart({"a": [(1, 1)], "b": []}, "x", "y", marks={"Q4_K_M": (2, 3)}))
    assert any(text.text == "Q4_K_M" for text in root.iter(f"{SVG}text"))


def test_a_table_map_has_a_cell_for_each_value():
    root = ET.fromstring(table_map(["0", "1"], ["q", "k"], {("0", "q"): (0.0, "Q2_K"), ("1", "k"): (1.0, "Q8_0")}, "t"))
    cells = [rect for rect in root.iter(f"{SVG}rect") if rect.get("fill") != "#fff"]
    assert [cell.get("fill") for cell in cells] == ["#e9f2ff", "#0a3069"]
