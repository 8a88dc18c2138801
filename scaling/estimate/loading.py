"""Loads a fit from fit.json and bootstrap.npy, without trusting either file.

All values are checked before the fit is made, and memory is never allocated on the word of a file.
Content that no fit could have written raises one ScalingError.
"""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from scaling.errors import ScalingError
from scaling.estimate.bootstrap import Profile
from scaling.estimate.fit import FORMAT, Fit
from scaling.estimate.power_law import Json
from scaling.estimate.scatter import MOST
from scaling.law.laws import LAWS, Law
from scaling.records.heads import COUNTS

_LARGEST = 2**24  # bytes of a fit.json; usually it has a few thousand
_VARIABLES = ("N", "D", "C", "U")
_MOST_SCATTER = 100.0  # in log loss
_SAME = 1e-6  # relative tolerance for values that are written twice


class _Damage(Exception):
    """Content that no fit could have written; the message says what."""


def load_fit(path: str | Path) -> Fit:
    """Load a fit from its fit.json and the bootstrap.npy next to it.

    Without bootstrap.npy the fit has no intervals.

    Args:
      path: fit.json, or its folder.

    Raises:
      ScalingError: a missing or damaged file, another format, or a law that is not built in.
    """
    path = Path(path)
    try:
        path = path / "fit.json" if path.is_dir() else path
        if not os.path.lexists(path):
            raise FileNotFoundError
    except (OSError, ValueError):  # also a name that no file can have
        raise ScalingError(
            f"{path} does not exist; create it with job=fit job.records=FILE job.out=DIR."
        ) from None
    try:
        content = _Content(_parse(_read(path)))
        if content.whole("format", 0) != FORMAT:
            raise ScalingError(
                f"{path} has format {content['format']}; this version reads {FORMAT}.\n"
                "Create it again with job=fit."
            )
        found = _fit(content, path.with_name("bootstrap.npy"))
    except _Damage as damage:
        said = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(damage))
        raise ScalingError(f"{path} is not a fit.json of this project ({said}).") from None
    return found


# -- fit.json ------------------------------------------------------------------------------------


def _read(path: Path) -> str:
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > _LARGEST:
            raise _Damage(f"it is larger than {_LARGEST >> 20} MiB")
        try:
            return file.read(size).decode("utf-8")
        except UnicodeDecodeError as error:
            raise _Damage(f"not UTF-8 text: {error.reason}") from None


