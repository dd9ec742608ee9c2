"""Files written by a run: equal to llama-quantize's to the last byte, bounded in memory, whole or absent."""

from pathlib import Path

import numpy as np
import pytest

from quanttool.container import GGUFFile, GGUFWriter
from quanttool.container.writer import copied
from quanttool.errors import QuantizeError, UsageError
from quanttool.formats import BlockFormat, dequantize_rows, quantize_rows
from quanttool.imatrix import load
from quanttool.quantize.plan import make_plan
from quanttool.quantize.run import run, slabs
from quanttool.recipes.repack import Repacking
from quanttool.recipes.resolve import Request, parse_target

from .small_model import SHAPES, values, write_imatrix, write_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_model(folder / "model.gguf")
    write_imatrix(folder / "imatrix.gguf")
    return folder


def quantize(source: Path, output: Path, target: str, imatrix: Path | None = None, pure=False, **options) -> None:
    file = GGUFFile(source)
    importance = load(imatrix) if imatrix else None
    request = Request(parse_target(target), pure=pure, imatrix=bool(imatrix))
    plan = make_plan(file.metadata, file.tensors.values(), request, importance, str(imatrix or ""))
    run(file, plan, output, importance, **options)


@pytest.mark.parametrize("threads", [1, 3])
def test_bytes_do_not_depend_on_threads_or_slabs(folder, tmp_path, monkeypatch, threads):
    quantize(folder / "model.gguf", tmp_path / "a.gguf", "BF16", folder / "imatrix.gguf")
    monkeypatch.setattr("quanttool.formats.SLAB_VALUES", 3000)
    quantize(folder / "model.gguf", tmp_path / "b.gguf", "BF16", folder / "imatrix.gguf", threads=threads)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_the_file_has_the_planned_size(folder, tmp_path):
    file = GGUFFile(folder / "model.gguf")
    plan = make_plan(file.metadata, file.tensors.values(), Request(parse_target("F16")))
    seen = []
    run(file, plan, tmp_path / "out.gguf", threads=1, progress=lambda done, total: seen.append((done, total)))
    assert (tmp_path / "out.gguf").stat().st_size == plan.file_bytes
    assert seen[-1] == (plan.n_values, plan.n_values) and seen == sorted(seen)


def test_no_slab_crosses_from_one_expert_to_the_next(folder):
    file, imatrix = GGUFFile(folder / "model.gguf"), load(folder / "imatrix.gguf")
    request = Request(parse_target("IQ4_NL"), pure=True, imatrix=True)
    plan = make_plan(file.metadata, file.tensors.values(), request, imatrix, "imatrix.gguf")
    covered: dict[str, list[int]] = {}
    for slab in slabs(plan, imatrix):
        ne = slab.tensor.source.ne
        covered.setdefault(slab.tensor.name, []).extend(range(slab.first_row, slab.first_row + slab.n_rows))
        if "exps" in slab.tensor.name:
            expert = slab.first_row // ne[1]
            assert (slab.first_row + slab.n_rows - 1) // ne[1] == expert
            entry = imatrix.entries[slab.tensor.name]
            count = np.float32(entry.counts[expert])
            expected = entry.sums_of_squares[expert].astype(np.float32) / count if count else np.ones(ne[0], np.float32)
            np.testing.assert_array_equal(slab.importance, expected)
    assert all(rows == list(range(int(np.prod(SHAPES[name][1:])))) for name, rows in covered.items())


def test_weights_that_are_not_finite_are_placed(folder, tmp_path):
    file = GGUFFile(folder / "model.gguf")
    name = "blk.1.ffn_up_exps.weight"
    for value, words in ((np.nan, "nan"), (-np.inf, "-inf")):
        with GGUFWriter(tmp_path / "bad.gguf", copied(file.metadata), file.tensors.values()) as writer:
            for other in file.tensors:
                writer.write_rows(other, 0, file.data(other))
            row = values(name, 512)[None].copy()
            row[0, 77] = value
            writer.write_rows(name, 300, row.view(np.uint8))
        for target in ("BF16", "COPY"):
            with pytest.raises(QuantizeError, match=rf"{name}: row 300, column 77: the weight is {words}"):
                quantize(tmp_path / "bad.gguf", tmp_path / "out.gguf", target)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.gguf"]


