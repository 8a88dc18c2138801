"""The one exception of bad input."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class ScalingError(ValueError):
    """Input that no fit can be made of: what is wrong, where, and what to do, in a few lines."""


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turns a failure to write at `path` into a ScalingError."""
    try:
        yield
    except OSError as error:
        raise ScalingError(
            f"cannot write {path}: {error.strerror or error}; choose another place."
        ) from None