def _opened(path: Path) -> BinaryIO:
    """Open a regular file; a pipe would block, and a device may never end."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ScalingError(f"{path} is not a file.")
        return open(path, "rb")
    except OSError as error:
        raise ScalingError(f"cannot read {path}: {error.strerror or error}.") from None


def _parse(text: str) -> Json:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            double = next(name for name in names if names.count(name) > 1)
            raise _Damage(f"{_shown(double)} occurs twice")
        return dict(pairs)

    def constant(word: str) -> None:
        raise _Damage(f"{word} is not JSON")

    try:
        content = json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except RecursionError:
        raise _Damage("nested too deeply") from None
    except ValueError as error:
        raise _Damage(f"not JSON: {error}") from None
    if not isinstance(content, dict):
        raise _Damage("it does not contain an object")
    return content


class _Content:
    """The object in a fit.json; each method checks the type of the value that it returns."""

    def __init__(self, content: Json):
        self._content = content

    def __getitem__(self, name: str) -> Any:
        if name not in self._content:
            raise _Damage(f"it has no {name!r}")
        return self._content[name]

    def get(self, name: str, kind: type | tuple[type, ...], what: str) -> Any:
        """A value of this type; `what` names the type in the error."""
        value = self[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise _Damage(f"{name} = {_shown(value)} is not {what}")
        return value

    def text(self, name: str) -> str:
        return _printable(self.get(name, str, "text"), name)

    def whole(self, name: str, least: int) -> int:
        value = self.get(name, int, "a whole number")
        if not least <= value < 2**53:
            raise _Damage(f"{name} = {_shown(value)} is out of range")
        return value

    def number(self, name: str, fits: Callable[[float], bool], null: Any = _Damage) -> Any:
        """A finite number for which `fits` holds; null becomes `null`, if that is given."""
        if self[name] is None and null is not _Damage:
            return null
        value = _number(self[name], name)
        if not fits(value):
            raise _Damage(f"{name} = {_shown(value)} is out of range")
        return value

    def numbers(self, name: str) -> np.ndarray:
        items = self.get(name, list, "a list")
        return np.array([_number(item, name) for item in items], float)


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Damage(f"{name}: {_shown(value)} is not a number")
    try:
        value = float(value)
    except OverflowError:
        value = np.inf
    if not np.isfinite(value):
        raise _Damage(f"{name} contains a number that is not finite")
    return value


def _printable(text: str, name: str) -> str:
    """The text, if it is printable; control characters could overwrite the terminal."""
    if not all(letter.isprintable() or letter in "\n\t" for letter in text):
        raise _Damage(f"{name} contains characters that cannot be shown")
    return text


def _shown(value: object) -> str:
    """Any value, for an error message: short, in ASCII, on one line."""
    kinds: dict[type, str] = {dict: "an object", list: "a list"}
    kind = kinds.get(type(value))
    if kind is None and isinstance(value, int) and not -(10**20) < value < 10**20:
        kind = "a number of many digits"
    text = kind or ascii(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _fit(content: _Content, bootstrap: Path) -> Fit:
    name = content.get("law", str, "the name of a law")
    if name not in LAWS:
        raise _Damage(f"law = {_shown(name)} is not one of {', '.join(LAWS)}")
    law = LAWS[name]
    theta = content.numbers("theta")
    if len(theta) != len(law.coordinates):
        raise _Damage(f"theta does not have the {len(law.coordinates)} numbers of law={name}")
    _same_parameters(content, law, theta)
    n_points = content.whole("n_points", 1)
    starts = content.whole("starts", 0)
    reached = content.whole("starts_converged", 0)
    descents = content.whole("descents", 0)
    ended = content.whole("descents_converged", 0)
    n_runs = content.whole("n_runs", 1)
    if n_runs > n_points or reached > starts or ended > descents:
        raise _Damage("it has more runs than points, or more starts converged than there were")
    found = Fit(
        law=law,
        theta=theta,
        samples=_samples(bootstrap, content.whole("resamples", 0), len(theta)),
        delta=content.number("delta", lambda x: x > 0, null=None),
        level=content.number("level", lambda x: 0 < x < 1),
        objective=content.number("objective", lambda x: x >= 0, null=float("nan")),
        n_points=n_points,
        n_runs=n_runs,
        success=content.get("success", bool, "true or false"),
        message=content.text("message"),
        starts=starts,
        starts_converged=reached,
        warnings=_warnings(content),
        profiles=_profiles(content, law),
        range=_range(content, law),
        count=_count(content),
        source=content.get("source", str, "text"),
        residual_std=content.number("residual_std", lambda x: x >= 0, null=float("nan")),
        floor=content.number("entropy_floor", lambda x: x >= 0, null=None),
        scatter=_scatter(content, n_points),
        fixed=_fixed(content, law),
        undetermined=_undetermined(content, law),
        descents=descents,
        descents_converged=ended,
    )
    sound = found.message == "converged" and not found.undetermined
    if found.success != sound:
        raise _Damage(f"success = {found.success} contradicts its message")
    _same_intervals(content, found)
    return found


def _same_parameters(content: _Content, law: Law, theta: np.ndarray) -> None:
    """Raise _Damage if theta and the parameters do not agree."""
    for name, value in law.natural(theta).items():
        written = content[name]
        if written is None and not np.isfinite(value):
            continue
        if not np.isclose(_number(written, name), value, rtol=_SAME, atol=0):
            raise _Damage(f"theta does not give {name} = {_shown(written)}")


def _same_intervals(content: _Content, fit: Fit) -> None:
    """Raise _Damage if the resamples do not give the intervals, as those of another fit."""
    written = _Content(content.get("intervals", dict, "an object"))
    if not len(fit.samples):
        if written and not content.whole("resamples", 0):
            raise _Damage("it has intervals, but no resamples that give them")
        return
    for name, ends in fit.intervals.items():
        pair = written.get(name, list, "two numbers")
        if len(pair) != 2:
            raise _Damage(f"the interval of {name} is not two numbers")
        for end, known in zip(pair, ends, strict=True):
            told = np.nan if end is None else _number(end, f"the interval of {name}")
            either = np.isfinite(told), np.isfinite(known)
            if any(either) and not np.isclose(told, known, rtol=_SAME, atol=0):
                raise _Damage(
                    f"the resamples in bootstrap.npy do not give its interval of {name}, so the "
                    "two files do not belong together"
                )


def _profiles(content: _Content, law: Law) -> dict[str, Profile]:
    """The profile intervals, without their curves."""
    found, nothing = {}, np.empty(0)
    inside = content.get("profile_intervals", dict, "an object")
    for name, pair in inside.items():
        if name not in law.parameters or not isinstance(pair, list) or len(pair) != 2:
            raise _Damage(
                f"the profile interval of {_shown(name)} is not two numbers of a parameter"
            )
        low, high = (
            endless if end is None else _number(end, f"the profile interval of {name}")
            for end, endless in zip(pair, (-np.inf, np.inf), strict=True)
        )
        if low > high:
            raise _Damage(f"the profile interval of {name} ends before it begins")
        found[name] = Profile(name, nothing, nothing, float("nan"), low, high)
    return found


def _warnings(content: _Content) -> tuple[str, ...]:
    found = content.get("warnings", list, "a list of texts")
    if not all(isinstance(item, str) for item in found):
        raise _Damage("warnings is not a list of texts")
    return tuple(_printable(item, "warnings") for item in found)


def _fixed(content: _Content, law: Law) -> dict[str, float]:
    inside = content.get("fixed", dict, "an object")
    if not set(inside) <= set(law.parameters):
        raise _Damage(f"fixed names something that is not a parameter of law={law.name}")
    found = {name: _number(value, f"fixed {name}") for name, value in inside.items()}
    for name, value in found.items():
        if not np.isclose(_number(content[name], name), value, rtol=_SAME, atol=0):
            raise _Damage(f"{name} differs from its fixed value")
    if len(found) == len(law.parameters):
        raise _Damage("all its parameters are fixed")
    return found


def _undetermined(content: _Content, law: Law) -> tuple[str, ...]:
    found = content.get("undetermined", list, "a list of names")
    if not all(isinstance(name, str) and name in law.parameters for name in found):
        raise _Damage(f"undetermined names something that is not a parameter of law={law.name}")
    return tuple(found)


def _count(content: _Content) -> str:
    count = content.text("count")
    if count not in COUNTS:
        raise _Damage(f"count = {_shown(count)} is not one of {', '.join(COUNTS)}")
    return count


def _range(content: _Content, law: Law) -> dict[str, tuple[float, float]]:
    inside = content.get("range", dict, "an object")
    found = {}
    for name in inside:
        ends = _Content(inside).numbers(name)
        if name not in _VARIABLES or len(ends) != 2 or not 0 < ends[0] <= ends[1]:
            raise _Damage(f"the range of {_shown(name)} is not two ascending positive numbers")
        found[name] = (float(ends[0]), float(ends[1]))
    if not {*law.variables, "C"} <= set(found):
        raise _Damage(f"its range lacks a variable of law={law.name}")
    return found


def _scatter(content: _Content, n_points: int) -> np.ndarray:
    found = content.numbers("scatter")
    if len(found) > min(n_points, MOST) or np.any(np.diff(found) < 0):
        raise _Damage("scatter is not ascending, or has more values than there were points")
    if np.any(np.abs(found) > _MOST_SCATTER):
        raise _Damage("scatter has implausibly large values")
    return found


# -- bootstrap.npy -------------------------------------------------------------------------------


def _samples(path: Path, resamples: int, size: int) -> np.ndarray:
    """The resamples (S, P); (0, P) if the file does not exist.

    Raises ScalingError if the file is not exactly the array that fit.json describes.
    """
    if not resamples or not os.path.lexists(path):
        return np.empty((0, size))
    with _opened(path) as file:
        shape, dtype, by_columns = _header(file, path)
        if dtype.kind != "f" or shape != (resamples, size):
            raise ScalingError(
                f"{path} contains an array {shape} of {_shown(str(dtype))}, but fit.json has "
                f"{resamples} resamples of {size} coordinates: the files do not belong together."
            )
        bytes_left = os.fstat(file.fileno()).st_size - file.tell()
        if bytes_left != resamples * size * dtype.itemsize:
            raise ScalingError(
                f"{path} is damaged: its header announces {resamples * size * dtype.itemsize:,} "
                f"bytes of numbers, but {bytes_left:,} follow."
            )
        flat = np.frombuffer(file.read(bytes_left), dtype)
    samples = flat.reshape(shape, order="F" if by_columns else "C").astype(float, order="C")
    if not np.all(np.isfinite(samples)):
        raise ScalingError(f"{path} contains numbers that are not finite, which no fit writes.")
    return samples


def _header(file: BinaryIO, path: Path) -> tuple[tuple[int, ...], np.dtype, bool]:
    """Shape, order and type of an npy file, read from its header alone."""
    try:
        # A later version could announce gigabytes for the header alone, and no fit writes one.
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("its format is not version 1.0")
        shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
    except Exception as error:  # a header is a Python literal, so its parser may raise anything
        reason = " ".join(str(error).split())[:100]
        raise ScalingError(
            f"{path} cannot be read: it is not an npy file ({ascii(reason)})."
        ) from None
    return shape, dtype, by_columns
