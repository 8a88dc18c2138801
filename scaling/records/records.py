"""Records of training runs, from common file formats or from run directories, as checked arrays.

    records = read_records("points.csv", count="total", where="in_fit=1")
    records = read_records("runs/ladder")  # every finished run below the folder

`records.notes` lists what was skipped or assumed while reading, `records.warnings` what is
doubtful.
"""

import csv
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from scaling.errors import ScalingError
from scaling.records import repeats
from scaling.records.columns import Column, roles_of, spelled
from scaling.records.curves import select
from scaling.records.files import Table, check_values, choose, is_empty
from scaling.records.heads import COUNTS
from scaling.records.plausibility import Points, judge
from scaling.records.sources import read_sources

KEEPS = ("final", "best", "all")
_OPTIONAL = ("unique", "weight", "middle")


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """n points. All arrays are (n,) in float64, except for `run` and `middle`.

    Raises ScalingError, with the rows (from 1), if lengths differ or if values are not finite or
    not positive.
    """

    N: np.ndarray  # parameters; `count` states which ones
    D: np.ndarray  # training tokens
    loss: np.ndarray  # nats per token
    C: np.ndarray  # training FLOPs as recorded, or else 6 N D
    run: np.ndarray  # text: the name of the run, which its points share
    count: str  # non_embedding, total or unstated
    unique: np.ndarray | None = None  # unique training tokens
    weight: np.ndarray | None = None  # weights for the fit
    middle: np.ndarray | None = None  # bool: before the end of the learning-rate decay
    source: str = ""
    natural_text: bool = True  # False for synthetic corpora
    floor: float | None = None  # exact entropy of the corpus, nats per token
    notes: tuple[str, ...] = ()  # what was skipped or assumed while reading
    warnings: tuple[str, ...] = ()  # what is doubtful

    def __post_init__(self) -> None:
        if self.count not in COUNTS:
            raise ScalingError(
                f"count={self.count!r} is not valid. Choose from: {', '.join(COUNTS)}."
            )
        size, place = np.size(self.N), self.source or "records"
        for name in self.arrays():
            kind = {"run": np.str_, "middle": np.bool_}.get(name, np.float64)
            try:
                array: np.ndarray = np.asarray(getattr(self, name), kind)
            except (TypeError, ValueError) as error:
                raise ScalingError(
                    f"{place}: {name} is not an array of numbers: {error}."
                ) from error
            if array.shape != (size,):
                raise ScalingError(
                    f"{place}: {name} has the shape {array.shape}, but N has {size} values: each "
                    "array needs one value per point."
                )
            if kind is np.float64:
                check_values(place, name, array, "row", range(1, size + 1), zero=name == "weight")
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return len(self.N)

    def arrays(self) -> list[str]:
        """The names of the arrays that are not None."""
        names = ("N", "D", "loss", "C", "run", *_OPTIONAL)
        return [name for name in names if getattr(self, name) is not None]

    def where(self, mask: ArrayLike) -> "Records":
        """The points selected by `mask`, (n,) bool or indices; indices determine the order."""
        chosen = {name: getattr(self, name)[np.asarray(mask)] for name in self.arrays()}
        return dataclasses.replace(self, **chosen)

    def respelled(self, option: Callable[[str], str]) -> "Records":
        """Rewrite the options in notes and warnings for a command line, as `spelled` does."""
        notes, warnings = (
            tuple(spelled(text, option) for text in texts) for texts in (self.notes, self.warnings)
        )
        return dataclasses.replace(self, notes=notes, warnings=warnings)

    @classmethod
    def from_arrays(
        cls,
        N: ArrayLike,
        D: ArrayLike,
        loss: ArrayLike,
        C: ArrayLike | None = None,
        run: ArrayLike | None = None,
        count: str = "unstated",
        **others: Any,  # the other fields
    ) -> "Records":
        """Make records from arrays (n,): N in parameters, D in tokens, the loss in nats per token.

        C defaults to 6 N D FLOPs. By default each point is a run of its own.

        Raises:
          ScalingError: as in `Records`, or arrays that do not contain numbers.
        """
        if C is None and np.shape(N) == np.shape(D):
            try:
                C = 6.0 * np.asarray(N, np.float64) * np.asarray(D, np.float64)
            except (TypeError, ValueError) as error:
                raise ScalingError(
                    f"records: N and D are not arrays of numbers: {error}."
                ) from error
        run = [f"row {row}" for row in range(1, np.size(N) + 1)] if run is None else run
        fields: dict[str, Any] = {
            "N": N,
            "D": D,
            "loss": loss,
            "C": C,
            "run": run,
        }  # not yet checked
        return cls(**fields, count=count, **others)

    def to_csv(self, path: str | Path) -> None:
        """Write a CSV file that `read_records(path, keep="all")` reads back bit for bit.

        Implausible points and duplicates are refused or merged when the file is read back.
        """
        heads = {"N": {"unstated": "N"}.get(self.count, f"{self.count}_parameters")}
        columns = {heads.get(name, name): getattr(self, name).tolist() for name in self.arrays()}
        if self.middle is not None:
            columns["middle"] = self.middle.astype(int).tolist()
        if self.floor is not None:
            columns["entropy_floor"] = [self.floor] * len(self)
        if not self.natural_text:
            columns["natural_text"] = [0] * len(self)
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
            writer.writerows([columns, *zip(*columns.values(), strict=True)])


