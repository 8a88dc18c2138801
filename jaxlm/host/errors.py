"""The exception for errors of the user; `cli.main` prints it and exits with status 2."""

from collections.abc import Iterable


class UserError(Exception):
    """An error that only the user can fix.

    The message has one to three lines: what is wrong, where, and what to do.
    """


def nearest(word: str, known: Iterable[str], what: str = "did you mean") -> str:
    """' (did you mean NAME?)' for the known name closest to `word`, or ''."""
    import difflib

    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" ({what} {close[0]!r}?)" if close else ""
