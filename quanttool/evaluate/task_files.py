"""Files of multiple-choice tasks that llama-perplexity reads, and the tasks that it picks where it takes only some.

Formats and selection follow perplexity.cpp (hellaswag_score, winogrande_score, multiple_choice_score), so that scores
of the two programs are over the same tasks.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ..errors import FileFormatError

LINES_PER_TASK = 6  # of a HellaSwag file: context, number of the right ending, four endings
MAX_ANSWERS = 100  # more of them mean that a file is damaged

Task = TypeVar("Task")


@dataclass(frozen=True)
class Continuations:
    """Which continuation of a text is right: HellaSwag, and multiple choice in general. right: numbers from 0."""

    context: str
    endings: list[str]
    right: frozenset[int]


@dataclass(frozen=True)
class Blank:
    """What belongs into the gap between two pieces of text: WinoGrande. right: 0 or 1."""

    before: str
    after: str
    choices: tuple[str, str]
    right: int


def read_hellaswag(text: str, path: str, n_tasks: int = 0) -> list[Continuations]:
    """Six lines per task: context, number of the right ending, four endings. n_tasks: at most so many; 0: all."""
    lines = text.split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines or len(lines) % LINES_PER_TASK:
        raise FileFormatError(
            f"{path}: has {len(lines)} lines, expected a multiple of {LINES_PER_TASK}: a context, the number of its "
            "right ending, four endings"
        )
    tasks = []
    for start in range(0, len(lines), LINES_PER_TASK):
        context, right, *endings = lines[start : start + LINES_PER_TASK]
        if right.strip() not in ("0", "1", "2", "3"):
            raise FileFormatError(f"{path}: line {start + 2} is {right[:20]!r}, expected the right ending, 0 to 3")
        tasks.append(Continuations(context, endings, frozenset([int(right)])))
    return _uniform_picks(tasks, min(n_tasks, len(tasks))) if n_tasks else tasks


def read_winogrande(text: str, path: str, n_tasks: int = 0) -> list[Blank]:
    """Lines of number, sentence with a gap _, choice 1, choice 2, the right one (1 or 2), separated by commas.

    A sentence with commas stands in quotes. Empty lines are passed over.
    """
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    tasks = [_blank(line, f"{path}: line {number}") for number, line in lines]
    if not tasks:
        raise FileFormatError(f"{path}: holds no tasks")
    return _scaled_picks(tasks, n_tasks)


def _blank(line: str, where: str) -> Blank:
    commas, quoted = [], False
    for place, character in enumerate(line):
        if character == '"':
            quoted = not quoted
        elif character == "," and not quoted:
            commas.append(place)
    if len(commas) < 4:
        raise FileFormatError(f"{where} has {len(commas)} commas, expected number,sentence,choice 1,choice 2,answer")
    first, second, third, fourth = commas[:4]
    sentence = line[first + 1 : second]
    if sentence.startswith('"'):
        sentence = sentence[1:-1]
    before, gap, after = sentence.partition("_")
    answer = line[fourth + 1 :].strip()
    if not gap or answer not in ("1", "2"):
        raise FileFormatError(f"{where} has the answer {answer!r}, expected 1 or 2, and a gap _ in its sentence")
    return Blank(before, after, (line[second + 1 : third], line[third + 1 : fourth]), int(answer) - 1)


def read_multiple_choice(data: bytes, path: str, n_tasks: int = 0) -> list[Continuations]:
    """Binary: number of tasks, the place of each, and then per task its question and two sets of answers.

    A string is its length and its bytes; a set of answers its number, the strings, and a label for each, 1 where it is
    right. All numbers are 32 bits, little-endian. Only the first set is used, as in llama-perplexity.
    """
    (n,) = _unpack("<I", data, 0, path)
    if not n:
        raise FileFormatError(f"{path}: holds no tasks")
    _unpack(f"<{n}I", data, 4, path)  # tasks follow one another: their places say nothing more
    place, tasks = 4 * (n + 1), []
    for _ in range(n):
        task, place = _task(data, place, path)
        tasks.append(task)
    return _scaled_picks(tasks, n_tasks)


def _task(data: bytes, place: int, path: str) -> tuple[Continuations, int]:
    question, place = _string(data, place, path)
    answers, labels, place = _answers(data, place, path)
    if not question or not answers or not all(answers):
        raise FileFormatError(f"{path}: the task before byte {place} has an empty question, or an empty answer")
    _, _, place = _answers(data, place, path)  # a set with several right answers
    return Continuations(question, answers, frozenset(i for i, label in enumerate(labels) if label == 1)), place


def _answers(data: bytes, place: int, path: str) -> tuple[list[str], tuple[int, ...], int]:
    (n,) = _unpack("<I", data, place, path)
    if n > MAX_ANSWERS:
        raise FileFormatError(f"{path}: a task with {n} answers at byte {place}, expected at most {MAX_ANSWERS}")
    answers, place = [], place + 4
    for _ in range(n):
        answer, place = _string(data, place, path)
        answers.append(answer)
    return answers, _unpack(f"<{n}i", data, place, path), place + 4 * n


def _string(data: bytes, place: int, path: str) -> tuple[str, int]:
    (size,) = _unpack("<I", data, place, path)
    stop = place + 4 + size
    if stop > len(data):
        raise FileFormatError(f"{path}: ends within a text of {size} bytes at byte {place}; the file is cut off")
    try:
        return data[place + 4 : stop].decode(), stop
    except UnicodeDecodeError:
        raise FileFormatError(f"{path}: the text at byte {place} is not UTF-8") from None


def _unpack(layout: str, data: bytes, place: int, path: str) -> tuple:
    if place + struct.calcsize(layout) > len(data):
        raise FileFormatError(
            f"{path}: ends at byte {len(data)}, within a task; the file is cut off, or of another kind"
        )
    return struct.unpack_from(layout, data, place)


def _random_words() -> Iterator[int]:
    """What std::mt19937 gives with seed 1: numbers of 32 bits."""
    generator = np.random.RandomState(1)
    while True:
        yield int(generator.randint(0, 1 << 32, dtype=np.uint32))


def _uniform_picks(items: list[Task], n: int) -> list[Task]:
    """n items without repetition, as libstdc++'s std::uniform_int_distribution draws them (Lemire's method)."""
    items, words, picked = list(items), _random_words(), []
    for _ in range(n):
        product = next(words) * len(items)
        while product % (1 << 32) < (1 << 32) % len(items):
            product = next(words) * len(items)
        picked.append(items.pop(product >> 32))
    return picked


def _scaled_picks(items: list[Task], n: int) -> list[Task]:
    """n items without repetition; numbers are scaled to those left in float32, as perplexity.cpp does it."""
    if not 0 < n < len(items):
        return items
    items, words, picked = list(items), _random_words(), []
    scale = np.float32(2.0**-32)
    for _ in range(n):
        place = min(int(scale * np.float32(next(words)) * np.float32(len(items))), len(items) - 1)
        items[place], last = items[-1], items[place]
        picked.append(last)
        items.pop()
    return picked
