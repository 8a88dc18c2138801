"""run.overwrite=true removes what a run wrote, and nothing else. Imports no jax.

Everything is checked first: a folder that is a link, or that holds a link, other runs, or a file
that no run writes, is refused, and nothing is removed. Then config.yaml is renamed to `.removing`.
From then on the folder is no longer a run, and the next training in it completes a removal that was
killed. The folder and its `.lock` stay.
"""

import contextlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from jaxlm.config.trackers import TRACKERS
from jaxlm.host.checked import Damaged, anything, read_bytes, read_json, record
from jaxlm.host.errors import UserError
from jaxlm.host.files import fsync_folder
from jaxlm.host.names import shortened
from jaxlm.store import manifest
from jaxlm.store.directory import RunDirectory

MARK = ".removing"
_LOCK = ".lock"
_FILES = (
    "config.yaml environment.json metrics.jsonl summary.json checkpoints.json evaluation.json "
    "tokenizer.json samples.txt report.md log.txt"
).split()
_FIGURES = (
    "loss perplexity accuracy optimization gradient_norms weight_norms update_norms update_ratio "
    "activation_rms speed"
).split()
# What a run's folders may hold, as paths relative to each folder.
_FOLDERS = {
    "checkpoints": re.compile(r"(?:\d{1,18}|[^/]*\.orbax-checkpoint-tmp[^/]*)(?:/.*)?"),
    "plots": re.compile(rf"(?:{'|'.join(_FIGURES)})\.png|\.[^/]*\.png\.\d+\.tmp"),
    "profile": re.compile(r"trace\.json|plugins(?:/profile(?:/.*)?)?"),
    **dict.fromkeys(TRACKERS.keys() - {"none"}, re.compile(".*")),  # each writes into its own
    "tensorboard": re.compile(r"events\.out\.tfevents\.[^/]*"),
}
_TEMPORARY = re.compile(rf"\.(?:{'|'.join(map(re.escape, _FILES))})\.\d+\.tmp")
_STARTED_ONLY = ("log.txt", "tokenizer.json")  # of a run whose start failed
_TELLING = ("summary.json", "environment.json", "metrics.jsonl", "checkpoints", MARK)


def check_removable(run: RunDirectory) -> None:
    """Raises UserError if `start_over` would."""
    if run.path.is_symlink():
        raise UserError(
            f"{run.path} is a link, so run.overwrite=true removes nothing.\n"
            f"Name the folder itself: run.dir={os.path.realpath(run.path)}"
        )
    if _names(run.path):
        _check(run.path)
        with run.lock():
            pass


def start_over(run: RunDirectory) -> None:
    """Remove what a run wrote into its folder. If it raises UserError, nothing is removed.

    A missing or empty folder is fine. The lock is held meanwhile.
    """
    check_removable(run)
    if _names(run.path):
        with run.lock():
            _check(run.path)  # again, now that there is no writer
            _remove(run.path)


def finish_removal(run: RunDirectory) -> None:
    """Complete a removal that a killed process began. Raises UserError."""
    if (run.path / MARK).is_file() and not run.path.is_symlink():
        start_over(run)


def refuse_runs_inside(folder: Path) -> None:
    """Raises UserError if a new run would contain others, which would then be hard to find."""
    if (folder / "config.yaml").exists() or not folder.is_dir():
        return
    runs = sorted(path.parent.name for path in folder.glob("*/config.yaml"))
    if runs:
        raise UserError(
            f"{folder} holds other runs ({_listed(runs)}), so it cannot be a run itself.\n"
            "Name the run's own folder with run.name=NAME or run.dir=FOLDER."
        )


def _names(folder: Path) -> list[str]:
    """The names in a run's folder, except its lock."""
    try:
        return sorted(name for name in os.listdir(folder) if name != _LOCK)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot read the run directory {folder}: {error.strerror}.") from None


def _check(folder: Path) -> None:
    """Raises UserError unless a folder holds a run and only what a run writes."""
    names, others = _names(folder), []
    for path, is_link in _walk(folder):
        if is_link:
            raise UserError(
                f"{folder} holds the link {shortened(path)}, so run.overwrite=true removes "
                "nothing.\n"
                "Remove the link first, or name another folder with run.dir=FOLDER."
            )
        if not _is_ours(path):
            others.append(path)
    if not any(name in _TELLING or name == "config.yaml" for name in names):
        if not others and all(name in _STARTED_ONLY for name in names):
            return
        raise UserError(
            f"{folder} is not a run (it has no config.yaml), so run.overwrite=true removes "
            "nothing.\n"
            "Name another folder with run.dir=FOLDER."
        )
    runs = sorted({path.split("/")[0] for path in others if path.endswith("/config.yaml")})
    if runs:
        raise UserError(
            f"{folder} holds other runs ({_listed(runs)}), so run.overwrite=true removes nothing.\n"
            "Name the run's own folder with run.name=NAME or run.dir=FOLDER."
        )
    if others:
        raise UserError(
            f"{folder} holds {_listed(others)}, which no run writes, so run.overwrite=true removes "
            "nothing.\nMove it elsewhere first, or name another folder with run.dir=FOLDER."
        )
    if not _is_a_run(folder):
        raise UserError(
            f"{folder} is not a run (its config.yaml is not from this program), so "
            "run.overwrite=true removes nothing.\nName another folder with run.dir=FOLDER."
        )


def _listed(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(shortened, names[:most])) + more


def _walk(folder: Path) -> Iterator[tuple[str, bool]]:
    """(relative path, whether it is a link) of everything in a folder."""
    for place, folders, files in os.walk(folder, onerror=_raise):
        for name in sorted([*folders, *files]):
            path = Path(place, name)
            yield path.relative_to(folder).as_posix(), path.is_symlink()


def _raise(error: OSError) -> None:
    raise UserError(f"cannot read {error.filename}: {error.strerror}.") from None


def _is_ours(path: str) -> bool:
    """Whether a run writes a file, or creates a folder, at this relative path."""
    first, _, rest = path.partition("/")
    if first in _FOLDERS:
        return not rest or bool(_FOLDERS[first].fullmatch(rest))
    return not rest and (first in (*_FILES, MARK, _LOCK) or bool(_TEMPORARY.fullmatch(first)))


def _is_a_run(folder: Path) -> bool:
    """Whether the content, not only the name, of at least one file is from this program."""
    if (folder / MARK).is_file() or manifest.whole_steps(folder / "checkpoints"):
        return True
    for name, sign in (("environment.json", "format_version"), ("summary.json", "status")):
        with contextlib.suppress(Damaged):
            if read_json(folder / name, record({sign: anything})) is not None:
                return True
    with contextlib.suppress(Damaged):
        config = read_bytes(folder / "config.yaml") or b""
        sections = set(re.findall(rb"(?m)^(\w+):", config))
        return {b"model", b"data", b"train", b"run"} <= sections
    return False


def _remove(folder: Path) -> None:
    """Remove everything but the lock; if killed, `finish_removal` can complete it."""
    try:
        if (folder / "config.yaml").exists():
            os.replace(folder / "config.yaml", folder / MARK)
        else:
            (folder / MARK).touch()
        fsync_folder(folder)
        for name in _names(folder):
            path = folder / name
            if stat.S_ISDIR(os.lstat(path).st_mode):
                shutil.rmtree(path)
            elif name != MARK:
                path.unlink()
        fsync_folder(folder)
        (folder / MARK).unlink()
        fsync_folder(folder)
    except OSError as error:
        raise UserError(
            f"cannot remove {error.filename or folder}: {error.strerror}.\n"
            "Check its permissions; the same command then completes the removal."
        ) from error
