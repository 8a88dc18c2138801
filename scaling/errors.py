"""The exception for bad input."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class ScalingError(ValueError):
    """Unusable input; the message says in a few lines what is wrong, where, and how to fix it."""


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn a failure to write to `path` into a ScalingError."""
    try:
        yield
    except OSError as error:
        raise ScalingError(
            f"cannot write {path}: {error.strerror or error}; choose another place."
        ) from None
