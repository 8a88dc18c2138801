"""What a careful reader of a fit to these records should know, as warnings of one line each."""

import numpy as np

from scaling.law.problem import Problem
from scaling.records.records import Records

_FEW_RESAMPLES = 100  # fewer leave two or less beyond an end of a 95 % interval
_FEW_RUNS = 8
_POOR = 0.05  # residuals (std of log loss) that no good fit has
_EXPLAINED = 0.9  # of the variance of log loss


def warn(
    records: Records,
    problem: Problem,
    theta: np.ndarray,
    samples: np.ndarray,
    converged: np.ndarray,
) -> list[str]:
    """The warnings of a fit: its records, its residuals, its starts, its resamples."""
    found = _of_records(records, problem) + _of_residuals(records, problem, theta)
    if np.mean(converged) < 0.5:
        found.append(f"only {int(np.sum(converged))} of {len(converged)} descents converged")
    runs = len(set(records.run))
    if len(samples) and runs < min(len(records), _FEW_RUNS):
        found.append(
            f"the {len(records)} points are of {runs} runs only, and whole runs are drawn: the "
            "bootstrap intervals are a guess"
        )
    if 0 < len(samples) < _FEW_RESAMPLES:
        found.append(
            f"{len(samples)} resamples are too few for the ends of an interval: take 1,000 or so"
        )
    if len(samples):
        dead = np.mean(
            [bool(problem.defects(theta)) for theta in samples[:: max(1, len(samples) // 200)]]
        )
        if dead > 0.01:
            found.append(
                f"{100 * dead:.0f} % of the resamples are degenerate: the data hardly hold "
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
            found.append(f"{variable} spans only {span:.2f} decades; its exponent is a guess")
    if {"N", "D"} <= set(law.variables) and len(records) > 2:
        x, y = problem.logs["N"], problem.logs["D"]
        together = np.corrcoef(x, y)[0, 1] if min(np.ptp(x), np.ptp(y)) > 0 else 0.0
        if abs(together) > 0.98:
            how = "rise together" if together > 0 else "fall against each other (one budget?)"
            found.append(f"N and D {how}; their terms can hardly be told apart")
    small = int(np.sum(records.N < 50e6))
    if records.natural_text and small and "N" in law.variables:
        which = "" if records.count == "non_embedding" else f" (N is {records.count})"
        found.append(
            f"{small} of {len(records)} models are below 50M non-embedding parameters{which}, "
            "where the law may not hold on natural text"
        )
    if records.middle is not None and np.any(records.middle):
        found.append(
            f"{int(np.sum(records.middle))} points come from the middle of a run's schedule; while "
            "the learning rate is high their loss is too"
        )
    if records.count == "unstated":
        found.append("whether N counts embeddings is not stated in the records")
    return found


def _of_residuals(records: Records, problem: Problem, theta: np.ndarray) -> list[str]:
    found = []
    residual = problem.residuals(theta)
    std, spread = np.std(residual), np.std(problem.log_loss)
    explained = 1 - (std / spread) ** 2 if spread > 0 else 0.0
    if std > 1e-9 and (std > _POOR or explained < _EXPLAINED):
        found.append(
            f"a poor fit: residuals of {100 * std:.2g} % (std) where the losses themselves vary by "
            f"{100 * spread:.2g} %: the law explains {100 * max(explained, 0.0):.0f} % of their "
            "variance"
        )
    if records.floor is not None:
        below = int(np.sum(records.loss < records.floor))
        if below:
            found.append(
                f"{below} of {len(records)} losses lie below the stated entropy floor of "
                f"{records.floor:.5g}: the floor or the losses are wrong"
            )
    E = problem.fixed.get("E")
    if E is not None and np.any(records.loss < E):
        found.append(f"{int(np.sum(records.loss < E))} losses lie below the fixed E = {E:.5g}")
    return found


def of_the_floor(floor: float | None, E: float | None, low: float, high: float) -> list[str]:
    """A word where the fitted E and the exact entropy of the corpus disagree."""
    if floor is None or E is None or not np.isfinite(low) or low <= floor <= high:
        return []
    side = "above" if low > floor else "below"
    return [
        f"E = {E:.5g} (from {low:.5g} to {high:.5g}) lies {side} the exact entropy {floor:.5g}: "
        "the law does not hold for these runs down to its floor"
    ]
