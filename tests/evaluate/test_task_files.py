"""Task files: what is read, which tasks are picked, and what is refused."""

import pytest

from quanttool.errors import FileFormatError
from quanttool.evaluate.task_files import _random_words, read_hellaswag, read_multiple_choice, read_winogrande
from tests.evaluate.task_golden import TASKS


def test_random_words_are_those_of_mt19937():
    words = _random_words()
    # the first ones of seed 1, from the generator's published test vectors (init_genrand)
    assert [next(words) for _ in range(3)] == [1791095845, 4282876139, 3093770124]


def test_hellaswag():
    tasks = read_hellaswag((TASKS / "hellaswag.txt").read_text(), "f")
    assert len(tasks) == 12 and tasks[1].right == {2}
    assert tasks[0].context.endswith("in a bowl. She") and tasks[0].endings[3].startswith("counts the spoons")
    picked = read_hellaswag((TASKS / "hellaswag.txt").read_text(), "f", 12)
    assert picked != tasks and sorted(t.context for t in picked) == sorted(t.context for t in tasks)


def test_winogrande():
    tasks = read_winogrande((TASKS / "winogrande.csv").read_text(), "f")
    assert len(tasks) == 12
    assert (tasks[2].before, tasks[2].choices, tasks[2].right) == (
        "Although it rained, the boat stayed dry and the tent got wet, since the ",
        ("boat", "tent"),
        0,
    )
    assert tasks[2].after == " had a good roof."


def test_multiple_choice():
    data = (TASKS / "multiple-choice.bin").read_bytes()
    tasks = read_multiple_choice(data, "f")
    assert [len(task.endings) for task in tasks] == [4, 3, 5, 2, 4, 4, 3, 4, 4, 4]
    assert tasks[1].endings[1] == "eight" and tasks[1].right == {1}
    assert len(read_multiple_choice(data, "f", 4)) == 4


@pytest.mark.parametrize(
    "read, damaged, message",
    [
        (read_hellaswag, "a\nb\n", "has 2 lines, expected a multiple of 6"),
        (read_hellaswag, "a\n4\nb\nc\nd\ne\n", "line 2 is '4', expected the right ending, 0 to 3"),
        (read_hellaswag, "", "has 0 lines"),
        (read_winogrande, "0,one _ gap,a\n", "line 1 has 2 commas"),
        (read_winogrande, "\n0,no gap,a,b,1\n", "line 2 has the answer '1', expected 1 or 2, and a gap _"),
        (read_winogrande, "0,a _ gap,a,b,3\n", "line 1 has the answer '3'"),
        (read_winogrande, "\n", "holds no tasks"),
        (read_multiple_choice, b"\1", "cut off"),
        (read_multiple_choice, bytes(4), "holds no tasks"),
        (read_multiple_choice, (TASKS / "multiple-choice.bin").read_bytes()[:-9], "cut off"),
        (read_multiple_choice, b"Some text of another kind altogether", "cut off"),
    ],
)
def test_damaged_files(read, damaged, message):
    with pytest.raises(FileFormatError, match=message):
        read(damaged, "file")