def read_records(
    source: str | Path | Sequence[str | Path],
    *,
    count: str | None = None,
    keep: str = "final",
    where: str | None = None,
    columns: str | None = None,
) -> Records:
    """Read the records of one or several files or run directories.

    Args:
      source: a file, a run directory, a folder of runs or of files, a glob, or a list of these.
        Files may be CSV (cells separated by commas, semicolons, tabs or bars), JSON (a list of
        objects, an object of columns, or one run), JSON lines, parquet, or npy (one run: named
        fields, or the columns step, tokens, FLOPs, loss). Columns may have any common name with a
        unit (`params_M`, `compute (PF-days)`); two of N, D and C suffice. Rows of one run share
        its name; without names, rows with a `step` at a single model size are one run.
      count: what N counts, "non_embedding" or "total", if the file does not state it or has both.
        For run directories it defaults to non_embedding.
      keep: "final" keeps the last point of each run; "best" keeps, of these, the lowest loss at
        each N and D; "all" keeps every evaluation.
      where: keep only rows with "column=value", "column<value" or "column>value". This selection
        comes before `keep`.
      columns: defines columns, as in "N=size*1e6, D=tokens, loss=c4_val". The right side may be a
        column, a column times or over a number, ln(column), a number for all rows, or nothing,
        which ignores the role. A factor given this way is not checked, except that logarithms of
        C are refused.

    Returns:
      `Records` in parameters, tokens, FLOPs and nats per token.

    Raises:
      ScalingError: bad input, with its file, row and column. Values of N, D, C or loss that are
        implausible in their unit are refused, and the message suggests the unit that would fit.
    """
    if count not in (None, "non_embedding", "total"):
        raise ScalingError(f"count={count!r} is not valid. Choose from: 'non_embedding', 'total'.")
    if keep not in KEEPS:
        raise ScalingError(
            f"keep={keep!r} is not valid. Choose from: {', '.join(map(repr, KEEPS))}."
        )
    items = [source] if isinstance(source, (str, Path)) else list(source)
    shown = ", ".join(str(item) for item in items)
    notes: list[str] = []
    tables = read_sources(items, count, keep, notes)
    if not tables:
        place = shown or "an empty list"
        raise ScalingError("\n".join([f"there is no finished run in {place}.", *notes[:2]]))
    if where is not None:
        tables = [chosen for table in tables if (chosen := choose(table, where)).rows]
        if not tables:
            raise ScalingError(f"{shown}: no row has {where}.")
    tables = [table for table in tables if table.named or _is_of_records(table, columns, notes)]
    if not tables:
        raise ScalingError("\n".join([f"there are no records in {shown}.", *notes[-2:]]))
    several = len(tables) > 1
    parts = [_records(table, keep, columns, several) for table in tables]
    return _join(parts, shown, notes, keep)


