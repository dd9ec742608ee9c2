"""Outputs in several files: cut as llama.cpp's tools cut them, going on after a kill as one file does."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from quanttool.container import GGUFFile, open_gguf
from quanttool.errors import UsageError
from quanttool.quantize.journal import journal_path
from quanttool.quantize.plan import make_plan
from quanttool.quantize.run import run
from quanttool.quantize.split import Split, split
from quanttool.recipes.resolve import Request, parse_target

from .small_model import write_model
from .test_resume import SLOW

# (tensors, bytes) of each file that llama.cpp's gguf-split made of what llama-quantize had made: model.gguf Q8_0
CUTS = {
    Split(max_tensors=5): [(5, 144288), (5, 905632), (5, 751264), (3, 1122624)],
    Split(max_bytes=1_000_000): [(9, 893056), (6, 908000), (2, 565504), (1, 557248)],
    Split(max_tensors=7, first_empty=True): [(0, 640), (7, 700928), (7, 542496), (4, 1679776)],
}
# sha256 of all files that `llama-quantize --keep-split ... Q8_0` made of the model cut into files of five tensors
KEPT = "112c71c8112659809370507a7dd93bc79f92cd65121dce263cf341f6e8ef7ffc"


@pytest.fixture
def folder(tmp_path) -> Path:
    write_model(tmp_path / "model.gguf")
    return tmp_path


def quantize(source: Path, output: Path, how: Split, target: str = "Q8_0") -> list[Path]:
    file = open_gguf(source)
    plan = make_plan(file.metadata, file.tensors.values(), Request(parse_target(target)))
    split(plan, how, file)
    run(file, plan, output)
    paths = plan.writer(output).paths
    assert sum(path.stat().st_size for path in paths) == plan.file_bytes
    return paths


@pytest.mark.parametrize("how", CUTS, ids=str)
def test_files_are_cut_as_by_gguf_split(folder, how):
    paths = quantize(folder / "model.gguf", folder / "out.gguf", how)
    assert [path.name for path in paths] == [f"out-{n + 1:05d}-of-{len(paths):05d}.gguf" for n in range(len(paths))]
    assert [(len(GGUFFile(path).tensors), path.stat().st_size) for path in paths] == CUTS[how]
    quantize(folder / "model.gguf", folder / "whole.gguf", Split())
    whole, shards = open_gguf(folder / "whole.gguf"), open_gguf(paths[1])
    assert list(whole.tensors) == list(shards.tensors)
    for name in whole.tensors:
        np.testing.assert_array_equal(whole.data(name), shards.data(name))


def test_the_files_of_the_source_are_kept_as_by_llama_quantize(folder):
    paths = quantize(folder / "model.gguf", folder / "source.gguf", Split(max_tensors=5), "COPY")
    # gguf-split leaves the order of the file; a run has sorted it by layers
    assert [len(GGUFFile(path).tensors) for path in paths] == [5, 5, 5, 3]
    kept = quantize(paths[1], folder / "kept-00001-of-00009.gguf", Split(keep=True))
    assert [path.name for path in kept] == [f"kept-{n}-of-00004.gguf" for n in ("00001", "00002", "00003", "00004")]
    assert [list(GGUFFile(path).tensors) for path in kept] == [list(GGUFFile(path).tensors) for path in paths]
    assert quantize(folder / "model.gguf", folder / "one.gguf", Split(keep=True)) == [folder / "one.gguf"]


def test_a_tensor_above_the_limit_gets_a_file_of_its_own(folder):
    paths = quantize(folder / "model.gguf", folder / "out.gguf", Split(max_bytes=1))
    assert [len(GGUFFile(path).tensors) for path in paths] == [1] * 18


@pytest.mark.parametrize(
    "how", [{"keep": True, "max_tensors": 3}, {"keep": True, "first_empty": True}, {"first_empty": True}]
)
def test_options_that_do_not_go_together(how):
    with pytest.raises(UsageError, match="split"):
        Split(**how)


def test_kill_9_again_and_again(folder):
    words = ["model.gguf", "out.gguf", "Q8_0", "-t", "2", "--split-max-tensors", "5"]
    command = [sys.executable, "-c", SLOW, *words]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    journal, progress = journal_path(folder / "out.gguf"), 0
    for _ in range(3):
        started = subprocess.Popen(command, cwd=folder, env=environment)
        while started.poll() is None:
            lines = len(journal.read_text().splitlines()) if journal.exists() else 0
            if lines >= progress + 4:
                started.send_signal(signal.SIGKILL)
                progress = lines - 1
                break
            time.sleep(0.002)
        assert started.wait() == -signal.SIGKILL
        assert not list(folder.glob("out-*.gguf"))
    subprocess.run(command, cwd=folder, env=environment, check=True)
    subprocess.run([*command[:4], "whole.gguf", *command[5:]], cwd=folder, env=environment, check=True)
    for number in range(1, 5):
        name = f"-{number:05d}-of-00004.gguf"
        assert (folder / f"out{name}").read_bytes() == (folder / f"whole{name}").read_bytes()
    assert len(list(folder.iterdir())) == 9


@pytest.mark.parametrize("how", [Split(), Split(max_tensors=5)], ids=["one file", "several"])
def test_a_kill_while_files_get_their_names_loses_nothing(folder, monkeypatch, how):
    paths = quantize(folder / "model.gguf", folder / "out.gguf", how)
    before = [path.read_bytes() for path in paths]
    for path in paths:
        path.unlink()

    with monkeypatch.context() as patch:
        replace, left = os.replace, len(paths) - 1

        def die_at_last(source, target):
            nonlocal left
            left -= str(target).endswith(".gguf")
            if left < 0:
                raise KeyboardInterrupt  # leaves everything as a kill does
            replace(source, target)

        patch.setattr("quanttool.files.os.replace", die_at_last)
        with pytest.raises(KeyboardInterrupt):
            quantize(folder / "model.gguf", folder / "out.gguf", how)
    assert journal_path(folder / "out.gguf").read_text().endswith('{"whole": true}\n')
    assert [path.exists() for path in paths] == [False] + [True] * (len(paths) - 1)
    monkeypatch.setattr("quanttool.quantize.run._converted", None)  # nothing is computed any more
    quantize(folder / "model.gguf", folder / "out.gguf", how)
    assert [path.read_bytes() for path in paths] == before and not journal_path(folder / "out.gguf").exists()


def test_another_number_of_files_clears_the_parts_of_the_first(folder, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("quanttool.quantize.run._Work.__call__", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        quantize(folder / "model.gguf", folder / "out.gguf", Split(max_tensors=5))
    assert len(list(folder.glob("*.part"))) == 4
    quantize(folder / "model.gguf", folder / "out.gguf", Split(max_tensors=9))
    assert not list(folder.glob("*.part"))


def test_bytes_are_those_of_llama_quantize(folder, tmp_path):
    """keep-split of a source as gguf-split cuts it: the order of the tensors in the file, five a file."""
    from quanttool.container import ShardedGGUFWriter
    from quanttool.container.writer import copied

    source = GGUFFile(folder / "model.gguf")
    tensors = list(source.tensors.values())
    cut = [tensors[start : start + 5] for start in range(0, len(tensors), 5)]
    with ShardedGGUFWriter(folder / "cut.gguf", copied(source.metadata), cut) as writer:
        for name in source.tensors:
            writer.write_rows(name, 0, source.data(name))
    digest = hashlib.sha256()
    for path in quantize(folder / "cut-00003-of-00004.gguf", folder / "kept", Split(keep=True)):
        digest.update(path.read_bytes())
    assert digest.hexdigest() == KEPT
