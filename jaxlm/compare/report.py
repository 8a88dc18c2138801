"""Writes the files of a report; job=report."""

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxlm.compare import document, files, log, pages
from jaxlm.compare.analysis import Comparison, compare, to_dict
from jaxlm.compare.metrics import metric_named
from jaxlm.compare.reading import LeftOut, find_runs, read_runs
from jaxlm.compare.texts import samples
from jaxlm.compare.variants import load
from jaxlm.config.schema import Config
from jaxlm.host.checked import Damaged, maybe, read_json, record
from jaxlm.host.errors import UserError
from jaxlm.host.names import expanded
from jaxlm.store.formats import SPECIMENS
from scaling.text_table import text_table

Specimens = Callable[[Mapping[str, Path], Path], Mapping[str, Any]]
"""(variant -> run directory, folder to write into) -> specimens, as `samples` describes them."""

REPORT = "research_report"
_MOST_LEFT_OUT_LINES = 10


def write_report(
    study: Path | Sequence[Path],
    out: Path,
    *,
    specimens: Specimens | None = None,
    metric: str | None = None,
    baseline: str | None = None,
) -> Path:
    """Write a comparison of a study's variants, or of loose runs, to the folder `out`.

    The files are research_report.md (whose path is returned) and .html, research_data.json,
    performance_metrics.csv, generation_comparison.csv (by `specimens` if given) and figures/*.png,
    *.svg. `metric` and `baseline` as in `compare`. Runs that cannot be read, or are not finished,
    are named in a warning and skipped. Raises UserError if there is no run, or if nothing can be
    written.
    """
    comparison = compare(load(study), metric, baseline)
    warn(comparison.study.left_out)
    return _write(comparison, Path(out), specimens)


def _write(comparison: Comparison, out: Path, specimens: Specimens | None) -> Path:
    from jaxlm.compare.figures.all import draw

    files.write_metrics(out / "performance_metrics.csv", comparison.study.runs, comparison)
    measured = _specimens(comparison, out, specimens)
    captions = draw(comparison, out / "figures")
    data = to_dict(comparison) | {"specimens": measured}
    files.write_json(out / "research_data.json", data)
    page = pages.comparison_page(comparison, captions, out / "figures", measured)
    return _write_page(page, out)


def _write_page(page: list[document.Block], out: Path) -> Path:
    title = page[0].text
    files.write(out / f"{REPORT}.html", document.page(title, page))
    files.write(out / f"{REPORT}.md", document.markdown(page, out))
    return out / f"{REPORT}.md"


def _specimens(
    comparison: Comparison, out: Path, specimens: Specimens | None
) -> Mapping[str, Any] | None:
    """The measured texts; without them, the runs' own texts go into generation_comparison.csv."""
    runs = samples.chosen_runs(comparison)
    if specimens is not None and runs:
        try:
            return specimens(runs, out)
        except UserError as error:
            print(f"warning: no specimens: {error}", file=sys.stderr)
    elif known := _measured_before(out, runs):
        return known
    rows = samples.sample_rows(comparison)
    if rows:
        files.write_rows(out / "generation_comparison.csv", list(rows[0]), rows)
    return None


def _measured_before(out: Path, runs: Mapping[str, Path]) -> Mapping[str, Any] | None:
    """The texts that an earlier report of these runs measured, unless one has changed since."""
    try:
        data = read_json(out / "research_data.json", record({}, {"specimens": maybe(SPECIMENS)}))
        since = (out / "generation_comparison.csv").stat().st_mtime
        newest = max(((path / "summary.json").stat().st_mtime for path in runs.values()), default=0)
    except (OSError, Damaged):
        return None
    known = data and data.get("specimens")
    return known if known and newest < since and known["models"].keys() <= runs.keys() else None


def warn(left_out: Sequence[LeftOut]) -> None:
    """A line on standard error for each run that is skipped."""
    for one in left_out[:_MOST_LEFT_OUT_LINES]:
        print(f"warning: {one.path} is skipped: {one.reason}", file=sys.stderr)
    more = len(left_out) - _MOST_LEFT_OUT_LINES
    if more > 0:
        print(f"warning: {more} more runs are skipped; the report names them", file=sys.stderr)


# -- the job -------------------------------------------------------------------------------------


def report_job(config: Config, load_engine: object) -> int:
    """job=report: a comparison of a study or of some runs or, with **, the log of all of them."""
    job = config.job
    pattern = job.runs
    if pattern is None:
        raise UserError(
            "job.runs is missing: give a study's folder, or a glob such as job.runs='runs/**'."
        )
    folder = expanded(pattern)
    is_study = os.path.isfile(folder / "study.json")
    out = Path(job.out or (folder if is_study else "report"))
    kind = job.kind if job.kind != "auto" else "log" if "**" in pattern else "comparison"
    if kind == "log":
        return _log(pattern, out, job.sort)
    if job.metric is not None:
        metric_named(job.metric)
    study = load(folder if is_study else find_runs(pattern))
    if not is_study:
        study.name = pattern
    comparison = compare(study, job.metric, job.baseline)
    warn(study.left_out)
    print("\n".join(comparison_lines(comparison)))
    print(f"\nreport: {_write(comparison, out, None)}")
    return 0


def comparison_lines(comparison: Comparison) -> list[str]:
    """The answer and the verdicts, for a terminal."""
    words = re.sub(r"\*\*(.+?)\*\*", r"\1", pages.answer_words(comparison))
    if not comparison.ranking:
        return [words]
    metric, rows = comparison.primary, []
    for variant in comparison.variants:
        found = comparison.mean(variant, metric.name)
        value = pages.shown(metric, found.value, found.half) if found else "–"
        rows.append([f"  {variant}", value, comparison.verdict(variant)])
    table = text_table(["", metric.name, ""], rows, left=(0, 2), rule=False)
    answers = [f"  {one.answer}: {one.text} ({one.why})" for one in comparison.answers]
    return [words, *table.splitlines(), *answers]


def _log(pattern: str, out: Path, sort: str | None) -> int:
    runs, left_out = read_runs(find_runs(pattern))
    found = log.entries(runs, sort)
    warn(left_out)
    print("\n".join(log.log_lines(found, sort)))
    for entry in found:
        entry.run.variant = entry.question
    files.write_metrics(out / "performance_metrics.csv", [entry.run for entry in found])
    files.write_json(out / "research_data.json", log.log_dict(found, left_out))
    print(f"\nreport: {_write_page(log.log_page(found, left_out, sort), out)}")
    return 0
