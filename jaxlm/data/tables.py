"""Texts from files with fields: JSON in lines or lists, CSV and TSV, Parquet.

A field may be nested: `instruction.prompt` is the prompt of each record's instruction. A text that
is null or only white space becomes None: an empty document, which is skipped and counted.
"""

import csv
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from jaxlm.host.errors import UserError
from jaxlm.host.names import shown

_MOST_NAMED = 12
_DELIMITERS = ",;\t|"
_SAMPLE_LINES = 1000
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_SPACE = re.compile(r"[ \t\r\n]*")
_STATED = re.compile(r'(?i)"?sep=(\\t|\t|[^\w\s"])"?(?:[,;|\t]|\1)*[\r\n]*')  # by a spreadsheet


def texts(chunks: Iterable[str], form: str, field: str, file: Path) -> Iterator[str | None]:
    """The text of each record of a jsonl, json, csv or tsv file that comes in chunks."""
    if form in ("csv", "tsv"):
        return _csv_texts(chunks, "\t" if form == "tsv" else ",", field, file)
    chunks = _without_leading_space(chunks)
    first = next(chunks, "")
    chunks = _again(first, chunks)
    if form == "jsonl" and not first.startswith("["):
        return _line_texts(chunks, field, file)
    return _json_texts(chunks, field, file)


def is_list_of_texts(chunks: Iterable[str], file: Path) -> bool:
    """Whether a whole file, given in chunks, is one JSON list of strings and objects."""
    reader = _JsonReader(chunks, file)
    if reader.next_character() != "[":
        return False
    try:
        kinds = {type(item) for item in reader.items()} - {type(None)}
    except UserError:
        return False
    return bool(kinds) and kinds <= {str, dict}


