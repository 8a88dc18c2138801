"""The output of a running training: a bar on a terminal, else plain lines; and log.txt."""

import contextlib
import os
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from jaxlm.host.errors import UserError
from jaxlm.host.names import shown
from jaxlm.host.progress import open_bar

if TYPE_CHECKING:
    from rich.progress import Progress


class Console:
    """Prints lines, keeps them in a log file, and shows the progress of a run.

    Raises UserError if the log cannot be written.
    """

    def __init__(self, log: Path | None = None) -> None:
        self.log: TextIO | None = None
        if log:
            with _writing(log):
                self.log = _appended(log)
        self.bar: Progress | None = None
        self.terminal = sys.stdout.isatty()
        self._last_line = 0.0

    def say(self, text: str) -> None:
        """One or more lines to standard output and to the log."""
        if self.bar:
            # Unwrapped: a line broken at the terminal's width could not be copied.
            self.bar.console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)
        else:
            print(text, flush=True)
        self.note(text)

    def note(self, text: str) -> None:
        """Lines only for the log."""
        if self.log:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S")
            with _writing(Path(self.log.name)):
                self.log.writelines(f"{stamp}  {line}\n" for line in text.splitlines())

    def progress(self, fraction: float, fields: dict[str, str]) -> None:
        """Show that this fraction of the run is done, with `fields` beside it, in order."""
        shown = "  ".join(f"{name} {value}" for name, value in fields.items())
        if self.terminal:
            self.bar = self.bar or open_bar("", total=1.0)
            self.bar.update(self.bar.task_ids[0], completed=fraction, shown=shown)
        elif time.monotonic() - self._last_line >= 2.0 or fraction >= 1.0:
            self._last_line = time.monotonic()
            print(shown, flush=True)
        self.note(shown)

    def close(self) -> None:
        """Leave the terminal as it was; safe to call twice."""
        if self.bar:
            self.bar.stop()
            self.bar = None
        if self.log:
            self.log.close()
            self.log = None


def _appended(log: Path) -> TextIO:
    """The log, opened to append; refuses a pipe in its place, which would wait for a reader."""
    if log.exists() and not stat.S_ISREG(os.stat(log).st_mode):
        raise OSError(f"it is {'a folder' if log.is_dir() else 'not a regular file'}")
    return open(log, "a", 1, encoding="utf-8", errors="backslashreplace")


@contextlib.contextmanager
def _writing(log: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {shown(log)}: {error.strerror or error}.\n"
            "Move away what is there, or check the permissions and the free disk space."
        ) from error


def print_anything() -> None:
    """Let standard output and error escape what their encoding lacks, as `\\xe9`.

    File names may hold undecodable bytes, and a locale may know only ASCII.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):  # replaced by a stand-in, or closed
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
