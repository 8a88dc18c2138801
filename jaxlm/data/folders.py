"""The text files in a folder and its subfolders, in order; which are skipped, and why."""

import os
from collections.abc import Iterator
from pathlib import Path

from jaxlm.host.errors import UserError
from jaxlm.host.kinds import kind_of
from jaxlm.host.names import shown

_MOST_NAMED = 6


def files_in(folder: Path) -> tuple[list[Path], list[str]]:
    """(files to read, 'name (reason)' of skipped files, hidden ones last), folder by folder.

    Hidden files, backups, broken links, links to files already listed, and files of a kind not
    known to be text are skipped. A file without a suffix counts as text, since some corpora number
    their files. Raises UserError if a folder cannot be read.
    """
    files: list[Path] = []
    left_out: list[str] = []
    seen: dict[Path, Path] = {}
    try:
        for path in _walk(folder, frozenset()):
            reason = _reason(path, seen, folder)
            if reason is None:
                files.append(path)
            else:
                left_out.append(f"{shown(path.relative_to(folder))} ({reason})")
    except OSError as error:
        place = shown(error.filename or folder)
        raise UserError(f"Cannot read the folder {place}: {error.strerror}.") from None
    return files, sorted(left_out, key=lambda said: said.endswith("(hidden)"))


def _walk(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    """Everything in a folder, sorted; hidden folders and loops of links are not entered."""
    real = folder.resolve()
    for path in sorted(folder.iterdir(), key=lambda path: os.fsencode(path.name)):
        enter = path.is_dir() and not path.name.startswith(".")
        if enter and path.resolve() not in above | {real}:
            yield from _walk(path, above | {real})
        else:
            yield path


def _reason(path: Path, seen: dict[Path, Path], folder: Path) -> str | None:
    """Why a file of a folder is not read, or None."""
    if path.name.startswith("."):
        return "hidden"
    if path.is_dir():
        return "a link to a folder that contains it"
    if not path.exists():
        return "a broken link"
    if not path.is_file():
        return "a device or a pipe"
    kind = kind_of(path)
    if kind.form == "refused":
        return kind.what
    if kind.form == "unknown" and not _bare(path):
        return "a backup" if path.name.endswith(("~", ".bak")) else "of unknown kind"
    first = seen.setdefault(path.resolve(), path)
    if first is not path:
        return f"the same as {shown(first.relative_to(folder))}"
    return None


def _bare(path: Path) -> bool:
    """Whether a name, ignoring .gz and the like, has no suffix or only a number as its suffix."""
    suffix = path.suffix if kind_of(path).packing is None else Path(path.stem).suffix
    return not suffix or suffix[1:].isdecimal()


def listed(left_out: list[str]) -> str:
    """'; skipped 2 files: a.png (an image), b (hidden)', or ''."""
    if not left_out:
        return ""
    named = ", ".join(left_out[:_MOST_NAMED])
    more = len(left_out) - _MOST_NAMED
    others = f" and {more:,} more" if more > 0 else ""
    return f"; skipped {counted(len(left_out), 'file')}: {named}{others}"


def counted(number: int, what: str) -> str:
    """'1 file', '1,234 files'."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
