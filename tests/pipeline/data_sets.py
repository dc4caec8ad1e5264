"""The data sets that some tests read, from the folder METADRIFT_DATA."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def data_set(name: str) -> Path:
    """Return a data set's file; skips the test where the folder is not there."""
    folder = Path(os.environ.get("METADRIFT_DATA", ROOT.parent / "shared" / "data"))
    path = folder / name
    if not path.is_file():
        pytest.skip(f"{path} is not there: set METADRIFT_DATA to the folder of the data sets")
    return path
