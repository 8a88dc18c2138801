"""Reads all JSON and YAML files: parses them and checks their shape.

A shape is a function of (value, its place) that says in words what does not fit, or None:

    RUN = record({"step": count}, {"loss": maybe(number), "norms": maybe(mapping(number))})
    summary = read_json(path, RUN)  # None if there is no such file

The reader of a `record` may rely on the required fields and on the types of the others; fields
that it does not name may hold anything, so that newer versions can add fields.
"""

import json
import math
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from jaxlm.host.errors import UserError

MOST_BYTES = 64 * 2**20
_MOST_YAML_BYTES, _MOST_DEPTH = 2**20, 50
_MOST_DIGITS = 400
_ADVICE = "Put back a good copy of the file, or move it away if it is not needed."

Parsed = TypeVar("Parsed")
Json = dict[str, Any]
"""An object of JSON or YAML: `Any`, as its shape is checked where it is read."""
Shape = Callable[[Any, str], str | None]
"""(value, its place) -> what is wrong there; None if it fits."""


class Damaged(UserError):
    """A file exists but is unreadable, not JSON or YAML, or of other types than expected."""


class Unfit(ValueError):
    """Content is not what it should be; the message says why and ends without a full stop."""


# -- files ---------------------------------------------------------------------------------------


def read_json(path: Path, shape: Shape, advice: str = _ADVICE) -> Any:
    """The JSON of a file, of the given shape; None if there is no file. Raises Damaged."""
    return _read(path, lambda content: fitting(parse_json(content), shape), advice, MOST_BYTES)


def read_yaml(path: Path, advice: str = _ADVICE) -> Json | None:
    """A file's YAML, a mapping of plain values; None if there is no file. Raises Damaged."""
    return _read(path, parse_yaml, advice, _MOST_YAML_BYTES)


def read_yaml_text(path: Path, advice: str = _ADVICE) -> str | None:
    """Like `read_yaml`, but the text, for another parser; it holds nothing but a mapping."""

    def checked(content: bytes) -> str:
        parse_yaml(content)
        return _text(content)

    return _read(path, checked, advice, _MOST_YAML_BYTES)


def read_bytes(path: Path, most: int | None = None, advice: str = _ADVICE) -> bytes | None:
    """A regular file's content; None if there is no file. Raises Damaged."""
    return _read(path, lambda content: content, advice, most)


def _read(
    path: Path, parse: Callable[[bytes], Parsed], advice: str, most: int | None
) -> Parsed | None:
    try:
        # A pipe in the file's place would wait for a writer forever.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(handle, "rb") as file:
            about = os.fstat(handle)
            if not stat.S_ISREG(about.st_mode):
                what = "a folder" if stat.S_ISDIR(about.st_mode) else "not a regular file"
                raise Damaged(f"cannot read {path}: it is {what}.\n{advice}")
            if most is not None and about.st_size > most:
                raise Unfit(f"it has {about.st_size:,} bytes, but at most {most:,} are expected")
            content = file.read()
        return parse(content)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Damaged(f"cannot read {path}: {error.strerror or error}.\n{advice}") from error
    except Unfit as error:
        raise Damaged(f"cannot read {path}: {error}.\n{advice}") from None


# -- parsing -------------------------------------------------------------------------------------


def parse_json(content: bytes) -> Any:
    """A value of strict JSON in UTF-8: no NaN, no name twice, no lone surrogates. Raises Unfit."""
    text = _text(content)
    if not text.strip():
        raise Unfit("it is empty")
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except Unfit:
        raise
    except RecursionError:
        raise Unfit("it is nested too deeply") from None
    except ValueError as error:
        raise Unfit(f"it is not JSON ({error})") from None
    if "\\u" in text:
        _refuse_surrogates(value)
    return value


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unfit(f"byte {error.start} is not UTF-8 text") from None


def _unique(pairs: list[tuple[str, object]]) -> Json:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise Unfit(f"it has {next(n for n in names if names.count(n) > 1)!r} twice")
    return found


def _refuse_constant(word: str) -> None:
    raise Unfit(f"it holds {word}, which is not valid JSON")


