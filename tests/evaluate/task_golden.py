"""What llama-perplexity printed for the task files in tests/golden/tasks."""

from tests.conftest import GOLDEN

TASKS = GOLDEN / "tasks"


def printed(model):
    """Options -> lines of fields, the final ones left out."""
    sections = (TASKS / f"llama-perplexity-{model}.txt").read_text().split("== ")[1:]
    found = {}
    for section in sections:
        options, *lines = section.splitlines()
        found[options] = [line.split() for line in lines if line[0].isdigit()]
    return found
