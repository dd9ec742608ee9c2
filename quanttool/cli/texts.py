"""Texts given on the command line, as chunks of tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import UsageError

if TYPE_CHECKING:
    from ..evaluate import Chunks

MIN_CONTEXT = 8
DEFAULT_CONTEXT = 512

file_options = [
    click.option(
        "-f", "--file", "files", multiple=True, metavar="TEXT", help="Text to run, UTF-8; may be given several times."
    ),
    click.option(
        "-c",
        "--ctx-size",
        "n_ctx",
        type=click.IntRange(min=MIN_CONTEXT),
        default=DEFAULT_CONTEXT,
        show_default=True,
        metavar="N",
        help="Tokens per chunk; chunks are independent of each other.",
    ),
    click.option(
        "--chunks", "n_chunks", type=click.IntRange(min=1), metavar="N", help="At most so many chunks; default: all."
    ),
    click.option("--parse-special", is_flag=True, help="Read special tokens such as <|im_start|> in the text as such."),
]


def text_options(command: Callable) -> Callable:
    """Add the options that say which text is run and how it is cut."""
    for option in reversed(file_options):
        command = option(command)
    return command


@dataclass(frozen=True)
class Cut:
    """How a text becomes chunks.

    n_ctx, stride:  None where nothing was said: then as `DEFAULT_CONTEXT`, and without a stride
    """

    n_ctx: int | None = None
    n_chunks: int | None = None
    stride: int | None = None
    parse_special: bool = False

    @classmethod
    def of(cls, chunks: "Chunks", parse_special: bool) -> "Cut":
        """The cut that gives chunks like these."""
        if chunks.n_scored == chunks.n_ctx - 1 - chunks.n_ctx // 2:
            return cls(chunks.n_ctx, len(chunks), None, parse_special)
        return cls(chunks.n_ctx - chunks.n_scored // 2, len(chunks), chunks.n_scored, parse_special)

    def chunks(self, tokens: Sequence[int], bos_id: int | None) -> "Chunks":
        """Cut a text. Raises UsageError if it is too short."""
        from ..evaluate import split, windows

        n_ctx = self.n_ctx or DEFAULT_CONTEXT
        if self.stride:
            return windows(tokens, n_ctx, self.stride, self.n_chunks, bos_id)
        return split(tokens, n_ctx, self.n_chunks, bos_id=bos_id)

    def check(self, path: str, chunks: "Chunks") -> None:
        """UsageError if chunks that were read from a file are not cut as was said."""
        found = Cut.of(chunks, self.parse_special)
        for option, wanted, has in (("-c", self.n_ctx, found.n_ctx), ("--stride", self.stride, found.stride)):
            if wanted is not None and wanted != has:
                raise UsageError(
                    f"{path}: was written with {f'{option} {has}' if has else f'no {option}'}, not {wanted}; "
                    f"leave {option} out"
                )


def read_text(path: str) -> str:
    """A text file without one final newline, as llama.cpp's -f reads it."""
    if not Path(path).is_file():
        raise UsageError(f"{path}: no such file")
    try:
        return Path(path).read_bytes().decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8 text (byte {error.start}); convert it first") from None


def read_tokens(model_path: str, files: Sequence[str], parse_special: bool = False) -> tuple[list[int], int | None]:
    """All texts as one list of tokens under a model's tokenizer, and the id of BOS if the model adds one."""
    from ..tokenizer import load_tokenizer

    if not files:
        raise UsageError("no text to run; give one with -f FILE")
    tokenizer = load_tokenizer(model_path)
    texts = [read_text(path) for path in files]
    tokens = [token for text in texts for token in tokenizer.encode(text, parse_special=parse_special)]
    return tokens, tokenizer.bos_id if tokenizer.add_bos else None
