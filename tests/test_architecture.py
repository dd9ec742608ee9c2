"""Rules about the code that are checked, not remembered."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "quanttool"

# room -> rooms and modules of the package that it may import from (besides itself)
GROUND = {"errors", "ggml_types", "parallel", "blas", "files", "data_folders", "__version__"}
ALLOWED = {
    "errors": set(),
    "ggml_types": {"errors"},
    "parallel": set(),
    "blas": set(),
    "files": {"errors"},
    "data_folders": set(),
    "kernels": set(),
    "formats": GROUND | {"kernels"},
    "container": GROUND,
    "tokenizer": GROUND | {"container"},
    "recipes": GROUND | {"container", "formats"},
    "imatrix": GROUND | {"container", "kernels"},
    "quantize": GROUND | {"container", "formats", "recipes", "imatrix"},
    "models": GROUND | {"container", "formats", "kernels", "tokenizer"},
    "sensitivity": GROUND | {"container", "formats", "recipes", "imatrix", "models", "evaluate"},
    "optimize": GROUND | {"container", "recipes"},
    "plots": {"ggml_types"},
    "feedback": GROUND | {"container", "formats", "kernels", "imatrix"},
    "evaluate": GROUND | {"container", "kernels", "tokenizer"},
    "cli": None,  # wires everything
    "harness": None,
    "__init__": None,
    "__main__": None,
}


def imported_rooms(path: Path) -> set[str]:
    """Rooms of quanttool that a module imports, at the top or inside a function."""
    depth = len(path.relative_to(PACKAGE).parts)
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            if node.level == 0 and (node.module or "").startswith("quanttool"):
                rooms.update((node.module.split(".") + [""])[1:2])
            elif node.level == depth:  # relative to the package's top
                rooms.update([node.module.split(".")[0]] if node.module else [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            rooms.update((a.name.split(".") + [""])[1] for a in node.names if a.name.startswith("quanttool"))
    return rooms - {""}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downward(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    allowed = ALLOWED[room]
    if allowed is not None:
        assert imported_rooms(path) - {room} <= allowed


def test_only_the_command_line_knows_its_libraries():
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] != "cli":
            tree = ast.parse(path.read_text())
            names = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
            names |= {(n.module or "").split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
            assert not names & {"click", "rich", "tqdm"}, path


def test_numba_is_called_in_one_place():
    for path in PACKAGE.rglob("*.py"):
        if path.name != "jit.py":
            assert "njit(" not in path.read_text(), path


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, quanttool; print(*sorted({'numpy', 'numba', 'click', 'gguf'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == ""
