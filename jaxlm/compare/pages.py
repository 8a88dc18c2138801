"""The page of a comparison, section by section."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxlm.compare import convergence_page, provenance, sweeps
from jaxlm.compare.analysis import Comparison, equal_words, seeds_words
from jaxlm.compare.claims import p_shown, reported_words
from jaxlm.compare.document import Block, Bullets, Details, Figure, Heading, Paragraph, Table
from jaxlm.compare.metrics import METRICS, Metric, amount, difference_shown, heading, shown
from jaxlm.compare.statistics import ALPHA
from jaxlm.compare.texts import samples
from jaxlm.store.late import LATE_SHARE

_LOSS = (
    "best_val_loss",
    "val_loss",
    "train_loss",
    "overfitting",
    "best_perplexity",
    "perplexity",
)
_PREDICTIONS = (
    "best_bits_per_byte",
    "bits_per_byte",
    "accuracy",
    "top5_accuracy",
    "confidence",
    "gradient_norm",
)
_COST = (
    "steps",
    "tokens",
    "steps_per_second",
    "tokens_per_second",
    "seconds",
    "wall_seconds",
    "peak_memory_bytes",
    "parameters",
    "non_embedding_parameters",
    "flops",
)
_MOST_KEYS_SHOWN = 12
_FEW_RECORDS = 5


def comparison_page(
    comparison: Comparison,
    captions: Mapping[str, str],
    figures: Path,
    specimens: Mapping[str, Any] | None,
) -> list[Block]:
    """All blocks of research_report; `captions` are those of the figures in `figures`."""

    def drawn(*names: str) -> list[Block]:
        there = [name for name in names if name in captions]
        return [Figure(figures / name, name.replace("_", " "), captions[name]) for name in there]

    swept = [sweep.stem for sweep in comparison.sweeps]
    parts = [
        [Heading(1, _title(comparison)), *_answer(comparison)],
        _left_out(comparison),
        _variants(comparison),
        [Heading(2, "Results"), *_results(comparison), *drawn("final_performance_comparison")],
        _claims(comparison),
        _reported(comparison),
        _sweeps(comparison, drawn(*swept)),
        [Heading(2, "Curves"), *drawn("training_loss_comparison", "loss_curves")],
        convergence_page.convergence(comparison, drawn("convergence_analysis")),
        convergence_page.efficiency(
            comparison, drawn("efficiency_analysis", "parameters_against_loss")
        ),
        samples.blocks(comparison, specimens),
        provenance.blocks(comparison),
        _reading(comparison),
    ]
    return [block for part in parts for block in _without_bare_heading(part)]


def _without_bare_heading(part: list[Block]) -> list[Block]:
    """The section, or nothing if it consists only of a heading."""
    return [] if len(part) == 1 and isinstance(part[0], Heading) else part


def _title(comparison: Comparison) -> str:
    study = comparison.study
    return str(study.definition.get("question") or f"Comparison of {study.name}")


def _answer(comparison: Comparison) -> list[Block]:
    """The answer in a few lines, and what must be known before trusting it."""
    return [
        Paragraph(answer_words(comparison), "answer"),
        *(Paragraph(note, "warning") for note in comparison.notes),
    ]


def answer_words(comparison: Comparison) -> str:
    """The whole comparison in two or three sentences."""
    metric, ranking, base = comparison.primary, comparison.ranking, comparison.baseline
    if not ranking and comparison.counted:
        return f"No finished run has the metric {metric.name}, so there is nothing to compare."
    if not ranking:
        return "No run has finished, so there is nothing to compare yet."
    best = comparison.mean_of_ranked(ranking[0])
    title = f"{metric.title[0].upper()}{metric.title[1:]}"
    if len(ranking) == 1:
        only = f"{title} of **{ranking[0]}**: {amount(metric, best.value, best.half)}"
        others = (
            len({*comparison.variants, *(comparison.study.definition.get("variants") or ())}) - 1
        )
        end = " No other variant has finished." if others else ""
        return f"{only}, over {seeds_words([best.n])}.{end}"
    counts = [comparison.mean_of_ranked(v).n for v in ranking]
    which = "value" if max(counts) == 1 else "mean"
    text = f"{title}: **{ranking[0]}** has the best {which}, "
    text += f"{amount(metric, best.value, best.half)}, over {seeds_words(counts)}."
    found = comparison.differences.get(metric.name, {})
    if base is None or not found:
        return text
    tested = {v: d for v, d in found.items() if d.p_holm is not None}
    if not tested:
        return f"{text} With one seed each, no difference from {base} can be told from chance."
    sure = {v: d for v, d in tested.items() if d.p_holm is not None and d.p_holm < ALPHA}
    better = [v for v in ranking if v in sure and sure[v].value * metric.sign > 0]
    worse = [v for v in ranking if v in sure and v not in better]
    same = [v for v in ranking if v in tested and v not in sure]
    said = []
    for words, members in (("better", better), ("worse", worse)):
        if members:
            sizes = [
                amount(metric, abs(sure[v].value), sure[v].half, difference=True) for v in members
            ]
            listed = [f"{v} (by {size})" for v, size in zip(members, sizes, strict=True)]
            said.append(f"{words}: {_few(listed)}")
    if same:
        n = seeds_words([tested[v].n for v in same])
        said.append(f"no difference that {n} can show: {_few(same)}")
    return f"{text} Against {base}, {'; '.join(said)}."


def _few(words: Sequence[str]) -> str:
    """All if there are up to four, else the first three and how many more."""
    if len(words) <= 4:
        return ", ".join(words)
    return f"{', '.join(words[:3])} and {len(words) - 3} more"


def _left_out(comparison: Comparison) -> list[Block]:
    study, left_out = comparison.study, comparison.study.left_out
    if not left_out:
        return []
    n = len(left_out)
    title = f"{n} run{'s were' if n > 1 else ' was'} skipped:"
    return [
        Paragraph(title, "warning"),
        Bullets([f"`{study.place(o.path)}`: {o.reason}" for o in left_out]),
    ]


def _variants(comparison: Comparison) -> list[Block]:
    """The keys in which each variant differs, and its seeds."""
    keys = comparison.varied[:_MOST_KEYS_SHOWN]
    rows = []
    for variant in comparison.variants:
        runs = comparison.study.of(variant)
        seeds = ", ".join(str(run.seed) for run in runs)
        rows.append([variant, *(_value(runs[0].keys.get(key)) for key in keys), seeds])
    if not rows:
        return []
    equal = equal_words(comparison.study)
    made: list[Block] = [Heading(2, "What was compared")]
    if equal:
        made.append(Paragraph(equal))
    header = ["variant", *(f"`{key}`" for key in keys), "seeds"]
    made.append(Table(header, rows, text_columns=(0, len(header) - 1)))
    if len(comparison.varied) > len(keys):
        rest = ", ".join(f"`{key}`" for key in comparison.varied[len(keys) :])
        made.append(Paragraph(f"Also different: {rest}."))
    return made


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "–" if value is None else str(value)


# -- results -------------------------------------------------------------------------------------


def _results(comparison: Comparison) -> list[Block]:
    if not comparison.ranking:
        return []
    seeds = max(comparison.mean_of_ranked(v).n for v in comparison.ranking)
    said = (
        "Means over seeds with the 95 % interval of the mean (Student's t); the best mean in a "
        "column is bold."
        if seeds > 1
        else "One seed each, so there are no intervals; the best value in a column is bold."
    )
    return [
        Paragraph(said),
        _metric_table(comparison, _LOSS),
        _metric_table(comparison, _PREDICTIONS),
        *_averaged(comparison),
        Heading(3, "Against the baseline"),
        _verdicts(comparison),
        *_differences(comparison),
        Heading(3, "Size, speed and cost"),
        _metric_table(comparison, _COST),
    ]


def _metric_table(comparison: Comparison, names: Sequence[str]) -> Table:
    known = [metric for metric in comparison.metrics if metric.name in names]
    known.sort(key=lambda metric: names.index(metric.name))
    best = {metric.name: _best(comparison, metric) for metric in known}
    rows = []
    for variant in comparison.variants:
        row = [variant]
        for metric in known:
            found = comparison.mean(variant, metric.name)
            lost = comparison.diverged[variant] and found is None
            text = shown(metric, found.value, found.half) if found else "–"
            if lost and metric is known[0]:
                text = "diverged"
            row.append(f"**{text}**" if found and found.value == best[metric.name] else text)
        rows.append(row)
    return Table(["variant", *map(heading, known)], rows)


def _averaged(comparison: Comparison) -> list[Block]:
    """How many training records the training loss and the metrics derived from it rest on."""
    known = [run.metrics["late_records"] for run in comparison.counted]
    counts = sorted({int(count) for count in known if count})
    if not counts:
        return []
    few = f"{counts[0]} to {counts[-1]} records" if len(counts) > 1 else f"{counts[0]} records"
    said = (
        "Training loss (and overfitting, validation loss divided by it) and gradient norm are "
        "means of the training records in the last 5 % of a run's steps: "
        f"{'1 record, a single batch' if counts == [1] else f'{few}, each of one batch'}."
    )
    if counts[0] < _FEW_RECORDS:
        said += " So few batches make them noisy."
        steps = [run.metrics["steps"] or 0 for run in comparison.counted]
        if LATE_SHARE * max(steps) >= 2 * counts[0]:
            said += " A smaller train.log_every records more of them."
    return [Paragraph(said)]


def _best(comparison: Comparison, metric: Metric) -> float | None:
    """The best mean, if one direction of the metric is better and the means differ."""
    found = [comparison.mean(variant, metric.name) for variant in comparison.variants]
    values = [one.value for one in found if one]
    comparable = comparison.comparable or not metric.per_token
    if metric.better is None or not comparable or len(set(values)) < 2:
        return None
    return max(values) if metric.sign > 0 else min(values)


def _verdicts(comparison: Comparison) -> Table:
    """The primary metric against the baseline: difference, test, verdict."""
    metric = comparison.primary
    found = comparison.differences.get(metric.name, {})
    rows = []
    for variant in comparison.variants:
        mean, test = comparison.mean(variant, metric.name), found.get(variant)
        rows.append(
            [
                variant,
                shown(metric, mean.value, mean.half) if mean else "–",
                str(mean.n) if mean else "0",
                difference_shown(metric, test.value, test.half) if test else "–",
                p_shown(test.p) if test else "–",
                p_shown(test.p_holm) if test else "–",
                comparison.verdict(variant),
            ]
        )
    base = f"difference from {comparison.baseline}" if comparison.baseline else "difference"
    header = ["variant", heading(metric), "seeds", base, "p", "p (Holm)", "verdict"]
    return Table(header, rows, text_columns=(0, 6))


def _differences(comparison: Comparison) -> list[Block]:
    """Differences from the baseline in every metric, folded."""
    names = [
        m for m in comparison.metrics if m.name in comparison.differences and m.better is not None
    ]
    others = [v for v in comparison.variants if v != comparison.baseline]
    tested = [test for found in comparison.differences.values() for test in found.values()]
    if not names or not others or not tested:  # none are tested if all others have diverged
        return []
    rows = []
    for metric in names:
        row = [heading(metric)]
        for variant in others:
            test = comparison.differences[metric.name].get(variant)
            text = difference_shown(metric, test.value, test.half) if test else "–"
            sure = test and test.p_holm is not None and test.p_holm < ALPHA
            row.append(f"{text} *" if sure and not metric.exact else text)
        rows.append(row)
    note = "Differences of percentages are in points. "
    if max(test.n for test in tested) > 1:
        note += (
            "Each is a mean difference with its 95 % interval, paired by seed. A star means "
            "p < 0.05 in the paired t test, corrected (Holm) for the number of variants within "
            "that metric, not for the number of metrics."
        )
    else:
        note += "There is one seed each, so nothing here was tested."
    title = f"Differences from {comparison.baseline} in every metric"
    return [Details(title, [Table(["metric", *others], rows), Paragraph(note)])]


def _claims(comparison: Comparison) -> list[Block]:
    if not comparison.answers:
        return []
    rows = [
        [answer.text, f"**{answer.answer}**{_seeds(answer)}", answer.why]
        for answer in comparison.answers
    ]
    note = (
        "A claim holds if the paired test over seeds shows it at the 5 % level, corrected (Holm) "
        "for the number of claims; if a factor is claimed, the ratio's 95 % interval has to reach "
        "it."
    )
    table = Table(["claim", "answer", "numbers"], rows, text_columns=(0, 1, 2))
    return [Heading(2, "The authors' claims"), table, Paragraph(note)]


def _seeds(answer: Any) -> str:
    n = answer.seeds
    return f" with {n} seed{'s' * (n != 1)}" if answer.answer == "cannot be told" and n else ""


def _reported(comparison: Comparison) -> list[Block]:
    if not comparison.reported:
        return []
    rows = []
    for row in comparison.reported:
        metric = METRICS.get(row["metric"])
        if metric is None:
            rows.append([row["variant"], str(row["metric"]), "–", str(row["reported"]), "–", "?"])
            continue
        ours = shown(metric, row["ours"], row["half"])
        theirs = shown(metric, row["reported"])
        ratio = f"{row['ours'] / row['reported']:.3g}" if row["ours"] and row["reported"] else "–"
        rows.append([row["variant"], heading(metric), ours, theirs, ratio, reported_words(row)])
    header = ["variant", "metric", "ours", "reported", "ours / reported", "comparison"]
    return [
        Heading(2, "Compared with the reported figures"),
        Table(header, rows, text_columns=(0, 1, 5)),
    ]


def _sweeps(comparison: Comparison, figures: list[Block]) -> list[Block]:
    made: list[Block] = []
    for sweep, figure in zip(comparison.sweeps, figures, strict=False):
        made.append(Heading(2, f"Loss against {sweep.title}"))
        made.append(Bullets(sweeps.words(sweep, METRICS[sweep.metric])))
        made.append(figure)
    return made


def _reading(comparison: Comparison) -> list[Block]:
    """What each number means."""
    items = [
        f"**{metric.title}** (`{metric.name}`): {metric.help}." for metric in comparison.metrics
    ]
    if not items:
        return []
    test = (
        "**Tests**: variants are paired by seed (the same seed means the same order of the data); "
        "the t test of the differences is two-sided, at the 5 % level, and corrected by Holm's "
        "method for the number of variants compared with the baseline. Diverged runs are excluded."
    )
    return [
        Heading(2, "How to read this"),
        Details("What each metric means", [Bullets([*items, test])]),
    ]
