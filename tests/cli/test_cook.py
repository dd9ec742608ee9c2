"""quanttool cook: a model and a size in, a measured file and a report out."""

import json
import xml.etree.ElementTree as ET

import pytest

from quanttool.cli.cook_report import Comparison
from quanttool.container import open_gguf

SIZE = "800K"


@pytest.fixture(scope="module")
def arguments(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cook")
    (folder / "text.txt").write_text("Six dry ducks sit on a log and look at a big red sun. " * 3 + "\n")
    (folder / "test.txt").write_text("A big red sun and six dry logs look at the ducks on it. " * 3 + "\n")
    return folder / "out", ("cook", tiny_model, "--size", SIZE, "-f", folder / "text.txt", "--test",
                            folder / "test.txt", "-c", "16", "--types", "Q4_0,Q5_0,Q8_0", "--probe", "Q4_0",
                            "--test-chunks", "3", "-o", folder / "out")  # fmt: skip


def test_from_model_to_report_and_again(arguments, run):
    folder, command = arguments
    found = run(*command)
    assert found.code == 0, found.err
    assert (folder / f"tiny-{SIZE}.gguf").stat().st_size <= 800 * 1024
    data = json.loads((folder / "tiny.report.json").read_text())
    ours = [row for row in data["rows"] if row["ours"]]
    assert [row["name"] for row in ours] == [SIZE]
    assert ours[0]["file_bytes"] == (folder / f"tiny-{SIZE}.gguf").stat().st_size
    mixes = [row for row in data["rows"] if not row["ours"]]
    assert 1 <= len(mixes) <= 2
    html = (folder / "tiny.report.html").read_text()
    drawings = [part.split("</svg>")[0] + "</svg>" for part in html.split("<svg")[1:]]
    assert len(drawings) == 7  # front, mixes, types, errors, costs, gains, predictions
    for drawing in drawings:
        ET.fromstring("<svg" + drawing)
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "")  # nothing is fetched
    # The measured divergence is that of the file.
    model = command[1]
    compared = run("perplexity", "-m", folder / f"tiny-{SIZE}.gguf", "--base-model", model, "-f", command[7],
                   "-c", "16", "--chunks", "3", "--json")  # fmt: skip
    kld = json.loads(compared.out)["models"][0]["mean_kld"]["value"]
    assert ours[0]["mean_kld"] == pytest.approx(kld, rel=1e-9)
    before = (folder / f"tiny-{SIZE}.gguf").stat().st_mtime_ns
    again = run(*command)
    assert again.err.count("is there") == 3
    assert (folder / f"tiny-{SIZE}.gguf").stat().st_mtime_ns == before
    other = run(*command, "--chunks", "2")
    assert other.code == 2 and "holds the results of other options" in other.err


def test_with_the_best_search_and_with_feedback(tiny_model, run, tmp_path):
    """Feedback takes what the steps before have left; sizes hold, and what is compared are the files."""
    (tmp_path / "text.txt").write_text("Six dry ducks sit on a log and look at a big red sun. " * 60)
    (tmp_path / "test.txt").write_text("A big red sun and six dry logs look at the ducks on it. " * 3)
    command = ("cook", tiny_model, "--size", SIZE, "-f", tmp_path / "text.txt", "--test", tmp_path / "test.txt", "-c",
               "16", "--types", "Q4_0,Q5_0,Q8_0", "--probe", "Q4_0", "--test-chunks", "2", "--chunks", "2",
               "--search", "best", "-o", tmp_path / "out")  # fmt: skip
    assert run(*command).code == 0
    found = run(*command, "--calibrate")
    assert found.code == 0, found.err
    assert found.err.count("is there") == 2  # imatrix and sensitivity, not the file
    metadata = {}
    for name in (SIZE, f"{SIZE}-calibrated"):
        path = tmp_path / "out" / f"tiny-{name}.gguf"
        assert path.stat().st_size <= 800 * 1024
        metadata[name] = open_gguf(path).metadata
        assert metadata[name]["quanttool.search"] == "best"
    assert "quanttool.calibration" in metadata[f"{SIZE}-calibrated"]
    assert "quanttool.calibration" not in metadata[SIZE]
    data = json.loads((tmp_path / "out/tiny.report.json").read_text())
    (ours,) = [row for row in data["rows"] if row["ours"]]
    compared = run("perplexity", "-m", tmp_path / f"out/tiny-{SIZE}-calibrated.gguf", "--base-model", tiny_model, "-f",
                   tmp_path / "test.txt", "-c", "16", "--chunks", "2", "--json")  # fmt: skip
    kld = json.loads(compared.out)["models"][0]["mean_kld"]["value"]
    assert ours["mean_kld"] == pytest.approx(kld, rel=1e-9)


def test_a_result_worse_than_a_mix_is_said():
    row = {"name": "4G", "ours": True, "file_bytes": 100, "mean_kld": 0.2}
    mixes = [
        {"name": "Q4_K_S", "ours": False, "file_bytes": 90, "mean_kld": 0.1},
        {"name": "Q4_K_M", "ours": False, "file_bytes": 110, "mean_kld": 0.05},
        {"name": "Q3_K_M", "ours": False, "file_bytes": 80, "mean_kld": 0.3},
    ]
    (message,) = Comparison({}, [row, *mixes], {}).worse_than_a_mix()
    assert "4G diverges more than Q4_K_S" in message


def test_a_missing_model(run, tmp_path):
    outcome = run("cook", tmp_path / "no.gguf", "--size", "1M", "-f", "x", "-o", tmp_path)
    assert outcome.code == 2 and "no.gguf: no such file" in outcome.err
