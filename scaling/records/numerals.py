"""Reads cells as numbers: 1.3e9, 1,234,567, 1 234 567, 10.2M, 6.1 x 10^18, and 3,9602 if commas are
decimal. The whole column decides what a comma or a dot means, and if need be the whole file.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import numpy as np

from scaling.records.units import factor, plain_powers

Cell = str | float | None
"""The content of a cell; anything else that a file may contain is not a number."""
POINT, COMMA, UNCLEAR = "decimal points", "decimal commas", "unclear"
_CELL = re.compile(r"([+-]?)(\d[\d.,' _]*\d|[\d.,]+)(?:e([+-]?\d{1,3}))?\s*([^\d\s].*)?", re.I)
_TIMES_TEN_TO = re.compile(r"\s*[x*]\s*10\s*(?:\^|\*\*)\s*")
_FORMS = {
    POINT: re.compile(r"([1-9]\d{0,2}(,\d{3})+|\d+)(\.\d*)?|\.\d+"),
    COMMA: re.compile(r"([1-9]\d{0,2}(\.\d{3})+|\d+)(,\d*)?|,\d+"),
}
_GROUPED = re.compile(r"\d{1,3}(?:([' _])\d{3})(?:\1\d{3})*([.,]\d*)?")
_BLANKS = str.maketrans({c: " " for c in "\u00a0\u2009\u202f\u2007"} | {"’": "'", "−": "-"})


def split(cell: str) -> tuple[str, str, str, str] | None:
    """(sign, digits with dots and commas, exponent, unit) of a cell; None for other text."""
    text = cell.strip()
    if not text.isascii():
        text = plain_powers(text.translate(_BLANKS))
    if "x" in text or "*" in text:
        text = _TIMES_TEN_TO.sub("e", text)
    found = _CELL.fullmatch(text)
    if not found:
        return None
    digits = found[2]
    if re.search("[' _]", digits):
        if not _GROUPED.fullmatch(digits):
            return None
        digits = re.sub("[' _]", "", digits)
    return found[1], digits, found[3] or "0", (found[4] or "").strip()


def all_plain(cells: Sequence[Cell]) -> bool:
    """Whether every cell `is_plain`."""
    return _floats(cells) is not None or all(map(is_plain, cells))


def _floats(cells: Sequence[Cell]) -> np.ndarray | None:
    """The cells (n,) if all are numbers that Python can read; else None."""
    if set(map(type, cells)) <= {str, int, float}:
        try:
            return np.array(list(map(float, cast(Sequence[str | float], cells))))
        except (ValueError, OverflowError):
            pass
    return None


def is_plain(cell: Cell) -> bool:
    """Whether the cell is empty or a number that Python can read."""
    if isinstance(cell, str) and cell.strip():
        try:
            float(cell)
        except ValueError:
            return False
    return True


def styles(columns: Mapping[str, Sequence[Cell]], lists_by_comma: bool) -> dict[str, str]:
    """The decimal separator of each column whose cells are text: POINT, COMMA or UNCLEAR.

    Args:
      lists_by_comma: commas separate the cells of the file, so that 1,234 in quotes is 1234.
    """
    allowed = {name: _allowed(cells) for name, cells in columns.items()}
    sure = {next(iter(found)) for found in allowed.values() if len(found) == 1}
    of_file = next(iter(sure)) if len(sure) == 1 else None
    decided = {}
    for name, found in allowed.items():
        if len(found) == 1:
            decided[name] = next(iter(found))
        elif len(found) == 2:
            commas = any(isinstance(cell, str) and "," in cell for cell in columns[name])
            decided[name] = of_file or (UNCLEAR if commas and not lists_by_comma else POINT)
    return decided


def _allowed(cells: Iterable[Cell]) -> set[str]:
    """The styles in which all cells can be read; empty if the column has no numbers as text."""
    found, marked = {POINT, COMMA}, False
    for cell in cells:
        if not isinstance(cell, str) or not cell.strip():
            continue
        parts = split(cell)
        if parts is None or (parts[3] and factor(parts[3]) is None):
            return set()
        marked = marked or bool(re.search("[.,]", parts[1]))
        found = {style for style in found if _FORMS[style].fullmatch(parts[1])}
    return found if marked else set()


def number(cell: Cell, style: str = POINT) -> tuple[float, bool]:
    """The value of a cell, and whether it has its own unit. Raises ValueError if not a number."""
    # Python treats a bool as a number; here it means that the column is the wrong one.
    if isinstance(cell, bool) or not isinstance(cell, str):
        return float("true" if isinstance(cell, bool) or cell is None else cell), False
    if style == POINT:
        try:
            return float(cell), False
        except ValueError:
            pass
    parts = split(cell)
    if parts is None:
        return float(cell), False  # nan and inf, or not a number
    sign, digits, exponent, unit = parts
    scale = factor(unit) if unit else 1.0
    if scale is None or not _FORMS[style].fullmatch(digits):
        raise ValueError(cell)
    groups, decimal = (",", ".") if style == POINT else (".", ",")
    plain = digits.replace(groups, "").replace(decimal, ".")
    value = float(f"{sign}{plain}e{exponent}")
    return value * scale, scale != 1.0


def numbers(cells: Sequence[Cell], style: str) -> tuple[np.ndarray, np.ndarray, int | None]:
    """Values (n,), which cells have their own unit (n,), and the first that is not a number."""
    values, own = np.empty(len(cells)), np.zeros(len(cells), bool)
    if style == POINT and (plain := _floats(cells)) is not None:
        return plain, own, None
    for index, cell in enumerate(cells):
        try:
            values[index], own[index] = number(cell, style)
        except OverflowError:
            values[index] = np.inf
        except (TypeError, ValueError):
            return values, own, index
    return values, own, None
