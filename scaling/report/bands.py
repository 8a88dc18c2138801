"""Curves of a fitted law with their intervals over the bootstrap resamples, for figures.

Shapes: G places of a curve, S resamples.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from scaling.estimate.bootstrap import interval
from scaling.law import allocate
from scaling.law.laws import Law

if TYPE_CHECKING:
    from scaling.estimate.fit import Fit

Values = dict[str, np.ndarray]

EXTRAPOLATE = 10.0  # curves extend to this many times the largest value of the records
_PLACES, _NUMERIC_PLACES = 60, 24
_MOST_RESAMPLES = 400  # for laws without a closed-form allocation
_FRESH = 1e300  # distinct tokens for a law that needs them: more than any run sees


def places(fit: "Fit", values: np.ndarray) -> np.ndarray:
    """Places (G,) to evaluate curves of the law: from the smallest value to beyond the largest."""
    numeric = divides_compute(fit.law) and allocate.coefficients(fit.law, fit.theta) is None
    count = _NUMERIC_PLACES if numeric else _PLACES
    # Values beyond 1e300 can be neither computed nor drawn.
    ends = np.clip([values.min(), EXTRAPOLATE * values.max()], 1e-300, 1e300)
    return np.geomspace(ends[0], ends[1], count)


def divides_compute(law: Law) -> bool:
    """Whether the law depends on at least two of N, D and C."""
    return len({"N", "D", "C"} & set(law.variables)) >= 2


def law_values(law: Law, N: ArrayLike, D: ArrayLike) -> dict[str, np.ndarray]:
    """The law's variables at N and D, if all tokens are distinct."""
    every = {"N": N, "D": D, "C": 6.0 * np.asarray(N) * np.asarray(D), "U": D}
    return {name: np.asarray(every[name], float) for name in law.variables}


def _with_bands(fit: "Fit", best: Values, spread: Values, samples: np.ndarray) -> Values:
    """Each estimate (G,) with its interval over the samples (S, G): (3, G), nan without samples.

    For laws with an E, `reducible` is the loss above it.
    """
    if "log_E" in fit.law.coordinates:
        best["reducible"] = best["L"] - fit.law.natural(fit.theta)["E"]
        spread["reducible"] = spread["L"] - fit.law.natural(samples)["E"][:, None]
    bands = {name: np.full((3, len(value)), np.nan) for name, value in best.items()}
    for name, band in bands.items():
        band[0] = best[name]
        if len(samples):
            columns = zip(spread[name].T, best[name], strict=True)
            ends = [interval(column, value, fit.level) for column, value in columns]
            band[1:] = np.transpose(ends)
    return bands


def allocation_bands(fit: "Fit", C_G: np.ndarray) -> dict[str, np.ndarray]:
    """Optimal N, D and loss L, and the loss above E, at compute C_G: (3, G) each.

    The rows are the estimate and the ends of its interval.
    """
    law, samples = fit.law, fit.samples
    unique = _FRESH if "U" in law.variables else None
    if allocate.coefficients(law, fit.theta) is None and len(samples) > _MOST_RESAMPLES:
        samples = samples[:: len(samples) // _MOST_RESAMPLES]
    best = dict(zip("NDL", allocate.optimal(law, fit.theta, C_G, unique=unique), strict=True))
    spread = dict.fromkeys("NDL", np.empty((0, len(C_G))))
    if len(samples):
        spread = dict(zip("NDL", allocate.optimal(law, samples, C_G, unique=unique), strict=True))
    return _with_bands(fit, best, spread, samples)


def curve_bands(fit: "Fit", x_G: np.ndarray) -> dict[str, np.ndarray]:
    """As `allocation_bands`, for a law of one variable: its loss at values x_G of the variable."""
    law, (variable,) = fit.law, fit.law.variables
    best = {"L": law.loss(fit.theta, **{variable: x_G})}
    spread = {"L": law.loss(fit.samples[:, None], **{variable: x_G})}
    return _with_bands(fit, best, spread, fit.samples)
