"""Tables of named columns from CSV, JSON, JSON lines and npy files, and what errors say of them."""

import csv
import dataclasses
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from scaling.errors import ScalingError


@dataclasses.dataclass
class Table:
    """Columns as they were read: numbers, text or None; and how an error names a row."""

    place: str
    columns: dict[str, list]
    rows: list[str]
    count: str | None  # what N counts, where the caller says it
    noun: str = "row"
    one_run: bool = False

    def take(self, indices: Any) -> "Table":
        columns = {name: [cells[i] for i in indices] for name, cells in self.columns.items()}
        return dataclasses.replace(self, columns=columns, rows=[self.rows[i] for i in indices])

    def numbers(self, name: str) -> np.ndarray:
        """A column in float64. Raises ScalingError for a cell that is not a number."""
        values = np.empty(len(self.rows))
        for index, cell in enumerate(self.columns[name]):
            try:
                # Python takes a bool for a number; here it tells of a mistaken column.
                values[index] = float("true" if isinstance(cell, bool) else cell)
            except OverflowError:
                values[index] = np.inf
            except (TypeError, ValueError):
                said = "an empty cell" if is_empty(cell) else repr(cell)[:40]
                raise ScalingError(
                    f"{self.place}, {self.noun} {self.rows[index]}, column {name!r}: "
                    f"{said} is not a number."
                ) from None
        return values

    def checked(self, name: str, zero: bool = False) -> np.ndarray:
        """`numbers`, all of them finite and positive. Raises ScalingError with the rows."""
        values = self.numbers(name)
        check_values(self.place, name, values, self.noun, self.rows, zero)
        return values

    def listed(self) -> str:
        """The names of the columns, for an error."""
        names = [repr(name)[:30] for name in self.columns]
        return ", ".join(names[:15]) + f" and {len(names) - 15} more" * (len(names) > 15)


def is_empty(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip())


def key(name: str) -> str:
    return re.sub(r"[\s_-]", "", name.lower())


def check_values(place, name, values, noun, rows, zero=False) -> None:
    """Raises ScalingError where values are not finite, or not positive (`zero`: negative)."""
    bad = np.flatnonzero(~np.isfinite(values) | (values < 0 if zero else values <= 0))
    if bad.size:
        listed = ", ".join(f"{rows[i]} ({values[i]:g})" for i in bad[:5])
        more = f" and {bad.size - 5} more" * (bad.size > 5)
        raise ScalingError(
            f"{place}, column {name!r}: not finite and {'not negative' if zero else 'positive'} "
            f"in {noun}{'s' * (bad.size > 1)} {listed}{more}.\nCorrect or remove these points."
        )


def read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ScalingError(f"cannot read {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise ScalingError(f"{path} is not UTF-8 text: {error.reason}.") from error


def parse_json(text: str, place: str) -> Any:
    def unique(pairs):
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


def read_table(path: Path, count: str | None) -> Table:
    readers = {".csv": _csv, ".json": _json, ".jsonl": read_jsonl, ".npy": _npy}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ScalingError(f"{path}: files of records end in {', '.join(readers)}.")
    columns = reader(path)
    columns = as_columns(columns) if isinstance(columns, list) else columns
    lengths = {len(cells) for cells in columns.values()} or {0}
    if len(lengths) > 1:
        raise ScalingError(f"{path}: its columns have different lengths, {sorted(lengths)}.")
    if lengths == {0}:
        raise ScalingError(f"{path} holds no points.")
    rows = [str(row) for row in range(1, lengths.pop() + 1)]
    return Table(str(path), columns, rows, count, one_run=reader is _npy)


def as_columns(objects: list[dict]) -> dict[str, list]:
    names = dict.fromkeys(name for item in objects for name in item)
    return {name: [item.get(name) for item in objects] for name in names}


def _csv(path: Path) -> dict[str, list]:
    try:
        lines = list(csv.reader(io.StringIO(read_text(path), newline=""), strict=True))
    except csv.Error as error:
        raise ScalingError(f"{path} is not CSV: {error}.") from error
    lines = [line for line in lines if any(cell.strip() for cell in line)]
    header = [name.strip() for name in lines[0]] if lines else []
    _refuse_doubles(header, str(path))
    for row, line in enumerate(lines[1:], 1):
        if len(line) != len(header):
            cells = f"{len(line)} cells, but the header has {len(header)}"
            raise ScalingError(f"{path}, row {row}: {cells}.")
    return {name: [line[i] for line in lines[1:]] for i, name in enumerate(header) if name}


def _json(path: Path) -> dict[str, list] | list[dict]:
    content = parse_json(read_text(path), str(path))
    inside = content.values() if isinstance(content, dict) else content
    wanted = {list: dict, dict: list}.get(type(content))
    if wanted is None or not all(isinstance(item, wanted) for item in inside):
        raise ScalingError(f"{path}: wanted is a list of objects, or an object of columns (lists).")
    return content


def read_jsonl(path: Path) -> list[dict]:
    # Not splitlines: JSON text may hold other line separators.
    lines = [line for line in read_text(path).split("\n") if line.strip()]
    objects = [parse_json(line, f"{path}, row {row}") for row, line in enumerate(lines, 1)]
    if not all(isinstance(item, dict) for item in objects):
        raise ScalingError(f"{path}: wanted is an object on each line.")
    return objects


def _npy(path: Path) -> dict[str, list]:
    try:
        with open(path, "rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ScalingError(f"{path} is not an array that numpy reads: {error}") from error
    if array.dtype.names and array.ndim == 1:
        return {name: array[name].tolist() for name in array.dtype.names}
    if array.ndim == 2 and array.shape[1] == 4 and array.dtype.kind in "fiu":
        return dict(zip(("step", "tokens", "flops", "loss"), array.T.tolist(), strict=True))
    raise ScalingError(
        f"{path}: its shape is {array.shape}, its type {array.dtype}.\n"
        "Wanted are named fields, or n rows of step, tokens, FLOPs, loss."
    )


def choose(table: Table, where: str) -> Table:
    """The rows with column=value, column<value or column>value."""
    match = re.fullmatch(r"\s*(.+?)\s*([=<>])\s*(.+?)\s*", where)
    names = [name for name in table.columns if match and key(name) == key(match[1])]
    if not names:
        raise ScalingError(
            f"where={where!r}: give column=value, column<value or column>value.\n"
            f"The columns of {table.place} are {table.listed()}."
        )

    def holds(cell: Any) -> bool:
        try:
            a, b = float(cell), float(match[3])
        except (TypeError, ValueError, OverflowError):
            return match[2] == "=" and str(cell).strip() == match[3]
        return {"=": a == b, "<": a < b, ">": a > b}[match[2]]

    return table.take([i for i, cell in enumerate(table.columns[names[0]]) if holds(cell)])
