"""The cache folder: files that appear whole or not at all, and facts remembered about files."""

import contextlib
import errno
import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from jaxlm.host import files
from jaxlm.host.checked import Damaged, Json, anything, mapping, read_json, record, text
from jaxlm.host.errors import UserError
from jaxlm.host.names import shown

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ABANDONED_SECONDS = 24 * 3600


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a binary file that replaces `path`, whole and on the disk, if the block succeeds.

    If the process is killed, `path` is the old file or the new one. Several processes may write
    the same path at once: each has its own temporary file, and the last to finish wins. Raises
    UserError if the disk is full or the folder is not writable.
    """
    temporary = path.with_name(f"{path.name}~{socket.gethostname()}~{os.getpid()}~.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path.parent)
        with files.replacing(path, temporary) as file:
            yield file
    except OSError as error:
        raise _explain(error, path) from error


def _explain(error: OSError, path: Path) -> Exception:
    if error.errno in _FULL:
        return UserError(
            f"The disk is full: cannot write {shown(path)}.\n"
            "Free some space, or set run.cache to a folder on another disk."
        )
    if error.errno is not None:
        return UserError(
            f"Cannot write {shown(path)}: {error.strerror}.\n"
            "Set run.cache to a folder that you can write to."
        )
    return error


def _remove_stale(folder: Path) -> None:
    """Delete files of killed writers: the process is gone or, on other hosts, a day has passed."""
    for path in folder.glob("*.partial"):
        with contextlib.suppress(OSError, ValueError):
            _, host, pid, _ = path.name.rsplit("~", 3)
            if host == socket.gethostname():
                abandoned = not _alive(int(pid))
            else:
                abandoned = time.time() - path.stat().st_mtime > _ABANDONED_SECONDS
            if abandoned:
                path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def digest(*facts: object) -> str:
    """SHA-256, in hex, of JSON-serialisable facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def remembered(
    cache: Path, sources: list[Path], facts: object, compute: Callable[[], Json]
) -> Json:
    """`compute()`, or its earlier result if the files have not changed since.

    A file counts as unchanged while its path, size and modification time are the same. `facts`
    names what is computed. The result must survive JSON. It is stored with its SHA-256, so that a
    damaged result is recomputed.
    """
    states = [
        (str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in sources
    ]
    path = cache / "facts" / f"{digest(facts, states)}.json"
    with contextlib.suppress(Damaged):  # then it is recomputed
        known = read_json(path, record({"result": mapping(anything), "sha256": text}))
        if known and known["sha256"] == digest(known["result"]):
            return known["result"]
    result = compute()
    # A file written just now could change again within the clock's resolution.
    if all(time.time_ns() - modified > 1_000_000_000 for _, _, modified in states):
        with replacing(path) as file:
            file.write(json.dumps({"result": result, "sha256": digest(result)}).encode())
    return result
