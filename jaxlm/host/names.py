"""Shows names of files and folders to users, quotes them for a shell, and looks them up."""

import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

from jaxlm.host.errors import UserError

_PLAIN = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]*")


def shown(name: str | Path) -> str:
    """A name on one line, with control characters and undecodable bytes escaped."""
    text = str(name)
    if _PLAIN.fullmatch(text):
        return text
    return "".join(c if _PLAIN.fullmatch(c) else _escaped(c) for c in text)


def quoted(name: str | Path) -> str:
    """A file name as a word of a shell command that is never taken for an option."""
    text = str(name)
    return _word(f"./{text}" if text.startswith("-") else text)


def command_line(words: Iterable[str]) -> str:
    """Join words into a line that a shell splits into the same words, whatever their bytes."""
    return " ".join(map(_word, words))


def _word(text: str) -> str:
    if _PLAIN.fullmatch(text):
        return shlex.quote(text)
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    # In a shell, \x85 is a byte and not a character.
    escaped = re.sub("[\x80-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", escaped)
    return f"$'{shown(escaped)}'"


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # how Python represents a byte that it could not decode
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def expanded(path: str | Path) -> Path:
    """`path` with ~ expanded, or unchanged if that home folder is not known."""
    return Path(os.path.expanduser(path))


def check_utf8(path: str | Path, key: str) -> None:
    """Raise UserError unless the absolute path of a folder is UTF-8; some libraries need that."""
    place = os.path.abspath(path)
    try:
        place.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{key}={shown(path)} lies in a folder whose name is not UTF-8: {shown(place)}.\n"
            f"Set {key} to another folder, or rename it; in an ASCII locale set PYTHONUTF8=1."
        ) from None


def check_place(path: str | Path, key: str) -> None:
    """Raise UserError if a folder, existing or not, cannot have this name or cannot be accessed."""
    if not str(path):
        raise UserError(f"{key} is empty.\nGive a folder.")
    try:
        expanded(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # it will be created, or refused where it is used
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or error
        raise UserError(f"{key}={shown(path)}: {problem}.\nGive another folder.") from None


def check_working_folder() -> None:
    """Raise UserError if the folder that the program was started in has been deleted."""
    try:
        os.getcwd()
    except OSError as error:
        raise UserError(
            f"The working folder cannot be read: {error.strerror}.\nChange to one that exists (cd)."
        ) from None


def look_up(path: str, key: str, wanted: str = "") -> Path:
    """The file or folder that `key` names. Raises UserError if it cannot be read.

    `wanted` is the last line of the message: what to give instead.
    """
    if not path:
        raise UserError(f"{key} is empty.\n{wanted}" if wanted else f"{key} is empty.")
    place = expanded(path)
    problem = None
    try:
        place.stat()
        if not place.is_dir() and not place.is_file():
            problem = (
                "It is a device or a pipe; a regular file is needed, because text is read more "
                "than once."
            )
    except UnicodeEncodeError:
        problem = "This locale cannot express the name: set PYTHONUTF8=1 or LC_ALL=C.UTF-8."
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        if missing and place.is_symlink():
            problem = f"It is a link to {shown(os.readlink(place))}, which does not exist."
        elif not missing:
            problem = f"{getattr(error, 'strerror', None) or error}."
    else:
        if problem is None:
            return place
    if problem is not None:
        raise UserError(f"Cannot read {key}={shown(path)}.\n{problem}")
    lines = f"No such file: {key}={shown(path)} (from {_working_folder()})."
    raise UserError(f"{lines}\n{wanted}" if wanted else lines)


def _working_folder() -> str:
    try:
        return shown(os.getcwd())
    except FileNotFoundError:
        return "a folder that was deleted"


def shortened(text: str, most: int = 60) -> str:
    """Shorten text for one line of a message: no control characters, no middle if it is long."""
    text = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
    return text if len(text) <= most else f"{text[: most - 20]}...{text[-15:]}"
