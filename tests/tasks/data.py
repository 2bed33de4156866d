"""Real data for tests that want it: in the folder that LATENTPAD_DATA names, or `shared/data` beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def data_file(name: str) -> Path:
    """The path of a file; without it, the test is skipped and says so."""
    folder = Path(os.environ.get("LATENTPAD_DATA") or Path(__file__).parents[3] / "shared" / "data")
    file = folder / name
    if not file.is_file():
        pytest.skip(f"no file {name}: set LATENTPAD_DATA to a folder that has it")
    return file