def _again(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _without_leading_space(chunks: Iterable[str]) -> Iterator[str]:
    """The chunks; leading white space is joined to the first text, so that lines still count."""
    waiting = ""
    for chunk in chunks:
        waiting += chunk
        if waiting.strip():
            yield waiting
            waiting = ""
            break
    yield from chunks


def lines_of(chunks: Iterable[str]) -> Iterator[str]:
    """The lines of a text, with their ends."""
    rest: list[str] = []
    for chunk in chunks:
        head, end, tail = chunk.rpartition("\n")
        if not end:
            rest.append(chunk)
            continue
        yield from _LINE.findall("".join([*rest, head, end]))
        rest = [tail]
    yield from _LINE.findall("".join(rest))


# JSON


def _line_texts(chunks: Iterable[str], field: str, file: Path) -> Iterator[str | None]:
    for number, line in enumerate(lines_of(chunks), 1):
        if line.strip():
            where = f"line {number:,}"
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise _not_json(file, where, error) from None
            yield from _of_record(record, field, file, where)


def _not_json(file: Path, where: str, problem: object) -> UserError:
    return UserError(f"{shown(file)}, {where} is not valid JSON: {problem}")


def _json_texts(chunks: Iterable[str], field: str, file: Path) -> Iterator[str | None]:
    """A list of records, or of texts; records one after another; or an object that holds a list."""
    reader = _JsonReader(chunks, file)
    if reader.next_character() == "[":
        yield from _of_records(reader.items(), field, file)
        return
    values = reader.values()
    first, second = next(values, None), next(values, None)
    if first is None:
        return
    if second is not None:
        yield from _of_records(_again_all(first, second, values), field, file)
    else:
        yield from _of_object(first, field, file)


def _again_all(first: Any, second: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield second
    yield from rest


def _of_records(records: Iterable[Any], field: str, file: Path) -> Iterator[str | None]:
    for number, record in enumerate(records, 1):
        where = f"entry {number:,}"
        if isinstance(record, str | None):
            yield _checked(record, file, where)
        else:
            yield from _of_record(record, field, file, where)


def _of_object(found: Any, field: str, file: Path) -> Iterator[str | None]:
    """One object: its own field, a column of texts, or the records of the only list in it."""
    value = found.get(field) if isinstance(found, dict) else None
    if isinstance(value, dict) and value and all(key.isdecimal() for key in value):
        value = list(value.values())  # as pandas writes a column
    if isinstance(value, list) and all(isinstance(item, str | None) for item in value):
        for number, item in enumerate(value, 1):
            yield _checked(item, file, f"entry {number:,} of {field}")
        return
    lists = [
        value
        for value in (found.values() if isinstance(found, dict) else ())
        if isinstance(value, list) and value and isinstance(value[0], dict)
    ]
    if len(lists) == 1 and field not in found and field.partition(".")[0] not in found:
        yield from _of_records(lists[0], field, file)
    else:
        yield from _of_record(found, field, file, "its only object")


class _JsonReader:
    """The JSON values of a text that comes in chunks; holds little more than one value."""

    def __init__(self, chunks: Iterable[str], file: Path) -> None:
        self.chunks, self.file = iter(chunks), file
        self.text, self.place, self.ended = "", 0, False
        self.decoder = json.JSONDecoder()
        self.before = 0  # characters before `text`, no longer held

    def next_character(self) -> str:
        """The next character that is not white space, or '' at the end."""
        while True:
            blank = _SPACE.match(self.text, self.place)
            assert blank is not None  # it also matches the empty string
            self.place = blank.end()
            if self.place < len(self.text) or not self._more():
                return self.text[self.place : self.place + 1]

    def items(self) -> Iterator[Any]:
        """The elements of the list that begins here; nothing may follow the list."""
        self.place += 1
        mark = self.next_character()
        while mark != "]":
            yield self._value()
            mark = self.next_character()
            if mark not in ("]", ","):
                raise self._bad("expected ',' or ']'")
            if mark == ",":
                self.place += 1
        self.place += 1
        if self.next_character():
            raise self._bad("something follows the list")

    def values(self) -> Iterator[Any]:
        """The values, one after another."""
        while self.next_character():
            yield self._value()

    def _value(self) -> Any:
        self.next_character()
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.place)
            except json.JSONDecodeError as error:
                if not self._more():
                    self.place = error.pos
                    raise self._bad(error.msg) from None
            except RecursionError:
                raise self._bad("it is nested too deeply") from None
            else:
                if end < len(self.text) or not self._more():
                    self.place = end
                    return value

    def _more(self) -> bool:
        """Reads as much again as is waiting, so that a long value is not parsed often."""
        waiting = self.text[self.place :]
        parts, length = [waiting], len(waiting)
        while length <= 2 * len(waiting):
            chunk = next(self.chunks, None)
            if chunk is None:
                self.ended = True
                break
            parts.append(chunk)
            length += len(chunk)
        self.before += self.place
        self.text, self.place = "".join(parts), 0
        return length > len(waiting)

    def _bad(self, problem: str) -> UserError:
        where = f"near character {self.before + self.place:,},"
        return _not_json(self.file, where, problem)


# Records


def _of_record(record: Any, field: str, file: Path, where: str) -> Iterator[str | None]:
    found = [record[field]] if isinstance(record, dict) and field in record else None
    for text in _reached(record, field.split(".")) if found is None else found:
        if text is not None and not isinstance(text, str):
            raise _no_text(record, field, file, where)
        yield _checked(text, file, where)
    if found is None and next(_reached(record, field.split(".")), _NOTHING) is _NOTHING:
        raise _no_text(record, field, file, where)


_NOTHING = object()


def _reached(value: Any, path: list[str]) -> Iterator[Any]:
    """The values at a path of names, through each element of a list on the way."""
    if isinstance(value, list) and path:
        for item in value:
            yield from _reached(item, path)
    elif not path:
        yield value
    elif isinstance(value, dict) and path[0] in value:
        yield from _reached(value[path[0]], path[1:])


def _checked(text: str | None, file: Path, where: str) -> str | None:
    if text is None or not text.strip():
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise _not_json(file, where, f"{half} is half of a surrogate pair") from None
    return text


def _no_text(record: Any, field: str, file: Path, where: str) -> UserError:
    what = f"{shown(file)}, {where} has no text in the field {field!r}."
    names = list(_text_fields(record))
    if not names:
        return UserError(f"{what}\nSet data.text_field to the field that holds the text.")
    listed = ", ".join(map(shown, names[:_MOST_NAMED])) + (", ..." if names[_MOST_NAMED:] else "")
    return UserError(
        f"{what}\nSet data.text_field to the field that holds the text. Choose from: {listed}."
    )


def _text_fields(record: Any, prefix: str = "") -> Iterator[str]:
    """The dotted names of a record's fields that hold text."""
    if isinstance(record, list):
        yield from _text_fields(record[0], prefix) if record else ()
    elif isinstance(record, dict):
        for name, value in record.items():
            if isinstance(value, str):
                yield f"{prefix}{name}"
            elif isinstance(value, dict | list):
                yield from _text_fields(value, f"{prefix}{name}.")


# CSV and TSV


def _csv_texts(
    chunks: Iterable[str], delimiter: str, field: str, file: Path
) -> Iterator[str | None]:
    lines = lines_of(chunks)
    first: list[str] = []
    for line in lines:
        first.append(line)
        if len(first) == _SAMPLE_LINES:
            break
    at = next((i for i, line in enumerate(first) if line.strip()), 0)
    if first and (stated := _STATED.fullmatch(first[at])):
        delimiter = stated[1].replace("\\t", "\t")
        first[at] = "\n"  # an empty line keeps line numbers as in an editor
    header = next((line for line in first if line.strip()), "")
    delimiter = _delimiter(header, delimiter, field)
    # By definition a .tsv has no quotes, but spreadsheets write them.
    quoting: Literal[0, 3] = (
        csv.QUOTE_MINIMAL if delimiter != "\t" or _quotes(first) else csv.QUOTE_NONE
    )
    csv.field_size_limit(sys.maxsize)

    def all_lines() -> Iterator[str]:
        yield from first
        yield from lines

    rows = csv.reader(all_lines(), delimiter=delimiter, quoting=quoting, strict=True)
    names: list[str] | None = None
    place = 0
    try:
        for row in rows:
            if not row:
                continue
            if names is None:
                names = [name.strip() for name in row]
                place = _place(names, field, file, " (its first line is read as column names)")
            elif len(row) != len(names):
                raise _other_columns(file, rows.line_num, len(row), len(names), delimiter)
            else:
                yield row[place] if row[place].strip() else None
    except csv.Error as error:
        raise UserError(
            f"{shown(file)}, line {rows.line_num:,} is not valid CSV: {error}"
        ) from None


def _delimiter(header: str, usual: str, field: str) -> str:
    """The delimiter that makes `field` a column of the header, else the usual one."""
    for delimiter in usual + _DELIMITERS:
        names = [name.strip(' \r\n"') for name in header.split(delimiter)]
        if field in names and (len(names) > 1 or delimiter == usual):
            return delimiter
    return usual


def _quotes(lines: list[str]) -> bool:
    """Whether tab-separated lines have quoted fields, as far as these lines show."""
    if not any(field.startswith('"') for line in lines for field in line.split("\t")):
        return False
    try:
        list(csv.reader(lines, delimiter="\t", strict=True))
    except csv.Error as error:
        return len(lines) == _SAMPLE_LINES and "unexpected end" in str(error)
    return True


def _place(names: list[str], field: str, file: Path, remark: str) -> int:
    if names.count(field) == 1:
        return names.index(field)
    problem = "more than one column" if field in names else "no column"
    listed = ", ".join(shown(name[:40]) for name in names[:_MOST_NAMED])
    more = ", ..." if names[_MOST_NAMED:] else ""
    raise UserError(
        f"{shown(file)} has {problem} {field!r}{remark}.\nSet data.text_field to the column that "
        f"holds the text. Choose from: {listed}{more}."
    )


def _other_columns(file: Path, line: int, found: int, expected: int, delimiter: str) -> UserError:
    name = {",": "commas", "\t": "tabs", ";": "semicolons"}.get(delimiter, repr(delimiter))
    return UserError(
        f"{shown(file)}, line {line:,} has {found} columns, but its first line has {expected}.\n"
        f"Quote the texts that contain {name}, or convert the file to .jsonl."
    )


# Parquet


def parquet_texts(file: Path, field: str) -> Iterator[str | None]:
    """The text of each row of a Parquet file. Raises UserError if pyarrow is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise UserError(
            f"Reading {shown(file)}, a Parquet table, requires pyarrow, which is not installed.\n"
            "Install it (pip install pyarrow), or convert the table to .jsonl or .csv."
        ) from None
    root, number = field.split(".")[0], 0
    try:
        table = pyarrow.parquet.ParquetFile(file)
        names = table.schema_arrow.names
        column = field if field in names else root
        if column not in names:
            _place(names, field, file, "")
        for batch in table.iter_batches(columns=[column]):
            for value in batch.column(0).to_pylist():
                number += 1
                yield from _of_record({column: value}, field, file, f"row {number:,}")
    except (pyarrow.ArrowException, OSError) as error:
        problem = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{shown(file)} is not a complete Parquet table: {problem}") from None
