"""Names that become folders: what a run, a variant and a run directory may be called."""

import os
import unicodedata
from pathlib import Path

from jaxlm.config.schema import Config
from jaxlm.host.errors import UserError
from jaxlm.host.names import shortened

MOST_BYTES = 200
"""A folder's name has 255 bytes; the rest is for what is added: -seed12, temporaries."""
_SIGNS = " ._-+=,@%#&()[]'!^:;"
_JOINERS = "\u200c\u200d"  # of letters, in Persian, Hindi and others
_CACHE = "the cache (run.cache)"
_WRITING = ("train", "study", "ladder")


def check_name(name: str, key: str) -> None:
    """Raises UserError unless a name is one component of a path that any shell can take.

    Letters, marks and digits of any script, blanks and . _ - + = , @ % # & ( ) [ ] ' ! ^ : ; are
    fine, at most 200 bytes; neither a blank at an end, nor a dot or a dash at the beginning.
    """
    if not name:
        raise UserError(f"{key} is empty.\nGive the run a name, as {key}=mine.")
    bad = next((sign for sign in name if not _may_stand(sign)), None)
    if bad is not None:
        why = f"{ascii(bad)} may not stand in it"
    elif name != name.strip():
        why = "it begins or ends with a blank"
    elif name[0] in ".-":
        why = f"it begins with {name[0]!r}"
    elif len(name.encode()) > MOST_BYTES:
        why = f"it has {len(name.encode())} bytes, and {MOST_BYTES} are the most"
    else:
        return
    raise UserError(
        f"{key}={shortened(name)} is no name of a folder: {why}.\n"
        "Use letters, digits, and . _ - + = , within; a folder elsewhere is run.dir=FOLDER."
    )


def _may_stand(sign: str) -> bool:
    kind = unicodedata.category(sign)[0]
    return kind in "LMN" or sign in _SIGNS or sign in _JOINERS


def check_path(path: str, key: str) -> None:
    """Raises UserError where no file or folder can have this path."""
    if "\0" in path or any(len(part.encode(errors="replace")) > 255 for part in path.split("/")):
        why = "a name in it is too long" if "\0" not in path else "it holds a NUL"
        raise UserError(f"{key}={shortened(path)} is no path: {why}.")
    if len(path.encode(errors="replace")) > 4000:
        raise UserError(f"{key}={shortened(path)} is no path: it is too long.")


def check_run_folder(config: Config, cache: Path, configurations: Path) -> None:
    """Raises UserError where run.dir is no folder of a run's own.

    `cache` is run.cache, `configurations` the Hydra tree. Jobs that only read a run may do so from
    within it.
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
            said.append(f"holds {whose}")
    if said:
        raise UserError(
            f"run.dir={shortened(path)} {said[0]}, and is no folder of the run's own.\n"
            "Give run.name=NAME, or run.dir=FOLDER."
        )


def _others(cache: Path, configurations: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Folders that are not a run's, by what they are; the second ones may not lie in a run's."""
    own: dict[str, str | Path] = {"the folder of all runs": "runs", _CACHE: cache}
    above: dict[str, str | Path] = {
        "the working folder": os.getcwd(),
        "your home": os.path.expanduser("~"),
        "the configurations": configurations,
    }
    real_own, real_above = (
        {w: os.path.realpath(place) for w, place in d.items()} for d in (own, above)
    )
    return real_own, real_above
