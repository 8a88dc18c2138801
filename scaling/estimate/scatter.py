"""The scatter of single runs about a fitted law, and the prediction interval of the next run.

The interval of the law covers only the law's value. Runs scatter about it because of seed, data
order and imperfect settings, so a measured loss must be compared with an interval that includes
both. The scatter is taken directly from the residuals of the fit in log loss; only its tails, with
few points, assume Student's t distribution.

Shapes: n points, M quantiles, S resamples, K pairs.
"""

import numpy as np
from scipy import special

from scaling.estimate.bootstrap import interval

MOST = 401  # quantiles kept of the residuals, at most
# A lattice that fills the unit square evenly (consecutive Fibonacci numbers; Korobov 1959). It
# pairs each quantile of the law with one of the scatter; random pairs would be noisier.
_PAIRS, _STRIDE = 4181, 2584


def scatter_of(residual_n: np.ndarray, weight_n: np.ndarray, parameters: int) -> np.ndarray:
    """Quantiles (M,) of the scatter of runs in log loss, at the probabilities m / (M + 1).

    With these probabilities a new draw is below the m-th of M sorted draws, whatever their
    distribution. Residuals are smaller than the scatter because the fit follows the points, so they
    are multiplied by sqrt(n / (n - parameters)).

    Args:
      residual_n: residuals in log loss.
      weight_n: weights of the points; points with weight 0 are ignored.
      parameters: number of free parameters of the fit.

    Returns:
      Quantiles in ascending order; empty if there are no more points than parameters, or if a
      residual is not finite.
    """
    used = weight_n > 0
    residual_n, weight_n = residual_n[used], weight_n[used]
    n = len(residual_n)
    if n <= parameters or not np.all(np.isfinite(residual_n)):
        return np.empty(0)
    order = np.argsort(residual_n, kind="stable")
    wide_n = residual_n[order] * np.sqrt(n / (n - parameters))
    if n <= MOST and np.ptp(weight_n) == 0:
        return wide_n
    place_n = np.cumsum(weight_n[order]) / np.mean(weight_n) / (n + 1)
    count = min(n, MOST)
    return np.interp(np.arange(1, count + 1) / (count + 1), place_n, wide_n)


def quantile(scatter_M: np.ndarray, freedom: int, probability: np.ndarray) -> np.ndarray:
    """Quantiles of the scatter at these probabilities; Student's t continues it beyond its ends."""
    count = len(scatter_M)
    inner_M = np.arange(1, count + 1) / (count + 1)
    middle = np.interp(probability, inner_M, scatter_M)
    beyond = special.stdtrit(freedom, probability)
    low, high = special.stdtrit(freedom, inner_M[[0, -1]])
    return middle + np.std(scatter_M) * (np.minimum(beyond - low, 0) + np.maximum(beyond - high, 0))


def run_interval(
    law_S: np.ndarray, estimate: float, scatter_M: np.ndarray, freedom: int, level: float
) -> tuple[float, float]:
    """The interval of a single run's loss; the ends are NaN if law or scatter is unknown.

    The quantiles of the law are those of its bias-corrected interval (`bootstrap.interval`).

    Args:
      law_S: the law's loss for each resample of the fit.
      estimate: the law's loss for the fit itself.
      scatter_M: from `scatter_of`.
      freedom: number of points minus free parameters.
      level: confidence level.
    """
    law_S = np.sort(law_S[np.isfinite(law_S) & (law_S > 0)])
    if not (len(law_S) and len(scatter_M) and estimate > 0):
        return float("nan"), float("nan")
    pair = np.arange(_PAIRS)
    below = np.mean(law_S < estimate) + 0.5 * np.mean(law_S == estimate)
    bias = special.ndtri(np.clip(below, 0.5 / len(law_S), 1 - 0.5 / len(law_S)))
    share = special.ndtr(2 * bias + special.ndtri((pair + 0.5) / _PAIRS))
    place = np.minimum((share * len(law_S)).astype(int), len(law_S) - 1)
    scattered = quantile(scatter_M, freedom, (pair * _STRIDE % _PAIRS + 0.5) / _PAIRS)
    log_run = np.log(law_S)[place] + scattered
    with np.errstate(over="ignore"):
        low, high = np.exp(np.quantile(log_run, [(1 - level) / 2, (1 + level) / 2]))
    # A run cannot be more certain than the law: except for rounding, this changes nothing.
    law_low, law_high = interval(law_S, estimate, level)
    return float(min(low, law_low)), float(max(high, law_high))
