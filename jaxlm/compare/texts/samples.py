"""Texts of each model side by side: from samples.txt, or from specimens measured for the report.

Specimens are a dict like `{"prompt", "settings", "models": {variant: {"samples": [{"text", ...}],
"scores": {name: number}}}, "scores_legend": {name: sentence}, "decoding": [{"variant",
"temperature", "top_p", "text", ...}]}`; any part may be missing.
"""

from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from jaxlm.compare.analysis import Comparison
from jaxlm.compare.document import Block, Bullets, Columns, Details, Heading, Paragraph, Table
from jaxlm.host.checked import Json

_SHOWN, _MOST_CHARACTERS = 2, 700
_OWN = ("variant", "temperature", "top_p", "text")


def chosen_runs(comparison: Comparison) -> dict[str, Path]:
    """variant -> the run whose texts are shown: the first seed that finished."""
    found: dict[str, Path] = {}
    for variant in comparison.variants:
        for run in comparison.study.of(variant):
            if run.complete and variant not in found:
                found[variant] = run.path
    return found


def sample_rows(comparison: Comparison) -> list[Json]:
    """A row for each text of samples.txt, for generation_comparison.csv."""
    return [
        {"variant": run.variant, "seed": run.seed, "sample": number, "text": text}
        for run in comparison.counted
        for number, text in enumerate(run.samples, 1)
    ]


def blocks(comparison: Comparison, specimens: Mapping[str, Any] | None) -> list[Block]:
    """The section of texts; empty if there are none."""
    if specimens and specimens.get("models"):
        return [Heading(2, "Texts"), *_measured(specimens)]
    columns = []
    for variant, path in chosen_runs(comparison).items():
        run = next(r for r in comparison.study.of(variant) if r.path == path)
        if run.samples:
            columns.append((variant, [cut(text) for text in run.samples[:_SHOWN]]))
    if not columns:
        return []
    said = "Drawn at the end of training, from the first seed of each variant; all are in "
    return [Heading(2, "Texts"), Paragraph(f"{said}`generation_comparison.csv`."), Columns(columns)]


def cut(text: str, most: int = _MOST_CHARACTERS) -> str:
    """The text, or its beginning if it is long."""
    return text if len(text) <= most else text[:most].rstrip() + " …"


def _measured(specimens: Mapping[str, Any]) -> list[Block]:
    models: Mapping[str, Any] = specimens["models"]
    settings = ", ".join(f"{k} {v}" for k, v in (specimens.get("settings") or {}).items())
    prompt = specimens.get("prompt")
    said = f"Prompt `{prompt}`" if prompt else "Without a prompt"
    made: list[Block] = [Paragraph(f"{said}{f'; {settings}' if settings else ''}.")]
    scores = {v: model.get("scores") or {} for v, model in models.items()}
    names = list(dict.fromkeys(name for found in scores.values() for name in found))
    if names:
        rows = [[v, *(number(found.get(name)) for name in names)] for v, found in scores.items()]
        made.append(Table(["variant", *(_words(name) for name in names)], rows))
    legend = specimens.get("scores_legend") or {}
    if legend:
        made.append(Bullets([f"**{_words(name)}**: {text}" for name, text in legend.items()]))
    made.append(Columns([(v, _texts(model.get("samples") or [])) for v, model in models.items()]))
    said = "All texts and their scores are in `generation_comparison.csv`."
    made.append(Paragraph(said))
    return made + _decoding(specimens.get("decoding") or [])


def _texts(samples: Sequence[Mapping[str, Any]]) -> list[str]:
    texts = []
    for sample in samples[:_SHOWN]:
        measures = [f"{_words(k)} {number(v)}" for k, v in sample.items() if isinstance(v, Real)]
        below = f"\n\n[{'; '.join(measures)}]" if measures else ""
        texts.append(cut(str(sample.get("text", ""))) + below)
    return texts


def _decoding(rows: Sequence[Mapping[str, Any]]) -> list[Block]:
    if not rows:
        return []
    names = [k for k in dict.fromkeys(k for row in rows for k in row) if k not in _OWN]
    names = [k for k in names if any(isinstance(row.get(k), Real) for row in rows)]
    header = ["variant", "temperature", "top-p", *(_words(k) for k in names), "text"]
    lines = [
        [
            str(row.get("variant", "")),
            number(row.get("temperature")),
            number(row.get("top_p")),
            *(number(row.get(name)) for name in names),
            cut(str(row.get("text", "")), 160),
        ]
        for row in rows
    ]
    table = Table(header, lines, text_columns=(0, len(header) - 1))
    return [
        Heading(3, "Decoding: temperature and top-p"),
        Details(f"{len(rows)} settings side by side (`decoding_sweep.csv`)", [table]),
    ]


def _words(name: str) -> str:
    return name.replace("_", " ")


def number(value: Any) -> str:
    """A score of unknown kind, with three digits."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return "–" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
