"""Duplicate points, and runs that share N and D but differ in their settings."""

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Protocol

import numpy as np

from scaling.records.files import Table, key

_SETTINGS = re.compile(
    r"(peak|max|base|init|initial|min)?(lr|learningrate)|(global|local|micro)?(bs|batchsize)|wd"
    r"|weightdecay|(lr)?warmup(steps|tokens|ratio)?|(adam)?(beta|eps|epsilon)[12]?|optimizer|optim"
    r"|(lr)?schedule(r)?|dropout|momentum|(grad)?clip(norm)?|init(std|scale)"
)
_SEEDS = re.compile(r"(random|data|model|init)?seed|replicate|repeat")
_SAME = 0.005  # N and D closer than this are the same: batches do not divide every budget
_APART = 0.05  # relative loss difference that seeds of one setting hardly ever exceed
_EXACT = 8  # digits of a loss that two runs do not share by chance
_ROUNDED = 2e-4  # relative loss difference that rounding to four digits may cause
_INDEX = re.compile(r"|unnamed: ?\d+|index|_?id|row", re.I)

Cells = tuple[tuple[str, str], ...]  # (column, cell) of one row


class Points(Protocol):
    """The numbers of points, (n,) each."""

    @property
    def N(self) -> np.ndarray: ...
    @property
    def D(self) -> np.ndarray: ...
    @property
    def loss(self) -> np.ndarray: ...


def groups(N: np.ndarray, D: np.ndarray) -> np.ndarray:
    """A label for each point (n,), shared by points with the same N and D."""
    labels = []
    for values in (N, D):
        order = np.argsort(values, kind="stable")
        logs = np.log(values[order])
        label = np.empty(len(values), int)
        start = 0
        while start < len(logs):
            # Measured from the smallest of a group, so that values in small steps do not merge.
            end = int(np.searchsorted(logs, logs[start] + _SAME, "right"))
            label[order[start:end]] = start
            start = end
        labels.append(label)
    return np.unique(np.stack(labels), axis=1, return_inverse=True)[1].reshape(-1)


def best(N: np.ndarray, D: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """The indices of the lowest loss at each N and D, in the order of the points."""
    group = groups(N, D)
    ranked = np.lexsort((loss, group))
    first = np.append(True, np.diff(group[ranked]) != 0)
    return np.sort(ranked[first])


def sweep(table: Table, N: np.ndarray, D: np.ndarray, loss: np.ndarray) -> str | None:
    """A warning if runs at the same N and D differ in their settings or too much in their loss."""
    group = groups(N, D)
    count = np.bincount(group)
    low, high = np.full(len(count), np.inf), np.zeros(len(count))
    np.minimum.at(low, group, loss)
    np.maximum.at(high, group, loss)
    apart = (count > 1) & (high > low)
    if not np.any(apart):
        return None
    varied = _varied(table, group, _SETTINGS)
    worst = float(np.max(high[apart] / low[apart] - 1))
    seeds = _varied(table, group, _SEEDS)
    if not varied and (seeds or worst <= _APART):
        return None
    by = f" and differ in {', '.join(map(repr, varied[:4]))}" if varied else ""
    places = int(np.sum(apart))
    far = f"{worst:.0%}" if worst < 1 else f"a factor of {1 + worst:.2g}"
    return (
        f"{table.place}: {int(count[apart].sum())} points share {places} "
        f"pair{'s' * (places > 1)} of N and D{by}, with losses up to {far} apart, and all count "
        "equally. If they are a search for the best settings, keep='best' keeps the lowest loss "
        "at each N and D"
    )


def _varied(table: Table, group: np.ndarray, names: re.Pattern[str]) -> list[str]:
    """The columns with matching names that have several values at one N and D."""
    found = []
    for name, cells in table.columns.items():
        if names.fullmatch(key(name)):
            pairs = {(int(g), str(cell)) for g, cell in zip(group, cells, strict=True)}
            if len(pairs) > len({g for g, _ in pairs}):
                found.append(name)
    return found


def described(
    table: Table, taken: set[str]
) -> tuple[list[Cells], list[frozenset[tuple[str, str]]]]:
    """The settings and seeds of each row, and all its cells.

    Args:
      taken: columns that were read as numbers, which are compared separately.
    """
    names = [name for name in table.columns if name not in taken and not _INDEX.fullmatch(name)]
    own = [n for n in names if _SETTINGS.fullmatch(key(n)) or _SEEDS.fullmatch(key(n))]
    cells = {name: [(key(name), str(cell)) for cell in table.columns[name]] for name in names}
    size = range(len(table.rows))
    settings = [tuple(sorted(cells[name][i] for name in own)) for i in size]
    others = [frozenset(cells[name][i] for name in names) for i in size]
    return settings, others


def duplicates(
    arrays: Sequence[np.ndarray],
    records: Points,
    table: np.ndarray,
    names: Sequence[str | None],
    settings: Sequence[Cells],
    others: Sequence[frozenset[tuple[str, str]]],
) -> np.ndarray:
    """Which points (n,) repeat an earlier one.

    A duplicate has bit-identical numbers and the same settings. In addition, either its loss has
    so many digits that two runs do not share it by chance, or all other cells agree too. A run of
    the same name in two tables may also be rounded in one of them.

    Args:
      arrays: all recorded numbers of the points, arrays (n,).
      records: N, D and loss of the points.
      table: the number of the table of each point (n,).
      names: the names of the runs, None if the table has none.
      settings, others: from `described`.
    """
    repeated = np.zeros(len(records.loss), bool)
    exact: dict[tuple[object, ...], list[int]] = {}
    named: dict[tuple[object, ...], list[int]] = {}
    group = groups(records.N, records.D)
    for index, point in enumerate(zip(*(array.tolist() for array in arrays), strict=True)):
        loss = float(records.loss[index])
        alike = exact.setdefault((point, settings[index]), [])
        repeated[index] = bool(alike) and (
            _digits(loss) >= _EXACT or any(others[i] == others[index] for i in alike)
        )
        alike.append(index)
        if names[index] is not None:
            same = named.setdefault((names[index], int(group[index])), [])
            repeated[index] |= any(
                table[i] != table[index] and abs(records.loss[i] / loss - 1) < _ROUNDED
                for i in same
            )
            same.append(index)
    return repeated


def _digits(value: float) -> int:
    return len(Decimal(repr(value)).normalize().as_tuple().digits)
