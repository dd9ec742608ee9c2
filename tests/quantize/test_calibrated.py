"""A run that is handed whole tensors by a calibration: written, proven, and found again after an interruption."""

import numpy as np
import pytest

from quanttool.container import GGUFFile
from quanttool.formats import quantize_rows
from quanttool.quantize import run as run_module
from quanttool.quantize.plan import make_plan
from quanttool.recipes.resolve import Request, parse_target

from .small_model import write_model

NAMES = ["blk.0.attn_q.weight", "blk.0.attn_output.weight"]


class Flipped:
    """A calibration that is recognized by its work: it quantizes weights with their signs changed."""

    def __init__(self, file: GGUFFile, stop_after: int = 2):
        self.file, self.stop_after, self.found = file, stop_after, {}

    def tensors(self, finished):
        for i, name in enumerate(NAMES):
            if i == self.stop_after:
                raise KeyboardInterrupt
            self.found[name] = finished(name)
            info = self.file.tensors[name]
            weights = self.file.data(name).view(np.float32).reshape(info.n_rows, info.n_cols)
            yield name, quantize_rows(-weights, "Q8_0")


def test_an_interrupted_calibration_goes_on_with_what_it_finished(tmp_path):
    write_model(tmp_path / "model.gguf")
    file, out = GGUFFile(tmp_path / "model.gguf"), tmp_path / "out.gguf"
    plan = make_plan(file.metadata, file.tensors.values(), Request(parse_target("Q8_0")), calibrated=NAMES)
    plan.calibration = "signs"
    with pytest.raises(KeyboardInterrupt):
        run_module.run(file, plan, out, calibration=Flipped(file, stop_after=1))
    again = Flipped(file)
    result = run_module.run(file, plan, out, calibration=again)
    assert again.found[NAMES[0]] is not None and again.found[NAMES[1]] is None
    assert result.resumed == {NAMES[0]} and result.calibrated == {NAMES[1]}
    made = GGUFFile(out)
    for name in NAMES:
        weights = file.data(name).view(np.float32).reshape(file.tensors[name].n_rows, -1)
        assert np.array_equal(made.data(name), quantize_rows(-weights, "Q8_0"))
    assert np.array_equal(
        made.data("blk.0.attn_k.weight"),
        quantize_rows(file.data("blk.0.attn_k.weight").view(np.float32).reshape(64, 512), "Q8_0"),
    )
