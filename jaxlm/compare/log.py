"""The experiment log: every run with its question, outcome and cost, newest first."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxlm.compare.analysis import run_dict
from jaxlm.compare.document import Block, Bullets, Cell, Heading, Paragraph, Table
from jaxlm.compare.metrics import METRICS, Metric, heading, metric_named, shown
from jaxlm.compare.provenance import day, started_first
from jaxlm.compare.reading import LeftOut, Run
from jaxlm.compare.variants import differing_keys
from jaxlm.host.checked import Damaged, Json
from jaxlm.host.errors import UserError, nearest
from jaxlm.host.progress import clock
from jaxlm.spec.flops import flops_words
from jaxlm.store.directory import read_study
from scaling.text_table import text_table

NEWEST = "newest"
_COLUMNS = ("best_val_loss", "best_bits_per_byte", "tokens", "flops")
_MOST_REASON = 28
_MOST_KEYS = 6


@dataclass(frozen=True)
class Entry:
    """A run with its study, if it belongs to one, and its question."""

    run: Run
    study: str | None
    question: str
    planned: int = 0  # runs of that study

    @property
    def time(self) -> str:
        return started_first(self.run) or self.run.started


def entries(runs: Sequence[Run], sort: str | None = None) -> list[Entry]:
    """An entry for each run, newest first or, by a metric, best first.

    The question consists of the study's question and the variant, or of the keys in which the run
    differs from the others of its experiment. Raises UserError for an unknown metric.
    """
    metric = _sort_metric(sort)
    studies = _studies(runs)
    found = []
    for siblings in _siblings(runs, studies).values():
        keys = differing_keys(siblings)
        for run in siblings:
            study, row = studies.get(run.path, (None, {}))
            question = _question(run, study, row, keys)
            name, planned = (study["name"], len(study["rows"])) if study else (None, 0)
            found.append(Entry(run, name, question, planned))
    found.sort(key=lambda entry: entry.time, reverse=True)
    if metric is not None:
        found.sort(key=lambda entry: _order(entry.run.metrics[metric.name], metric))
    return found


def _sort_metric(sort: str | None) -> Metric | None:
    if sort in (None, NEWEST):
        return None
    if sort not in METRICS:
        raise UserError(
            f"job.sort={sort}: there is no such metric{nearest(sort, [NEWEST, *METRICS])}.\n"
            f"Choose from: {NEWEST}, {', '.join(METRICS)}."
        )
    return metric_named(sort)


def _order(value: float | None, metric: Metric) -> tuple[bool, float]:
    """Sorts the best first and unmeasured runs last."""
    return value is None, 0.0 if value is None else -metric.sign * value


def _studies(runs: Sequence[Run]) -> dict[Path, tuple[Json, Json]]:
    """Run's folder -> (study, its row), for the runs inside a study's folder."""
    found, read = {}, {}
    for run in runs:
        for folder in list(run.path.parents)[:3]:
            if folder not in read:
                read[folder] = _study(folder)
            study = read[folder]
            if study:
                key = run.path.relative_to(folder).as_posix()
                found[run.path] = (study, study["rows"].get(key, {}))
                break
    return found


def _study(folder: Path) -> Json | None:
    """Name, question and rows of the folder's study.json; None if there is no readable one."""
    try:
        content = read_study(folder)
    except Damaged:
        return None
    if content is None:
        return None
    rows = {row["path"]: row for row in content["runs"]}
    question = (content.get("definition") or {}).get("question")
    return {"name": folder.name, "question": question, "rows": rows, "path": folder}


def _siblings(runs: Sequence[Run], studies: dict) -> dict[Any, list[Run]]:
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        study = studies.get(run.path)
        key = study[0]["path"] if study else str(run.names.get("experiment"))
        groups.setdefault(key, []).append(run)
    return groups


def _question(run: Run, study: dict | None, row: dict, keys: Sequence[str]) -> str:
    if study:
        variant = row.get("variant") or run.path.parent.name
        asked = study["question"] or f"study {study['name']}"
        return f"{asked} {variant}, seed {run.seed}"
    shown_keys = [
        f"{key}={_text(run.keys.get(key))}" for key in keys[:_MOST_KEYS] if key in run.keys
    ]
    shown_keys += [f"and {len(keys) - _MOST_KEYS} more"] * (len(keys) > _MOST_KEYS)
    what = run.names.get("experiment") or run.names.get("name") or run.path.name
    return ", ".join([str(what), *shown_keys, f"seed {run.seed}"])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


# -- the page ------------------------------------------------------------------------------------


