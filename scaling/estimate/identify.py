"""Finds the parameters of a law that the data do not determine.

Three tests, in this order:
- the design, whatever the losses are: are there enough distinct values of each variable, and are
  the points not on one line?
- the minimum: does the Jacobian have full rank, do all descents with the least objective agree, is
  every exponent plausible, and is each exponent known to 2 and each scale of repetition to a factor
  of ten by Wald's interval (the covariance of M-estimators, Huber 1981, chapter 7)?
- the profiles: does the interval of each exponent end, and is it known to a factor of ten if steep?
Shapes: n points, P coordinates, Q of them free.
"""

import dataclasses

import numpy as np
from scipy import special

from scaling.estimate.bootstrap import Noise, Profile, covariance
from scaling.estimate.power_law import count_distinct, distinct
from scaling.law.laws import STEEPEST
from scaling.law.problem import Problem, Solutions

SINGULAR = 1e-7
"""A Jacobian with unit columns is singular if its extreme singular values have a lower ratio."""
LINE = 0.01
"""Points within 1 % of D = k N^s are on one line."""
AGREE = 1e-3
"""Minima of one objective are different if their coordinates differ by more than this."""
_EXPONENTS = ("alpha", "beta")
_STEEP = 2.0
"""No known law of losses has a larger exponent."""
_FACTOR = 10.0
"""A parameter that may be off by this factor is undetermined."""
_REPEATS = ("log_R_D", "log_R_N")


@dataclasses.dataclass
class Identified:
    """The undetermined parameters, and the reasons in words."""

    undetermined: set[str] = dataclasses.field(default_factory=set)
    reasons: list[str] = dataclasses.field(default_factory=list)

    def add(self, names: set[str], reason: str) -> None:
        """Add parameters; the reason is kept only if one of them is new."""
        if names - self.undetermined:
            self.undetermined |= names
            self.reasons.append(reason)

    @property
    def message(self) -> str:
        """The message of a fit with undetermined parameters."""
        return "not identifiable: " + "; ".join(self.reasons)


def by_places(problem: Problem, found: Identified) -> None:
    """Find parameters that the design cannot determine, whatever the losses are.

    The rank is the largest over all starting points, because a sum of exponentials may lose rank
    at single ones. Values that hardly differ are merged first.
    """
    law = problem.law
    merged = {v: _merged(x) for v, x in problem.logs.items()}
    flat = dataclasses.replace(problem, logs=merged)
    loose = problem.basis
    for start in problem.starts():
        loose = min(loose, _loose(flat, start), key=lambda v: v.shape[1])
        if loose.shape[1] == 0:  # for nearly all data, already at the first one
            break
    else:
        few = [
            f"{v} has only {count} value{'s' * (count > 1)}"
            for v in dict.fromkeys(scale[2] for scale in law.scales)
            if (count := count_distinct(problem.logs[v])) < 3
        ]
        names = _touched(problem, loose)
        why = " and ".join(few) + ", so" if few else "with points at these places,"
        found.add(names, f"{why} {_listed(problem, names)}")
    count, free = int(np.count_nonzero(problem.weights)), problem.basis.shape[1]
    if count <= free:
        found.add(
            set(law.parameters) - set(problem.fixed),
            f"{count} points for {free} parameters leave none to judge the fit by",
        )
    exponents = {variable: exponent for _, exponent, variable in law.scales}
    if {"N", "D"} <= set(exponents) and exponents["N"] != exponents["D"]:
        slope = _slope(problem.logs["N"], problem.logs["D"])
        free = not {exponents["N"], exponents["D"]} & set(problem.fixed)
        if slope > 0 and free:
            names = {name for scale in law.scales for name in _plain(*scale[:2])}
            found.add(
                names - set(problem.fixed),
                f"N and D lie on one line (D grows as N^{slope:.3g}), so their terms are "
                "interchangeable",
            )


def by_solution(
    problem: Problem,
    solutions: Solutions,
    scale: Noise,
    level: float,
    found: Identified,
) -> None:
    """Find parameters undetermined at the minimum.

    The signs are a rank-deficient Jacobian, several minima, an implausible exponent, or a wide
    Wald interval.
    """
    law, theta = problem.law, solutions.theta[solutions.best]
    loose = _loose(problem, theta)
    if loose.shape[1]:
        names = _touched(problem, loose)
        found.add(names, f"at the minimum {_listed(problem, names)}")
    same = solutions.theta[solutions.reached(1e-14 * problem.unit)]
    if len(same) > 1:
        apart = np.ptp(same, axis=0) > AGREE * (1 + np.abs(theta))
        names = {law.parameters[i] for i in np.flatnonzero(apart)} - set(problem.fixed)
        found.add(names, f"minima of the same objective differ in {', '.join(sorted(names))}")
    _by_exponents(problem, theta, found)
    covariance_QxQ = covariance(problem, theta, scale)
    width = special.stdtrit(scale.freedom, (1 + level) / 2)
    for coordinate in law.coordinates:
        name = coordinate.removeprefix("log_")
        limit = np.log(_FACTOR) if law.scales and coordinate in _REPEATS else np.inf
        inside = problem.basis.T @ law.functional(coordinate, problem.centre)
        error = width * np.sqrt(max(inside @ covariance_QxQ @ inside, 0.0))
        if name not in problem.fixed and error > limit:
            value = float(np.exp(law.functional(coordinate, problem.centre) @ theta))
            factor = np.exp(min(error, 700.0))
            found.add({name}, f"{name} = {value:.3g} may be off by a factor of {factor:.3g}")
        if law.scales and coordinate in _EXPONENTS and name not in problem.fixed and error > _STEEP:
            value = float(law.functional(coordinate, problem.centre) @ theta)
            names = _with_its_term(problem, coordinate)
            found.add(names, f"{name} = {value:.3g} may be off by {error:.2g}")


