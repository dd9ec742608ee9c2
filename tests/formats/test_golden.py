"""Bytes and values of llama.cpp, type by type: a type is tested when its file lies in golden/formats/mainline.

Each file holds what llama.cpp (built without FMA contraction) made of the rows in input.npz: `plain` and `weighted`
bytes, without and with importance, and `values`, its own dequantization of the first of the two that is there.
"""

from pathlib import Path

import numpy as np
import pytest

from quanttool.formats import dequantize_rows, quantize_rows

FOLDER = Path(__file__).parents[1] / "golden" / "formats"
TYPES = [path.stem for path in sorted((FOLDER / "mainline").glob("*.npz"))]


@pytest.fixture(scope="module")
def inputs():
    return dict(np.load(FOLDER / "input.npz"))


@pytest.fixture(scope="module", params=TYPES)
def golden_type(request):
    return request.param, dict(np.load(FOLDER / "mainline" / f"{request.param}.npz"))


def test_bytes(golden_type, inputs):
    name, expected = golden_type
    rows = expected.get("rows", inputs["rows"])
    for key, importance in (("plain", None), ("weighted", inputs["importance"])):
        if key in expected:
            data = quantize_rows(rows, name, importance)
            differing = np.flatnonzero((data != expected[key]).any(1))
            assert differing.size == 0, f"{key}: rows {differing} differ"


def test_values(golden_type):
    name, expected = golden_type
    data = expected["plain"] if "plain" in expected else expected["weighted"]
    values = dequantize_rows(data, name, expected["values"].shape[1])
    np.testing.assert_array_equal(values.view(np.uint32), expected["values"].view(np.uint32))
