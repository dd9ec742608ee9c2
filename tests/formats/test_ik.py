"""The formats of ik_llama.cpp: its own values to the bit, its errors or less, slow twins, and rows that break searches.

golden/formats/ik/TYPE.npz holds what ik_llama.cpp made of the rows in ../input.npz (or of its own `rows`): `plain` and
`weighted` bytes and `values` of the first of them. Its builds contract multiplications and additions, so bytes of
searches are not compared; the errors that they leave are.
"""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import quanttool.formats
from quanttool.formats import block_format, dequantize_rows, quantize_rows
from tests import naive_ik

FOLDER = Path(__file__).parents[1] / "golden" / "formats"
VALUES_WITHOUT_SCALE = ["IQ1_BN", "IQ2_BN"]  # the program's own row conversion takes the row's scale for codes
TYPES = list(naive_ik.FORMATS)
WOVEN = list(naive_ik.WOVEN_FORMATS)  # types that exist as four rows woven together only
SEARCHED = [name for name in TYPES + WOVEN if name not in [*VALUES_WITHOUT_SCALE, "Q8_KV"]]
EXACT = ["IQ1_BN", "IQ2_BN", "Q8_KV", "Q8_K_R8"]  # nothing to search


@pytest.fixture(scope="module")
def inputs():
    return dict(np.load(FOLDER / "input.npz"))


def golden(name):
    return dict(np.load(FOLDER / "ik" / f"{name}.npz"))


@pytest.mark.parametrize("name", [name for name in [*TYPES, *WOVEN, "Q8_K_R8"] if name not in VALUES_WITHOUT_SCALE])
def test_values(name):
    expected = golden(name)
    values = dequantize_rows(expected["plain"], name, expected["values"].shape[1])
    np.testing.assert_array_equal(values.view(np.uint32), expected["values"].view(np.uint32))


@pytest.mark.parametrize("name", EXACT)
def test_bytes(name, inputs):
    expected = golden(name)
    np.testing.assert_array_equal(quantize_rows(expected.get("rows", inputs["rows"]), name), expected["plain"])


def search_weights(name, rows, importance):
    """Weights of squared errors that the program itself searches with, f64 [n_rows, n_cols]."""
    squares = rows.astype(np.float64) ** 2
    if name == "Q6_0":
        return squares if importance is None else importance * np.sqrt(squares.mean(axis=1, keepdims=True) + squares)
    if name == "IQ2_KL" and importance is None:
        return np.sqrt(squares)
    if name in WOVEN:
        sigma2 = 1.5 * np.repeat(squares.reshape(len(rows), -1, 32).mean(axis=2), 32, axis=1)
        return np.sqrt(sigma2 + squares) * (1 if importance is None else importance)
    factor = {"IQ2_K": 1.5, "IQ2_KS": 1.5, "IQ3_K": 1.5, "IQ2_KL": 2.25}.get(name, 2)
    sigma2 = factor * np.repeat(squares.reshape(len(rows), -1, 256).mean(axis=2), 256, axis=1)
    if importance is not None:
        return importance * np.sqrt(sigma2 + squares)
    plain_x2 = ["IQ4_K", "IQ3_KS", "IQ4_KS", "IQ5_KS", "IQ4_KSS"]
    return squares + (0 if name in plain_x2 else 0.25) * sigma2


@pytest.mark.parametrize("key", ["plain", "weighted"])
@pytest.mark.parametrize("name", SEARCHED)
def test_errors_are_not_above_the_program_s(name, key, inputs):
    rows, importance = inputs["rows"], inputs["importance"] if key == "weighted" else None
    weights = search_weights(name, rows, importance)

    def error(data):
        values = dequantize_rows(data, name, rows.shape[1])
        return (weights * (values.astype(np.float64) - rows) ** 2).sum(axis=1)

    ours, theirs = error(quantize_rows(rows, name, importance)), error(golden(name)[key])
    energy = (weights * rows.astype(np.float64) ** 2).sum(axis=1) + 1e-300
    assert ours.sum() <= 1.005 * theirs.sum()
    assert (ours / energy).sum() <= 1.005 * (theirs / energy).sum()