def _refuse_surrogates(value: object) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise Unfit("it holds half a character") from None


def parse_yaml(content: bytes) -> Json:
    """A mapping of plain YAML: no tags, no anchors, nothing deep. Raises Unfit."""
    import yaml

    text, depth = _text(content), 0
    # libyaml refuses an escape that stands for an undecodable byte, as in the name of a file.
    loader = yaml.SafeLoader if "\\uDC" in text else getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        for event in yaml.parse(text, Loader=loader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _MOST_DEPTH:
                raise Unfit("it is nested too deeply")
            line = event.start_mark.line + 1 if event.start_mark else 0
            if getattr(event, "anchor", None) is not None:
                raise Unfit(f"line {line} has an anchor or an alias")
            if getattr(event, "tag", None) is not None:
                raise Unfit(f"line {line} has a tag")
            value = getattr(event, "value", "")  # a scalar has one
            if value.isdigit() and len(value) > _MOST_DIGITS:
                raise Unfit(f"line {line} has too long a number")
        value = yaml.load(text, Loader=loader)
    except Unfit:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise Unfit(f"it is not YAML ({where}{what})") from None
    if value is None:
        raise Unfit("it is empty")
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise Unfit("it is not a mapping of names to values")
    return value


# -- shapes --------------------------------------------------------------------------------------


def fitting(value: Any, shape: Shape, place: str = "") -> Any:
    """The value. Raises Unfit if it is not of the shape."""
    if wrong := shape(value, place):
        raise Unfit(wrong)
    return value


def _wrong(place: str, value: Any, wanted: str) -> str:
    kinds = {dict: "an object", list: "a list", type(None): "null", bool: str(value).lower()}
    shown = kinds.get(type(value)) or repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return f"{place or 'it'} is {shown}, but should be {wanted}"


def anything(value: Any, place: str) -> str | None:
    return None


def text(value: Any, place: str) -> str | None:
    return None if isinstance(value, str) else _wrong(place, value, "text")


def number(value: Any, place: str) -> str | None:
    """A finite number that a float can hold."""
    known = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        known = known and math.isfinite(float(value))
    except OverflowError:
        known = False
    return None if known else _wrong(place, value, "a number")


def count(value: Any, place: str) -> str | None:
    """A non-negative whole number that fits in 64 bits."""
    known = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
    return None if known else _wrong(place, value, "a non-negative whole number")


def maybe(inner: Shape) -> Shape:
    """Null, or of the inner shape; as a field of a `record` it may also be missing."""
    return lambda value, place: None if value is None else inner(value, place)


def each(inner: Shape) -> Shape:
    """A list of values of the inner shape."""

    def shape(value: Any, place: str) -> str | None:
        if not isinstance(value, list):
            return _wrong(place, value, "a list")
        found = (inner(item, f"{place or 'it'}[{i}]") for i, item in enumerate(value))
        return next(filter(None, found), None)

    return shape


def mapping(inner: Shape) -> Shape:
    """An object with values of the inner shape, whatever their names."""

    def shape(value: Any, place: str) -> str | None:
        if not isinstance(value, dict):
            return _wrong(place, value, "an object")
        found = (inner(item, f"{place}.{name}".lstrip(".")) for name, item in value.items())
        return next(filter(None, found), None)

    return shape


def record(required: Mapping[str, Shape], others: Mapping[str, Shape] | None = None) -> Shape:
    """An object with the required fields; the others must fit if present."""
    fields = {**required, **(others or {})}

    def shape(value: Any, place: str) -> str | None:
        if not isinstance(value, dict):
            return _wrong(place, value, "an object")
        for name in required:
            if name not in value:
                return f"{place or 'it'} lacks {name}"
        found = (
            inner(value[name], f"{place}.{name}".lstrip("."))
            for name, inner in fields.items()
            if name in value
        )
        return next(filter(None, found), None)

    return shape


def either(*shapes: Shape) -> Shape:
    """A value of any of the shapes; the error is that of the first."""

    def shape(value: Any, place: str) -> str | None:
        wrong = [inner(value, place) for inner in shapes]
        return None if None in wrong else wrong[0]

    return shape
