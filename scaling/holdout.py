"""Hold-out: fit below a compute cut, predict above it, and see how far off the law is there."""

import dataclasses
from typing import Any

import numpy as np

from scaling.errors import ScalingError
from scaling.fit import Fit, fit
from scaling.records import Records


@dataclasses.dataclass(frozen=True)
class HoldOut:
    """A fit to the points of at most `cut` FLOPs, judged by the points above.

    Attributes:
      fit: of the points below; whole: of all points.
      held: the points above; predicted, low, high: the law there with its interval, (m,).
      errors: predicted / measured - 1, (m,).
      drift: for budgets, the optimal N of both fits and their ratio.
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

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the cut, the parameters below it, one row for each held point, the drift."""
        columns = {
            "run": self.held.run,
            "N": self.held.N,
            "D": self.held.D,
            "C": self.held.C,
            "loss": self.held.loss,
            "predicted": self.predicted,
            "low": self.low,
            "high": self.high,
            "error": self.errors,
        }
        rows = [
            {name: column[i].item() for name, column in columns.items()}
            for i in range(len(self.held))
        ]
        return {
            "cut": self.cut,
            "fitted": self.fit.n_points,
            "parameters": self.fit.parameters,
            "held": rows,
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
    rows = [
        lower.predict(**{name: float(column[i]) for name, column in columns.items()})
        for i in range(len(held))
    ]
    predicted, low, high = np.array(rows).T
    drift = []
    if lower.divides_compute:
        for C in whole.default_budgets():
            N_below, N_all = lower.allocation(C)["N"], whole.allocation(C)["N"]
            drift.append({"C": C, "N_below": N_below, "N_all": N_all, "ratio": N_below / N_all})
    errors = predicted / held.loss - 1
    return HoldOut(cut, lower, whole, held, predicted, low, high, errors, drift)


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
