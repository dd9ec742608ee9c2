"""A bound of memory changes slabs and threads, never bytes; an imatrix stays in its file."""

import tracemalloc

import numpy as np
import pytest

from quanttool.container import GGUFFile, Metadata, TensorInfo
from quanttool.errors import UsageError
from quanttool.formats import SLAB_VALUES
from quanttool.ggml_types import BY_NAME
from quanttool.imatrix import Entry, Imatrix, load, save
from quanttool.imatrix.gaps import add_aliases, shrink_experts
from quanttool.quantize.memory import BYTES_PER_VALUE, PROGRAM_BYTES, fitting, reading_ahead
from quanttool.quantize.plan import make_plan
from quanttool.quantize.provenance import imatrix_sha256
from quanttool.quantize.run import run, slabs
from quanttool.recipes.resolve import Request, parse_target

from .small_model import write_imatrix, write_model

MEGA = 1 << 20


def plan_of(*shapes: tuple[int, ...], target: str = "Q8_0"):
    tensors = [TensorInfo(f"blk.{i}.x.weight", BY_NAME["F32"], ne) for i, ne in enumerate(shapes)]
    return make_plan(Metadata({}), tensors, Request(parse_target(target)))


def test_without_a_bound_nothing_changes():
    assert fitting(plan_of((4096, 4096)), None, 64) == (SLAB_VALUES, 64)


@pytest.mark.parametrize("memory", [400, 420, 512, 1024, 4096])
@pytest.mark.parametrize("threads", [1, 2, 48])
def test_slabs_of_all_threads_fit(memory, threads):
    n_values, used = fitting(plan_of((8192, 131072), (512, 7)), memory * MEGA, threads)
    assert PROGRAM_BYTES + n_values * used * BYTES_PER_VALUE <= memory * MEGA
    assert 8192 <= n_values <= SLAB_VALUES and 1 <= used <= threads


def test_too_little_memory_says_how_much_it_takes():
    with pytest.raises(UsageError, match="give at least 384M"):
        fitting(plan_of((8192, 100)), 300 * MEGA, 2)
    with pytest.raises(UsageError, match="give at least 512M"):  # eight woven rows of 2**18 values
        fitting(plan_of((1 << 18, 8), target="Q8_0_R8"), 500 * MEGA, 2)


def test_bytes_do_not_depend_on_memory(tmp_path):
    write_model(tmp_path / "model.gguf")
    write_imatrix(tmp_path / "imatrix.gguf")
    file, request = GGUFFile(tmp_path / "model.gguf"), Request(parse_target("Q4_0"), imatrix=True)
    sizes = set()
    for memory in (None, PROGRAM_BYTES + MEGA // 8, PROGRAM_BYTES + MEGA):
        imatrix = load(tmp_path / "imatrix.gguf", in_memory=memory is None)
        plan = make_plan(file.metadata, file.tensors.values(), request, imatrix, "imatrix.gguf")
        sizes.add(fitting(plan, memory, 2))
        run(file, plan, tmp_path / f"{memory}.gguf", imatrix, threads=2, memory=memory)
    assert len(sizes) == 3
    assert len({path.read_bytes() for path in tmp_path.glob("*.gguf") if path.stem[0] in "N4"}) == 1


def test_reading_ahead_keeps_the_slabs_and_their_order(tmp_path, monkeypatch):
    write_model(tmp_path / "model.gguf")
    file = GGUFFile(tmp_path / "model.gguf")
    plan = make_plan(file.metadata, file.tensors.values(), Request(parse_target("Q8_0")))
    expected = [(slab.tensor.name, slab.first_row, slab.n_rows) for slab in slabs(plan, None, 10_000)]
    asked: list[tuple[str, int, int]] = []
    monkeypatch.setattr(GGUFFile, "will_need", lambda _, *rows: asked.append(rows))
    monkeypatch.setattr("quanttool.quantize.memory.READ_AHEAD", 100_000)
    ahead, got = reading_ahead(slabs(plan, None, 10_000), file), []
    for slab in ahead:
        got.append((slab.tensor.name, slab.first_row, slab.n_rows))
        assert len(asked) > len(got) or len(asked) == len(expected)
    assert got == asked == expected


def test_an_imatrix_larger_than_memory_stays_in_its_file(tmp_path):
    """64 weights of 8 experts: 16 MiB as the file has them, 32 MiB in float64; one weight takes half of one."""
    rng = np.random.default_rng(5)
    names = [f"blk.{i}.ffn_up_exps.weight" for i in range(64)]
    entries = {name: Entry(rng.random((8, 8192)) * 100, np.arange(8) * 20) for name in names}
    save(Imatrix(entries, ["t"], 2, 512), tmp_path / "large.gguf")
    model = [TensorInfo(name.replace("up", "gate"), BY_NAME["F32"], (8192, 4, 8)) for name in names]
    expected, _ = shrink_experts(load(tmp_path / "large.gguf"))
    tracemalloc.start()
    lazy, unseen = shrink_experts(add_aliases(load(tmp_path / "large.gguf", in_memory=False), model))
    assert unseen == 128  # each entry under two names
    for tensor in model:
        got = lazy.importance(tensor.name, 8192)
        np.testing.assert_array_equal(got, expected.importance(tensor.name.replace("gate", "up"), 8192))
    assert imatrix_sha256(lazy) != imatrix_sha256(load(tmp_path / "large.gguf", in_memory=False))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20
