"""Power laws X = coefficient C^exponent through minima, and their bootstrap.

Shapes: R resamples (row 0: the original data), B minima, n points.
"""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

Json = dict[str, Any]
"""The content of a JSON file; its values may be anything that `plain` returns."""
SAME = 1e-3
"""Logs closer than this count as one value: equally planned sizes differ by rounding."""


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """X = coefficient C^exponent with bootstrap intervals; nan if no resample could be fitted."""

    coefficient: float
    exponent: float
    coefficient_interval: tuple[float, float]
    exponent_interval: tuple[float, float]
    level: float
    points: int  # number of minima fitted
    resamples_used: int
    samples_Rx2: np.ndarray = dataclasses.field(repr=False)  # ln coefficient, exponent

    def at(self, C: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(X, low, high) at the compute C in FLOPs, each with the shape of C."""
        log_C = np.log(np.asarray(C, float))
        samples = self.samples_Rx2[:, :1] + self.samples_Rx2[:, 1:] * log_C.reshape(-1)
        ends = (np.exp(end).reshape(log_C.shape) for end in interval(samples, self.level))
        return (self.coefficient * np.exp(self.exponent * log_C), *ends)

    def to_dict(self) -> Json:
        """For JSON, without the samples."""
        return plain({k: v for k, v in vars(self).items() if k != "samples_Rx2"})


def power_law(
    log_C_B: np.ndarray, log_X_RxB: np.ndarray, used_RxB: np.ndarray, level: float
) -> PowerLaw:
    """Fit X = coefficient C^exponent by least squares in logs, for each resample.

    Args:
      log_C_B: ln of the compute of each minimum.
      log_X_RxB: ln N or ln D of the minima.
      used_RxB: bool, the minima to fit.
      level: confidence level of the intervals.
    """
    lines_Rx2 = line(log_C_B, log_X_RxB, used_RxB)
    samples = lines_Rx2[1:][np.isfinite(lines_Rx2[1:]).all(1)]
    ends = interval(samples, level)
    with np.errstate(over="ignore"):
        coefficient_interval = tuple(np.exp([end[0] for end in ends]).tolist())
        coefficient = float(np.exp(lines_Rx2[0, 0]))
    return PowerLaw(
        coefficient=coefficient,
        exponent=float(lines_Rx2[0, 1]),
        coefficient_interval=coefficient_interval,
        exponent_interval=(float(ends[0][1]), float(ends[1][1])),
        level=level,
        points=int(used_RxB[0].sum()),
        resamples_used=len(samples),
        samples_Rx2=samples,
    )


def line(x_B: np.ndarray, y_RxB: np.ndarray, used_RxB: np.ndarray) -> np.ndarray:
    """(R, 2): intercept and slope by least squares; nan with fewer than two different x."""
    used = used_RxB.astype(float)
    y = np.where(used_RxB, y_RxB, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_x = (used @ x_B) / used.sum(1)
        mean_y = y.sum(1) / used.sum(1)
        from_mean = used * (x_B - mean_x[:, None])
        spread = (from_mean**2).sum(1)
        slope = np.where(spread > 1e-12, (from_mean * y).sum(1) / spread, np.nan)
    return np.stack([mean_y - slope * mean_x, slope], 1)


def distinct(x_n: np.ndarray, tolerance: float = SAME) -> np.ndarray:
    """(n,): the rank of each value among the distinct values.

    Values within `tolerance` of the smallest of a group count as one.
    """
    order = np.argsort(x_n, kind="stable")
    ascending, place_n, number, start = x_n[order], np.empty(len(x_n), int), 0, 0
    while start < len(ascending):
        end = np.searchsorted(ascending, ascending[start] + tolerance, side="right")
        place_n[order[start:end]] = number
        number, start = number + 1, end
    return place_n


def count_distinct(x_n: np.ndarray) -> int:
    """The number of distinct values; see `distinct`."""
    return int(distinct(x_n).max(initial=-1)) + 1


def draws(generator: np.random.Generator, resamples: int, n: int) -> np.ndarray:
    """(R, n): how often each point is drawn; once in row 0, at random in the others."""
    counts = generator.multinomial(n, np.full(n, 1 / n), size=resamples)
    return np.concatenate([np.ones((1, n)), counts])


def interval(samples: np.ndarray, level: float) -> np.ndarray:
    """The ends (2, ...) of the central interval with share `level` of samples (R, ...).

    nan without samples.
    """
    if not len(samples):
        return np.full((2, *samples.shape[1:]), np.nan)
    return np.quantile(samples, [(1 - level) / 2, (1 + level) / 2], axis=0)


def plain(value: Any) -> Any:
    """Convert a value to dicts, lists and numbers for JSON; numbers not finite become None."""
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    return None if isinstance(value, float) and not np.isfinite(value) else value
