"""Chat templates and files of conversations. Expected texts are written out by hand from the templates."""

import pytest

from quanttool.errors import FileFormatError, ModelError
from quanttool.tokenizer.chat import ChatTemplate, read_conversations

CHATML = """{% for message in messages %}
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' }}
{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]


def test_both_kinds_of_lines_give_the_same_messages():
    text = (
        '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}\n\n'
        '{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}], "id": 7}\n'
    )
    assert read_conversations(text, "f") == [TALK, TALK]


def test_rendering():
    rendered = ChatTemplate(CHATML, {}, "f").render(TALK)
    assert rendered == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"


def test_what_templates_expect_to_have():
    source = "{{ bos_token }}{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m | tojson }}"
    source += "{% endfor %}"
    assert ChatTemplate(source, {"bos_token": "<s>"}, "f").render([{"content": "ä<b>"}, {}]) == '<s>{"content": "ä<b>"}'
    assert ChatTemplate("{{ strftime_now('%d %b %Y') }}", {}, "f").render(TALK) == "01 Jan 2025"


@pytest.mark.parametrize(
    "source, message",
    [
        ("{{ raise_exception('roles must alternate') }}", "refuses a conversation: roles must alternate"),
        ("{{ ''.__class__.__mro__ }}", "refuses a conversation: access to attribute '__class__'"),
        ("{{ messages.append(1) }}", "refuses a conversation"),
        ("{% for %}", "cannot be read"),
    ],
)
def test_what_a_template_may_not_do(source, message):
    with pytest.raises(ModelError, match=message):
        ChatTemplate(source, {}, "model.gguf").render(TALK)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "holds no conversations"),
        ("Hello", "line 1 is not JSON"),
        ('\n{"text": "x"}', "line 2 has no conversation"),
        ('{"messages": []}', "has no conversation"),
        ('{"messages": [{"role": "user"}]}', "a message without 'role' or 'content'"),
        ('{"conversations": [{"from": "cat", "value": "x"}]}', "a message from 'cat'"),
    ],
)
def test_files_that_hold_something_else(text, message):
    with pytest.raises(FileFormatError, match=message):
        read_conversations(text, "f")
