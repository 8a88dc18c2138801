"""Finds the rows of a table that are evaluations of one run, and selects those to keep."""

import re

import numpy as np

from scaling.records.columns import Column
from scaling.records.files import Table, is_empty, key
from scaling.records.units import factor

# States that W&B reports for runs that did not finish.
_BROKEN = {"crashed", "failed", "killed", "running", "pending", "preempted", "preempting"}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmb])(?![a-z])", re.I)


def select(
    table: Table, found: dict[str, Column], keep: str, notes: list[str], warnings: list[str]
) -> tuple[Table, list[str], np.ndarray | None]:
    """The rows to keep, the run of each, and whether it is before the end of its run (or None).

    Args:
      notes, warnings: lists to which a line for each skipped part is added.
    """
    table = _finished(table, notes)
    runs = _runs(table, found, notes)
    if runs is None:
        if "step" in found and "run" not in found:
            notes.append(
                f"{table.place}: no column names the run; each row counts as the end of a run."
            )
        return table, [f"{table.noun} {row}" for row in table.rows], None
    table, runs = _evaluated(table, found["loss"], runs, notes)
    groups, group = np.unique(runs, return_inverse=True)
    size = len(runs)
    if groups.size == size:
        plain = table.noun != "run" and not table.one_run
        return table, runs, None if plain else np.zeros(size)
    order = (found.get("step") or found.get("D") or found["C"]).values(table, zero=True)
    ranked = np.lexsort((order, group))
    last = np.zeros(size, bool)
    last[ranked[np.append(np.diff(group[ranked]) != 0, True)]] = True
    # An evaluation before the first step has no training compute.
    kept = np.flatnonzero(last | (order > 0) if keep == "all" else last)
    if kept.size < size:
        what = "points after step 0" if keep == "all" else "the last point of each run"
        hint = "" if keep == "all" else "; keep='all' keeps them all"
        notes.append(f"{table.place}: kept {what}, {kept.size} of {size}{hint}.")
    if keep != "all" and 2 * groups.size <= size:
        warnings += _doubted(table, found, groups.size, group)
    return table.take(kept), [runs[i] for i in kept], ~last[kept]


def _finished(table: Table, notes: list[str]) -> Table:
    """The table without runs that W&B's column State marks as unfinished, if any has finished."""
    for name, cells in table.columns.items():
        states = [str(cell).strip().lower() for cell in cells]
        if key(name) in ("state", "status") and "finished" in states:
            kept = [i for i, state in enumerate(states) if state not in _BROKEN]
            if len(kept) < len(cells):
                left = len(cells) - len(kept)
                notes.append(
                    f"{table.place}: {left} of {len(cells)} rows skipped because of their {name!r}."
                )
            return table.take(kept)
    return table


def _runs(table: Table, found: dict[str, Column], notes: list[str]) -> list[str] | None:
    """The run of each row; None if each row is a run of its own."""
    if "run" in found:
        name = found["run"].name
        reason = "" if found["run"].stated else _not_of_runs(table, found)
        if reason:
            notes.append(
                f"{table.place}: column {name!r} {reason}, so each row counts as a run. If rows of "
                f"one name are evaluations of one run: columns='run={name}'."
            )
            return None
        cells = zip(table.columns[name], table.rows, strict=True)
        return [f"{table.noun} {row}" if is_empty(cell) else str(cell) for cell, row in cells]
    if table.one_run or _is_curve(table, found):
        if not table.one_run:
            notes.append(
                f"{table.place}: steps at one model size count as evaluations of one run. If they "
                "are separate runs: columns='step='."
            )
        return [table.place] * len(table.rows)
    return None


