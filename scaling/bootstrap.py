"""How sure a fit is: bootstrap intervals, the profile of the objective, and ellipses.

Shapes: S resamples, n points, P coordinates, G clusters (runs).
"""

import dataclasses

import numpy as np
from scipy import stats

from scaling.errors import ScalingError
from scaling.one_step import MANY, one_step
from scaling.problem import Problem

_CROWDING = 4.0  # spacing of the profile: 0.15 standard errors in the middle, 4 at the ends


def resample_weights(runs: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """How often each point is drawn, (S, n): whole runs with replacement (points share a run)."""
    _, cluster = np.unique(runs, return_inverse=True)
    groups = cluster.max() + 1
    generator = np.random.Generator(np.random.Philox(seed))
    drawn = generator.multinomial(groups, np.full(groups, 1 / groups), size=resamples)
    return drawn[:, cluster].astype(float)


def bootstrap(
    problem: Problem,
    theta: np.ndarray,
    runs: np.ndarray,
    resamples: int,
    seed: int = 0,
    starts: int = 1,
) -> np.ndarray:
    """Refits to resampled runs (Efron 1979): centred coordinates, (S, P).

    Args:
      theta: the fit (P,), where each refit begins.
      starts: further begins are the law's own starts that promise most; the best refit counts.

    Of 5,000 points and more, each resample is one Newton step from the fit: see `one_step`.
    """
    if len(problem) >= MANY:
        return one_step(problem, theta, runs, resamples, seed)
    weights = resample_weights(runs, resamples, seed) * problem.weights
    begin = theta[None]
    if starts > 1:
        begin = np.concatenate([begin, _spread(problem, starts - 1)])
    return problem.refit(begin, weights)


def _spread(problem: Problem, count: int) -> np.ndarray:
    """The `count` starts of lowest objective among the law's own."""
    starts = problem.starts()
    sizes = [np.sum(np.abs(problem.residuals(start)) * problem.weights) for start in starts]
    return starts[np.argsort(sizes, kind="stable")[:count]]


def interval(samples: np.ndarray, estimate: float, level: float) -> tuple[float, float]:
    """Bias-corrected percentile interval (Efron 1981) of a quantity from its resamples (S,).

    Measured coverage of this and of other bootstrap intervals: docs/DECISIONS.md.
    Undefined resamples (NaN) are left out; without any defined one both ends are NaN.
    """
    samples = samples[~np.isnan(samples)]
    if len(samples) == 0:
        return float("nan"), float("nan")
    below = np.mean(samples < estimate) + 0.5 * np.mean(samples == estimate)
    bias = stats.norm.ppf(np.clip(below, 0.5 / len(samples), 1 - 0.5 / len(samples)))
    tails = stats.norm.ppf([(1 - level) / 2, (1 + level) / 2])
    low, high = np.quantile(samples, stats.norm.cdf(2 * bias + tails), method="closest_observation")
    return float(low), float(high)


@dataclasses.dataclass(frozen=True)
class Profile:
    """The objective minimized over all other coordinates while one quantity is held at `values`.

    `drop` is the likelihood-ratio statistic, which passes `threshold` at the interval's ends; an
    end beyond the values tried is infinite.
    """

    name: str
    values: np.ndarray
    drop: np.ndarray
    threshold: float
    low: float
    high: float


def profile(
    problem: Problem, theta: np.ndarray, level: float, span: float = 30.0, count: int = 61
) -> dict[str, Profile]:
    """Profile likelihood of each natural parameter: a second opinion on the bootstrap.

    The robust likelihood-ratio test of M-estimators (Heritier and Ronchetti 1994): twice the rise
    of the objective, times E[psi'] / E[psi^2], is chi-squared, here compared with F for few points.
    It assumes independent residuals of one distribution; the bootstrap does not.

    Args:
      span: values tried, in standard errors (of the sandwich estimate) on either side; they lie
        closer together near the estimate. Many points leave nearly a parabola, of which fewer do.
    """
    if len(problem) >= MANY:
        span, count = min(span, 6.0), min(count, 21)
    law, size = problem.law, len(theta)
    residual = problem.residuals(theta)
    clipped = np.clip(residual, -problem.delta, problem.delta)
    freedom = max(len(problem) - size, 1)
    noise = np.sum(problem.weights * clipped**2) / freedom
    bend = _mean_bend(residual, problem.delta)
    minimum = np.sum(problem.weights * _rho(residual, problem.delta))
    jacobian = _jacobian(problem, theta)
    information = bend * (jacobian.T * problem.weights) @ jacobian
    covariance = noise * np.linalg.pinv(information, hermitian=True) / max(bend, 1e-300)
    offsets = span * np.sinh(np.linspace(-_CROWDING, _CROWDING, count)) / np.sinh(_CROWDING)
    bases, planes, names = [], [], []
    for name in law.coordinates:
        direction = _functional(problem, name)
        error = np.sqrt(direction @ covariance @ direction)
        toward = covariance @ direction / max(error, 1e-300)
        bases.append(theta + offsets[:, None] * toward)
        null = np.linalg.svd(direction[None])[2][1:].T
        planes.append(np.broadcast_to(null, (count, *null.shape)))
        names.append((name, direction @ theta, error))
    if noise <= 1e-24:
        return {}
    least = problem.solve_on_planes(np.concatenate(bases), np.concatenate(planes))
    threshold = float(stats.f.ppf(level, 1, freedom))
    drops = 2 * bend / noise * (least.reshape(size, count) - minimum)
    return {
        name.removeprefix("log_"): _profile(name, centre + offsets * error, drop, threshold)
        for (name, centre, error), drop in zip(names, drops, strict=True)
    }


def _profile(name: str, values: np.ndarray, drop: np.ndarray, threshold: float) -> Profile:
    middle = len(values) // 2
    low = _crossing(values[middle::-1], drop[middle::-1], threshold, -np.inf)
    high = _crossing(values[middle:], drop[middle:], threshold, np.inf)
    if name.startswith("log_"):
        with np.errstate(over="ignore"):
            values, low, high = np.exp(values), np.exp(low), np.exp(high)
    return Profile(name.removeprefix("log_"), values, drop, threshold, float(low), float(high))


def _crossing(values: np.ndarray, drop: np.ndarray, threshold: float, beyond: float) -> float:
    """Where drop first passes threshold, walking outward; `beyond` if it never does."""
    over = np.flatnonzero(drop > threshold)
    if len(over) == 0 or over[0] == 0:
        return beyond
    i = over[0]
    # Near the estimate its root is linear.
    before, after = np.sqrt(np.maximum(drop[[i - 1, i]], 0))
    share = (np.sqrt(threshold) - before) / (after - before)
    return values[i - 1] + share * (values[i] - values[i - 1])


def _rho(residual: np.ndarray, delta: float) -> np.ndarray:
    size = np.abs(residual)
    return np.where(size < delta, 0.5 * size**2, delta * (size - 0.5 * delta))


def _mean_bend(residual: np.ndarray, delta: float) -> float:
    """E[psi'], the share of residuals within delta, from a kernel estimate of their density.

    With delta far below the noise only a few residuals lie within it, too few to count.
    """
    spread = 1.4826 * np.median(np.abs(residual - np.median(residual)))
    width = max(0.9 * spread * len(residual) ** -0.2, 1e-300)
    return float(
        np.mean(
            stats.norm.cdf((delta - residual) / width) - stats.norm.cdf((-delta - residual) / width)
        )
    )


def _jacobian(problem: Problem, theta: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """d ln L / d theta at the points, (n, P), by central differences."""
    columns = []
    for i in range(len(theta)):
        shift = np.zeros(len(theta))
        shift[i] = step * (1 + abs(theta[i]))
        change = problem.residuals(theta - shift) - problem.residuals(theta + shift)
        columns.append(change / (2 * shift[i]))
    return np.stack(columns, -1)


def _functional(problem: Problem, coordinate: str) -> np.ndarray:
    """The vector g with g . theta (centred) = the absolute coordinate, up to a constant."""
    law = problem.law
    direction = np.zeros(len(law.coordinates))
    direction[law.at(coordinate)] = 1.0
    for coefficient, exponent, variable in law.scales:
        if coefficient == coordinate:
            direction[law.at(exponent)] += problem.centre[variable]
    return direction


def ellipse(first: np.ndarray, second: np.ndarray, level: float) -> np.ndarray:
    """Outline (2, 200) of the ellipse that holds `level` of a normal law with the samples' moments.

    Raises:
      ScalingError: fewer than three defined samples.
    """
    pairs = np.stack([first, second])
    pairs = pairs[:, np.all(np.isfinite(pairs), axis=0)]
    if pairs.shape[1] < 3:
        raise ScalingError("an ellipse needs at least three samples.")
    values, vectors = np.linalg.eigh(np.cov(pairs))
    angle = np.linspace(0, 2 * np.pi, 200)
    radius = np.sqrt(stats.chi2.ppf(level, 2))
    circle = np.stack([np.cos(angle), np.sin(angle)])
    outline = vectors @ (np.sqrt(np.maximum(values, 0))[:, None] * circle)
    return np.mean(pairs, axis=1, keepdims=True) + radius * outline
