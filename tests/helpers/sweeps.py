"""Parametrizations with a few cases that always run; the rest run in `make test-thorough`."""

import pytest


def sweep(values, quick):
    """The values for `parametrize`; those not in `quick` are marked `thorough`."""
    unknown = set(quick) - set(values)
    assert not unknown, f"not in the sweep: {unknown}"
    return [value if value in quick else _later(value) for value in values]


def _later(value):
    several = value if isinstance(value, tuple) else (value,)
    return pytest.param(*several, marks=pytest.mark.thorough)
