"""Shared by all tests: where the shared data lies, and a cache that keeps the tests quick."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def shared_file(name: str) -> Path:
    """A file of the shared data (JAXLM_SHARED, or ../shared/data); skips where it is absent."""
    folder = Path(os.environ.get("JAXLM_SHARED") or ROOT.parent / "shared" / "data")
    if not (folder / name).exists():
        pytest.skip(f"needs the shared file {name} (set JAXLM_SHARED to its folder)")
    return folder / name
