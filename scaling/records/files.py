"""Reads tables of named columns from CSV, JSON, JSON lines, npy and parquet files."""

import csv
import dataclasses
import gzip
import io
import json
import re
import shlex
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scaling.errors import ScalingError
from scaling.records import numerals
from scaling.records.numerals import Cell

Columns = dict[str, list[Cell]]
Json = dict[str, Any]
"""A parsed object; its values may be anything."""

Reader = Callable[..., Columns | list[Json]]  # takes the path; for CSV, also the notes


@dataclasses.dataclass
class Table:
    """Columns as read (numbers, text or None), with names of the rows for errors."""

    place: str
    columns: Columns
    rows: list[str]
    count: str | None  # what N counts, if the caller states it
    noun: str = "row"
    one_run: bool = False
    styles: dict[str, str] = dataclasses.field(default_factory=dict)  # of numerals, by column
    notes: tuple[str, ...] = ()  # how the file was read, if it was ambiguous
    named: bool = True  # named by the caller, not found in a folder

    def take(self, indices: Iterable[int]) -> "Table":
        """The table with only these rows."""
        columns = {name: [cells[i] for i in indices] for name, cells in self.columns.items()}
        return dataclasses.replace(self, columns=columns, rows=[self.rows[i] for i in indices])

    def numbers(self, name: str, small: bool = False) -> np.ndarray:
        """A column (n,) in float64. Raises ScalingError for a cell that is not a number.

        Args:
          small: the values are small, so 3,960 alone is read as 3.96, not as 3960.
        """
        return self.numbers_and_units(name, small)[0]

    def numbers_and_units(self, name: str, small: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """`numbers`, and which cells have their own unit, such as 10.2M: both (n,)."""
        style = self.styles.get(name, numerals.POINT)
        if style == numerals.UNCLEAR:
            style = numerals.COMMA
            if not small:
                cell = next(cell for cell in self.columns[name] if "," in str(cell))
                raise ScalingError(
                    f"{self.place}, column {name!r}: {cell!r} can mean "
                    f"{numerals.number(cell, numerals.COMMA)[0]:g} or "
                    f"{numerals.number(cell)[0]:g}.\nWrite it without a comma."
                )
        values, own, wrong = numerals.numbers(self.columns[name], style)
        if wrong is not None:
            cell = self.columns[name][wrong]
            said = "an empty cell" if is_empty(cell) else repr(cell)[:40]
            hint = f"\nTo skip such rows: where='{name}>0'." if is_empty(cell) else ""
            raise ScalingError(
                f"{self.place}, {self.noun} {self.rows[wrong]}, column {name!r}: "
                f"{said} is not a number.{hint}"
            )
        return values, own

    def checked(self, name: str, zero: bool = False) -> np.ndarray:
        """`numbers`, checked to be finite and positive. Raises ScalingError with the rows."""
        values = self.numbers(name)
        check_values(self.place, name, values, self.noun, self.rows, zero)
        return values

    def listed(self) -> str:
        """The names of the columns, for an error message."""
        names = [repr(name)[:30] for name in self.columns]
        return ", ".join(names[:15]) + f" and {len(names) - 15} more" * (len(names) > 15)


def is_empty(cell: Cell) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip())


def key(name: str) -> str:
    """A name in lower case, without the separators that exporters put between words."""
    return re.sub(r"[\s_/.#()\[\]-]", "", name.lower())


def check_values(
    place: str,
    name: str,
    values: np.ndarray,
    noun: str,
    rows: Sequence[object],
    zero: bool = False,
) -> None:
    """Raise ScalingError if values are not finite or not positive (with `zero`: negative)."""
    bad = np.flatnonzero(~np.isfinite(values) | (values < 0 if zero else values <= 0))
    if bad.size:
        listed = ", ".join(f"{rows[i]} ({values[i]:g})" for i in bad[:5])
        more = f" and {bad.size - 5} more" * (bad.size > 5)
        raise ScalingError(
            f"{place}, column {name!r}: values must be finite and "
            f"{'not negative' if zero else 'positive'}, but are not in "
            f"{noun}{'s' * (bad.size > 1)} {listed}{more}.\nCorrect or remove these points."
        )


