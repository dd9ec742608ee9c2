"""quanttool perplexity --hellaswag, --winogrande, --multiple-choice: how many questions models answer right."""

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ..errors import UsageError
from .console import note, print_json, print_table, progress_bar
from .running import say
from .texts import read_text

if TYPE_CHECKING:
    from ..evaluate.tasks import Question, TaskResult
    from ..models import Model

KINDS = {"hellaswag": "HellaSwag", "winogrande": "WinoGrande", "multiple_choice": "multiple choice"}
WILSON_Z = 1.95996398454  # of a 95 % interval, with the digits of perplexity.cpp

_options = [
    click.option("--hellaswag", is_flag=True, help="The file holds HellaSwag tasks: print how many are right."),
    click.option("--hellaswag-tasks", type=click.IntRange(min=0), default=400, show_default=True, metavar="N",
                 help="At most so many of them, picked as llama-perplexity does; 0: all."),
    click.option("--winogrande", is_flag=True, help="The file holds WinoGrande tasks (CSV)."),
    click.option("--winogrande-tasks", type=click.IntRange(min=0), default=0, metavar="N",
                 help="At most so many of them; default: all."),
    click.option("--multiple-choice", is_flag=True, help="The file holds multiple-choice tasks (binary)."),
    click.option("--multiple-choice-tasks", type=click.IntRange(min=0), default=0, metavar="N",
                 help="At most so many of them; default: all."),
]  # fmt: skip


class TaskRequest(NamedTuple):
    """kind: one of KINDS; n_tasks: at most so many, 0 for all."""

    kind: str
    n_tasks: int


def task_options(command: Callable) -> Callable:
    """Add the options; the command is given them as one argument `task`: a TaskRequest, or None."""

    @wraps(command)
    def with_task(*args, **kwargs):
        wanted = {kind: kwargs.pop(kind) for kind in KINDS}
        limits = {kind: kwargs.pop(f"{kind}_tasks") for kind in KINDS}
        kinds = [kind for kind in KINDS if wanted[kind]]
        if len(kinds) > 1:
            raise UsageError(f"--{kinds[0]} and --{kinds[1]} exclude each other: a file holds tasks of one kind")
        task = TaskRequest(kinds[0], limits[kinds[0]]) if kinds else None
        return command(*args, task=task, **kwargs)

    for option in reversed(_options):
        with_task = option(with_task)
    return with_task


def run_tasks(
    task: TaskRequest, models: "dict[str, Model]", files: Sequence[str], memory: int | None, as_json: bool
) -> None:
    """Answer the questions of a file with each model, and print the scores."""
    from ..evaluate.tasks import answer

    if len(files) != 1:
        raise UsageError("tasks are read from one file; give it with -f FILE")
    results = {}
    for path, model in models.items():
        questions = _questions(task, path, files[0])
        candidates = sum(len(question.candidates) for question in questions)
        note(f"{len(questions)} tasks, {candidates} candidates")
        with progress_bar(KINDS[task.kind], "step") as progress:
            results[path] = answer(model, questions, progress, memory)
        if not as_json:
            if len(models) > 1:
                say(f"{path}:")
            say(_report(task.kind, results[path]))
    if as_json:
        described = [_json(path, result) for path, result in results.items()]
        print_json({"task": task.kind, "file": files[0], "n_tasks": len(questions), "models": described})
    elif len(models) > 1:
        _print_summary(results)


def _questions(task: TaskRequest, model_path: str, path: str) -> "list[Question]":
    """The file's tasks under a model's tokenizer."""
    from ..evaluate import task_files
    from ..evaluate.tasks import blank_question, continuation_question
    from ..tokenizer import load_tokenizer

    encode = load_tokenizer(model_path).encode
    if task.kind == "winogrande":
        return [blank_question(t, encode) for t in task_files.read_winogrande(read_text(path), path, task.n_tasks)]
    if task.kind == "hellaswag":
        tasks = task_files.read_hellaswag(read_text(path), path, task.n_tasks)
    elif not Path(path).is_file():
        raise UsageError(f"{path}: no such file")
    else:
        tasks = task_files.read_multiple_choice(Path(path).read_bytes(), path, task.n_tasks)
    return [continuation_question(t, encode) for t in tasks]


def _report(kind: str, result: "TaskResult") -> str:
    """The lines that llama-perplexity prints, and a final one for every kind of task."""
    running = 100 * result.running()
    value, uncertainty = (100 * x for x in result.accuracy)
    if kind == "hellaswag":
        intervals = [_wilson(share / 100, i + 1) for i, share in enumerate(running)]
        lines = ["task\tacc_norm\t95% confidence interval"]
        lines += [
            f"{i + 1}\t{share:.8f}%\t[{100 * low:.4f}%, {100 * high:.4f}%]"
            for i, (share, (low, high)) in enumerate(zip(running, intervals, strict=True))
        ]
        lines += ["", f"Final HellaSwag score({len(running)} tasks): {value:.4f} +/- {uncertainty:.4f}"]
    elif kind == "winogrande":
        lines = [
            f"{i + 1}\t{share:.4f}\t{first:10.6f}  {second:10.6f}  {answer + 1}  {min(right) + 1}"
            for i, (share, (first, second), answer, right) in enumerate(
                zip(running, result.scores, result.answers, result.right, strict=True)
            )
        ]
        lines += ["", f"Final Winogrande score({len(running)} tasks): {value:.4f} +/- {uncertainty:.4f}"]
    else:
        lines = ["task\tacc_norm", *(f"{i + 1}\t{share:.8f}" for i, share in enumerate(running))]
        lines += ["", f"Final result: {value:.4f} +/- {uncertainty:.4f}", f"Random chance: {100 * result.chance:.4f}"]
    return "\n".join(lines)


def _wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's score interval of a share of n draws."""
    z = WILSON_Z**2 / n
    middle, half = share + z / 2, (z * (share * (1 - share) + z / 4)) ** 0.5
    return (middle - half) / (1 + z), (middle + half) / (1 + z)


def _json(path: str, result: "TaskResult") -> dict[str, Any]:
    return {
        "model": path,
        "accuracy": result.accuracy._asdict(),
        "chance": result.chance,
        "scores": [scores.tolist() for scores in result.scores],
        "answers": result.answers,
        "right": [sorted(right) for right in result.right],
    }


def _print_summary(results: "dict[str, TaskResult]") -> None:
    """One line per model; how often its answer is that of the first one says more than the score's difference."""
    first = next(iter(results.values())).answers
    rows = []
    for path, result in results.items():
        value, uncertainty = result.accuracy
        same = sum(a == b for a, b in zip(result.answers, first, strict=True)) / len(first)
        rows.append([path, f"{100 * value:.2f} ± {100 * uncertainty:.2f}", f"{100 * same:.2f}"])
    print_table(["model", ">score %", ">same answer as the first %"], rows)