def _by_exponents(problem: Problem, theta: np.ndarray, found: Identified) -> None:
    """Find implausible exponents, which fit the noise of a variable that hardly varies."""
    for _, exponent, variable in problem.law.scales:
        value = float(problem.law.functional(exponent, problem.centre) @ theta)
        if exponent in problem.fixed or value <= STEEPEST:
            continue
        span = np.ptp(problem.logs[variable]) / np.log(10)
        found.add(
            _with_its_term(problem, exponent),
            f"{exponent} = {value:.3g} is too large for a law of losses ({variable} spans "
            f"{span:.2g} decades)",
        )


def by_profiles(problem: Problem, profiles: dict[str, Profile], found: Identified) -> None:
    """Find exponents and scales of repetition with an open profile.

    A profile is open if neither end is between 0 and the largest plausible value, or if it reaches
    steep exponents and its ends are a factor of ten apart.
    """
    for name, profile in profiles.items():
        coordinate = problem.law.coordinates[problem.law.parameters.index(name)]
        watched = problem.law.scales and coordinate in (*_EXPONENTS, *_REPEATS)
        steep = coordinate in _EXPONENTS and profile.high > _STEEP
        endless = steep or profile.high == np.inf
        wide = profile.low <= 0 or (steep and profile.high > _FACTOR * profile.low)
        if watched and endless and wide:
            found.add(
                _with_its_term(problem, coordinate),
                f"any {name} from {max(profile.low, 0):.3g} to {profile.high:.3g} fits",
            )


def _merged(x: np.ndarray) -> np.ndarray:
    place = distinct(x)
    return (np.bincount(place, x) / np.bincount(place))[place]


def _loose(problem: Problem, theta: np.ndarray) -> np.ndarray:
    """Directions (P, k) in the coordinates along which no loss changes."""
    jacobian = problem.jacobian(theta) * np.sqrt(problem.weights)[:, None]
    jacobian = jacobian @ problem.basis
    if not np.all(np.isfinite(jacobian)):
        return np.empty((len(theta), 0))
    length = np.linalg.norm(jacobian, axis=0)
    length = np.maximum(length, SINGULAR * np.max(length, initial=1e-300))
    # Decompose only the triangle: that of the (n, P) matrix would include (n, n) left vectors.
    triangle = np.linalg.qr(jacobian / length, mode="r")
    _, singular, right = np.linalg.svd(triangle, full_matrices=True)
    singular = np.pad(singular, (0, len(right) - len(singular)))
    loose = right[singular < SINGULAR * singular[0]].T / length[:, None]
    loose = problem.basis @ loose
    return loose / np.maximum(np.linalg.norm(loose, axis=0), 1e-300)


def _touched(problem: Problem, loose: np.ndarray) -> set[str]:
    """The parameters that change along the directions."""
    law = problem.law
    moves = [law.functional(c, problem.centre) @ loose for c in law.coordinates]
    names = zip(law.parameters, moves, strict=True)
    return {n for n, move in names if np.max(np.abs(move)) > 1e-4} - set(problem.fixed)


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    """The slope s if all points are on y = s x + constant; NaN if not, or if x or y is constant."""
    if min(count_distinct(x), count_distinct(y)) < 2:
        return float("nan")
    points = np.stack([x - np.mean(x), y - np.mean(y)])
    vectors = np.linalg.svd(points, full_matrices=False)[0]
    if np.max(np.abs(vectors[:, 1] @ points)) > LINE:
        return float("nan")
    return float(vectors[1, 0] / vectors[0, 0])


def _with_its_term(problem: Problem, coordinate: str) -> set[str]:
    """The parameter; for an exponent, also those determined only together with it: A and E."""
    names = _plain(coordinate)
    for coefficient, exponent, _ in problem.law.scales:
        if exponent == coordinate:
            names |= _plain(coefficient)
            names |= {"E"} & set(problem.law.parameters)
    return names - set(problem.fixed)


def _plain(*coordinates: str) -> set[str]:
    return {name.removeprefix("log_") for name in coordinates}


def _listed(problem: Problem, names: set[str]) -> str:
    ordered = [name for name in problem.law.parameters if name in names]
    if len(ordered) == 1:
        return f"{ordered[0]} may have any value"
    return f"{', '.join(ordered[:-1])} and {ordered[-1]} cannot be distinguished"