def read_text(path: Path) -> str:
    content = _read_bytes(path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        kind = next((kind for magic, kind in _MAGICS.items() if content.startswith(magic)), None)
        said = f"it is {kind}" if kind else error.reason
        new = path.with_name(f"{path.stem}_utf8{path.suffix}")
        command = shlex.join(["iconv", "-f", "cp1252", "-t", "utf-8", str(path)])
        hint = "" if kind else f"\nSave it as UTF-8, or: {command} > {shlex.quote(str(new))}"
        raise ScalingError(f"{path} is not UTF-8 text: {said}.{hint}") from error


_MAGICS = {
    b"\x80": "a pickle, which is never opened because it can run any code",
    b"PAR1": "a parquet file; rename it to end in .parquet",
    b"PK": "a zip archive or a spreadsheet; export it as CSV",
    b"\x1f\x8b": "compressed; rename it to end in .gz",
    b"\x93NUMPY": "a NumPy array; rename it to end in .npy",
    b"\xff\xfe": "UTF-16; save it as UTF-8",
    b"\xfe\xff": "UTF-16; save it as UTF-8",
}


def _read_bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix.lower() == ".gz" else content
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ScalingError(f"{path} is not a gzip file, or is damaged: {error}.") from error
    except OSError as error:
        raise ScalingError(f"cannot read {path}: {error.strerror or error}.") from error


def parse_json(text: str, place: str) -> Any:
    def unique(pairs: list[tuple[str, object]]) -> Json:
        _refuse_doubles([name for name, _ in pairs], place)
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=unique)
    except ScalingError:
        raise
    except (ValueError, RecursionError) as error:
        raise ScalingError(f"{place} is not JSON: {error}.") from error


def _refuse_doubles(names: list[str], place: str) -> None:
    doubled = [name for i, name in enumerate(names) if name and name in names[:i]]
    if doubled:
        raise ScalingError(f"{place}: two columns are called {doubled[0]!r}; keep one.")


