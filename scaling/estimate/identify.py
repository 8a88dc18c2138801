"""Which parameters of a law the data can tell at all.

Three questions, in this order: do the places of the points allow it, whatever the losses (distinct
values of each variable, points on one line); does the Jacobian at the minimum have full rank, and
do descents that reached the least objective agree, and is no exponent beyond all laws; has the
profile of each exponent an end, and is each known to a factor of ten where it is steep, as is each
scale of repetition, by Wald's interval (the covariance of M-estimators, Huber 1981, chapter 7).
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
"""Least over largest singular value of a Jacobian with columns of length 1: no rank below this."""
LINE = 0.01
"""Points within 1 % of D = k N^s lie on a line."""
AGREE = 1e-3
"""Minima of one objective whose coordinates differ by more are several."""
_EXPONENTS = ("alpha", "beta")
_STEEP = 2.0
"""An exponent that no law of losses is known to have."""
_FACTOR = 10.0
"""What may be this far off is not known."""
_REPEATS = ("log_R_D", "log_R_N")


@dataclasses.dataclass
class Identified:
    """The parameters that are not determined, and why, in words."""

    undetermined: set[str] = dataclasses.field(default_factory=set)
    reasons: list[str] = dataclasses.field(default_factory=list)

    def add(self, names: set[str], reason: str) -> None:
        """More parameters; a reason is told only where it says something new."""
        if names - self.undetermined:
            self.undetermined |= names
            self.reasons.append(reason)

    @property
    def message(self) -> str:
        return "not identifiable: " + "; ".join(self.reasons)


def by_places(problem: Problem, found: Identified) -> None:
    """What the places of the points do not allow, whatever the losses are.

    The rank is the largest over all starts, with values that hardly differ made one: a sum of
    exponentials may lose rank at single points.
    """
    law = problem.law
    merged = {v: _merged(x) for v, x in problem.logs.items()}
    flat = dataclasses.replace(problem, logs=merged)
    loose = problem.basis
    for start in problem.starts():
        loose = min(loose, _loose(flat, start), key=lambda v: v.shape[1])
        if loose.shape[1] == 0:  # as for nearly all data at the first start
            break
    else:
        few = [
            f"{v} has only {count} value{'s' * (count > 1)}"
            for v in dict.fromkeys(scale[2] for scale in law.scales)
            if (count := count_distinct(problem.logs[v])) < 3
        ]
        names = _touched(problem, loose)
        why = " and ".join(few) + ", so that" if few else "the points lie so that"
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
                f"N and D lie on one line (D grows as N^{slope:.3g}), so that their terms "
                "could change places",
            )


def by_solution(
    problem: Problem,
    solutions: Solutions,
    scale: Noise,
    level: float,
    found: Identified,
) -> None:
    """What is loose at the minimum: a rank, several minima, an exponent that no law has."""
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
    """Exponents beyond those of all laws: what is fitted is the noise of sizes that hardly vary."""
    for _, exponent, variable in problem.law.scales:
        value = float(problem.law.functional(exponent, problem.centre) @ theta)
        if exponent in problem.fixed or value <= STEEPEST:
            continue
        span = np.ptp(problem.logs[variable]) / np.log(10)
        found.add(
            _with_its_term(problem, exponent),
            f"{exponent} = {value:.3g} is no exponent of a law ({variable} spans {span:.2g} "
            "decades)",
        )


def by_profiles(problem: Problem, profiles: dict[str, Profile], found: Identified) -> None:
    """Exponents and scales of repetition of which no value can be told: of their profile neither
    end lies between 0 and what no law has, or the ends of a steep one are a factor of ten apart.
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
    """Directions (P, k) of the coordinates along which no loss changes."""
    jacobian = problem.jacobian(theta) * np.sqrt(problem.weights)[:, None]
    jacobian = jacobian @ problem.basis
    if not np.all(np.isfinite(jacobian)):
        return np.empty((len(theta), 0))
    length = np.linalg.norm(jacobian, axis=0)
    length = np.maximum(length, SINGULAR * np.max(length, initial=1e-300))
    # Of the triangle alone: (n, P) itself would give all (n, n) left vectors, too.
    triangle = np.linalg.qr(jacobian / length, mode="r")
    _, singular, right = np.linalg.svd(triangle, full_matrices=True)
    singular = np.pad(singular, (0, len(right) - len(singular)))
    loose = right[singular < SINGULAR * singular[0]].T / length[:, None]
    loose = problem.basis @ loose
    return loose / np.maximum(np.linalg.norm(loose, axis=0), 1e-300)


def _touched(problem: Problem, loose: np.ndarray) -> set[str]:
    """Parameters that change along the directions."""
    law = problem.law
    moves = [law.functional(c, problem.centre) @ loose for c in law.coordinates]
    names = zip(law.parameters, moves, strict=True)
    return {n for n, move in names if np.max(np.abs(move)) > 1e-4} - set(problem.fixed)


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    """s where all points lie on y = s x + constant; NaN where they do not, or both hardly vary."""
    if min(count_distinct(x), count_distinct(y)) < 2:
        return float("nan")
    points = np.stack([x - np.mean(x), y - np.mean(y)])
    vectors = np.linalg.svd(points, full_matrices=False)[0]
    if np.max(np.abs(vectors[:, 1] @ points)) > LINE:
        return float("nan")
    return float(vectors[1, 0] / vectors[0, 0])


def _with_its_term(problem: Problem, coordinate: str) -> set[str]:
    """The parameter and, of an exponent, what is told only with it: A and E."""
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
    return f"{', '.join(ordered[:-1])} and {ordered[-1]} cannot be told apart"
