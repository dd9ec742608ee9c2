"""Commands run in this process, as `quanttool ...` would run them."""

from typing import NamedTuple

import numpy as np
import pytest

from quanttool.cli import main
from tests.models import tiny


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys):
    """run("imatrix", "-m", path, ...) -> exit code, standard output, standard error."""

    def run(*arguments) -> Outcome:
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        return Outcome(stop.value.code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A llama of two layers with a tokenizer for ASCII text; its weights are random."""
    metadata, tensors = tiny.llama()
    return tiny.write(tmp_path_factory.mktemp("tiny") / "tiny.gguf", metadata | tiny.ascii_tokenizer(), tensors)


@pytest.fixture(scope="session")
def rounded_model(tmp_path_factory):
    """The same with its weights rounded coarsely."""
    metadata, tensors = tiny.llama()
    rounded = {name: (np.round(array * 20) / 20).astype(np.float32) for name, array in tensors.items()}
    return tiny.write(tmp_path_factory.mktemp("tiny") / "rounded.gguf", metadata | tiny.ascii_tokenizer(), rounded)


@pytest.fixture
def text(tmp_path):
    """164 characters, one token each with BOS in front: five chunks of 32 and a rest."""
    path = tmp_path / "text.txt"
    path.write_text("Six dry ducks sit on a log and look at a big red sun. " * 3 + "\n")
    return path