def _is_of_records(table: Table, columns: str | None, notes: list[str]) -> bool:
    """Whether a file found in a folder has N, D and loss; if not, a note is added."""
    try:
        roles_of(table, columns, [])
    except ScalingError as error:
        notes.append(f"skipped: {str(error).splitlines()[0]}")
        return False
    return True


@dataclasses.dataclass(frozen=True, eq=False)
class _Part:
    """The records of one table, and lists (n,) of what else distinguishes its points."""

    records: Records
    names: list[str | None]
    settings: list[repeats.Cells]
    others: list[frozenset[tuple[str, str]]]


def _records(table: Table, keep: str, said: str | None, several: bool) -> _Part:
    """The points of a table. Raises ScalingError for missing, implausible or bad values."""
    notes: list[str] = list(table.notes)
    found, count = roles_of(table, said, notes)
    warnings: list[str] = []
    table, runs, middle = select(table, found, keep, notes, warnings)
    names: list[str | None] = list(runs) if "run" in found else [None] * len(runs)
    if several and table.noun != "run":
        runs = [run if run == table.place else f"{table.place}: {run}" for run in runs]
    given, floors = _numbers(table, found, notes), _floors(table, found)
    if "middle" in found:
        middle = found["middle"].raw(table) != 0
    natural = "natural" not in found or bool(np.any(found["natural"].raw(table)))
    ends = np.ones(len(runs), bool) if middle is None else ~np.asarray(middle, bool)
    if table.noun != "run" and np.any(ends):  # a run directory states its own numbers
        points = Points.of(table, found, given, ends)
        for known, new in zip((notes, warnings), judge(points, natural), strict=True):
            known.extend(new)
    if keep == "final" and (warning := repeats.sweep(table, given["N"], given["D"], given["loss"])):
        warnings.append(warning)
    warnings += _below(table, given["loss"], floors)
    records = Records(
        **given,
        run=np.array(runs, np.str_),
        count=count,
        middle=middle,
        source=table.place,
        natural_text=natural,
        floor=_one_floor(floors, notes),
        notes=tuple(notes),
        warnings=tuple(warnings),
    )
    taken = {column.name for role, column in found.items() if role in given}
    return _Part(records, names, *repeats.described(table, taken))


def _numbers(table: Table, found: dict[str, Column], notes: list[str]) -> dict[str, np.ndarray]:
    """All recorded numbers, checked to be positive; one of N, D and C may be computed from two."""
    loss = found["loss"].raw(table, small=True)
    if np.all(loss < 0):
        name = found["loss"].name
        raise ScalingError(
            f"{table.place}, column {name!r}: all losses are negative, like log-likelihoods.\n"
            f"If they are log-likelihoods per token: columns='loss={name}*-1'."
        )
    given = {}
    for name in ("N", "D", "C", "loss", "unique", "weight"):
        if name in found:
            small = name == "loss"
            given[name] = found[name].values(table, zero=name == "weight", small=small)
    with np.errstate(all="ignore"):
        for name, other in (("N", "D"), ("D", "N")):
            if name not in given:
                given[name] = given["C"] / 6 / given[other]
                if table.noun != "run" and not table.one_run:
                    notes.append(
                        f"{table.place}: there is no column for {name}; it is computed as "
                        f"C / 6 {other}."
                    )
        given.setdefault("C", 6 * given["N"] * given["D"])
    return given


def _floors(table: Table, found: dict[str, Column]) -> list[float | None]:
    floors: list[float | None] = [None] * len(table.rows)
    if "floor" in found and found["floor"].constant is not None:
        return [found["floor"].constant] * len(floors)
    if "floor" in found:
        cells = table.columns[found["floor"].name]
        there = [i for i, cell in enumerate(cells) if not is_empty(cell)]
        for i, value in zip(
            there, found["floor"].values(table.take(there), zero=True), strict=True
        ):
            floors[i] = value
    return floors


