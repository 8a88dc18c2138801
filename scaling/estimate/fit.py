"""`fit`: fit a law to records, with intervals and warnings.

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
from pathlib import Path
from typing import Any

import numpy as np

from scaling.errors import ScalingError, writing
from scaling.estimate.bootstrap import (
    Profile,
    interval,
)
from scaling.estimate.doubts import of_the_floor, warn
from scaling.estimate.power_law import Json
from scaling.estimate.scatter import run_interval, scatter_of
from scaling.estimate.solve import solve
from scaling.law import allocate
from scaling.law.fixed import read_fixed
from scaling.law.laws import Law, find_law
from scaling.law.problem import SQUARES, Problem
from scaling.records.records import Records

FORMAT = 2
"""Version of fit.json."""


@dataclasses.dataclass(frozen=True)
class Fit:
    """A fitted law.

    Attributes:
      law: the law.
      theta: (P,) absolute coordinates, in the units of the records.
      samples: (S, P) bootstrap resamples of theta; S is 0 without a bootstrap.
      delta: Huber's delta in log loss; None for least squares.
      level: confidence level of all intervals.
      objective: sum of the losses of the residuals at theta.
      n_points, n_runs: the number of points, and of runs among them.
      success: whether the fit converged, all parameters are determined and no term is degenerate.
      message: "converged", or the reason why `success` is False.
      starts, starts_converged: number of starting points, and of those that reached this objective.
      descents, descents_converged: number of descents that were followed to their end, and of those
        that reached this objective. With many points, descents that meet become one; with few,
        each starting point has several.
      warnings: doubts about the fit, one line each.
      profiles: profile likelihoods by parameter.
      range: (smallest, largest) value of each variable in the records.
      count: what N counts: non_embedding, total or unstated.
      source: where the records came from.
      residual_std: standard deviation of the residuals in log loss.
      floor: the exact entropy of the corpus in nats per token, if the records state it.
      fixed: parameters fixed at a value; they have no interval.
      undetermined: parameters that the data do not determine; their intervals are NaN.
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
        """E, A, B, alpha, beta, ..., and a, b, G if the allocation has a closed form."""
        found = self.quantities(self.theta)
        return {name: float(value) for name, value in found.items()} | self.fixed

    @functools.cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Bootstrap intervals of `parameters`; empty without a bootstrap.

        Both ends are NaN for undetermined parameters; fixed parameters have no interval.
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
        """(estimate, low, high) of a quantity, a function of coordinates (S, P) -> (S,)."""
        samples = quantity(self.samples) if len(self.samples) else None
        return self.interval_from(np.asarray(quantity(self.theta[None]))[0], samples)

    def predict(self, **values: float) -> tuple[float, float, float]:
        """(loss, low, high) of the law at its variables, usually N and D.

        Losses are in nats per token. The interval is that of the law's value; `predict_run` gives
        that of a single run.

        Raises:
          ScalingError: a variable of the law is missing or not above 0.
        """
        point = self._point(values)
        return self.interval_of(lambda theta: self.law.loss(theta, **point))

    def predict_run(self, **values: float) -> tuple[float, float, float]:
        """As `predict`, but with the interval of the loss of a single run.

        It combines the uncertainty of the law with the scatter of runs about it, assuming that
        new runs scatter like those of the records.
        """
        point = self._point(values)
        estimate = float(self.law.loss(self.theta, **point))
        return estimate, *self.run_interval(estimate, self.law.loss(self.samples, **point))

    def run_interval(self, estimate: float, samples: np.ndarray) -> tuple[float, float]:
        """The interval of a single run's loss, from the law's loss and its resamples (S,).

        As in `interval_from`, the ends are NaN if a parameter is undetermined.
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
        """The content of fit.json; numbers that are not finite become None."""
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

        The ends are NaN without resamples, and if a parameter is undetermined.
        """
        if samples is None or self.undetermined:
            return float(estimate), float("nan"), float("nan")
        return float(estimate), *interval(np.asarray(samples), float(estimate), self.level)

    @property
    def divides_compute(self) -> bool:
        """Whether the law depends on both N and D, so that compute can be divided between them."""
        return {"N", "D"} <= set(self.law.variables)

    def default_budgets(self) -> tuple[float, ...]:
        """Budgets for tables, in FLOPs: 1, 10 and 100 times the largest compute of the records."""
        every = (self.range["C"][1] * factor for factor in (1.0, 10.0, 100.0))
        return tuple(C for C in every if np.isfinite(C))

    def allocation(self, C: float, inference_tokens: float = 0) -> Json:
        """Compute-optimal N, D and loss for C FLOPs, with intervals; see `allocate.optimal`.

        For the data-constrained law, the number of unique tokens is the largest in the records.
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
        """Write fit.json and bootstrap.npy, the resamples (S, P) that its intervals come from.

        Returns:
          The path of fit.json.

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
        """The fit as a text table, with allocations for `budgets` in FLOPs."""
        from scaling.estimate.tables import fit_table

        return fit_table(self, budgets)