def reader_of(path: Path) -> Reader | None:
    """The reader for a file of records with this name; None for other files."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes[-1:] == [".gz"]
    suffix = (suffixes[:-1] if packed else suffixes)[-1:]
    reader = _READERS.get(suffix[0]) if suffix else None
    return None if packed and reader in (_npy, _parquet) else reader


def read_table(path: Path, count: str | None) -> Table:
    """Read the columns of a file of records. Raises ScalingError if the file is unusable."""
    reader = reader_of(path)
    if reader is None:
        if path.suffix.lower() in _NEVER:
            raise ScalingError(
                f"{path}: pickles (and {', '.join(_NEVER[2:])}) are never opened, because they can "
                "run any code.\nSave the records as CSV, with DataFrame.to_csv or csv.writer."
            )
        raise ScalingError(
            f"{path} is not a file of records: these end in {', '.join(_READERS)}, or in one of "
            "these followed by .gz."
        )
    notes: list[str] = []
    columns = reader(path, notes) if reader is _csv else reader(path)
    columns = as_columns(columns) if isinstance(columns, list) else columns
    lengths = {len(cells) for cells in columns.values()} or {0}
    if len(lengths) > 1:
        raise ScalingError(f"{path}: the columns have different lengths, {sorted(lengths)}.")
    if lengths == {0}:
        raise ScalingError(f"{path} contains no points.")
    rows = [str(row) for row in range(1, lengths.pop() + 1)]
    plain = all(map(numerals.all_plain, columns.values()))
    styles = {} if plain else numerals.styles(columns, reader is _csv and not notes)
    return Table(
        str(path), columns, rows, count, one_run=reader is _npy, styles=styles, notes=tuple(notes)
    )


def as_columns(objects: list[Json]) -> Columns:
    names = dict.fromkeys(name for item in objects for name in item)
    return {name: [item.get(name) for item in objects] for name in names}


def _csv(path: Path, notes: list[str]) -> Columns:
    text = read_text(path)
    # Spreadsheets may state the separator on the first line.
    stated = _STATED.match(text)
    text = text[stated.end() :] if stated else text
    separator = stated[1].replace("\\t", "\t") if stated else _separator(text)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        lines = list(reader)
    except csv.Error as error:
        raise ScalingError(f"{path} is not CSV: {error}.") from error
    lines = [line for line in lines if any(cell.strip() for cell in line)]
    header = [name.strip() for name in lines[0]] if lines else []
    _refuse_doubles(header, str(path))
    for row, line in enumerate(lines[1:], 1):
        if len(line) != len(header):
            cells = f"{len(line)} cells, but the header has {len(header)}"
            hint = ""
            if separator == "," and len(line) > len(header):
                hint = "\nFor decimal commas, quote the cells or separate them with semicolons."
            raise ScalingError(f"{path}, row {row}: {cells}.{hint}")
    if separator != ",":
        name = _SEPARATORS.get(separator, repr(separator))
        notes.append(f"{path}: cells are separated by {name}.")
    return {name: [line[i] for line in lines[1:]] for i, name in enumerate(header) if name}


_STATED = re.compile(r'(?i)\s*"?sep=(\\t|\t|[^\w\s"])"?(?:[,;|\t]|\1)*(\r\n|\r|\n)')
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


def _separator(text: str) -> str:
    """The separator of the cells: the one that occurs most often in the header."""
    header = next((line for line in text.splitlines() if line.strip()), "")
    header = re.sub('"[^"]*"', "", header)
    return max(_SEPARATORS, key=header.count)


def _json(path: Path) -> Columns | list[Json]:
    content = parse_json(read_text(path), str(path))
    if isinstance(content, dict) and content:
        inside = list(content.values())
        if len(inside) == 1 and isinstance(inside[0], list) and _are(dict, inside[0]):
            content = inside[0]  # {"runs": [...]}
        elif _are(dict, inside) and _are((int, float, str, type(None)), _flat(inside)):
            content = _by_key(content)
        elif _are((int, float, str, type(None)), _flat([content])):
            content = [content]  # one run
    if isinstance(content, list) and _are(dict, content):
        return [_unfolded(item) for item in content]
    if isinstance(content, dict) and _are(list, content.values()):
        return content
    raise ScalingError(f"{path} must contain a list of objects, or an object of columns (lists).")


def _are(kind: type | tuple[type, ...], values: Iterable[object]) -> bool:
    return all(isinstance(value, kind) for value in values)


def _flat(objects: list[Json]) -> list[Any]:
    return [value for item in objects for value in _unfolded(item).values()]


def _unfolded(item: Json, above: str = "") -> Json:
    """Flatten nested objects into columns named outer/inner."""
    found: Json = {}
    for name, value in item.items():
        if isinstance(value, dict):
            found |= _unfolded(value, f"{above}{name}/")
        else:
            found[above + name] = value
    return found


def _by_key(content: dict[str, Json]) -> Columns | list[Json]:
    """{"N": {"0": ...}}, as pandas writes a table, or {"run a": {"N": ...}}."""
    inner = [list(cells) for cells in content.values()]
    if all(names == inner[0] for names in inner) and all(name.isdigit() for name in inner[0]):
        return {name: list(cells.values()) for name, cells in content.items()}
    if any(_are(dict, [value]) for cells in content.values() for value in cells.values()):
        return [content]  # one run in sections, such as config and summary
    if all(set(names) & set(inner[0]) for names in inner):
        return [{"run": name} | cells for name, cells in content.items()]
    return [content]


def read_jsonl(path: Path) -> list[Json]:
    # Not splitlines: JSON text may contain other line separators.
    lines = [line for line in read_text(path).split("\n") if line.strip()]
    objects = [parse_json(line, f"{path}, row {row}") for row, line in enumerate(lines, 1)]
    if not all(isinstance(item, dict) for item in objects):
        raise ScalingError(f"{path} must contain an object on each line.")
    return objects


def _npy(path: Path) -> Columns:
    try:
        with open(path, "rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        said = str(error)
        if "pickle" in said.lower():
            said = "it contains pickled objects, which are never opened. Save an array of numbers."
        raise ScalingError(f"{path} is not an array that NumPy can read: {said}") from error
    if array.dtype.names and array.ndim == 1:
        return {name: array[name].tolist() for name in array.dtype.names}
    if array.ndim == 2 and array.shape[1] == 4 and array.dtype.kind in "fiu":
        return dict(zip(("step", "tokens", "flops", "loss"), array.T.tolist(), strict=True))
    raise ScalingError(
        f"{path} has shape {array.shape} and type {array.dtype}.\n"
        "It must have named fields, or n rows of step, tokens, FLOPs, loss."
    )


def _parquet(path: Path) -> Columns:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise ScalingError(
            f"{path}: reading parquet requires pyarrow. Install it: pip install pyarrow\n"
            "(or save the records as CSV)."
        ) from None
    try:
        return parquet.read_table(path).to_pydict()
    except (ArrowException, OSError, ValueError) as error:
        said = str(error).splitlines()[0]
        raise ScalingError(f"{path} is not a parquet file that pyarrow can read: {said}") from error


_READERS: dict[str, Reader] = {
    ".csv": _csv,
    ".json": _json,
    ".jsonl": read_jsonl,
    ".npy": _npy,
    ".tsv": _csv,
    ".ndjson": read_jsonl,
    ".parquet": _parquet,
}
_NEVER = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".bin")


def choose(table: Table, where: str) -> Table:
    """The rows with column=value, column<value or column>value."""
    match = re.fullmatch(r"\s*(.+?)\s*([=<>])\s*(.+?)\s*", where)
    names = [name for name in table.columns if match and key(name) == key(match[1])]
    if match is None or not names:
        raise ScalingError(
            f"where={where!r} must be column=value, column<value or column>value.\n"
            f"The columns of {table.place} are {table.listed()}."
        )

    style = table.styles.get(names[0], numerals.POINT)

    def holds(cell: Cell) -> bool:
        try:
            a, b = numerals.number(cell, style)[0], numerals.number(match[3])[0]
        except (TypeError, ValueError, OverflowError):
            return match[2] == "=" and str(cell).strip() == match[3]
        return {"=": a == b, "<": a < b, ">": a > b}[match[2]]

    return table.take([i for i, cell in enumerate(table.columns[names[0]]) if holds(cell)])
