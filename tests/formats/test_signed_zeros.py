"""Zeros of both signs: the bytes are those of ggml_quantize_chunk, which keeps or drops the sign of a zero."""

import numpy as np
import pytest

from quanttool.formats import quantize_rows

ZERO, MINUS = [0x00, 0x00], [0x00, 0x80]  # 0 and -0 as f16
SIGNS = {"all 0": (0.0, 0.0), "0 first": (0.0, -0.0), "-0 first": (-0.0, 0.0), "all -0": (-0.0, -0.0)}

# type -> bytes of scale (and minimum) for a block that begins with the first zero and goes on with the second
EXPECTED = {
    "Q4_0": dict.fromkeys(SIGNS, MINUS),
    "Q5_0": dict.fromkeys(SIGNS, MINUS),
    "Q4_1": {"all 0": ZERO + ZERO, "0 first": ZERO + ZERO, "-0 first": ZERO + MINUS, "all -0": ZERO + MINUS},
    "Q5_1": {"all 0": ZERO + ZERO, "0 first": ZERO + ZERO, "-0 first": ZERO + MINUS, "all -0": ZERO + MINUS},
    "Q8_0": dict.fromkeys(SIGNS, ZERO),
}


@pytest.mark.parametrize("type_name", EXPECTED)
def test_scale_and_minimum_of_zeros(type_name):
    for signs, (first, others) in SIGNS.items():
        block = np.full((1, 32), others, np.float32)
        block[0, 0] = first
        expected = EXPECTED[type_name][signs]
        assert quantize_rows(block, type_name)[0, : len(expected)].tolist() == expected, signs
