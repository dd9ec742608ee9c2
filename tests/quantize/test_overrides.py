"""--override-kv: what is read, what is refused. Whole files are compared with llama-quantize's in test_golden.py."""

import pytest

from quanttool.cli.quantize import command
from quanttool.container import GGUFFile, GGUFValueType
from quanttool.errors import UsageError
from quanttool.quantize.overrides import parse_override

from .small_model import write_model


@pytest.mark.parametrize(
    ("text", "kind", "raw"),
    [
        ("a.b=int:7", GGUFValueType.UINT32, b"\7\0\0\0"), ("a=float:1.5", GGUFValueType.FLOAT32, b"\0\0\xc0\x3f"),
        ("a=bool:true", GGUFValueType.BOOL, b"\1"), ("a=str:x=y:z", GGUFValueType.STRING, b"\5" + bytes(7) + b"x=y:z"),
    ],
)  # fmt: skip
def test_values(text, kind, raw):
    assert parse_override(text) == (text.partition("=")[0], kind, raw)


@pytest.mark.parametrize(
    "text",
    [
        "a", "a=7", "=int:7", "a=uint:7", "a=int:x", "a=int:-1", "a=int:4294967296", "a=bool:yes", "a=float:nan",
        "a=float:1e39", "general.alignment=int:64", "split.count=int:2",
    ],
)  # fmt: skip
def test_what_is_refused(text):
    with pytest.raises(UsageError, match="--override-kv"):
        parse_override(text)


def test_a_key_is_changed_and_another_added(tmp_path):
    model = write_model(tmp_path / "model.gguf")
    options = ["--override-kv", "general.name=str:other", "--override-kv", "x.y=int:3"]
    command.main([*options, str(model), str(tmp_path / "out.gguf"), "BF16"], standalone_mode=False)
    made = GGUFFile(tmp_path / "out.gguf").metadata
    assert made["general.name"] == "other" and made["x.y"] == 3
    assert list(made)[-2:] == ["general.name", "x.y"]