def log_page(
    found: Sequence[Entry], left_out: Sequence[LeftOut], sort: str | None = None
) -> list[Block]:
    """All blocks of the log."""
    runs = [entry.run for entry in found]
    wall = sum(run.cost_seconds for run in runs)
    flops = sum(run.metrics["flops"] or 0 for run in runs)
    order = "newest first" if sort in (None, NEWEST) else f"by {METRICS[sort].title}, best first"
    blocks: list[Block] = [
        Heading(1, "Experiment log"),
        Paragraph(
            f"{len(runs)} run{'s' * (len(runs) != 1)}, {clock(wall)} of wall-clock time in total, "
            f"FLOPs {flops_words(flops)}; {order}."
        ),
    ]
    if left_out:
        blocks.append(Paragraph(f"Skipped ({len(left_out)}):", "warning"))
        blocks.append(Bullets([f"`{one.path}`: {one.reason}" for one in left_out]))
    if _per_token_differs(runs):
        blocks.append(
            Paragraph(
                "Losses in nats per token are not comparable between tokenizers; bits per byte are."
            )
        )
    blocks += [_studies_table(found)] if any(entry.study for entry in found) else []
    return [*blocks, Heading(2, "Runs"), _runs_table(found, sort)]


def _per_token_differs(runs: Sequence[Run]) -> bool:
    return bool(differing_keys(runs, ["tokenizer.name", "tokenizer.vocab_size", "tokenizer.path"]))


def _studies_table(found: Sequence[Entry]) -> Table:
    names = list(dict.fromkeys(entry.study for entry in found if entry.study))
    rows = []
    for name in names:
        members = [entry for entry in found if entry.study == name]
        done = sum(entry.run.complete for entry in members)
        known = [e for e in members if e.run.complete and e.run.metrics["best_val_loss"]]
        best = min(known, key=lambda e: e.run.metrics["best_val_loss"] or 0.0, default=None)
        wall = sum(entry.run.cost_seconds for entry in members)
        flops = sum(entry.run.metrics["flops"] or 0 for entry in members)
        rows.append(
            [
                name,
                f"{done} of {members[0].planned}",
                "–" if best is None else f"{best.run.metrics['best_val_loss']:.4f}",
                "–" if best is None else best.question,
                clock(wall),
                f"{flops:.3g}",
            ]
        )
    header = ["study", "finished", "lowest validation loss", "best run", "time", "FLOPs (6 N D)"]
    return Table(header, rows, text_columns=(0, 3))


def _runs_table(found: Sequence[Entry], sort: str | None) -> Table:
    runs = [entry.run for entry in found]
    names = [n for n in _COLUMNS if any(run.metrics[n] is not None for run in runs)]
    if sort in METRICS and sort not in names:
        names.insert(0, sort)
    metrics = [METRICS[name] for name in names]
    header = ["started", "question", "outcome", "time", *map(heading, metrics), "folder"]
    rows: list[list[str | Cell]] = []
    for entry in found:
        run = entry.run
        wall = None if run.summary.get("wall_seconds") is None else run.cost_seconds
        rows.append(
            [
                Cell(day(entry.time) or "–", entry.time),
                entry.question,
                _outcome(run),
                Cell("–" if wall is None else clock(wall), wall),
                *(Cell(shown(m, run.metrics[m.name]), run.metrics[m.name]) for m in metrics),
                f"`{run.path}`",
            ]
        )
    return Table(header, rows, text_columns=(0, 1, 2, len(header) - 1), sortable=True)


def _outcome(run: Run) -> str:
    reason = run.reason or ""
    if len(reason) > _MOST_REASON:
        reason = reason[:_MOST_REASON].rstrip() + " …"
    return run.status.replace("_", " ") + (f" ({reason})" if reason else "")


def log_lines(found: Sequence[Entry], sort: str | None = None, most: int = 20) -> list[str]:
    """The log's first rows for a terminal."""
    metric = METRICS[sort if sort in METRICS else "best_val_loss"]
    rows = []
    for entry in found[:most]:
        run, value = entry.run, shown(metric, entry.run.metrics[metric.name])
        known = run.summary.get("wall_seconds") is not None
        time = clock(run.cost_seconds) if known else "–"
        status = run.status.replace("_", " ")
        rows.append([day(entry.time) or "?", status, value, time, entry.question])
    header = ["started", "outcome", metric.name, "time", "question"]
    lines = text_table(header, rows, left=(0, 1, 4), rule=False).splitlines()
    if len(found) > most:
        lines.append(f"... and {len(found) - most} more")
    return lines


def log_dict(found: Sequence[Entry], left_out: Sequence[LeftOut]) -> Json:
    """Everything except the training records, which stay in the runs, for research_data.json."""
    return {
        "runs": [
            {"question": entry.question, "study": entry.study}
            | {name: value for name, value in run_dict(entry.run).items() if name != "train"}
            for entry in found
        ],
        "left_out": [{"path": str(one.path), "reason": one.reason} for one in left_out],
    }