def test_a_weight_too_large_for_f16_is_an_error(folder, tmp_path):
    file = GGUFFile(folder / "model.gguf")
    with GGUFWriter(tmp_path / "large.gguf", copied(file.metadata), file.tensors.values()) as writer:
        writer.write_rows("blk.0.attn_q.weight", 3, np.full((1, 512), 1e5, np.float32).view(np.uint8))
    with pytest.raises(QuantizeError, match=r"blk\.0\.attn_q\.weight: row 3, column 0: the weight is inf"):
        quantize(tmp_path / "large.gguf", tmp_path / "out.gguf", "F16")
    quantize(tmp_path / "large.gguf", tmp_path / "out.gguf", "BF16")


def test_problems_stop_before_the_work(folder, tmp_path):
    with pytest.raises(UsageError, match="useless without an imatrix"):
        quantize(folder / "model.gguf", tmp_path / "out.gguf", "IQ1_S")
    assert list(tmp_path.iterdir()) == []


def test_types_that_are_only_read_stop_before_the_work(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(BlockFormat, "can_quantize", False)
    with pytest.raises(UsageError, match=r"output\.weight: BF16 can be read here, but not written"):
        quantize(folder / "model.gguf", tmp_path / "out.gguf", "BF16")
    assert list(tmp_path.iterdir()) == []


def test_woven_types_are_the_base_types_woven_matrix_by_matrix(folder, tmp_path):
    for target in ("IQ4_K", "IQ4_K_R4"):
        quantize(folder / "model.gguf", tmp_path / f"{target}.gguf", target)
    base, woven = (GGUFFile(tmp_path / f"{target}.gguf") for target in ("IQ4_K", "IQ4_K_R4"))
    name = "blk.1.ffn_up_exps.weight"
    assert woven.tensors[name].type.name == "IQ4_K_R4" and woven.tensors["token_embd.weight"].type.name == "IQ4_K"
    values_of = (dequantize_rows(file.data(name), file.tensors[name].type.name, 512) for file in (base, woven))
    np.testing.assert_array_equal(*values_of)


def test_expert_rows_equal_those_of_each_expert_alone(folder, tmp_path):
    """By another way: quantize_rows on one expert with its own importance."""
    quantize(folder / "model.gguf", tmp_path / "out.gguf", "IQ4_NL", folder / "imatrix.gguf", pure=True)
    written, imatrix = GGUFFile(tmp_path / "out.gguf"), load(folder / "imatrix.gguf")
    name = "blk.1.ffn_gate_exps.weight"
    weights = values(name, int(np.prod(SHAPES[name]))).reshape(4, 256, 512)
    importance = imatrix.importance(name)
    for expert in range(4):
        rows = quantize_rows(weights[expert], "IQ4_NL", importance[expert])
        np.testing.assert_array_equal(written.data(name)[256 * expert : 256 * (expert + 1)], rows)


def test_weaving_and_taking_apart_lose_nothing(folder, tmp_path):
    """Woven bytes are compared with a run that quantizes into the woven type at once, which loads in ik_llama.cpp."""

    def copied_as(source: str, output: str, repacking: Repacking) -> None:
        file = GGUFFile(tmp_path / source)
        request = Request(parse_target("COPY"), repacking=repacking)
        run(file, make_plan(file.metadata, file.tensors.values(), request), tmp_path / output)

    for target in ("Q5_0", "Q5_0_R4"):
        quantize(folder / "model.gguf", tmp_path / f"{target}.gguf", target, pure=True)
    copied_as("Q5_0.gguf", "woven.gguf", Repacking())
    copied_as("woven.gguf", "apart.gguf", Repacking(unpack=True))
    base, direct, woven, apart = (GGUFFile(tmp_path / f"{name}.gguf") for name in ("Q5_0", "Q5_0_R4", "woven", "apart"))
    assert sum(tensor.type.name == "Q5_0_R4" for tensor in woven.tensors.values()) == 12
    assert woven.metadata["general.file_type"] == 208
    for name, tensor in base.tensors.items():
        assert woven.tensors[name].type is direct.tensors[name].type and apart.tensors[name].type is tensor.type
        np.testing.assert_array_equal(woven.data(name), direct.data(name))
        np.testing.assert_array_equal(apart.data(name), base.data(name))
