"""The uncertainty of a fit: bootstrap intervals, profile likelihoods and ellipses.

Shapes: S resamples, n points, P coordinates, G clusters (runs).
"""

import dataclasses

import numpy as np
from scipy import special

from scaling.errors import ScalingError
from scaling.estimate.one_step import MANY, one_step
from scaling.law.problem import Problem

_NOISE_FREE = 1e-24  # mean squared residual below which there is no noise
_SPAN, _COUNT = 30.0, 61  # of a profile: standard errors on each side, and number of values
_CROWDING = 4.0  # spacing of a profile: 0.15 standard errors in the middle, 4 at the ends


def resample_weights(runs: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """How often each point is drawn, (S, n), when whole runs are drawn with replacement."""
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
    """Refit the law to resampled runs (Efron 1979).

    With 5,000 points or more, each resample is one Newton step from the fit: see `one_step`.

    Args:
      problem: the fitting problem.
      theta: (P,) the fit, centred, where each refit begins.
      runs: (n,) the run of each point.
      resamples: S, the number of refits.
      seed: of the draws.
      starts: starting points of each refit. The further ones are those of the law with the lowest
        objective; the best refit is used.

    Returns:
      Centred coordinates (S, P).
    """
    if len(problem) >= MANY:
        return one_step(problem, theta, runs, resamples, seed)
    weights = resample_weights(runs, resamples, seed) * problem.weights
    begin = theta[None]
    if starts > 1:
        begin = np.concatenate([begin, _spread(problem, starts - 1)])
    return problem.refit(begin, weights)


def _spread(problem: Problem, count: int) -> np.ndarray:
    """The `count` starting points of the law with the lowest objective."""
    starts = problem.starts()
    sizes = [np.sum(np.abs(problem.residuals(start)) * problem.weights) for start in starts]
    return starts[np.argsort(sizes, kind="stable")[:count]]


def interval(samples: np.ndarray, estimate: float, level: float) -> tuple[float, float]:
    """Bias-corrected percentile interval (Efron 1981) of a quantity from its resamples (S,).

    Undefined resamples (NaN) are ignored; if all are undefined, both ends are NaN. The measured
    coverage of this and of other bootstrap intervals is in docs/DECISIONS.md.
    """
    samples = samples[~np.isnan(samples)]
    if len(samples) == 0:
        return float("nan"), float("nan")
    below = np.mean(samples < estimate) + 0.5 * np.mean(samples == estimate)
    bias = special.ndtri(np.clip(below, 0.5 / len(samples), 1 - 0.5 / len(samples)))
    tails = special.ndtri([(1 - level) / 2, (1 + level) / 2])
    low, high = np.quantile(samples, special.ndtr(2 * bias + tails), method="closest_observation")
    return float(low), float(high)


@dataclasses.dataclass(frozen=True)
class Profile:
    """The objective, minimized over all other coordinates with one parameter held at `values`.

    `drop` is the likelihood-ratio statistic, which crosses `threshold` at the ends of the interval
    [low, high]. An end beyond the values tried is infinite. A loaded fit has only the ends.
    """

    name: str
    values: np.ndarray
    drop: np.ndarray
    threshold: float
    low: float
    high: float


def profile(
    problem: Problem, theta: np.ndarray, level: float, span: float = _SPAN, count: int = _COUNT
) -> dict[str, Profile]:
    """Profile likelihood of each natural parameter, as a cross-check of the bootstrap.

    The robust likelihood-ratio test of M-estimators (Heritier and Ronchetti 1994): twice the
    increase of the objective, times E[psi'] / E[psi^2], is chi-squared; here it is compared with F,
    for small samples. It assumes independent residuals with one distribution, which the bootstrap
    does not. With twelve points and Huber's delta at a tenth of the noise, 95 % intervals contained
    the truth in 95 to 97 % of 150 trials, but in 75 to 79 % if the points that the law passes
    through were included in the density (`_mean_bend`).

    Args:
      problem: the fitting problem.
      theta: (P,) the fit, centred.
      level: confidence level of the intervals.
      span: range of values tried on each side, in standard errors of the sandwich estimate; values
        are closer together near the estimate. With many points the profile is nearly a parabola, so
        fewer values suffice.
      count: number of values tried.

    Returns:
      Profiles by parameter; empty if the residuals show no noise.
    """
    span, count = _grid(problem, span, count)
    law, free = problem.law, problem.basis
    residual = problem.residuals(theta)
    scale = noise_of(problem, residual)
    if scale.noise <= _NOISE_FREE:
        return {}
    minimum = problem.loss_of(residual)
    covariance_QxQ = covariance(problem, theta, scale)
    offsets = span * np.sinh(np.linspace(-_CROWDING, _CROWDING, count)) / np.sinh(_CROWDING)
    bases, planes, names = [], [], []
    for name in _profiled(problem):
        direction = law.functional(name, problem.centre)
        inside_Q = free.T @ direction
        error = np.sqrt(inside_Q @ covariance_QxQ @ inside_Q)
        toward = free @ (covariance_QxQ @ inside_Q) / max(error, 1e-300)
        bases.append(theta + offsets[:, None] * toward)
        null = free @ np.linalg.svd(inside_Q[None])[2][1:].T
        planes.append(np.broadcast_to(null, (count, *null.shape)))
        names.append((name, direction @ theta, error))
    least = problem.solve_on_planes(np.concatenate(bases), np.concatenate(planes))
    threshold = float(special.fdtri(1, scale.freedom, level))
    drops = 2 * scale.bend / scale.noise * (least.reshape(len(names), count) - minimum)
    return {
        name.removeprefix("log_"): _profile(name, centre + offsets * error, drop, threshold)
        for (name, centre, error), drop in zip(names, drops, strict=True)
    }


def prepare_profile(problem: Problem) -> None:
    """Compile the program of `profile` in advance, for example in another thread."""
    start, size = problem.starts()[0], problem.basis.shape[1]
    _, count = _grid(problem, _SPAN, _COUNT)
    plane = problem.basis[:, 1:]
    if size > 1:
        problem.solve_on_planes(start[None], plane[None], rows=count * len(_profiled(problem)))


def _profiled(problem: Problem) -> list[str]:
    """The coordinates that have a profile."""
    names = problem.law.coordinates
    return [name for name in names if name.removeprefix("log_") not in problem.fixed]


def _grid(problem: Problem, span: float, count: int) -> tuple[float, int]:
    return (min(span, 6.0), min(count, 21)) if len(problem) >= MANY else (span, count)


@dataclasses.dataclass(frozen=True)
class Noise:
    """E[psi^2] of the residuals, E[psi'], and the degrees of freedom left by the fit."""

    noise: float
    bend: float
    freedom: int


def noise_of(problem: Problem, residual: np.ndarray) -> Noise:
    """Estimate the noise from the scatter of the points about their law."""
    clipped = np.clip(residual, -problem.delta, problem.delta)
    size = problem.basis.shape[1]
    freedom = max(len(problem) - size, 1)
    noise = float(np.sum(problem.weights * clipped**2)) / freedom
    return Noise(noise, _mean_bend(residual, problem.delta, size), freedom)


def covariance(problem: Problem, theta: np.ndarray, scale: Noise) -> np.ndarray:
    """Sandwich estimate (Q, Q) of the covariance of the free coordinates, in `problem.basis`."""
    jacobian = problem.jacobian(theta) @ problem.basis
    information = (jacobian.T * problem.weights) @ jacobian
    bend = max(scale.bend, 1e-300)
    return scale.noise / bend**2 * np.linalg.pinv(information, hermitian=True)


def _profile(name: str, values: np.ndarray, drop: np.ndarray, threshold: float) -> Profile:
    middle = len(values) // 2
    low = _crossing(values[middle::-1], drop[middle::-1], threshold, -np.inf)
    high = _crossing(values[middle:], drop[middle:], threshold, np.inf)
    if name.startswith("log_"):
        with np.errstate(over="ignore"):
            values, low, high = np.exp(values), np.exp(low), np.exp(high)
    return Profile(name.removeprefix("log_"), values, drop, threshold, float(low), float(high))


def _crossing(values: np.ndarray, drop: np.ndarray, threshold: float, beyond: float) -> float:
    """The value at which `drop` first exceeds `threshold`, going outward; else `beyond`."""
    over = np.flatnonzero(drop > threshold)
    if len(over) == 0 or over[0] == 0:
        return beyond
    i = over[0]
    # Near the estimate, the square root of `drop` is linear.
    before, after = np.sqrt(np.maximum(drop[[i - 1, i]], 0))
    share = (np.sqrt(threshold) - before) / (after - before)
    return values[i - 1] + share * (values[i] - values[i - 1])


def _mean_bend(residual: np.ndarray, delta: float, size: int) -> float:
    """E[psi'], the share of errors within delta, from a kernel estimate of their density.

    If delta is far below the noise, too few residuals are within it to be counted. A law with
    `size` free parameters then also passes through `size` points, whatever the noise. These
    residuals carry no information about the density at 0 and are excluded, as for least absolute
    deviations (McKean and Schrader 1987); the wider delta is, the fewer are excluded.
    """
    near = np.argsort(np.abs(residual), kind="stable")
    others = residual[near[min(size, len(near) - 2) :]]
    sigma = max(1.4826 * float(np.median(np.abs(others))), 1e-300)
    within = 2 * special.ndtr(delta / sigma) - 1
    kept = residual[near[min(round(size * (1 - within)), len(near) - 2) :]]
    spread = 1.4826 * np.median(np.abs(kept - np.median(kept)))
    width = max(0.9 * spread * len(kept) ** -0.2, 1e-300)
    return float(
        np.mean(special.ndtr((delta - kept) / width) - special.ndtr((-delta - kept) / width))
    )


def ellipse(first: np.ndarray, second: np.ndarray, level: float) -> np.ndarray:
    """Outline (2, 200) of an ellipse that contains the share `level` of a normal distribution.

    Args:
      first, second: (S,) samples, from which the mean and covariance are taken.

    Raises:
      ScalingError: fewer than three finite samples.
    """
    pairs = np.stack([first, second])
    pairs = pairs[:, np.all(np.isfinite(pairs), axis=0)]
    if pairs.shape[1] < 3:
        raise ScalingError("an ellipse needs at least three samples.")
    values, vectors = np.linalg.eigh(np.cov(pairs))
    angle = np.linspace(0, 2 * np.pi, 200)
    radius = np.sqrt(special.chdtri(2, 1 - level))
    circle = np.stack([np.cos(angle), np.sin(angle)])
    outline = vectors @ (np.sqrt(np.maximum(values, 0))[:, None] * circle)
    return np.mean(pairs, axis=1, keepdims=True) + radius * outline
