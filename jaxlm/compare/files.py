"""The machine-readable half of a report: performance_metrics.csv, research_data.json."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxlm.compare.analysis import Comparison
from jaxlm.compare.metrics import METRICS
from jaxlm.compare.reading import Run
from jaxlm.host.checked import Json
from jaxlm.host.errors import UserError
from jaxlm.host.files import atomic_write, plain

_FIRST = ["row", "variant", "seed", "seeds", "status", "path"]


def write(path: Path, text: str) -> None:
    """Replace a file of the report. Raises UserError if that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, text)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}.\n"
            "Choose another folder with job.out=FOLDER."
        ) from None


def write_json(path: Path, content: Any) -> None:
    """JSON whose numbers read back to the same bits; values that are not finite are null."""
    write(path, json.dumps(plain(content), indent=1, ensure_ascii=False) + "\n")


def write_rows(path: Path, header: Sequence[str], rows: Sequence[Json]) -> None:
    """A CSV file; values that are missing or not finite are empty."""
    text = io.StringIO(newline="")
    # Lines end as in RFC 4180: with "\n" alone, csv would not quote a "\r" within a text.
    writer = csv.DictWriter(text, header, restval="")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: "" if v is None else v for k, v in plain(row).items()})
    write(path, text.getvalue())


def run_row(run: Run) -> Json:
    """A run's row of performance_metrics.csv."""
    return {
        "row": "run",
        "variant": run.variant,
        "seed": run.seed,
        "seeds": 1,
        "status": run.status,
        "path": run.path.as_posix(),
    } | run.metrics


def write_metrics(path: Path, runs: Sequence[Run], comparison: Comparison | None = None) -> None:
    """One row per run and, with a comparison, one per variant: means over its finished runs.

    `NAME_ci95` is the half-width of the mean's 95 % interval, empty in rows of runs.
    """
    rows = [run_row(run) for run in runs]
    for row, run in zip(rows, runs, strict=True):
        row["path"] = comparison.study.place(run.path) if comparison else row["path"]
    header = [*_FIRST, *METRICS]
    if comparison is not None:
        header += [f"{name}_ci95" for name in METRICS] + ["verdict"]
        rows += [_variant_row(comparison, variant) for variant in comparison.variants]
    write_rows(path, header, rows)


def _variant_row(comparison: Comparison, variant: str) -> Json:
    means = {name: comparison.mean(variant, name) for name in METRICS}
    lost = comparison.diverged[variant]
    return (
        {
            "row": "variant",
            "variant": variant,
            "seeds": sum(run.complete for run in comparison.study.of(variant)),
            "status": f"{lost} diverged" if lost else "finished",
            "verdict": comparison.verdict(variant),
        }
        | {name: found and found.value for name, found in means.items()}
        | {f"{name}_ci95": found and found.half for name, found in means.items()}
    )