def random_bytes(rng, name, n_rows, n_cols):
    """Rows of random bytes in which scales are finite."""
    _, size, block_bytes, read_scale, first = naive_ik.FORMATS[name]
    data = rng.integers(0, 256, (n_rows, first + n_cols // size * block_bytes), dtype=np.uint8)
    if read_scale is None:
        data[:, 1::block_bytes] &= 0xBF
    else:
        data[:, 3 if read_scale is naive_ik.single else 1] &= 0xBF
    return data


@pytest.mark.parametrize("name", TYPES)
def test_twin(name):
    data = random_bytes(np.random.default_rng(11), name, 3, 512)
    expected = np.stack([naive_ik.dequantize(name, row, 512) for row in data])
    np.testing.assert_array_equal(dequantize_rows(data, name, 512), expected)


@pytest.mark.parametrize("name", WOVEN)
def test_woven_twin(name):
    rng = np.random.default_rng(12)
    data = rng.integers(0, 256, (4, block_format(name).type.row_bytes(512)), dtype=np.uint8)
    data[0, 1:8:2] &= 0xBF  # finite scales
    points = np.load(Path(quanttool.formats.__file__).parent / "tables" / "iq1.npy").astype(int) - 1
    expected = naive_ik.dequantize_woven(name, data, 512, points)
    np.testing.assert_array_equal(dequantize_rows(data, name, 512), expected)


@pytest.mark.parametrize("name", [name for name in TYPES if hasattr(block_format(name), "layout")])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_packing_is_the_inverse_of_unpacking(name, seed):
    fmt = block_format(name)
    data = random_bytes(np.random.default_rng(seed), name, 3, 768)
    packed = data.copy()
    packed[:, fmt.type.row_meta_bytes :] = 0
    fmt.layout.pack(fmt.layout.unpack(data, fmt.type.row_meta_bytes), packed, fmt.type.row_meta_bytes)
    np.testing.assert_array_equal(packed, data)


def awkward_rows(rng):
    """Rows that break scale searches, f32 [n, 512]."""
    rows = rng.standard_normal((12, 512)).astype(np.float32)
    rows[0] = 0
    rows[1] = 0
    rows[1, 171] = -2
    rows[2] = 0.37
    rows[3] = -1
    rows[4] *= np.float32(1e-30)
    rows[5] *= np.float32(1e30)
    rows[6] *= np.float32(1e-41)  # denormal
    rows[7, ::3] *= np.float32(1e-30)
    rows[8, ::5] *= np.float32(1e30)
    rows[9] = np.float32(3e38) * np.sign(rows[9])
    rows[10] = np.round(rows[10])
    rows[11, 64:] = 0
    return rows


def awkward_importance(rng):
    """Importance with zeros and extremes, f32 [n, 512]."""
    importance = rng.gamma(1, 1, (6, 512)).astype(np.float32)
    importance[0] = 0
    importance[1, ::2] = 0
    importance[2, ::3] = np.float32(1e-30)
    importance[3] = np.float32(1e-42)
    importance[4, 32:300] = 0
    importance[5, ::7] = np.float32(3e38)
    return importance


@pytest.mark.parametrize("name", TYPES + WOVEN)
def test_awkward_rows(name):
    """All values are finite, and closer to the rows than zeros are where a float can hold the scale."""
    rng = np.random.default_rng(6)
    rows = awkward_rows(rng)
    for importance in [None, *awkward_importance(rng)]:
        values = dequantize_rows(quantize_rows(rows, name, importance), name, 512)
        assert np.isfinite(values).all(), np.argwhere(~np.isfinite(values))[0]
        if importance is None and name != "IQ1_BN":
            in_range = [1, 2, 3, 7, 10, 11]  # of float16
            off = ((values - rows)[in_range].astype(np.float64) ** 2).sum(axis=1)
            assert (off <= 1.01 * (rows[in_range].astype(np.float64) ** 2).sum(axis=1)).all()


@pytest.mark.parametrize("name", ["IQ4_KS", "IQ4_KSS", "IQ5_KS", "IQ1_KT", "IQ2_KT", "IQ3_KT", "IQ4_KT", "Q8_KV"])
@pytest.mark.parametrize("exponent", [-100, 100])
def test_codes_do_not_depend_on_magnitude(name, exponent):
    rows = np.random.default_rng(8).standard_normal((2, 512)).astype(np.float32)
    data, scaled = quantize_rows(rows, name), quantize_rows(np.ldexp(rows, exponent), name)
    meta = block_format(name).type.row_meta_bytes
    np.testing.assert_array_equal(scaled[:, meta:], data[:, meta:])


@pytest.mark.parametrize("name", TYPES)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n_rows=st.integers(1, 20))
def test_bytes_depend_on_the_row_alone(name, seed, n_rows):
    rng = np.random.default_rng(seed)
    rows = (rng.standard_normal((n_rows, 512)) * rng.choice([0, 1e-3, 1], (n_rows, 1))).astype(np.float32)
    importance = rng.gamma(1, 1, 512).astype(np.float32)
    together = quantize_rows(rows, name, importance)
    order = rng.permutation(n_rows)
    np.testing.assert_array_equal(quantize_rows(rows[order], name, importance, threads=2), together[order])
    one = rng.integers(n_rows)
    np.testing.assert_array_equal(quantize_rows(rows[one : one + 1], name, importance)[0], together[one])
