"""A run that was killed goes on where it was: same bytes, and nothing is believed that was not hashed again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quanttool.container import GGUFFile, GGUFWriter
from quanttool.errors import QuantizeError
from quanttool.quantize import run as run_module
from quanttool.quantize.journal import journal_path
from quanttool.quantize.plan import make_plan
from quanttool.recipes.resolve import Request, parse_target

from .small_model import SHAPES, write_imatrix, write_model

# In a process of its own: every slab takes a moment, so that there is time to kill it.
SLOW = """
import sys, time
from quanttool.quantize import run
convert = run._converted
run._converted = lambda *arguments: (time.sleep(0.01), convert(*arguments))[1]
from quanttool.cli.quantize import command
command.main(sys.argv[1:], standalone_mode=False)
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    write_model(tmp_path / "model.gguf")
    write_imatrix(tmp_path / "imatrix.gguf")
    return tmp_path


def quantize(folder: Path, output: str, target: str = "Q8_0", **options) -> None:
    file = GGUFFile(folder / "model.gguf")
    plan = make_plan(file.metadata, file.tensors.values(), Request(parse_target(target)))
    run_module.run(file, plan, folder / output, threads=1, **options)


def interrupt_after(n_slabs: int, monkeypatch, error=KeyboardInterrupt) -> list:
    """Let `_converted` raise after so many slabs; returns the names of those that were computed."""
    names, convert = [], run_module._converted

    def counted(slab, *arguments):
        if len(names) == n_slabs:
            raise error
        names.append(slab.tensor.name)
        return convert(slab, *arguments)

    monkeypatch.setattr(run_module, "_converted", counted)
    return names


@pytest.mark.parametrize("target", ["IQ4_NL", "Q8_0"])
def test_kill_9_again_and_again(folder, target):
    words = [*("--imatrix", "imatrix.gguf"), "model.gguf", "out.gguf", target, "-t", "2"]
    command = [sys.executable, "-c", SLOW, *words]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([*command[:-4], "whole.gguf", *command[-3:]], cwd=folder, env=environment, check=True)
    progress, killed = 0, 0
    for _ in range(3):
        started = subprocess.Popen(command, cwd=folder, env=environment)
        journal = journal_path(folder / "out.gguf")
        while started.poll() is None:
            lines = len(journal.read_text().splitlines()) if journal.exists() else 0
            if lines >= progress + 4:
                started.send_signal(signal.SIGKILL)
                killed += 1
                progress = lines - 1
                break
            time.sleep(0.002)
        started.wait()
        assert not (folder / "out.gguf").exists()
    assert killed == 3
    subprocess.run(command, cwd=folder, env=environment, check=True)
    assert (folder / "out.gguf").read_bytes() == (folder / "whole.gguf").read_bytes()
    assert {path.name for path in folder.iterdir()} == {"model.gguf", "imatrix.gguf", "out.gguf", "whole.gguf"}


def test_only_what_is_left_is_computed(folder, monkeypatch):
    quantize(folder, "whole.gguf")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        first = interrupt_after(7, patch)
        quantize(folder, "out.gguf")
    seen = []
    second = interrupt_after(-1, monkeypatch)
    quantize(folder, "out.gguf", progress=lambda done, total: seen.append(done))
    assert len(first) == 7 and set(second) | set(first) == set(SHAPES)
    assert not set(second) & set(first[:-1])  # at most the tensor at hand is computed twice
    assert (folder / "out.gguf").read_bytes() == (folder / "whole.gguf").read_bytes()
    assert seen[-1] == sum(tensor.n_values for tensor in GGUFFile(folder / "model.gguf").tensors.values())


def test_damaged_bytes_are_computed_again(folder, monkeypatch):
    quantize(folder, "whole.gguf")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(7, patch)
        quantize(folder, "out.gguf")
    with (folder / "out.gguf.part").open("r+b") as part:
        part.seek(GGUFFile(folder / "whole.gguf").data_start + 100)
        part.write(b"damage")
    with journal_path(folder / "out.gguf").open("a") as journal:
        journal.write('{"tensor": "not there", "sha256": ""}\n{"tens')  # a stranger, and a line cut short
    quantize(folder, "out.gguf")
    assert (folder / "out.gguf").read_bytes() == (folder / "whole.gguf").read_bytes()


def test_a_kill_while_the_journal_is_written_anew_loses_nothing(folder, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(7, patch)
        quantize(folder, "out.gguf")
    before = journal_path(folder / "out.gguf").read_text()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("quanttool.quantize.journal.os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        quantize(folder, "out.gguf")
    assert journal_path(folder / "out.gguf").read_text() == before


@pytest.mark.parametrize("change", ["target", "source", "search program"])
def test_another_run_starts_over(folder, monkeypatch, change):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(7, patch)
        quantize(folder, "out.gguf", "Q8_0")
    target = "Q8_0"
    if change == "target":
        target = "Q5_0"
    elif change == "source":
        os.utime(folder / "model.gguf", (1, 1))
    else:
        monkeypatch.setattr("quanttool.quantize.journal.__version__", "another")
    names = interrupt_after(-1, monkeypatch)
    quantize(folder, "out.gguf", target)
    assert set(names) == set(SHAPES)


def test_after_an_error_nothing_is_left(folder, monkeypatch):
    interrupt_after(7, monkeypatch, QuantizeError("a weight is NaN"))
    with pytest.raises(QuantizeError):
        quantize(folder, "out.gguf")
    assert {path.name for path in folder.iterdir()} == {"model.gguf", "imatrix.gguf"}


def test_the_journal_names_tensors_as_they_become_whole(folder, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        names = interrupt_after(7, monkeypatch)
        quantize(folder, "out.gguf")
    key, *lines = (json.loads(line) for line in journal_path(folder / "out.gguf").read_text().splitlines())
    assert list(key) == ["key", "files"] and [line["tensor"] for line in lines] == list(dict.fromkeys(names))


def test_a_writer_that_is_not_resumable_leaves_nothing_on_ctrl_c(folder):
    file = GGUFFile(folder / "model.gguf")
    with pytest.raises(KeyboardInterrupt), GGUFWriter(folder / "x.gguf", {}, file.tensors.values()):
        raise KeyboardInterrupt
    assert not (folder / "x.gguf.part").exists()
