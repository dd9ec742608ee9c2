"""What each part of `quantize --calibrate` brings: all layers in one type, each way with a part more or a part less.

    python -m benchmarks.calibrate_parts model-f32.gguf text.txt Q2_K --test wiki.test.raw

Divergences from the model in nats, and the paired difference to all parts together. Files that stand in the folder
already are not made again.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import click

from quanttool.cli.calibration import ByHessian, Calibrating, prepare
from quanttool.cli.console import progress_bar
from quanttool.container import open_gguf
from quanttool.feedback import layers
from quanttool.feedback.layers import Settings
from quanttool.ggml_types import ggml_type
from quanttool.parallel import use_threads
from quanttool.quantize.plan import make_plan
from quanttool.quantize.run import run
from quanttool.recipes.resolve import Request, parse_target

from .calibrate import Bench, bench_options, paired


class Way(NamedTuple):
    """settings: None: by covariances of the original, which knows no sequence and no correction."""

    words: str
    settings: Settings | None
    without: str = ""


WAYS = [
    Way("feedback, covariances of the original", None),
    Way("+ in sequence", Settings(passes=0, correction=0.0)),
    Way("+ target corrected for inputs", Settings(passes=0), "states"),
    Way("+ target corrected for hidden states", Settings(passes=0)),
    Way("all: + two passes with new scales", Settings()),
    Way("all, damping 3 %", Settings(damping=0.03)),
    Way("all but the correction", Settings(correction=0.0)),
    Way("all but the search for best scales", Settings(search="reference")),
    Way("all but feedback", Settings(), "feedback"),
]
ALL = "all: + two passes with new scales"


@contextmanager
def left_out(part: str) -> Iterator[None]:
    """Without a part that no setting turns off."""
    if part == "states":
        with mock.patch.object(layers, "share_of", lambda product, change: 0.0):
            yield
    elif part == "feedback":
        with mock.patch.object(layers, "has_grid", lambda fmt: False):
            yield
    else:
        yield


class Parts(Bench):
    def hessian(self) -> Path:
        path = self.out / f"{self.model.stem}-{self.chunks}-covariances.gguf"
        written = Path(f"{path}.hessian")
        if not written.exists():
            chunks = ["--chunks", self.chunks, "--no-ppl", "--hessian", "full"]
            self.quanttool("imatrix", "-m", self.model, "-f", self.text, *chunks, "-o", path)
        return written

    def made(self, way: Way, number: int, name: str) -> Path:
        path = self.out / f"{self.model.stem}-{name}-part{number}.gguf"
        if not path.exists():
            with left_out(way.without):
                self._write(path, way, name)
        return path

    def _write(self, path: Path, way: Way, name: str) -> None:
        request = Request(parse_target(name), pure=True, token_embedding_type=ggml_type("F32"), imatrix=True)
        source = open_gguf(str(self.model))
        if way.settings:
            made: Calibrating | ByHessian = prepare(str(self.model), [self.text], int(self.chunks), None, "best")
            made.settings = way.settings
        else:
            made = prepare(str(self.model), [], None, str(self.hessian()), "best")
        plan = make_plan(source.metadata, source.tensors.values(), request, None, "", False, (), made.weights)
        made.mark(plan)
        calibration = made.calibration(plan)
        if not way.settings:
            calibration.how = "best", 0, layers.DAMPING  # without further passes, like the next
        with progress_bar(path.name, unit=" weights", scale=True) as progress:
            run(source, plan, path, threads=int(self.threads), progress=progress, calibration=calibration)

    def measured(self, name: str, test: str) -> dict:
        found = self.out / f"{self.model.stem}-{name}-{Path(test).stem}.parts.json"
        if not found.exists():
            found.write_text(self.divergences(test, [self.made(way, i, name) for i, way in enumerate(WAYS)]))
        return json.loads(found.read_text())


def show(test: str, found: dict) -> None:
    everything = [way.words for way in WAYS].index(ALL)
    for i, (way, model) in enumerate(zip(WAYS, found["models"], strict=True)):
        value = model["mean_kld"]
        cells = (
            way.words,
            Path(test).name,
            f"{value['value']:.4f} ± {value['uncertainty']:.4f}",
            paired(found, i, everything),
        )
        print(f"| {' | '.join(cells)} |")


@click.command()
@click.argument("model")
@click.argument("text")
@click.argument("name", metavar="TYPE")
@bench_options
def main(model, text, name, tests, chunks, test_chunks, precision, threads, output):
    use_threads(threads)
    parts = Parts(model, text, chunks, test_chunks, precision, threads, output)
    print("| how | text | mean KLD | paired difference to all |")
    print("|---|---|---|---|")
    for test in tests:
        show(test, parts.measured(name, test))


if __name__ == "__main__":
    main()
