"""How single runs scatter about a fitted law, and the interval in which the next one will lie.

The interval of the law says where the law is; a run lies off it by what makes runs differ (seed,
data order, settings that are not quite the best), and only the sum of both may be compared with a
measured loss. That scatter is taken from the residuals of the fit, in log loss, as they are: no
normal law is assumed but in the tails of few points.

Shapes: n points, M quantiles, S resamples, K pairs.
"""

import numpy as np
from scipy import special

from scaling.estimate.bootstrap import interval

MOST = 401  # quantiles that are kept of the residuals of many points
# A lattice that fills the unit square evenly (consecutive Fibonacci numbers; Korobov 1959): it
# pairs each quantile of the law with one of the scatter, where random pairs would be noisier.
_PAIRS, _STRIDE = 4181, 2584


def scatter_of(residual_n: np.ndarray, weight_n: np.ndarray, parameters: int) -> np.ndarray:
    """Quantiles (M,) of the scatter of runs in log loss, at the probabilities m / (M + 1).

    At these a new draw from the same law lies below the m-th of M sorted draws, whatever that law
    is. Residuals are shorter than the scatter, as the fit has followed the points; they are
    widened by sqrt(n / (n - parameters)). Points without weight do not count.

    Empty where there are no more points than parameters, or residuals that are not finite.
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
    """The scatter at these probabilities; beyond its ends it goes on as Student's t does."""
    count = len(scatter_M)
    inner_M = np.arange(1, count + 1) / (count + 1)
    middle = np.interp(probability, inner_M, scatter_M)
    beyond = special.stdtrit(freedom, probability)
    low, high = special.stdtrit(freedom, inner_M[[0, -1]])
    return middle + np.std(scatter_M) * (np.minimum(beyond - low, 0) + np.maximum(beyond - high, 0))


def run_interval(
    law_S: np.ndarray, estimate: float, scatter_M: np.ndarray, freedom: int, level: float
) -> tuple[float, float]:
    """The interval of a single run's loss; NaN ends where law or scatter is not known.

    Args:
      law_S: the law's loss there, of each resample of the fit; estimate: of the fit itself.
      scatter_M, freedom: as `scatter_of` gives it; points less parameters.

    The law's quantiles are those of its own bias-corrected interval (`bootstrap.interval`).
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
    # What is not sure of the law cannot be surer of a run: rounding aside, this changes nothing.
    law_low, law_high = interval(law_S, estimate, level)
    return float(min(low, law_low)), float(max(high, law_high))
