"""Texts given on the command line, as documents: a text file is one, of conversations (.jsonl) each line is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

from ..errors import UsageError
from .console import note
from .texts import read_text

pack_option = click.option(
    "--pack", type=click.Choice(["contiguous", "document"]), default="contiguous", show_default=True,
    help="contiguous: documents one after the other, cut into chunks of -c tokens. document: each document (a text, "
    "a conversation) by itself, cut only where it is longer than -c.",
)  # fmt: skip

FEWEST_LISTED = 20  # with more documents, shares are reported per file


@dataclass(frozen=True)
class Document:
    """name: its file, and its number in it; tokens: with BOS and EOS where the model adds them."""

    file: str
    name: str
    tokens: list[int]


def read_documents(
    model_path: str, files: Sequence[str], parse_special: bool = False
) -> tuple[list[Document], int | None]:
    """All documents of all files under a model's tokenizer, and the id of BOS if the model adds one.

    Conversations are rendered with the model's own chat template, whose special tokens are read as such.
    """
    from ..tokenizer import load_tokenizer

    if not files:
        raise UsageError("no text to run; give one with -f FILE")
    tokenizer = load_tokenizer(model_path)
    documents = []
    for path in files:
        if path.endswith(".jsonl"):
            for number, text in enumerate(_rendered(model_path, path), 1):
                tokens = tokenizer.encode(text, parse_special=True)
                twice = tokens[:2] == [tokenizer.bos_id] * 2  # the template wrote BOS, too
                documents.append(Document(path, f"{path}:{number}", tokens[twice:]))
        else:
            documents.append(Document(path, path, tokenizer.encode(read_text(path), parse_special=parse_special)))
    return documents, tokenizer.bos_id if tokenizer.add_bos else None


def _rendered(model_path: str, path: str) -> list[str]:
    from ..container import open_gguf
    from ..tokenizer.chat import ChatTemplate, read_conversations

    template = ChatTemplate.from_gguf(open_gguf(model_path))
    return [template.render(messages) for messages in read_conversations(read_text(path), path)]


def joined(documents: Sequence[Document]) -> list[int]:
    """All tokens, document after document."""
    return [token for document in documents for token in document.tokens]


def shares(documents: Sequence[Document], start: int, stop: int) -> list[dict[str, Any]]:
    """What each document gives of tokens start to stop of all; noted where there are several."""
    found, first = [], 0
    for document in documents:
        used = max(0, min(first + len(document.tokens), stop) - max(first, start))
        first += len(document.tokens)
        share = used / max(1, stop - start)
        found.append({"document": document.name, "file": document.file, "tokens": used, "share": share})
    listed = found if len(found) <= FEWEST_LISTED else _per_file(found)
    for entry in listed if len(found) > 1 else []:
        note(f"{entry['document']}: {entry['tokens']} tokens, {100 * entry['share']:.1f} %")
    return found


def _per_file(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    files: dict[str, dict[str, Any]] = {}
    for entry in found:
        total = files.setdefault(entry["file"], {"document": entry["file"], "n": 0, "tokens": 0, "share": 0.0})
        total["n"] += 1
        total["tokens"] += entry["tokens"]
        total["share"] += entry["share"]
    return [entry | {"document": f"{entry['document']} ({entry['n']} documents)"} for entry in files.values()]


def pieces(documents: Sequence[Document], n_ctx: int) -> list[list[int]]:
    """Each document by itself, cut where it is longer than n_ctx."""
    cut = [d.tokens[start : start + n_ctx] for d in documents for start in range(0, len(d.tokens), n_ctx)]
    if not cut:
        raise UsageError("the documents are empty; give texts with at least a token")
    return cut
