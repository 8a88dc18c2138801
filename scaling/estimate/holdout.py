"""Hold-out: fit below a compute cut, predict above it, and see how far off the law is there."""

import dataclasses
from typing import Any

import numpy as np

from scaling.errors import ScalingError
from scaling.estimate.fit import Fit, fit
from scaling.records.records import Records, spread


@dataclasses.dataclass(frozen=True)
class HoldOut:
    """A fit to the points of at most `cut` FLOPs, judged by the points above.

    Attributes:
      fit: of the points below; whole: of all points.
      held: the points above; predicted, low, high: the law there with its interval, (m,).
      errors: predicted / measured - 1, (m,).
      drift: for budgets, the optimal N of both fits and their ratio.
      run_low, run_high: the interval of a single run there, (m,). Of more than 1,000 points both
        intervals are taken for as many, evenly spread over compute, and are NaN for the others.
    """

    cut: float
    fit: Fit
    whole: Fit
    held: Records
    predicted: np.ndarray
    low: np.ndarray
    high: np.ndarray
    errors: np.ndarray
    drift: list[dict[str, float]]
    run_low: np.ndarray | None = None
    run_high: np.ndarray | None = None

    @property
    def within(self) -> dict[str, tuple[int, int]]:
        """How many measured losses lie in the interval of the "law" and of a "run", and of how
        many; empty without intervals."""
        pairs = {"law": (self.low, self.high), "run": (self.run_low, self.run_high)}
        found = {}
        for name, (low, high) in pairs.items():
            if low is None or high is None:
                continue
            if (known := np.isfinite(low) & np.isfinite(high)).any():
                inside = (self.held.loss >= low) & (self.held.loss <= high)
                found[name] = (int(np.sum(inside & known)), int(np.sum(known)))
        return found

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the cut, the parameters below it, a row for each held point, the drift.

        Of more than 1,000 held points as many have a row, evenly spread over compute.
        """
        columns = {
            "run": self.held.run,
            "N": self.held.N,
            "D": self.held.D,
            "C": self.held.C,
            "loss": self.held.loss,
            "predicted": self.predicted,
            "low": self.low,
            "high": self.high,
            "run_low": self.run_low,
            "run_high": self.run_high,
            "error": self.errors,
        }
        columns = {name: column for name, column in columns.items() if column is not None}
        rows = [
            {name: column[i].item() for name, column in columns.items()}
            for i in spread(self.held.C)
        ]
        return {
            "cut": self.cut,
            "fitted": self.fit.n_points,
            "parameters": self.fit.parameters,
            "held_points": len(self.held),
            "held": rows,
            "level": self.fit.level,
            "within_interval_of": {
                name: {"inside": inside, "of": count}
                for name, (inside, count) in self.within.items()
            },
            "mean_absolute_error": float(np.mean(np.abs(self.errors))),
            "drift": self.drift,
        }


def hold_out(records: Records, whole: Fit, cut: float, **options: Any) -> HoldOut:
    """Fit the records of at most `cut` FLOPs as `whole` was fitted, and predict the others.

    Args:
      options: keywords of `fit`.

    Raises:
      ScalingError: nothing above the cut, or too little below it.
    """
    below = records.C <= cut
    if np.all(below):
        raise ScalingError(
            f"no record lies above the hold-out cut of {cut:.4g} FLOPs; the largest has "
            f"{np.max(records.C):.4g}."
        )
    if np.sum(below) < len(whole.law.coordinates):
        raise ScalingError(
            f"only {int(np.sum(below))} records lie below the hold-out cut of {cut:.4g} FLOPs, too "
            f"few for the {len(whole.law.coordinates)} parameters of law={whole.law.name}.\n"
            f"Compute runs from {np.min(records.C):.4g} to {np.max(records.C):.4g} FLOPs."
        )
    lower = fit(records.where(below), whole.law, **options)
    held = records.where(~below)
    columns = {v: getattr(held, "unique" if v == "U" else v) for v in lower.law.variables}
    predicted = lower.law.loss(lower.theta, **columns)
    low, high, run_low, run_high = np.full((4, len(held)), np.nan)
    for i in spread(held.C) if len(lower.samples) else []:
        law_S = lower.law.loss(lower.samples, **{name: x[i] for name, x in columns.items()})
        _, low[i], high[i] = lower.interval_from(predicted[i], law_S)
        run_low[i], run_high[i] = lower.run_interval(predicted[i], law_S)
    drift = []
    if lower.divides_compute:
        for C in whole.default_budgets():
            N_below, N_all = lower.allocation(C)["N"], whole.allocation(C)["N"]
            drift.append({"C": C, "N_below": N_below, "N_all": N_all, "ratio": N_below / N_all})
    errors = predicted / held.loss - 1
    return HoldOut(cut, lower, whole, held, predicted, low, high, errors, drift, run_low, run_high)


def cut_of(records: Records, text: str | float) -> float:
    """The compute that `text` cuts at: FLOPs (1e21), or "10x": a tenth of the largest.

    Raises:
      ScalingError: neither.
    """
    word = str(text).strip().lower()
    try:
        value = float(word.removesuffix("x"))
    except ValueError:
        value = -1.0
    if not value > 0 or not np.isfinite(value) or (word.endswith("x") and value <= 1):
        raise ScalingError(
            f"holdout={text!r} is neither FLOPs, such as 1e21, nor a factor above 1, such as 10x."
        )
    if word.endswith("x"):
        return float(np.max(records.C)) / value * (1 + 1e-9)
    return value
