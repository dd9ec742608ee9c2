"""Output files appear whole or not at all, and nothing else is touched."""

import os
from pathlib import Path

import pytest

from quanttool.errors import QuanttoolError, UsageError
from quanttool.files import atomic_output, check_output


def test_the_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "out"
    with atomic_output(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_keeps_what_was_there(tmp_path, error):
    path = tmp_path / "out"
    path.write_bytes(b"before")
    with pytest.raises(error), atomic_output(path) as file:
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["out"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "target").write_bytes(b"before")
    (tmp_path / "link").symlink_to("target")
    with atomic_output(tmp_path / "link") as file:
        file.write(b"after")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"after"


def test_a_device_is_refused_and_stays(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UsageError, match="is a device or a pipe"):
        check_output(pipe)
    with pytest.raises(UsageError, match="is a device or a pipe"), atomic_output(pipe):
        pass
    assert pipe.is_fifo()


def test_a_folder_and_a_missing_folder_are_refused(tmp_path):
    with pytest.raises(UsageError, match="is a folder"):
        check_output(tmp_path)
    with pytest.raises(UsageError, match="does not exist"):
        check_output(tmp_path / "no" / "file")


def test_operating_system_errors_name_the_file(tmp_path):
    path: Path = tmp_path / "out"
    with pytest.raises(QuanttoolError, match=f"{path}: cannot be written"), atomic_output(path):
        raise OSError(5, "Input/output error")
