"""The files of text in a folder and all folders within it, in order; and what is left out, why."""

import os
from collections.abc import Iterator
from pathlib import Path

from jaxlm.host.errors import UserError
from jaxlm.host.kinds import kind_of
from jaxlm.host.names import shown

_MOST_NAMED = 6


def files_in(folder: Path) -> tuple[list[Path], list[str]]:
    """(files to read, 'name (why not)' of those left out, hidden ones last), folder by folder.

    Hidden files, backups, links that lead nowhere or to what was met already, and files of a kind
    that is not known to be text are left out. A name without a suffix is taken for text, as of a
    corpus whose files are numbered. Raises UserError where a folder cannot be read.
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
    """All that lies in a folder, sorted; a hidden folder, or a loop of links, is not entered."""
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
        return "a link to a folder that it lies in"
    if not path.exists():
        return "a link to nothing"
    if not path.is_file():
        return "no file but a device or a pipe"
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
    """Whether a name, without .gz and the like, has no suffix, or a number for one."""
    suffix = path.suffix if kind_of(path).packing is None else Path(path.stem).suffix
    return not suffix or suffix[1:].isdecimal()


def listed(left_out: list[str]) -> str:
    """'; left out 2 files: a.png (an image), b (hidden)', or ''."""
    if not left_out:
        return ""
    named = ", ".join(left_out[:_MOST_NAMED])
    more = len(left_out) - _MOST_NAMED
    others = f" and {more:,} more" if more > 0 else ""
    return f"; left out {counted(len(left_out), 'file')}: {named}{others}"


def counted(number: int, what: str) -> str:
    """'1 file', '1,234 files'."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
