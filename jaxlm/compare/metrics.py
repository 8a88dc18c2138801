"""The metrics of a comparison, by name: meaning, unit, which direction is better, how shown.

This table is the one place where the names are defined: `study.reported`, `study.claims`,
`job.metric`, `job.sort`, performance_metrics.csv and research_data.json all use them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxlm.host.checked import Json
from jaxlm.host.errors import UserError, nearest
from jaxlm.store.late import late_mean, late_records

Records = list[Json]


@dataclass(frozen=True)
class Metric:
    """One measured quantity of a run. `better` is "lower", "higher" or None: neither."""

    name: str
    title: str
    unit: str
    better: str | None
    help: str
    decimals: int = 4
    scale: float = 1.0  # the factor on a value before it is shown
    form: str = "f"  # f: decimals; count: whole with separators; e: three digits and a power
    per_token: bool = False  # depends on what a token is: not comparable between tokenizers
    exact: bool = False  # the same for every seed: a property of the configuration

    @property
    def sign(self) -> int:
        """+1 if higher is better, -1 if lower is better (or neither)."""
        return 1 if self.better == "higher" else -1


def _metric(name: str, title: str, unit: str, better: str | None, help: str, **how: Any) -> Metric:
    return Metric(name, title, unit, better, help, **how)


_NATS = {"per_token": True}
_SHARE = {"scale": 100.0, "decimals": 2, "per_token": True}
_COUNT = {"form": "count", "exact": True}
_LIST = [
    _metric("best_val_loss", "best validation loss", "nats/token", "lower",
            "the lowest validation loss of the run", **_NATS),
    _metric("val_loss", "final validation loss", "nats/token", "lower",
            "validation loss at the last evaluation, the whole split", **_NATS),
    _metric("train_loss", "training loss", "nats/token", "lower",
            "mean of the training records in the last 5 % of the steps, each of one batch, with "
            "dropout; late_records is their number", **_NATS),
    _metric("best_perplexity", "best perplexity", "", "lower",
            "exp of best_val_loss", decimals=3, **_NATS),
    _metric("perplexity", "final perplexity", "", "lower",
            "exp of val_loss", decimals=3, **_NATS),
    _metric("best_bits_per_byte", "best bits per byte", "bits/byte", "lower",
            "lowest validation loss in bits per UTF-8 byte of text, whatever the tokenizer"),
    _metric("bits_per_byte", "bits per byte", "bits/byte", "lower",
            "the same loss at the last evaluation"),
    _metric("accuracy", "accuracy", "%", "higher",
            "share of validation tokens whose most likely prediction is right, last evaluation "
            "(a fraction in files)", **_SHARE),
    _metric("top5_accuracy", "top-5 accuracy", "%", "higher",
            "the same for the five most likely predictions", **_SHARE),
    _metric("confidence", "confidence", "%", None,
            "mean probability of the most likely token, last evaluation", **_SHARE),
    _metric("overfitting", "overfitting", "", "lower",
            "val_loss divided by train_loss", decimals=3, **_NATS),
    _metric("gradient_norm", "gradient norm", "", None,
            "global norm before clipping, mean of the training records in the last 5 % of the "
            "steps", decimals=3),
    _metric("late_records", "records averaged", "", None,
            "number of training records in the last 5 % of the steps, over which train_loss and "
            "gradient_norm are averaged", **_COUNT),
    _metric("steps_per_second", "steps/s", "1/s", "higher",
            "steps per second of training time, excluding compilation and evaluation",
            decimals=2),
    _metric("tokens_per_second", "tokens/s", "1/s", "higher",
            "tokens per second of training time, excluding compilation and evaluation",
            form="count"),
    _metric("seconds", "training time", "s", "lower",
            "training time, including saving, excluding compilation and evaluation", decimals=1),
    _metric("wall_seconds", "wall-clock time", "s", "lower",
            "including compilation, evaluation and what a restart repeated", decimals=1),
    _metric("peak_memory_bytes", "peak memory", "MiB", "lower",
            "most memory in use: the device's or, on a CPU, the process's (bytes in files)",
            scale=2.0**-20, form="count"),
    _metric("parameters", "parameters", "", "lower", "all parameters", **_COUNT),
    _metric("non_embedding_parameters", "without embeddings", "", "lower",
            "excluding the token and position tables and an untied head", **_COUNT),
    _metric("flops", "FLOPs (6 N D)", "", "lower",
            "6 x non_embedding_parameters x tokens, excluding head and attention",
            form="e", exact=True),
    _metric("tokens", "tokens", "", None, "training tokens seen", form="count", exact=True),
    _metric("steps", "steps", "", None, "optimizer steps taken", form="count", exact=True),
]  # fmt: skip
METRICS: dict[str, Metric] = {metric.name: metric for metric in _LIST}


def metric_named(name: str, key: str = "job.metric") -> Metric:
    """The metric. Raises UserError, which names the nearest; `key` is where the name was given."""
    if name not in METRICS:
        raise UserError(
            f"{key}={name}: there is no such metric{nearest(name, list(METRICS))}.\n"
            f"Choose from: {', '.join(METRICS)}."
        )
    return METRICS[name]


def metrics_of(summary: Json, train: Records, evals: Records) -> dict[str, float | None]:
    """Metric name -> value of one run, None if it is unknown or not finite.

    `summary` is summary.json, `train` and `evals` the two kinds of records of metrics.jsonl.
    """
    last = evals[-1] if evals else {}
    best = _lowest(evals)
    best_loss = summary.get("best_val_loss", best.get("loss"))
    val_loss = last.get("loss", summary.get("val_loss"))
    steps, seconds = summary.get("step"), summary.get("seconds")
    train_loss = late_mean(train, "loss")
    found = {
        "best_val_loss": best_loss,
        "val_loss": val_loss,
        "train_loss": train_loss,
        "best_perplexity": _of(math.exp, best_loss),
        "perplexity": _of(math.exp, val_loss),
        "best_bits_per_byte": best.get("bits_per_byte"),
        "overfitting": _of(lambda a, b: a / b, val_loss, train_loss),
        "gradient_norm": late_mean(train, "gradient_norm"),
        "steps_per_second": _of(lambda a, b: a / b, steps, seconds),
        "late_records": len(late_records(train)) or None,
        "steps": steps,
    }
    for name in ("bits_per_byte", "accuracy", "top5_accuracy", "confidence"):
        found[name] = last.get(name)
    return {name: _finite(found.get(name, summary.get(name))) for name in METRICS}


def _lowest(evals: Records) -> Json:
    known = [record for record in evals if record.get("loss") is not None]
    return min(known, key=lambda record: record["loss"], default={})


def _of(function: Callable[..., float], *values: float | None) -> float | None:
    if None in values:
        return None
    try:
        return function(*values)
    except (OverflowError, ZeroDivisionError):
        return None


def _finite(value: Any) -> float | None:
    known = isinstance(value, (int, float)) and math.isfinite(value)
    return value if known else None


def shown(metric: Metric, value: float | None, half: float | None = None) -> str:
    """A value as a person reads it, with ± `half` (its interval's half-width) if there is one.

    The half-width has at least two digits, and the value has as many decimals.
    """
    if value is None:
        return "–"
    value = value * metric.scale
    half = None if half is None else half * metric.scale
    if metric.form == "e":
        return f"{value:.3g}" + (f" ± {half:.2g}" if half else "")
    decimals = 0 if metric.form == "count" else metric.decimals
    if half and metric.form != "count":
        digits = 1 - math.floor(math.log10(half))
        decimals = min(max(digits, metric.decimals - 1, 0), metric.decimals + 1)
    elif abs(value) >= 1000 and metric.decimals <= 2:
        decimals = 0
    text = f"{value:,.{decimals}f}".replace("-", "−")
    text = text if text.strip("−0.,") else text.removeprefix("−")  # no minus before a zero
    if not half:
        return text
    width = f"{half:,.{decimals}f}"
    return f"{text} ± {width if float(width.replace(',', '')) else f'{half:.1g}'}"


def difference_shown(metric: Metric, value: float, half: float | None) -> str:
    """A difference with its sign, and ± its half-width: '+0.031 ± 0.012'; zero has no sign."""
    text = shown(metric, value, half)
    zero = not text.partition(" ")[0].strip("0.,")
    return text if text.startswith("−") or zero else f"+{text}"


def amount(
    metric: Metric, value: float, half: float | None = None, *, difference: bool = False
) -> str:
    """A value with its unit: '0.03 ± 0.01 nats/token'. Percentages differ by points."""
    unit = "points" if difference and metric.unit == "%" else metric.unit
    return f"{shown(metric, value, half)} {unit}".rstrip()


def heading(metric: Metric) -> str:
    """A column's title with its unit."""
    plain = metric.unit and metric.unit != "1/s"
    return f"{metric.title} ({metric.unit})" if plain else metric.title