def finite(value: Any) -> Any:
    """Replace every number that is not finite by None, since JSON cannot represent it."""
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
    """Fit a law by Huber's loss of residuals in log loss (Hoffmann et al. 2022, approach 3).

    Args:
      records: points of N, D and loss; see `scaling.records`. Their `weight` weights the residuals.
      law: a name (chinchilla, tied, power_N, power_D, power_C, data_constrained) or a `Law`.
      delta: Huber's delta in log loss; None for least squares.
      resamples: number of bootstrap refits; 0 for none. Whole runs are drawn if points share one.
      bootstrap_starts: starting points of each refit; the first is the fit itself.
      level: confidence level of all intervals.
      profiles: also compute profile likelihoods.
      fix: parameters fixed at a value, {"E": 1.69} or "E=1.69, alpha=0.34", in the fit, its
        resamples and profiles.
      seed: of the bootstrap.

    Returns:
      `Fit`; `success` is False if no descent converged, the best fit is degenerate, or the data do
      not determine all parameters.

    Raises:
      ScalingError: too few records, a missing column, a constant variable, or a wrong argument.
    """
    law = find_law(law)
    if not isinstance(records, Records):
        raise ScalingError("fit needs Records: use read_records(FILE) or Records.from_arrays.")
    if not 0 < level < 1:
        raise ScalingError(f"level={level} must be between 0 and 1.")
    if resamples < 0 or bootstrap_starts < 1:
        raise ScalingError("resamples must be at least 0 and bootstrap_starts at least 1.")
    problem = Problem.of(records, law, delta, read_fixed(fix, law))
    solved = solve(problem, records, level, profiles, resamples, bootstrap_starts, seed)
    found, identified, samples = solved.found, solved.identified, solved.samples
    centred = found.theta[found.best]
    residual = problem.residuals(centred)
    message = identified.message if identified.undetermined else solved.message
    same = found.reached(1e-14 * problem.unit)
    starts = len(problem.starts())
    result = Fit(
        law=law,
        theta=law.absolute(centred, problem.centre),
        samples=law.absolute(samples, problem.centre),
        delta=None if problem.delta == SQUARES else problem.delta,
        level=level,
        objective=float(found.objective[found.best]),
        n_points=len(records),
        n_runs=len(set(records.run)),
        success=message == "converged",
        message=message,
        starts=starts,
        # Rows are grouped by sequence of deltas; each group has one row per starting point.
        starts_converged=int(np.sum(np.any(same.reshape(-1, starts), axis=0))),
        warnings=(*solved.warnings, *warn(records, problem, centred, samples, found.converged)),
        profiles={n: p for n, p in solved.profiles.items() if n not in identified.undetermined},
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


def _ranges(records: Records) -> dict[str, tuple[float, float]]:
    columns = {"N": records.N, "D": records.D, "C": records.C, "U": records.unique}
    return {
        name: (float(np.min(values)), float(np.max(values)))
        for name, values in columns.items()
        if values is not None
    }
