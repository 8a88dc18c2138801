"""Records of training runs, from any usual file or from run directories, as checked arrays.

    records = read_records("points.csv", count="total", where="in_fit=1")
    records = read_records("runs/ladder")  # every finished run below the folder

What was left out or assumed on the way stands in `records.notes`.
"""

import csv
import dataclasses
import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scaling.errors import ScalingError
from scaling.files import (
    Table,
    as_columns,
    check_values,
    choose,
    is_empty,
    key,
    parse_json,
    read_jsonl,
    read_table,
    read_text,
)

COUNTS = ("non_embedding", "total", "unstated")
# What a column holds, by its name in lower case without spaces, dashes and underscores.
_NAMES = {
    "non_embedding": r"(n|num)?nonembedding(param(eter)?s?)?|param(eter)?snonembedding|nne",
    "total": r"(n|num)?totalparam(eter)?s?|param(eter)?stotal|ntotal",
    "unstated": r"n|(n|num|model)?param(eter)?s?(count)?|modelsize",
    "D": r"d|(n|num)?(train|training|trained|total)?tokens?(seen|count)?|datasize",
    "C": r"c|(train|training|total)?(flops?|compute)(budget)?",
    "loss": r"(final)?(val|valid|validation|eval|evaluation|test)?loss",
    "training": r"(final)?train(ing)?loss",
    "run": r"run(id|name)?|name",
    "step": r"(global)?steps?|iter(ation)?s?",
    "unique": r"(n|num)?unique((train|training)?tokens|data)?|u",
    "weight": r"(sample)?weights?",
    "middle": r"middle",
    "floor": r"entropyfloor",
    "natural": r"naturaltext",
}
_OPTIONAL = ("unique", "weight", "middle")


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """n points, all arrays (n,) and in float64 but for `run` and `middle`.

    Raises ScalingError: lengths that differ; values that are not finite or not positive, with
    their rows (from 1).
    """

    N: np.ndarray  # parameters, counted as `count` says
    D: np.ndarray  # training tokens
    loss: np.ndarray  # nats per token
    C: np.ndarray  # training FLOPs: as recorded, else 6 N D
    run: np.ndarray  # text: points of one training share it
    count: str  # non_embedding, total or unstated
    unique: np.ndarray | None = None  # unique training tokens
    weight: np.ndarray | None = None  # weights for the fit
    middle: np.ndarray | None = None  # bool: the learning rate still had to decay
    source: str = ""
    natural_text: bool = True  # False for the built-in grammar
    floor: float | None = None  # exact entropy of the corpus, nats per token
    notes: tuple[str, ...] = ()  # what was left out or assumed while reading

    def __post_init__(self):
        if self.count not in COUNTS:
            raise ScalingError(f"count={self.count!r} is none of: {', '.join(COUNTS)}.")
        size, place = np.size(self.N), self.source or "records"
        for name in self.arrays():
            kind = {"run": np.str_, "middle": np.bool_}.get(name, np.float64)
            try:
                array = np.asarray(getattr(self, name), kind)
            except (TypeError, ValueError) as error:
                raise ScalingError(f"{place}: {name} is no array of numbers: {error}.") from error
            if array.shape != (size,):
                raise ScalingError(
                    f"{place}: {name} has the shape {array.shape}; N has {size} values, "
                    "and each needs one value a point."
                )
            if kind is np.float64:
                check_values(place, name, array, "row", range(1, size + 1), zero=name == "weight")
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return len(self.N)

    def arrays(self) -> list[str]:
        """The names of the arrays that are recorded."""
        names = ("N", "D", "loss", "C", "run", *_OPTIONAL)
        return [name for name in names if getattr(self, name) is not None]

    def where(self, mask: Any) -> "Records":
        """The points that `mask`, (n,) bool or indices, selects, in its order."""
        chosen = {name: getattr(self, name)[np.asarray(mask)] for name in self.arrays()}
        return dataclasses.replace(self, **chosen)

    @classmethod
    def from_arrays(
        cls,
        N: Any,
        D: Any,
        loss: Any,
        C: Any = None,
        run: Any = None,
        count: str = "unstated",
        **others: Any,
    ) -> "Records":
        """Records of arrays: C is 6 N D where it is not given, and each point a run of its own."""
        if C is None and np.shape(N) == np.shape(D):
            try:
                C = 6.0 * np.asarray(N, np.float64) * np.asarray(D, np.float64)
            except (TypeError, ValueError) as error:
                raise ScalingError(
                    f"records: N and D are not arrays of numbers: {error}."
                ) from error
        run = [f"row {row}" for row in range(1, np.size(N) + 1)] if run is None else run
        return cls(N, D, loss, C, run, count, **others)

    def to_csv(self, path: str | Path) -> None:
        """Writes a file that `read_records(path, keep="all")` reads back to the same bits."""
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
) -> Records:
    """The records of one or several files or run directories.

    Args:
      source: a .csv, .json (objects, or an object of columns), .jsonl or .npy file (one run: named
        fields, or the columns step, tokens, FLOPs, loss), a run directory, a folder of them, a
        glob, or a list of these. Columns may bear any usual name; of N, D and C two suffice.
        Rows of one run share its name; without names, steps of a single model size are one run.
      count: what N counts, "non_embedding" or "total", where the file does not say it or has both.
        Run directories: non_embedding unless told otherwise.
      keep: "final", the last point of each run, or "all", every evaluation.
      where: "column=value", "column<value" or "column>value": only these rows; they are chosen
        before the last of each run is.

    Raises:
      ScalingError: what is wrong, in which file, row and column.
    """
    if count not in (None, "non_embedding", "total"):
        raise ScalingError(f"count={count!r}: give 'non_embedding' or 'total'.")
    if keep not in ("final", "all"):
        raise ScalingError(f"keep={keep!r}: give 'final' or 'all'.")
    items = [source] if isinstance(source, (str, Path)) else list(source)
    shown, notes = ", ".join(str(item) for item in items), []
    found = [path for item in items for path in _expand(Path(item).expanduser(), notes)]
    paths = {path.resolve(): path for path in found}.values()
    tables = [read_table(path, count) for path in paths if not path.is_dir()]
    tables.append(_read_runs([path for path in paths if path.is_dir()], keep, count, notes))
    tables = [table for table in tables if table.rows]
    if not tables:
        place = shown or "an empty list"
        raise ScalingError("\n".join([f"there is no finished run in {place}.", *notes[:2]]))
    if where is not None:
        tables = [chosen for table in tables if (chosen := choose(table, where)).rows]
        if not tables:
            raise ScalingError(f"{shown}: no row has {where}.")
    parts = [_records(table, keep, several=len(tables) > 1) for table in tables]
    return _join(parts, shown, notes)


