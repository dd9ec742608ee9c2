"""Texts given on the command line, as chunks of tokens."""

from collections.abc import Callable, Sequence
from pathlib import Path

import click

from ..errors import UsageError

MIN_CONTEXT = 8

file_options = [
    click.option(
        "-f", "--file", "files", multiple=True, metavar="TEXT", help="Text to run, UTF-8; may be given several times."
    ),
    click.option(
        "-c",
        "--ctx-size",
        "n_ctx",
        type=click.IntRange(min=MIN_CONTEXT),
        default=512,
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
