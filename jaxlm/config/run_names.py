"""Checks names that become folders: those of runs, variants and run directories."""

import os
import unicodedata
from pathlib import Path

from jaxlm.config.schema import Config
from jaxlm.host.errors import UserError
from jaxlm.host.names import shortened

MOST_BYTES = 200
"""A folder name may have 255 bytes; the rest is for suffixes such as -seed12 and temporaries."""
_SIGNS = " ._-+=,@%#&()[]'!^:;"
_JOINERS = "\u200c\u200d"  # of letters, in Persian, Hindi and others
_CACHE = "the cache (run.cache)"
_WRITING = ("train", "study", "ladder")


def check_name(name: str, key: str) -> None:
    """Raise UserError unless a name is a single path component that any shell accepts.

    Allowed are letters, marks and digits of any script, spaces and . _ - + = , @ % # & ( ) [ ] ' !
    ^ : ;. A name has at most 200 bytes, no space at either end, and no leading dot or dash.
    """
    if not name:
        raise UserError(f"{key} is empty.\nGive the run a name, for example {key}=mine.")
    bad = next((sign for sign in name if not _may_stand(sign)), None)
    if bad is not None:
        why = f"it must not contain {ascii(bad)}"
    elif name != name.strip():
        why = "it begins or ends with a space"
    elif name[0] in ".-":
        why = f"it begins with {name[0]!r}"
    elif len(name.encode()) > MOST_BYTES:
        why = f"it has {len(name.encode())} bytes; at most {MOST_BYTES} are allowed"
    else:
        return
    raise UserError(
        f"{key}={shortened(name)} is not a valid folder name: {why}.\n"
        "Use letters, digits and . _ - + = , inside it. For a folder elsewhere, set run.dir=FOLDER."
    )


def _may_stand(sign: str) -> bool:
    kind = unicodedata.category(sign)[0]
    return kind in "LMN" or sign in _SIGNS or sign in _JOINERS


def check_path(path: str, key: str) -> None:
    """Raise UserError if no file or folder can have this path."""
    if "\0" in path or any(len(part.encode(errors="replace")) > 255 for part in path.split("/")):
        why = "a name in it is too long" if "\0" not in path else "it contains a NUL"
        raise UserError(f"{key}={shortened(path)} is not a valid path: {why}.")
    if len(path.encode(errors="replace")) > 4000:
        raise UserError(f"{key}={shortened(path)} is not a valid path: it is too long.")


def check_run_folder(config: Config, cache: Path, configurations: Path) -> None:
    """Raise UserError if run.dir cannot be a folder for this run alone.

    `cache` is run.cache, `configurations` the Hydra tree. Jobs that only read a run may start from
    inside its folder.
    """
    path = config.run.dir
    if not path.strip():
        raise UserError("run.dir is empty.\nGive run.name=NAME, or run.dir=FOLDER.")
    check_path(path, "run.dir")
    if config.job.name not in _WRITING:
        return
    try:
        own, above = _others(cache, configurations)
        folder = os.path.realpath(path)
    except OSError as error:
        raise UserError(f"the working folder cannot be used: {error.strerror}.") from None
    if not config.run.overwrite:
        del own[_CACHE]  # a study may keep its cache with its runs
    said = [f"is {whose}" for whose, place in (own | above).items() if folder == place]
    for whose, place in above.items():
        if os.path.commonpath([folder, place]) == folder:
            said.append(f"contains {whose}")
    if said:
        raise UserError(
            f"run.dir={shortened(path)} {said[0]}; a run needs a folder of its own.\n"
            "Give run.name=NAME, or run.dir=FOLDER."
        )


def _others(cache: Path, configurations: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Folders that cannot be run folders; the second group may not lie inside one either."""
    own: dict[str, str | Path] = {"the folder of all runs": "runs", _CACHE: cache}
    above: dict[str, str | Path] = {
        "the working folder": os.getcwd(),
        "your home folder": os.path.expanduser("~"),
        "the configurations": configurations,
    }
    real_own, real_above = (
        {w: os.path.realpath(place) for w, place in d.items()} for d in (own, above)
    )
    return real_own, real_above
