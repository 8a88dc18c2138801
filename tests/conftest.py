"""Shared by all tests: the location of the shared data."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def shared_file(name: str) -> Path:
    """A file of the shared data (JAXLM_SHARED, or ../shared/data); skips the test if absent."""
    folder = Path(os.environ.get("JAXLM_SHARED") or ROOT.parent / "shared" / "data")
    if not (folder / name).exists():
        pytest.skip(f"needs the shared file {name} (set JAXLM_SHARED to its folder)")
    return folder / name
