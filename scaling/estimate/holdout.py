"""Hold-out: fit below a compute cut, predict above it, and compare with the measured losses."""

import dataclasses
from typing import Any

import numpy as np

from scaling.errors import ScalingError
from scaling.estimate.fit import Fit, fit
from scaling.records.records import Records, spread


@dataclasses.dataclass(frozen=True)
class HoldOut:
    """A fit to the points of at most `cut` FLOPs, compared with the m points above.

    Attributes:
      cut: compute in FLOPs.
      fit: the fit to the points below the cut.
      whole: the fit to all points.
      held: the points above the cut.
      predicted, low, high: (m,) the law's loss at the held-out points, with its interval.
      errors: (m,) predicted / measured - 1.
      drift: for some budgets, the optimal N of both fits and their ratio.
      run_low, run_high: (m,) the interval of a single run. With more than 1,000 points, both
        intervals are computed for 1,000, evenly spread over compute, and are NaN for the others.
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
        """{"law": (inside, of), "run": (inside, of)}: the measured losses inside each interval.

        Empty without intervals.
        """
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
        """For JSON: the cut, the parameters below it, a row for each held-out point, the drift.

        At most 1,000 held-out points have a row, evenly spread over compute.
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
    """Fit the law of `whole` to the records of at most `cut` FLOPs, and predict the others.

    Args:
      records: all records.
      whole: the fit to all records.
      cut: compute in FLOPs.
      options: keywords of `fit`.

    Raises:
      ScalingError: no record above the cut, or too few below it.
    """
    below = records.C <= cut
    if np.all(below):
        raise ScalingError(
            f"no record is above the hold-out cut of {cut:.4g} FLOPs; the largest has "
            f"{np.max(records.C):.4g}."
        )
    if np.sum(below) < len(whole.law.coordinates):
        raise ScalingError(
            f"only {int(np.sum(below))} records are below the hold-out cut of {cut:.4g} FLOPs, too "
            f"few for the {len(whole.law.coordinates)} parameters of law={whole.law.name}.\n"
            f"Compute ranges from {np.min(records.C):.4g} to {np.max(records.C):.4g} FLOPs."
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
    """Parse a hold-out cut: FLOPs such as 1e21, or "10x" for a tenth of the largest compute.

    Returns:
      The cut in FLOPs.

    Raises:
      ScalingError: the text is neither.
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