def _expand(path: Path, notes: list[str]) -> list[Path]:
    """The files and run directories that a path, folder or glob stands for."""
    if path.exists():
        matches = [path]
    elif glob.has_magic(str(path)):
        matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        # Beside run directories lie reports and the like.
        matches = [match for match in matches if match.is_dir()] or matches
    else:
        raise ScalingError(f"there is no file or folder {path}.")
    if not matches:
        raise ScalingError(f"no file or folder matches {path}.")
    found = []
    for match in matches:
        if match.name in ("summary.json", "metrics.jsonl") and _is_run(match.parent):
            match = match.parent
        below = _runs_below(match) if match.is_dir() else [match]
        if not below:
            notes.append(f"{match}: left out, no run in it (for files, give a glob as DIR/*.csv).")
        found.extend(below)
    return found


def _is_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("summary.json", "metrics.jsonl"))


def _runs_below(folder: Path) -> list[Path]:
    found = []
    for place, names, _ in os.walk(folder):
        names[:] = sorted(name for name in names if not name.startswith("."))
        if _is_run(Path(place)):
            found.append(Path(place))
            names.clear()
    return found


def _read_runs(folders: list[Path], keep: str, count: str | None, notes: list[str]) -> Table:
    """The finished ones of our run directories: a row each, or one for each evaluation."""
    points = []
    for folder in folders:
        path = folder / "summary.json"
        summary = (
            parse_json(read_text(path), str(path)) if path.exists() else {"status": "unfinished"}
        )
        status = summary.get("status") if isinstance(summary, dict) else None
        if status != "finished" or summary.get("val_loss") is None:
            reason = "it was never evaluated" if status == "finished" else f"its status is {status}"
            notes.append(f"{folder}: left out, {reason}.")
            continue
        path = folder / "config.yaml"
        config = read_text(path) if path.exists() else ""
        summary["run"] = str(folder)
        summary["natural_text"] = int(_setting(config, "data", "name") not in ("stories", "markov"))
        summary["loss"] = summary.pop("val_loss")
        found = [summary]
        if keep == "all":
            own = ("step", "tokens", "flops", "loss")
            lines = read_jsonl(folder / "metrics.jsonl")
            found = [
                summary | {name: line.get(name) for name in own}
                for line in lines
                if line.get("kind") == "eval"
            ]
        # At a constant rate no point lacks a decay.
        decays = _setting(config, "schedule", "name") != "constant"
        for index, point in enumerate(found, 1):
            point["middle"] = int(decays and index < len(found))
            # `flops` counts without embeddings, so for all parameters C is derived anew.
            point.pop("flops" if count == "total" else None, None)
        points.extend(found)
    if count == "total" and points:
        notes.append("C of the run directories is 6 N D, N counting all parameters.")
    rows = [f"{point['run']} at step {point.get('step')}" for point in points]
    default = count or "non_embedding"
    return Table("run directories", as_columns(points), rows, noun="run", count=default)