def _not_of_runs(table: Table, found: dict[str, Column]) -> str:
    """Why a column does not name runs but sizes (20M, small) or groups; empty if it does.

    A label of a size has several token counts. For a column `name` in a table without steps that is
    enough; a column `run`, or a `name` in a table with `steps`, must also look like a size.
    """
    if table.noun == "run" or "middle" in found:
        return ""
    names = np.array([str(cell) for cell in table.columns[found["run"].name]])
    labels, group = np.unique(names, return_inverse=True)
    if len(labels) == len(names):
        return ""
    sizes = _sizes(table, found)
    means = np.array([np.median(sizes[group == i]) for i in range(len(labels))])
    if not np.allclose(sizes, means[group], rtol=0.05):
        return "is shared by models of several sizes"
    tokens = found.get("D") or found["C"]
    pairs = np.unique(
        np.stack([group, np.unique(tokens.raw(table), return_inverse=True)[1]]), axis=1
    )
    several = pairs.shape[1] > len(labels)
    if not several or ("step" in found and not _is_total(found["step"])):
        return ""
    said = [_SIZE.search(label) for label in labels]
    like_sizes = all(
        match and 0.4 < float(match[1]) * (factor(match[2]) or np.nan) / mean < 2.5
        for match, mean in zip(said, means, strict=True)
    )
    if like_sizes or ("step" not in found and key(found["run"].name) == "name"):
        return "names sizes rather than runs, since each value has several token counts"
    return ""


def _doubted(table: Table, found: dict[str, Column], names: int, group: np.ndarray) -> list[str]:
    """A warning if names may be those of sizes (tiny, d12), in a table without steps.

    Args:
      group: an index of the name in each row (n,).
    """
    if "run" not in found or found["run"].stated or table.noun == "run":
        return []
    if "step" in found or "middle" in found:
        return []
    tokens = (found.get("D") or found["C"]).raw(table)
    pairs = np.unique(np.stack([group, tokens]), axis=1)
    values, sharing = np.unique(pairs[1], return_counts=True)
    grid = names > 1 and np.mean(np.isin(tokens, values[sharing > 1])) > 0.5
    why = " (several names have the same token counts, as in a grid of runs)" if grid else ""
    return [
        f"{table.place}: column {found['run'].name!r} has {names} name{'s' * (names > 1)} for "
        f"{len(group)} rows, and only the last row of each name is used. If they name sizes rather "
        f"than runs{why}, columns='run=' uses every row"
    ]


def _is_total(step: Column) -> bool:
    """Whether a column gives the length of runs (`steps`) rather than the position in a run."""
    return key(step.name).endswith(("steps", "iterations", "iters"))


def _sizes(table: Table, found: dict[str, Column]) -> np.ndarray:
    if "N" in found:
        return found["N"].raw(table)
    with np.errstate(divide="ignore", invalid="ignore"):
        return found["C"].raw(table) / found["D"].raw(table)


def _is_curve(table: Table, found: dict[str, Column]) -> bool:
    """Whether rows without a run name are the evaluations of one run.

    They are if they have different steps, one size, and tokens that grow with the steps. A column
    of `steps` means runs of several lengths instead.
    """
    if "step" not in found or _is_total(found["step"]):
        return False
    sizes = _sizes(table, found)
    sizes = sizes[np.isfinite(sizes)]
    steps = found["step"].raw(table)
    if np.unique(steps).size < len(table.rows) or not np.allclose(sizes, sizes[-1:], rtol=1e-3):
        return False
    later = (found.get("D") or found["C"]).raw(table)[np.argsort(steps)]
    return bool(np.all(np.diff(later) >= 0))


def _evaluated(
    table: Table, loss: Column, runs: list[str], notes: list[str]
) -> tuple[Table, list[str]]:
    """The table without the rows of a run in which only training was logged."""
    if loss.name not in table.columns:
        return table, runs
    there = [not is_empty(cell) for cell in table.columns[loss.name]]
    evaluated = {run for run, has in zip(runs, there, strict=True) if has}
    kept = [i for i, has in enumerate(there) if has or runs[i] not in evaluated]
    if len(kept) < len(runs):
        left = len(runs) - len(kept)
        notes.append(f"{table.place}: {left} of {len(runs)} rows without {loss.name!r} skipped.")
    return table.take(kept), [runs[i] for i in kept]
