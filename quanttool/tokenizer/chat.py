"""Conversations as the text that a model was trained on: its own chat template, from the GGUF file, applied to them."""

import json
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from ..container import GGUFFile
from ..errors import FileFormatError, ModelError, QuanttoolError

KEY = "tokenizer.chat_template"
TODAY = date(2025, 1, 1)  # for templates that ask: the same text every day

# "from" of {"conversations": [{"from", "value"}]} (ShareGPT) -> role
ROLES = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "model": "assistant", "tool": "tool", "function": "tool",
}  # fmt: skip

Message = Mapping[str, Any]


class ChatTemplate:
    """A Jinja template that turns messages into text; it runs in a sandbox, since files come from anywhere.

    source:  the template
    special: names of special tokens (bos_token, eos_token, ...) -> their text
    path:    for errors

    Raises QuanttoolError if jinja2 is not installed, ModelError for a template with a fault.
    """

    def __init__(self, source: str, special: Mapping[str, str], path: str):
        try:
            from jinja2 import TemplateError
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ModuleNotFoundError:
            raise QuanttoolError("conversations need jinja2; install it with pip install quanttool[chat]") from None

        def refuse(message: str) -> None:
            raise TemplateError(message)

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
        environment.globals |= {"raise_exception": refuse, "strftime_now": TODAY.strftime}
        self._special, self._path, self._fault = dict(special), path, TemplateError
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ModelError(f"{path}: its chat template cannot be read: {error}") from error

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> "ChatTemplate":
        """The template of a model's file. Raises ModelError if it has none."""
        source = file.metadata.get(KEY)
        if not isinstance(source, str):
            raise ModelError(f"{file.path}: has no chat template ({KEY}), which conversations need; give plain text")
        tokens, special = file.metadata.get("tokenizer.ggml.tokens") or [], {}
        for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
            id = file.metadata.get(f"tokenizer.ggml.{key}_token_id")
            if isinstance(id, int) and 0 <= id < len(tokens):
                special[f"{name}_token"] = tokens[id]
        return cls(source, special, str(file.path))

    def render(self, messages: Sequence[Message]) -> str:
        """The text of a conversation. Raises ModelError for what the template refuses."""
        try:
            return self._template.render(messages=list(messages), add_generation_prompt=False, **self._special)
        except (self._fault, TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
            raise ModelError(f"{self._path}: its chat template refuses a conversation: {error}") from error


def read_conversations(text: str, path: str) -> list[list[Message]]:
    """Messages of each line of a JSON lines file.

    A line is {"messages": [{"role", "content"}, ...]} or {"conversations": [{"from", "value"}, ...]}; empty lines are
    passed over. Raises FileFormatError that names the line.
    """
    conversations = [
        _messages(line, f"{path}: line {number}") for number, line in enumerate(text.split("\n"), 1) if line.strip()
    ]
    if not conversations:
        raise FileFormatError(f"{path}: holds no conversations")
    return conversations


def _messages(line: str, where: str) -> list[Message]:
    try:
        value = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise FileFormatError(f"{where} is not JSON ({error}); expected one conversation a line") from None
    messages = []
    for key, role_key, text_key in (("messages", "role", "content"), ("conversations", "from", "value")):
        if isinstance(value, dict) and isinstance(value.get(key), list):
            messages = [_message(message, role_key, text_key, where) for message in value[key]]
            break
    if not messages:
        raise FileFormatError(
            f'{where} has no conversation; expected {{"messages": [...]}} or {{"conversations": [...]}}'
        )
    return messages


def _message(message: Any, role_key: str, text_key: str, where: str) -> Message:
    if not isinstance(message, dict) or not isinstance(message.get(role_key), str) or text_key not in message:
        raise FileFormatError(f"{where} has a message without {role_key!r} or {text_key!r}")
    if role_key == "role":
        return message  # with whatever else it has: tool calls, names
    role = message["from"].lower()
    if role not in ROLES:
        raise FileFormatError(f"{where} has a message from {role[:40]!r}; known are {', '.join(ROLES)}")
    return {"role": ROLES[role], "content": message["value"]}