def _setting(config: str, section: str, name: str) -> str | None:
    """A value of config.yaml, whose sections are indented by two spaces."""
    match = re.search(rf"(?m)^{section}:\n(?:  .*\n)*?  {name}: (\S+)", config)
    return match and match[1]


def _roles(table: Table) -> tuple[dict[str, str], str]:
    """The column of each role, and what N counts. Raises ScalingError: missing, or not clear."""
    found: dict[str, list[str]] = {}
    for name in table.columns:
        for role, pattern in _NAMES.items():
            if re.fullmatch(pattern, key(name)):
                found.setdefault(role, []).append(name)
    sizes = {kind: found.pop(kind) for kind in COUNTS if kind in found}
    count = table.count or (next(iter(sizes)) if len(sizes) == 1 else "unstated")
    names = " and ".join(repr(name) for group in sizes.values() for name in group)
    if len(sizes) > 1 and not table.count:
        raise ScalingError(
            f"{table.place}: {names} both give N.\n"
            "Choose with count='non_embedding' or count='total'."
        )
    if sizes:
        # A column that does not say what it counts is taken at the caller's word.
        found["N"] = sizes.get(count) or sizes.get("unstated")
        if found["N"] is None:
            raise ScalingError(f"{table.place}: count={count!r}, but N is only there as {names}.")
    training = found.pop("training", [])
    found["loss"] = found.get("loss", training)
    found["run"] = sorted(found.get("run", []), key=lambda name: key(name) == "name")[:1]
    for role, names in found.items():
        if len(names) > 1:
            said = " and ".join(map(repr, names))
            raise ScalingError(f"{table.place}: {said} both give {role}; keep one of them.")
    if not found["loss"] or len({"N", "D", "C"} & set(found)) < 2:
        raise ScalingError(
            f"{table.place}: its columns are {table.listed()}.\n"
            "Wanted are the loss (loss, final_loss, val_loss, ...) and two of N (params, "
            "non_embedding_parameters, ...), D (tokens, ...) and C (flops, compute, ...)."
        )
    return {role: names[0] for role, names in found.items() if names}, count


def _is_curve(table: Table, found: dict[str, str]) -> bool:
    """Whether rows without a run's name are the evaluations of one: steps of one model size."""
    if "step" not in found:
        return False
    if "N" in found:
        sizes = table.numbers(found["N"])
    else:
        with np.errstate(divide="ignore", invalid="ignore"):
            sizes = table.numbers(found["C"]) / table.numbers(found["D"])
    sizes = sizes[np.isfinite(sizes)]
    return np.unique(table.numbers(found["step"])).size == len(table.rows) and bool(
        np.allclose(sizes, sizes[-1:], rtol=1e-3)
    )


