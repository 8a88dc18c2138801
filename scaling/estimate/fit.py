"""`fit`: a law from records, with its doubts.

    from scaling import fit, read_records
    result = fit(read_records("runs.csv"))
    print(result.table())
    result.predict(N=7e10, D=1.4e12)

In a shell: python -m scaling.fit FILE [--law chinchilla] [--delta 1e-3] [--out DIR].
Shapes: n points, P coordinates, S resamples.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np

from scaling.errors import ScalingError, writing
from scaling.estimate.bootstrap import (
    Profile,
    bootstrap,
    interval,
    noise_of,
    prepare_profile,
    profile,
)
from scaling.estimate.doubts import of_the_floor, warn
from scaling.estimate.identify import Identified, by_places, by_profiles, by_solution
from scaling.estimate.one_step import MANY
from scaling.estimate.power_law import Json
from scaling.estimate.scatter import run_interval, scatter_of
from scaling.law import allocate
from scaling.law.fixed import read_fixed
from scaling.law.laws import Law, find_law
from scaling.law.problem import SQUARES, Problem, Solutions
from scaling.records.records import Records

Words = ParamSpec("Words")
Returned = TypeVar("Returned")

FORMAT = 2
"""Version of fit.json."""


@dataclasses.dataclass(frozen=True)
class Fit:
    """A fitted law.

    Attributes:
      theta: absolute coordinates (P,), in the units of the records.
      samples: bootstrap resamples of theta (S, P); S is 0 without a bootstrap.
      objective: sum of the losses of the residuals at theta.
      success: converged, all parameters determined and no term degenerate; `message` says
        otherwise what is wrong.
      starts, starts_converged: how many starts there were, and how many reached this objective.
      descents, descents_converged: likewise of the ways down that were followed to their end: of
        many points starts that meet share one, of few each start has several.
      fixed: parameters held at a value; they have no interval.
      undetermined: parameters that the data do not tell; nor do they have an interval.
      range: per variable (smallest, largest) of the records.
      floor: the exact entropy of the corpus where the records know it.
      scatter: quantiles of single runs about the law in log loss; see `scaling.estimate.scatter`.
    """

    law: Law
    theta: np.ndarray
    samples: np.ndarray
    delta: float | None
    level: float
    objective: float
    n_points: int
    n_runs: int
    success: bool
    message: str
    starts: int
    starts_converged: int
    warnings: tuple[str, ...]
    profiles: dict[str, Profile]
    range: dict[str, tuple[float, float]]
    count: str
    source: str
    residual_std: float
    floor: float | None = None
    fixed: dict[str, float] = dataclasses.field(default_factory=dict)
    undetermined: tuple[str, ...] = ()
    descents: int = 0
    descents_converged: int = 0
    scatter: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0))

    @functools.cached_property
    def parameters(self) -> dict[str, float]:
        """E, A, B, alpha, beta, ... and, where the allocation has a closed form, a, b, G."""
        found = self.quantities(self.theta)
        return {name: float(value) for name, value in found.items()} | self.fixed

    @functools.cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Bootstrap interval of each of `parameters`; empty without a bootstrap.

        Of what is not determined both ends are NaN; what is fixed has none.
        """
        if not len(self.samples):
            return {}
        resampled = self.quantities(self.samples)
        loose, unknown = set(self.undetermined), (float("nan"), float("nan"))
        needs = {"a": {"alpha", "beta"}, "b": {"alpha", "beta"}, "G": {"A", "B", "alpha", "beta"}}
        return {
            name: unknown
            if loose & needs.get(name, {name})
            else interval(resampled[name], value, self.level)
            for name, value in self.parameters.items()
            if not needs.get(name, {name}) & set(self.law.parameters) <= set(self.fixed)
        }

    def quantities(self, theta: np.ndarray) -> dict[str, np.ndarray]:
        """Natural parameters and allocation coefficients at coordinates (..., P)."""
        return self.law.natural(theta) | (allocate.coefficients(self.law, theta) or {})

    def interval_of(
        self, quantity: Callable[[np.ndarray], np.ndarray]
    ) -> tuple[float, float, float]:
        """(estimate, low, high) of a function of the coordinates, vectorised over (S, P)."""
        samples = quantity(self.samples) if len(self.samples) else None
        return self.interval_from(np.asarray(quantity(self.theta[None]))[0], samples)

    def predict(self, **values: float) -> tuple[float, float, float]:
        """Loss of the law at N and D (or whatever its variables are), with its interval.

        The interval is of the law's value; `predict_run` gives that of a single run about it.

        Raises:
          ScalingError: a variable of the law missing, or not above 0.
        """
        point = self._point(values)
        return self.interval_of(lambda theta: self.law.loss(theta, **point))

    def predict_run(self, **values: float) -> tuple[float, float, float]:
        """As `predict`, with the interval in which the loss of a single run will lie.

        It adds the scatter of the runs about the law to what is not known of the law, and holds as
        far as runs there scatter as those of the records do.
        """
        point = self._point(values)
        estimate = float(self.law.loss(self.theta, **point))
        return estimate, *self.run_interval(estimate, self.law.loss(self.samples, **point))

    def run_interval(self, estimate: float, samples: np.ndarray) -> tuple[float, float]:
        """The interval of a single run from the law's loss there and its resamples (S,).

        As in `interval_from` the ends are NaN where not all parameters are determined.
        """
        if self.undetermined:
            return float("nan"), float("nan")
        freedom = max(self.n_points - len(self.theta) + len(self.fixed), 1)
        return run_interval(np.asarray(samples), estimate, self.scatter, freedom, self.level)

    def _point(self, values: dict[str, float]) -> dict[str, np.float64]:
        """The law's variables, checked."""
        missing = [v for v in self.law.variables if values.get(v) is None]
        if missing:
            raise ScalingError(
                f"law={self.law.name} needs {' and '.join(missing)} for a prediction."
            )
        for name, value in values.items():
            if not (np.isfinite(value) and value > 0):
                raise ScalingError(f"{name}={value} must be above 0.")
        return {v: np.float64(values[v]) for v in self.law.variables}

    def to_dict(self, budgets: Sequence[float] = ()) -> Json:
        """The content of fit.json; not-finite numbers become null."""
        intervals = {name: list(pair) for name, pair in self.intervals.items()}
        content = {
            "format": FORMAT,
            "law": self.law.name,
            "formula": self.law.formula,
            "delta": self.delta,
            "n_points": self.n_points,
            "n_runs": self.n_runs,
            "objective": self.objective,
            "success": self.success,
            "message": self.message,
            **self.parameters,
            "level": self.level,
            "intervals": intervals,
            "profile_intervals": {n: [p.low, p.high] for n, p in self.profiles.items()},
            "resamples": len(self.samples),
            "starts": self.starts,
            "starts_converged": self.starts_converged,
            "descents": self.descents,
            "descents_converged": self.descents_converged,
            "fixed": self.fixed,
            "undetermined": list(self.undetermined),
            "warnings": list(self.warnings),
            "allocations": [self.allocation(C) for C in budgets if self.divides_compute],
            "count": self.count,
            "range": {name: list(pair) for name, pair in self.range.items()},
            "residual_std": self.residual_std,
            "entropy_floor": self.floor,
            "source": self.source,
            "theta": self.theta.tolist(),
            "scatter": self.scatter.tolist(),
        }
        return finite(content)

    def interval_from(
        self, estimate: float, samples: np.ndarray | None
    ) -> tuple[float, float, float]:
        """(estimate, low, high) of a quantity from its resamples (S,).

        The ends are NaN without any, and where not all parameters are determined.
        """
        if samples is None or self.undetermined:
            return float(estimate), float("nan"), float("nan")
        return float(estimate), *interval(np.asarray(samples), float(estimate), self.level)

    @property
    def divides_compute(self) -> bool:
        """Whether the law knows both N and D, so that compute can be divided between them."""
        return {"N", "D"} <= set(self.law.variables)

    def default_budgets(self) -> tuple[float, ...]:
        """Budgets worth a row in a table: the largest compute of the records, 10 and 100 times."""
        every = (self.range["C"][1] * factor for factor in (1.0, 10.0, 100.0))
        return tuple(C for C in every if np.isfinite(C))

    def allocation(self, C: float, inference_tokens: float = 0) -> Json:
        """Compute-optimal N, D and loss for C FLOPs, with intervals; see `allocate.optimal`.

        The data-constrained law has the largest number of unique tokens of its records.
        """
        unique = self.range["U"][1] if "U" in self.law.variables else None

        def optimal(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            return allocate.optimal(
                self.law, theta, C, inference_tokens=inference_tokens, unique=unique
            )

        point = optimal(self.theta[None])
        many = optimal(self.samples) if len(self.samples) else (None, None, None)
        found: Json = {"C": float(C)}
        for i, name in enumerate(("N", "D", "loss")):
            value, low, high = self.interval_from(point[i][0], many[i])
            found |= {name: value, f"{name}_interval": [low, high]}
        return found

    def save(self, folder: str | Path, budgets: Sequence[float] = ()) -> Path:
        """Write fit.json and, beside it, the resamples behind its intervals; the JSON's path.

        Raises:
          ScalingError: the folder cannot be written.
        """
        folder = Path(folder)
        text = json.dumps(self.to_dict(budgets), indent=1) + "\n"
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            np.save(folder / "bootstrap.npy", self.samples)
            path = folder / "fit.json"
            path.write_text(text, encoding="utf-8")
        return path

    def table(self, budgets: Sequence[float] = ()) -> str:
        """The fit as text for a person."""
        from scaling.estimate.tables import fit_table

        return fit_table(self, budgets)


def finite(value: Any) -> Any:
    """The value with every number that is not finite replaced by None, as JSON has none."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value


def fit(
    records: Records,
    law: str | Law = "chinchilla",
    *,
    delta: float | None = 1e-3,
    resamples: int = 4000,
    bootstrap_starts: int = 1,
    level: float = 0.95,
    profiles: bool = True,
    fix: Mapping[str, float] | str | None = None,
    seed: int = 0,
) -> Fit:
    """Fit a law by Huber's loss on log loss (Hoffmann et al. 2022, approach 3).

    Args:
      records: points of N, D and loss; see `scaling.records`. Their `weight` weighs the residuals.
      law: a name (chinchilla, tied, power_N, power_D, power_C, data_constrained) or a `Law`.
      delta: Huber's delta in log loss; None for least squares.
      resamples: bootstrap refits; 0 for none. Whole runs are drawn where points share one.
      bootstrap_starts: starts of each refit; the first is the fit itself.
      level: of all intervals.
      profiles: also compute the profile likelihood.
      fix: parameters held at a value, {"E": 1.69} or "E=1.69, alpha=0.34", in the fit, its
        resamples and profiles.

    Returns:
      `Fit`; `success` is False where no start converged, the best fit is degenerate, or the data
      do not determine all parameters.

    Raises:
      ScalingError: too few records, a missing column, a variable that never varies.
    """
    law = find_law(law)
    if not isinstance(records, Records):
        raise ScalingError("fit takes Records: read_records(FILE), or Records.from_arrays.")
    if not 0 < level < 1:
        raise ScalingError(f"level={level} must lie between 0 and 1.")
    if resamples < 0 or bootstrap_starts < 1:
        raise ScalingError("resamples must be at least 0 and bootstrap_starts at least 1.")
    problem = Problem.of(records, law, delta, read_fixed(fix, law))
    lines: list[str] = []
    more: list[str] = []  # each thread has its own
    profiled: dict[str, Profile] = {}
    # Two threads: what is compiled, and what compiled programs compute, does not wait for Python.
    with ThreadPoolExecutor(1) as beside:
        if profiles and len(problem) < MANY:  # of more, even one problem takes its time
            beside.submit(prepare_profile, problem)
        found = _search(problem, records)
        best = found.best
        centred, residual = found.theta[best], problem.residuals(found.theta[best])
        identified, message = _judge(problem, found, level)
        waiting = None
        if profiles and found.converged[best] and not problem.defects(centred):
            nothing: dict[str, Profile] = {}
            waiting = beside.submit(
                _attempt, "profiles", lines, nothing, profile, problem, centred, level
            )
        samples = np.empty((0, len(centred)))
        if resamples and np.any(found.converged):
            words = (problem, centred, records.run, resamples, seed, bootstrap_starts)
            samples = _attempt("bootstrap", more, samples, bootstrap, *words)
    if waiting is not None:
        profiled = waiting.result()
        by_profiles(problem, profiled, identified)
    if identified.undetermined:
        message = identified.message
    same = found.reached(1e-14 * problem.unit)
    starts = len(problem.starts())
    result = Fit(
        law=law,
        theta=law.absolute(centred, problem.centre),
        samples=law.absolute(samples, problem.centre),
        delta=None if problem.delta == SQUARES else problem.delta,
        level=level,
        objective=float(found.objective[best]),
        n_points=len(records),
        n_runs=len(set(records.run)),
        success=message == "converged",
        message=message,
        starts=starts,
        # Several ways from each start lie one after another.
        starts_converged=int(np.sum(np.any(same.reshape(-1, starts), axis=0))),
        warnings=(*lines, *more, *warn(records, problem, centred, samples, found.converged)),
        profiles={n: p for n, p in profiled.items() if n not in identified.undetermined},
        range=_ranges(records),
        count=records.count,
        source=records.source,
        residual_std=float(np.std(residual)),
        floor=records.floor,
        scatter=scatter_of(residual, problem.weights, problem.basis.shape[1]),
        fixed=dict(problem.fixed),
        undetermined=tuple(n for n in law.parameters if n in identified.undetermined),
        descents=found.descents(np.full(len(same), True)),
        descents_converged=found.descents(same),
    )
    low, high = result.intervals.get("E", (np.nan, np.nan))
    word = of_the_floor(records.floor, result.parameters.get("E"), low, high)
    return dataclasses.replace(result, warnings=(*result.warnings, *word))


def _search(problem: Problem, records: Records) -> Solutions:
    """The minima, or a ScalingError where losses are such that none can be looked for."""
    least, most = float(np.min(records.loss)), float(np.max(records.loss))
    if problem.fixed.get("E", 0.0) >= most:
        raise ScalingError(
            f"fix: E={problem.fixed['E']:.6g} lies above all losses (at most {most:.6g})."
        )
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            return problem.search()
    except np.linalg.LinAlgError as error:
        raise ScalingError(
            f"no law can be fitted to losses from {least:.3g} to {most:.3g} ({error}).\n"
            "Losses are in nats a token: check their column and its unit."
        ) from None


def _judge(problem: Problem, found: Solutions, level: float) -> tuple[Identified, str]:
    """What is not determined as far as is known without profiles, and the message otherwise."""
    theta, identified = found.theta[found.best], Identified()
    defects = problem.defects(theta)
    by_places(problem, identified)
    if not defects:
        noise = noise_of(problem, problem.residuals(theta))
        by_solution(problem, found, noise, level, identified)
    if defects:  # also where nothing converged: a dying term falls for ever
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
    """What `part` returns; where it fails, a line, and the fit goes on without."""
    try:
        return part(*words, **more)
    except (ArithmeticError, ValueError, MemoryError) as error:  # LinAlgError is a ValueError
        told = " ".join(str(error).split())
        lines.append(f"{name} left out: {type(error).__name__}: {told}")
        return otherwise


def _ranges(records: Records) -> dict[str, tuple[float, float]]:
    columns = {"N": records.N, "D": records.D, "C": records.C, "U": records.unique}
    return {
        name: (float(np.min(values)), float(np.max(values)))
        for name, values in columns.items()
        if values is not None
    }
