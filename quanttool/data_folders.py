"""Where the shipped data is: inside an installed package, or at the top of a checkout."""

from pathlib import Path


def data_folder(name: str) -> Path:
    """Folder `recipes` or `calibration`."""
    package = Path(__file__).parent
    installed = package / "data" / name
    return installed if installed.is_dir() else package.parent / name
