"""All that is computed of one problem: its minima, what they determine, profiles, the bootstrap."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, ParamSpec, TypeVar

import numpy as np

from scaling.errors import ScalingError
from scaling.estimate.bootstrap import Profile, bootstrap, noise_of, prepare_profile, profile
from scaling.estimate.identify import Identified, by_places, by_profiles, by_solution
from scaling.estimate.one_step import MANY
from scaling.law.problem import Problem, Solutions
from scaling.records.records import Records

Words = ParamSpec("Words")
Returned = TypeVar("Returned")


class Solved(NamedTuple):
    """The minima of a problem, and what the data say about the best of them."""

    found: Solutions
    identified: Identified
    message: str  # of the descents, without profiles
    profiles: dict[str, Profile]
    samples: np.ndarray  # centred
    warnings: list[str]


def solve(
    problem: Problem,
    records: Records,
    level: float,
    profiles: bool,
    resamples: int,
    bootstrap_starts: int,
    seed: int,
) -> Solved:
    """Descents first; then profiles and the bootstrap at the same time.

    They use two threads, since compilation and compiled programs do not hold Python's lock.
    """
    lines: list[str] = []
    more: list[str] = []  # one list for each thread
    profiled: dict[str, Profile] = {}
    with ThreadPoolExecutor(1) as beside:
        if profiles and len(problem) < MANY:  # with more points, even one problem is slow
            beside.submit(prepare_profile, problem)
        found = _search(problem, records)
        centred = found.theta[found.best]
        identified, message = _judge(problem, found, level)
        waiting = None
        if profiles and found.converged[found.best] and not problem.defects(centred):
            waiting = beside.submit(
                _attempt, "profiles", lines, profiled, profile, problem, centred, level
            )
        samples = np.empty((0, len(centred)))
        if resamples and np.any(found.converged):
            words = (problem, centred, records.run, resamples, seed, bootstrap_starts)
            samples = _attempt("bootstrap", more, samples, bootstrap, *words)
    if waiting is not None:
        profiled = waiting.result()
        by_profiles(problem, profiled, identified)
    return Solved(found, identified, message, profiled, samples, lines + more)


def _search(problem: Problem, records: Records) -> Solutions:
    """The minima. Raises ScalingError if the search is impossible for these losses."""
    least, most = float(np.min(records.loss)), float(np.max(records.loss))
    if problem.fixed.get("E", 0.0) >= most:
        raise ScalingError(
            f"fix: E={problem.fixed['E']:.6g} is above all losses (the largest is {most:.6g})."
        )
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            return problem.search()
    except np.linalg.LinAlgError as error:
        raise ScalingError(
            f"no law can be fitted to losses from {least:.3g} to {most:.3g} ({error}).\n"
            "Losses must be in nats per token: check the column and its unit."
        ) from None


def _judge(problem: Problem, found: Solutions, level: float) -> tuple[Identified, str]:
    """The parameters found undetermined without profiles, and the message if there are none."""
    theta, identified = found.theta[found.best], Identified()
    defects = problem.defects(theta)
    by_places(problem, identified)
    if not defects:
        noise = noise_of(problem, problem.residuals(theta))
        by_solution(problem, found, noise, level, identified)
    if defects:  # reported even if nothing converged, since a dying term decreases forever
        return identified, "degenerate: " + "; ".join(defects)
    return identified, "converged" if found.converged[found.best] else "no start converged"


def _attempt(
    name: str,
    lines: list[str],
    otherwise: Returned,
    part: Callable[Words, Returned],
    *words: Words.args,
    **more: Words.kwargs,
) -> Returned:
    """The result of `part`; if it fails, `otherwise`, and a warning is added to `lines`."""
    try:
        return part(*words, **more)
    except (ArithmeticError, ValueError, MemoryError) as error:  # LinAlgError is a ValueError
        told = " ".join(str(error).split())
        lines.append(f"{name} skipped: {type(error).__name__}: {told}")
        return otherwise