def _below(table: Table, loss: np.ndarray, floors: list[float | None]) -> list[str]:
    """A warning if losses are below the least that any model can reach."""
    known = np.array([-np.inf if floor is None else floor for floor in floors])
    below = np.flatnonzero(loss < known - 1e-9)
    if not below.size:
        return []
    deepest = below[np.argmax(known[below] - loss[below])]
    return [
        f"{table.place}: {below.size} of {len(loss)} losses are below the entropy floor, by up to "
        f"{known[deepest] - loss[deepest]:.3g} nats ({table.noun} {table.rows[deepest]}). No model "
        "can reach that: the floor and the loss belong to different texts or units"
    ]


def _one_floor(floors: list[float | None], notes: list[str]) -> float | None:
    """The entropy that all points share; None, with a note, if it differs or is partly missing."""
    known = [floor for floor in floors if floor is not None]
    if not known:
        return None
    if len(known) < len(floors) or max(known) - min(known) > 1e-6:
        notes.append("the points have no common entropy floor, so none is used.")
        return None
    # Computed as a difference from the first, so that the mean of equal floors is the same number.
    return float(known[0] + np.mean(np.subtract(known, known[0])))


def _join(parts: list[_Part], source: str, notes: list[str], keep: str) -> Records:
    """Join the records of several tables. Raises ScalingError if they do not fit together."""
    tables = [part.records for part in parts]
    counts = sorted({table.count for table in tables})
    if len(counts) > 1:
        raise ScalingError(
            f"{source}: N counts different things in these files ({', '.join(counts)}).\n"
            "Choose with count='non_embedding' or count='total'."
        )
    joined: dict[str, Any] = {}  # fields of several types
    for name in dict.fromkeys(name for table in tables for name in table.arrays()):
        arrays = [getattr(table, name) for table in tables]
        if name == "middle":
            sizes = map(len, tables)
            arrays = [np.zeros(n) if a is None else a for a, n in zip(arrays, sizes, strict=True)]
        lacking = [table.source for table, a in zip(tables, arrays, strict=True) if a is None]
        if lacking:
            raise ScalingError(f"{lacking[0]} has no {name} column, but other files do.")
        joined[name] = np.concatenate(arrays)
    notes = [*notes, *(note for table in tables for note in table.notes)]
    records = Records(
        **joined,
        count=counts[0],
        source=source,
        natural_text=any(table.natural_text for table in tables),
        floor=_one_floor([table.floor for table in tables], notes),
        warnings=tuple(warning for table in tables for warning in table.warnings),
    )
    return _thinned(records, parts, notes, keep)


def _thinned(records: Records, parts: list[_Part], notes: list[str], keep: str) -> Records:
    """The records without duplicates; with keep="best", only the best point at each N and D."""
    warnings = list(records.warnings)
    repeated = repeats.duplicates(
        [getattr(records, name) for name in records.arrays() if name != "run"],
        records,
        table=np.repeat(np.arange(len(parts)), [len(part.names) for part in parts]),
        names=[name for part in parts for name in part.names],
        settings=[item for part in parts for item in part.settings],
        others=[item for part in parts for item in part.others],
    )
    if np.any(repeated):
        which = [str(run) for run in records.run[repeated]]
        more = f" and {len(which) - 3} more" * (len(which) > 3)
        warnings.insert(
            0,
            f"{len(which)} of {len(records)} points repeat others and count once "
            f"({', '.join(which[:3])}{more})",
        )
        records = records.where(~repeated)
    if keep == "best":
        best = repeats.best(records.N, records.D, records.loss)
        if len(best) < len(records):
            notes.append(f"the lowest loss at each N and D: {len(best)} of {len(records)} points.")
        records = records.where(best)
    return dataclasses.replace(records, notes=tuple(notes), warnings=tuple(warnings))


def spread(C_m: np.ndarray, most: int = 1000) -> np.ndarray:
    """Sorted indices of at most `most` points, evenly spread over the ranks of C (m,)."""
    places = np.linspace(0, len(C_m) - 1, min(len(C_m), most)).round().astype(int)
    return np.sort(np.argsort(C_m, kind="stable")[places])
