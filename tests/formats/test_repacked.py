"""Woven rows: the very bytes of ik_llama.cpp, nothing lost, and the values of the base type.

golden/formats/ik/woven.npz holds, by type name, eight rows as ik_llama.cpp quantized them, woven and base.
"""

from pathlib import Path

import numpy as np
import pytest

from quanttool.errors import UsageError
from quanttool.formats import block_format, dequantize_rows, quantize_rows
from quanttool.formats.repacked import REPACKED_TYPES, rewoven, unweave, weave
from quanttool.formats.woven_layouts import BASE_LAYOUTS, WOVEN_LAYOUTS

GOLDEN = dict(np.load(Path(__file__).parents[1] / "golden" / "formats" / "ik" / "woven.npz"))
WOVEN = list(WOVEN_LAYOUTS)
COLUMNS = 1024


def base_of(name):
    return block_format(block_format(name).base)


def woven(data, name):
    out = np.empty((len(data), block_format(name).type.row_bytes(COLUMNS)), np.uint8)
    weave(data, name, out)
    return out


def random_base(rng, name, n_rows):
    return rng.integers(0, 256, (n_rows, base_of(name).type.row_bytes(COLUMNS)), dtype=np.uint8)


@pytest.mark.parametrize("name", [name for name in WOVEN if name in GOLDEN])
def test_bytes_of_the_program(name):
    base = base_of(name).name
    np.testing.assert_array_equal(woven(GOLDEN[base], name), GOLDEN[name])
    np.testing.assert_array_equal(unweave(GOLDEN[name], name, COLUMNS), GOLDEN[base])


@pytest.mark.parametrize("name", WOVEN)
def test_nothing_is_lost(name):
    data = random_base(np.random.default_rng(3), name, 2 * WOVEN_LAYOUTS[name].rows)
    if base_of(name).name == "Q8_KV":  # the sum is not stored, it follows from the codes
        data[:, 4:8] = data[:, 8:].view(np.int8).sum(axis=1, dtype=np.int32)[:, None].view(np.uint8)
    there = woven(data, name)
    np.testing.assert_array_equal(unweave(there, name, COLUMNS), data)
    np.testing.assert_array_equal(woven(unweave(there, name, COLUMNS), name), there)


@pytest.mark.parametrize("name", WOVEN)
def test_layouts_cover_every_bit_once(name):
    base = block_format(name).base
    for layout in (WOVEN_LAYOUTS[name], BASE_LAYOUTS[base]):
        bits = np.concatenate(
            [
                positions.ravel()
                for row in range(layout.rows)
                for positions in (field[row] for field in layout.fields.values())
            ]
        )
        np.testing.assert_array_equal(np.sort(bits), np.arange(8 * layout.block_bytes * layout.rows))


def test_bf16_in_groups_of_sixteen():
    """(iqk_quantize.cpp `repack_bf16`: pairs of columns, row after row.)"""
    rows = np.arange(16 * 6, dtype=np.float32).reshape(16, 6)
    data = quantize_rows(rows, "BF16_R16")
    values = data.reshape(-1).view(np.uint16).astype(np.uint32) << 16
    np.testing.assert_array_equal(values.view(np.float32).reshape(3, 16, 2), rows.reshape(16, 3, 2).transpose(1, 0, 2))
    np.testing.assert_array_equal(dequantize_rows(data, "BF16_R16", 6), rows)


def test_mxfp4_in_groups_of_eight():
    """(iqk_quantize.cpp `repack_mxfp4`.)"""
    data = np.random.default_rng(4).integers(0, 256, (8, 17), dtype=np.uint8)
    out = np.empty_like(data)
    weave(data, "MXFP4_R8", out)
    expected = [*data[:, 0]] + [data[row, 1 + 4 * l + i] for l in range(4) for row in range(8) for i in range(4)]
    np.testing.assert_array_equal(out.ravel(), expected)


@pytest.mark.parametrize("name", ["IQ4_K_R4", "Q4_0_R8"])
def test_values_and_bytes_are_those_of_the_base_type(name):
    rows = np.random.default_rng(5).standard_normal((16, COLUMNS)).astype(np.float32)
    base = block_format(name).base
    data = quantize_rows(rows, name)
    np.testing.assert_array_equal(unweave(data, name, COLUMNS), quantize_rows(rows, base))
    values = dequantize_rows(quantize_rows(rows, base), base, COLUMNS)
    np.testing.assert_array_equal(dequantize_rows(data, name, COLUMNS), values)


@pytest.mark.parametrize("name", ["Q4_K_R4", "Q8_KV_R8"])
def test_there_and_back(name):
    rows = np.random.default_rng(7).standard_normal((24, COLUMNS)).astype(np.float32)
    base = base_of(name).name
    data = quantize_rows(rows, base)
    there = rewoven(data, base, name, COLUMNS)
    np.testing.assert_array_equal(there, quantize_rows(rows, name))
    np.testing.assert_array_equal(rewoven(there, name, base, COLUMNS), data)


def test_rows_that_do_not_divide():
    with pytest.raises(UsageError, match="IQ4_K_R4 weaves 4 rows together, got 6 rows"):
        quantize_rows(np.zeros((6, 256), np.float32), "IQ4_K_R4")
    with pytest.raises(UsageError, match="do not divide"):
        quantize_rows(np.zeros((16, 3), np.float32), "BF16_R16")


def test_every_base_type_has_one_woven_type():
    assert REPACKED_TYPES["Q4_0"] == "Q4_0_R8" and REPACKED_TYPES["BF16"] == "BF16_R16"
    assert sorted(REPACKED_TYPES.values()) == sorted(WOVEN)
