"""Warnings about a fit and its records, one line each."""

import numpy as np

from scaling.law.problem import Problem
from scaling.records.records import Records

_FEW_RESAMPLES = 100  # with fewer, at most two are beyond each end of a 95 % interval
_FEW_RUNS = 8
_POOR = 0.05  # a good fit has smaller residuals (std of log loss)
_EXPLAINED = 0.9  # a good fit explains more of the variance of log loss


def warn(
    records: Records,
    problem: Problem,
    theta: np.ndarray,
    samples: np.ndarray,
    converged: np.ndarray,
) -> list[str]:
    """The warnings of a fit: about its records, residuals, convergence and resamples.

    Args:
      theta: (P,) the fit, centred.
      samples: (S, P) resamples, centred.
      converged: (K,) bool, for each descent.
    """
    found = _of_records(records, problem) + _of_residuals(records, problem, theta)
    if np.mean(converged) < 0.5:
        found.append(f"only {int(np.sum(converged))} of {len(converged)} descents converged")
    runs = len(set(records.run))
    if len(samples) and runs < min(len(records), _FEW_RUNS):
        found.append(
            f"the {len(records)} points come from only {runs} runs, and the bootstrap draws whole "
            "runs: its intervals are rough"
        )
    if 0 < len(samples) < _FEW_RESAMPLES:
        found.append(
            f"{len(samples)} resamples are too few for the ends of an interval: use about 1,000"
        )
    if len(samples):
        dead = np.mean(
            [bool(problem.defects(theta)) for theta in samples[:: max(1, len(samples) // 200)]]
        )
        if dead > 0.01:
            found.append(
                f"{100 * dead:.0f} % of the resamples are degenerate: the data hardly determine "
                "all terms"
            )
    return found


def _of_records(records: Records, problem: Problem) -> list[str]:
    found = list(records.warnings)
    law = problem.law
    if len(records) < 8:
        found.append(f"only {len(records)} points for {problem.basis.shape[1]} parameters")
    for variable in law.variables:
        span = np.ptp(problem.logs[variable]) / np.log(10)
        if span < 1:
            found.append(f"{variable} spans only {span:.2f} decades, so its exponent is uncertain")
    if {"N", "D"} <= set(law.variables) and len(records) > 2:
        x, y = problem.logs["N"], problem.logs["D"]
        together = np.corrcoef(x, y)[0, 1] if min(np.ptp(x), np.ptp(y)) > 0 else 0.0
        if abs(together) > 0.98:
            how = "rise together" if together > 0 else "vary inversely (one budget?)"
            found.append(f"N and D {how}, so their terms can hardly be distinguished")
    small = int(np.sum(records.N < 50e6))
    if records.natural_text and small and "N" in law.variables:
        which = "" if records.count == "non_embedding" else f" (N is {records.count})"
        found.append(
            f"{small} of {len(records)} models are below 50M non-embedding parameters{which}, "
            "where the law may not hold on natural text"
        )
    if records.middle is not None and np.any(records.middle):
        found.append(
            f"{int(np.sum(records.middle))} points are from before the end of a run's schedule, "
            "where a high learning rate still raises the loss"
        )
    if records.count == "unstated":
        found.append("the records do not state whether N counts embeddings")
    return found


def _of_residuals(records: Records, problem: Problem, theta: np.ndarray) -> list[str]:
    found = []
    residual = problem.residuals(theta)
    std, spread = np.std(residual), np.std(problem.log_loss)
    explained = 1 - (std / spread) ** 2 if spread > 0 else 0.0
    if std > 1e-9 and (std > _POOR or explained < _EXPLAINED):
        found.append(
            f"a poor fit: residuals of {100 * std:.2g} % (std), while the losses vary by "
            f"{100 * spread:.2g} %, so the law explains {100 * max(explained, 0.0):.0f} % of their "
            "variance"
        )
    if records.floor is not None:
        below = int(np.sum(records.loss < records.floor))
        if below:
            found.append(
                f"{below} of {len(records)} losses are below the stated entropy floor of "
                f"{records.floor:.5g}: the floor or the losses are wrong"
            )
    E = problem.fixed.get("E")
    if E is not None and np.any(records.loss < E):
        found.append(f"{int(np.sum(records.loss < E))} losses are below the fixed E = {E:.5g}")
    return found


def of_the_floor(floor: float | None, E: float | None, low: float, high: float) -> list[str]:
    """A warning if the interval of E excludes the exact entropy of the corpus."""
    if floor is None or E is None or not np.isfinite(low) or low <= floor <= high:
        return []
    side = "above" if low > floor else "below"
    return [
        f"E = {E:.5g} (interval {low:.5g} to {high:.5g}) is {side} the exact entropy {floor:.5g}, "
        "so for these runs the law does not hold down to its floor"
    ]