def _select(table: Table, found: dict, keep: str, notes: list) -> tuple[Table, list, Any]:
    """The rows to keep, the run of each, and whether it lies before its run's end (or None)."""
    size = len(table.rows)
    if "run" in found:
        cells = zip(table.columns[found["run"]], table.rows, strict=True)
        runs = [f"row {row}" if is_empty(cell) else str(cell) for cell, row in cells]
    elif table.one_run or _is_curve(table, found):
        runs = [table.place] * size
    else:
        if "step" in found:
            notes.append(f"{table.place}: no column names the run; each row counts as a run's end.")
        return table, [f"row {row}" for row in table.rows], None
    groups, group = np.unique(runs, return_inverse=True)
    if groups.size == size:
        return table, runs, None if table.noun == "row" and not table.one_run else np.zeros(size)
    order = table.checked(found.get("step") or found.get("D") or found["C"], zero=True)
    ranked = np.lexsort((order, group))
    last = np.zeros(size, bool)
    last[ranked[np.append(np.diff(group[ranked]) != 0, True)]] = True
    # An evaluation before the first step has no training compute to speak of.
    kept = np.flatnonzero(last if keep == "final" else last | (order > 0))
    if kept.size < size:
        what = "the last point of each run" if keep == "final" else "points after step 0"
        hint = "; keep='all' takes every one" * (keep == "final")
        notes.append(f"{table.place}: {what}, {kept.size} of {size}{hint}.")
    return table.take(kept), [runs[i] for i in kept], ~last[kept]


def _records(table: Table, keep: str, several: bool) -> Records:
    """The points of a table. Raises ScalingError for what is missing, mistaken or not positive."""
    found, count = _roles(table)
    notes: list[str] = []
    table, runs, middle = _select(table, found, keep, notes)
    if several and table.noun == "row":
        runs = [run if run == table.place else f"{table.place}: {run}" for run in runs]
    needed = ("N", "D", "C", "loss", "unique", "weight")
    given = {
        name: table.checked(found[name], zero=name == "weight") for name in needed if name in found
    }
    with np.errstate(all="ignore"):
        if "N" not in given:
            given["N"] = given["C"] / 6 / given["D"]
        elif "D" not in given:
            given["D"] = given["C"] / 6 / given["N"]
        product = 6 * given["N"] * given["D"]
        away = np.max(np.abs(given.setdefault("C", product) / product - 1))
    if away > 0.1:
        notes.append(f"{table.place}: C differs from 6 N D by up to {away:.0%}; used as recorded.")
    if "middle" in found:
        middle = table.numbers(found["middle"]) != 0
    floors: list[float | None] = [None] * len(runs)
    if "floor" in found:
        cells = table.columns[found["floor"]]
        told = table.take([i for i, cell in enumerate(cells) if not is_empty(cell)])
        floors[: len(told.rows)] = told.checked(found["floor"], zero=True)
    natural = "natural" not in found or bool(np.any(table.numbers(found["natural"])))
    return Records(
        **given,
        run=runs,
        count=count,
        middle=middle,
        source=table.place,
        natural_text=natural,
        floor=_one_floor(floors, notes),
        notes=tuple(notes),
    )


def _one_floor(floors: list[float | None], notes: list[str]) -> float | None:
    """The entropy that all points share; None, with a note, where they have several or lack it."""
    known = [floor for floor in floors if floor is not None]
    if not known:
        return None
    if len(known) < len(floors) or max(known) - min(known) > 1e-6:
        notes.append("the points have no common entropy floor, so none is taken.")
        return None
    # From the first one, so that the mean of equal floors is the same number.
    return float(known[0] + np.mean(np.subtract(known, known[0])))


def _join(parts: list[Records], source: str, notes: list[str]) -> Records:
    """The records of several tables as one. Raises ScalingError where they do not fit together."""
    counts = sorted({part.count for part in parts})
    if len(counts) > 1:
        raise ScalingError(
            f"{source}: N counts different things in these files ({', '.join(counts)}).\n"
            "Say what it counts with count='non_embedding' or count='total'."
        )
    joined: dict[str, Any] = {}
    for name in dict.fromkeys(name for part in parts for name in part.arrays()):
        arrays = [getattr(part, name) for part in parts]
        if name == "middle":
            sizes = map(len, parts)
            arrays = [np.zeros(n) if a is None else a for a, n in zip(arrays, sizes, strict=True)]
        lacking = [part.source for part, a in zip(parts, arrays, strict=True) if a is None]
        if lacking:
            raise ScalingError(f"{lacking[0]} has no {name} column, but other files have one.")
        joined[name] = np.concatenate(arrays)
    notes = [*notes, *(note for part in parts for note in part.notes)]
    return Records(
        **joined,
        count=counts[0],
        source=source,
        natural_text=any(part.natural_text for part in parts),
        floor=_one_floor([part.floor for part in parts], notes),
        notes=tuple(notes),
    )
