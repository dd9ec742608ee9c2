"""What is finished of an output that is being written, so that the same command can go on after a crash or a kill.

`OUT.gguf.journal` holds lines of JSON: the run's key and its files first, then name and SHA-256 of every tensor that is
whole in `OUT.gguf.part` (or in the parts of several files), and "whole" before the files get their names. Nothing in it
is believed before the bytes have been hashed again.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from .. import __version__
from ..container import GGUFFile, GGUFWriter, ShardedGGUF, ShardedGGUFWriter
from ..files import part_path

_WHOLE = {"whole": True}


def journal_path(output: str | os.PathLike) -> Path:
    output = Path(output)
    return output.with_name(output.name + ".journal")


def run_key(writer: GGUFWriter | ShardedGGUFWriter, source: GGUFFile | ShardedGGUF, keys: Iterable[int]) -> str:
    """Equal for two runs that write equal bytes: of the output's header, the source files and all tensor keys."""
    digest = hashlib.sha256(__version__.encode() + writer.header_bytes)
    for path in source.paths:
        status = path.stat()
        digest.update(f" {status.st_size} {status.st_mtime_ns}".encode())
    digest.update(" ".join(map(str, keys)).encode())
    return digest.hexdigest()


class Journal:
    """The journal of one run. `finished` holds what an earlier run with the same key claims: name -> SHA-256.

    output:  name of the model, which has one file or several
    paths:   of its files

    Starting over (another key, no journal, no part file) clears what an earlier run has left.
    """

    def __init__(self, output: str | os.PathLike, key: str, paths: list[Path]):
        self.path = journal_path(output)
        self._head = {"key": key, "files": [path.name for path in paths]}
        self._file: TextIO | None = None
        self.finished: dict[str, str] = {}
        lines = self._lines()
        if lines[:1] == [self._head]:
            if _WHOLE in lines:  # killed while the files got their names
                for path in paths:
                    if path.is_file() and not part_path(path).exists():
                        os.replace(os.path.realpath(path), part_path(path))
            if any(part_path(path).is_file() for path in paths):
                claims = [line for line in lines[1:] if line.keys() == {"tensor", "sha256"}]
                self.finished = {line["tensor"]: line["sha256"] for line in claims}
        if not self.finished:
            self._clear(lines[0].get("files", []) if lines else [], paths)

    def _clear(self, names: list[str], paths: list[Path]) -> None:
        """Remove the parts of a run that cannot be gone on with: of this output, in whatever number of files."""
        stem = self.path.name.removesuffix(".journal").removesuffix(".gguf")
        earlier = [self.path.with_name(name) for name in map(str, names) if name.startswith(stem) and "/" not in name]
        for path in (*earlier, *paths):
            with suppress(FileNotFoundError):
                part_path(path).unlink()

    def _lines(self) -> list[dict]:
        """Lines as far as they can be read: the last one may be cut short."""
        lines = []
        try:
            for line in self.path.read_text(encoding="utf-8").splitlines():
                lines.append(json.loads(line))
        except (OSError, ValueError):
            pass
        return [line for line in lines if isinstance(line, dict)]

    def open(self, verified: Iterable[str]) -> None:
        """Begin to write: the key, and those finished tensors that were found to be true.

        The journal of the earlier run stays until the new one has all of this: a kill in between loses nothing.
        """
        new = self.path.with_name(self.path.name + ".new")
        self._file = new.open("w", encoding="utf-8")
        self._write(self._head)
        for name in verified:
            self.add(name, self.finished[name])
        os.replace(new, self.path)

    def add(self, name: str, sha256: str) -> None:
        """A tensor is whole. Not safe from several threads."""
        self._write({"tensor": name, "sha256": sha256})

    def whole(self) -> None:
        """All tensors are whole and on the disk: the files get their names next."""
        self._write(_WHOLE)

    def _write(self, line: dict) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self, keep: bool) -> None:
        """`keep` it where the run was interrupted; otherwise it has done its service."""
        if self._file:
            self._file.close()
        if not keep:
            self.path.unlink(missing_ok=True)
