"""The manifest that makes a folder of files a whole checkpoint. Imports no jax.

`checkpoints/STEP/manifest.json` is written last, by a rename, and holds the size and the SHA-256
of every other file of the step, and of itself. A step without a whole, matching manifest is not a
checkpoint.
"""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from jaxlm.host.checked import (
    Damaged,
    Json,
    Unfit,
    count,
    fitting,
    parse_json,
    read_bytes,
    read_json,
    record,
)
from jaxlm.host.errors import UserError
from jaxlm.host.files import atomic_write, fsync_folder
from jaxlm.store.formats import MANIFEST, NEWEST

FORMAT_VERSION = 2
NAME = "manifest.json"
_STEP = re.compile("0|[1-9][0-9]{0,17}")


class Restored(NamedTuple):
    """The content of a checkpoint: its tree, or what an engine made of it.

    The step is None for a file of weights that does not state it. `skipped` has a line for each
    newer step that is not whole or is gone, newest first.
    """

    step: int | None
    content: Any
    metadata: dict[str, Any]
    skipped: list[str]


class NoCheckpoint(UserError):
    """There is no checkpoint yet, whole or damaged."""


class NotWhole(Exception):
    """A step is not a checkpoint; the message says why."""


class Unfinished(NotWhole):
    """A step has no manifest, so it was never declared whole."""


def write(path: Path, step: int, *, best: bool) -> None:
    """Hashes every file of a step's folder, makes them durable, and writes the manifest last.

    `best` says that the step had the lowest validation loss so far.
    """
    files = {}
    for root, _, names in os.walk(path):
        for file_path in sorted(Path(root, name) for name in names):
            if file_path == path / NAME:
                continue
            with open(file_path, "rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                os.fsync(file.fileno())
                size = os.fstat(file.fileno()).st_size
            files[file_path.relative_to(path).as_posix()] = {"bytes": size, "sha256": sha256}
        fsync_folder(Path(root))
    body: Json = {"format_version": FORMAT_VERSION, "step": step, "best": best, "files": files}
    atomic_write(path / NAME, sealed(body))
    fsync_folder(path.parent)


def verify(path: Path, *, hashes: bool = True) -> Json:
    """The manifest of a step's folder, if every file matches it; without `hashes`, only in size.

    Raises NotWhole, or UserError if another version of this program wrote the step.
    """
    try:
        manifest = _read(path)
        if manifest["format_version"] != FORMAT_VERSION:
            newer = manifest["format_version"] > FORMAT_VERSION
            raise UserError(
                f"{path} was written by {'a newer' if newer else 'an older'} version of this "
                f"program: its format is {manifest['format_version']}, but this version reads "
                f"{FORMAT_VERSION}.\n"
                + ("Update the program." if newer else "Use that version, or train again.")
            )
        if wrong := MANIFEST(manifest, ""):
            raise NotWhole(f"{NAME} is damaged: {wrong}")
        if manifest["step"] != int(path.name):
            raise NotWhole(f"its manifest belongs to step {manifest['step']}")
        for name, expected in manifest["files"].items():
            with open(path / name, "rb", opener=_without_waiting) as file:
                if os.fstat(file.fileno()).st_size != expected["bytes"]:
                    raise NotWhole(f"{name} has a different size than its manifest says")
                if hashes and hashlib.file_digest(file, "sha256").hexdigest() != expected["sha256"]:
                    raise NotWhole(f"{name} is damaged: its SHA-256 differs from the manifest's")
    except OSError as error:
        if not (path / NAME).exists():  # never written, or removed by the writer meanwhile
            raise Unfinished("it has no manifest, so its save was never finished") from None
        name = os.path.relpath(error.filename, path) if error.filename else path
        raise NotWhole(f"{name} cannot be read: {error.strerror}") from None
    return manifest


def verified_file(path: Path, name: str) -> Path:
    """One file of a step's folder, whose content has the hash that the manifest states.

    Raises NotWhole if it has not, or if the step has no such file.
    """
    try:
        expected = _read(path)["files"].get(name)
        if expected is None:
            raise NotWhole(f"it has no {name}")
        with open(path / name, "rb", opener=_without_waiting) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected["sha256"]:
                raise NotWhole(f"{name} is damaged: its SHA-256 differs from the manifest's")
    except OSError as error:
        raise NotWhole(f"{name} cannot be read: {error.strerror}") from None
    return path / name


def _without_waiting(path: str, flags: int) -> int:
    """Opens a file; a pipe in its place is empty instead of waiting for a writer forever."""
    return os.open(path, flags | os.O_NONBLOCK)


def note_newest(folder: Path, step: int) -> None:
    """Records, beside the folder of checkpoints, that `step` is whole: see `newest_noted`."""
    atomic_write(folder.with_suffix(".json"), json.dumps({"newest": step}) + "\n")


def newest_noted(folder: Path) -> int | None:
    """The step of the checkpoint completed last, even if it is gone; None before any.

    It tells a folder that lost its checkpoints from one that never had any. Raises UserError if the
    note cannot be read.
    """
    note = read_json(folder.with_suffix(".json"), NEWEST)
    return None if note is None else int(note["newest"])


def _read(path: Path) -> Json:
    """A step's manifest, with its seal verified. Raises NotWhole."""
    try:
        content = read_bytes(path / NAME)
    except Damaged as error:
        raise NotWhole(str(error).splitlines()[0].rstrip(".")) from None
    if content is None:  # never written, or removed by the writer meanwhile
        raise Unfinished("it has no manifest, so its save was never finished")
    return unsealed(content)


def whole_steps(folder: Path) -> dict[int, Json]:
    """Step -> manifest of the steps in `folder` whose files have the right sizes, newest last.

    Hashes are compared when a step is restored.
    """
    manifests = {}
    for step in step_folders(folder):
        try:
            manifests[step] = verify(folder / str(step), hashes=False)
        except NotWhole:
            continue
    return manifests


def best_step(folder: Path) -> int | None:
    """The newest whole step that was the best when it was saved; None if there is none."""
    return max((s for s, manifest in whole_steps(folder).items() if manifest["best"]), default=None)


def step_folders(folder: Path) -> list[int]:
    """Every step that has a folder, whole or not, newest last."""
    if not folder.is_dir():
        return []
    names = (p.name for p in folder.iterdir() if _STEP.fullmatch(p.name) and p.is_dir())
    return sorted(map(int, names))


def remove(path: Path) -> None:
    """Removes a step, its manifest first, so that no reader mistakes the rest for a checkpoint."""
    (path / NAME).unlink(missing_ok=True)
    shutil.rmtree(path)


def sealed(body: Json) -> bytes:
    """A manifest's bytes: the body, and the SHA-256 of the body, which guards the manifest."""
    body = {name: value for name, value in body.items() if name != "sha256"}
    seal = hashlib.sha256(json.dumps(body).encode()).hexdigest()
    return (json.dumps(body | {"sha256": seal}, indent=1) + "\n").encode()


def unsealed(content: bytes) -> Json:
    """The inverse of `sealed`. Raises NotWhole if even one bit differs."""
    try:
        body = fitting(parse_json(content), record({"format_version": count}))
    except Unfit as error:
        raise NotWhole(f"{NAME} is damaged: {error}") from None
    if sealed(body) != content:
        raise NotWhole(f"{NAME} is damaged: its SHA-256 does not match its content")
    return body
