"""Finds and reads the tables below a path, folder or glob: files of records and run directories."""

import dataclasses
import glob
import os
import re
from pathlib import Path

from scaling.errors import ScalingError
from scaling.records.files import (
    Json,
    Table,
    as_columns,
    parse_json,
    read_jsonl,
    read_table,
    read_text,
    reader_of,
)


def read_sources(
    items: list[str | Path], count: str | None, keep: str, notes: list[str]
) -> list[Table]:
    """One table for each file, and one for all run directories; empty ones are dropped.

    Raises:
      ScalingError: a path that does not exist, or a named file that cannot be read. A file found
        in a folder is skipped with a note instead.
    """
    found: dict[Path, tuple[Path, bool]] = {}
    for item in items:
        for path, named in _expand(Path(item).expanduser(), notes):
            found.setdefault(path.resolve(), (path, named))
    tables = []
    for path, named in found.values():
        if path.is_dir():
            continue
        try:
            tables.append(dataclasses.replace(read_table(path, count), named=named))
        except ScalingError as error:
            if named:
                raise
            notes.append(f"skipped: {str(error).splitlines()[0]}")
    tables = _single_rows_joined(tables)
    tables.append(
        _read_runs([path for path, _ in found.values() if path.is_dir()], keep, count, notes)
    )
    return [table for table in tables if table.rows]


def _expand(path: Path, notes: list[str]) -> list[tuple[Path, bool]]:
    """The files and run directories of a path, folder or glob, and whether each was named."""
    if path.exists():
        matches = [path]
    elif glob.has_magic(str(path)):
        matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        # Files next to run directories are reports and the like.
        matches = [match for match in matches if match.is_dir()] or matches
    else:
        raise ScalingError(f"there is no file or folder {path}.")
    if not matches:
        raise ScalingError(f"no file or folder matches {path}.")
    found = []
    for match in matches:
        if match.name in ("summary.json", "metrics.jsonl") and _is_run(match.parent):
            match = match.parent
        if not match.is_dir():
            found.append((match, True))
            continue
        runs = _runs_below(match)
        below = runs or _files_below(match)
        if not below:
            notes.append(f"{match}: skipped, because it contains no run and no file of records.")
        found.extend((path, bool(runs)) for path in below)
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


def _files_below(folder: Path) -> list[Path]:
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = [Path(place) / name for name in sorted(names) if not name.startswith(".")]
        found += [path for path in paths if reader_of(path)]
    return found


def _single_rows_joined(tables: list[Table]) -> list[Table]:
    """Join files of one row and the same columns, such as the results of one run each."""
    single: dict[tuple[Path, tuple[str, ...]], list[Table]] = {}
    joined = []
    for table in tables:
        alike = (Path(table.place).parent, tuple(sorted(table.columns)))
        if len(table.rows) == 1 and not table.one_run:
            if alike not in single:
                joined.append(table)
            single.setdefault(alike, []).append(table)
        else:
            joined.append(table)
    for (folder, names), parts in single.items():
        if len(parts) > 1:
            columns = {name: [part.columns[name][0] for part in parts] for name in names}
            rows = [Path(part.place).name for part in parts]
            place = next(i for i, table in enumerate(joined) if table is parts[0])
            joined[place] = dataclasses.replace(
                parts[0], place=str(folder), columns=columns, rows=rows, noun="file"
            )
    return joined


_UNFINISHED = {"status": "unfinished"}


def _read_runs(folders: list[Path], keep: str, count: str | None, notes: list[str]) -> Table:
    """A table of the finished run directories: one row for each, or for each evaluation."""
    points: list[Json] = []
    for folder in folders:
        path = folder / "summary.json"
        try:
            summary: Json = parse_json(read_text(path), str(path)) if path.exists() else _UNFINISHED
        except ScalingError as error:
            notes.append(f"{folder}: skipped, because {str(error).splitlines()[0]}")
            continue
        status = summary.get("status") if isinstance(summary, dict) else None
        if status != "finished" or summary.get("val_loss") is None:
            reason = "it was never evaluated" if status == "finished" else f"its status is {status}"
            notes.append(f"{folder}: skipped, because {reason}.")
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
        # With a constant learning rate, no point is before the end of a decay.
        decays = _setting(config, "schedule", "name") != "constant"
        for index, point in enumerate(found, 1):
            point["middle"] = int(decays and index < len(found))
            # `flops` excludes embeddings, so with count="total" C is computed as 6 N D.
            if count == "total":
                point.pop("flops", None)
        points.extend(found)
    if count == "total" and points:
        notes.append("C of the run directories is 6 N D, where N counts all parameters.")
    rows = [f"{point['run']} at step {point.get('step')}" for point in points]
    default = count or "non_embedding"
    return Table("run directories", as_columns(points), rows, noun="run", count=default)


def _setting(config: str, section: str, name: str) -> str | None:
    """One value of config.yaml, where keys of a section are indented by two spaces."""
    match = re.search(rf"(?m)^{section}:\n(?:  .*\n)*?  {name}: (\S+)", config)
    return match and match[1]
