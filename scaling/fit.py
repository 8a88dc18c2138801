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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scaling import allocate
from scaling.bootstrap import Profile, bootstrap, interval, profile
from scaling.callable_module import make_callable
from scaling.errors import ScalingError, writing
from scaling.laws import Law, find_law
from scaling.problem import SQUARES, Problem
from scaling.records import Records
from scaling.scatter import run_interval, scatter_of

FORMAT = 2
"""Version of fit.json."""


_FEW_RESAMPLES = 100  # fewer leave two or less beyond an end of a 95 % interval


@dataclasses.dataclass(frozen=True)
class Fit:
    """A fitted law.

    Attributes:
      theta: absolute coordinates (P,), in the units of the records.
      samples: bootstrap resamples of theta (S, P); S is 0 without a bootstrap.
      objective: sum of the losses of the residuals at theta.
      success: converged and not degenerate; `message` says otherwise what is wrong.
      starts, starts_converged: how many starts there were, and how many reached this objective.
      range: per variable (smallest, largest) of the records.
      floor: the exact entropy of the corpus where the records know it.
      scatter: quantiles of single runs about the law in log loss; see `scaling.scatter`.
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
    scatter: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0))

    @functools.cached_property
    def parameters(self) -> dict[str, float]:
        """E, A, B, alpha, beta, ... and, where the allocation has a closed form, a, b, G."""
        found = self.quantities(self.theta)
        return {name: float(value) for name, value in found.items()}

    @functools.cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Bootstrap interval of each of `parameters`; empty without a bootstrap."""
        if not len(self.samples):
            return {}
        resampled = self.quantities(self.samples)
        return {
            name: interval(resampled[name], value, self.level)
            for name, value in self.parameters.items()
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
        """The interval of a single run from the law's loss there and its resamples (S,)."""
        freedom = max(self.n_points - len(self.theta), 1)
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

    def to_dict(self, budgets: Sequence[float] = ()) -> dict[str, Any]:
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
        """(estimate, low, high) of a quantity from its resamples (S,), NaN ends without any."""
        if samples is None:
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

    def allocation(self, C: float, inference_tokens: float = 0) -> dict[str, Any]:
        """Compute-optimal N, D and loss for C FLOPs, with intervals; see `allocate.optimal`.

        The data-constrained law has the largest number of unique tokens of its records.
        """
        unique = self.range["U"][1] if "U" in self.law.variables else None

        def optimal(theta):
            return allocate.optimal(
                self.law, theta, C, inference_tokens=inference_tokens, unique=unique
            )

        point = optimal(self.theta[None])
        many = optimal(self.samples) if len(self.samples) else (None, None, None)
        found = {"C": float(C)}
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
        from scaling.tables import fit_table

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

    Returns:
      `Fit`; `success` is False where no start converged or the best fit is degenerate.

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
    problem = Problem.of(records, law, delta)
    starts = problem.starts()
    found = problem.solve(starts)
    usable = np.where(found.converged & np.isfinite(found.objective), found.objective, np.inf)
    none = not np.any(np.isfinite(usable))
    best = int(
        np.argmin(
            np.where(np.isfinite(found.objective), found.objective, np.inf) if none else usable
        )
    )
    centred, least = found.theta[best], float(found.objective[best])
    same = usable <= least * (1 + 1e-6) + 1e-14 * problem.unit
    defects = problem.defects(centred)
    message = "converged"
    if defects:  # also where nothing converged: a dying term falls for ever
        message = "degenerate: " + "; ".join(defects)
    elif none:
        message = "no start converged"
    proper = message == "converged"
    samples = np.empty((0, len(centred)))
    if resamples and not none:
        samples = bootstrap(problem, centred, records.run, resamples, seed, bootstrap_starts)
    return Fit(
        law=law,
        theta=law.absolute(centred, problem.centre),
        samples=law.absolute(samples, problem.centre),
        delta=None if problem.delta == SQUARES else problem.delta,
        level=level,
        objective=least,
        n_points=len(records),
        n_runs=len(set(records.run)),
        success=proper,
        message=message,
        starts=len(starts),
        starts_converged=int(np.sum(same)),
        warnings=tuple(warn(records, problem, samples, found.converged)),
        profiles=profile(problem, centred, level) if profiles and proper else {},
        range=_ranges(records),
        count=records.count,
        source=records.source,
        residual_std=float(np.std(problem.residuals(centred))),
        floor=records.floor,
        scatter=scatter_of(problem.residuals(centred), problem.weights, len(centred)),
    )


def _ranges(records: Records) -> dict[str, tuple[float, float]]:
    columns = {"N": records.N, "D": records.D, "C": records.C, "U": records.unique}
    return {
        name: (float(np.min(values)), float(np.max(values)))
        for name, values in columns.items()
        if values is not None
    }


def warn(
    records: Records, problem: Problem, samples: np.ndarray, converged: np.ndarray
) -> list[str]:
    """What a careful reader of a fit to these records should know."""
    found = []
    law = problem.law
    if len(records) < 8:
        found.append(f"only {len(records)} points for {len(law.coordinates)} parameters")
    for variable in law.variables:
        span = np.ptp(problem.logs[variable]) / np.log(10)
        if span < 1:
            found.append(f"{variable} spans only {span:.2f} decades; its exponent is a guess")
    if {"N", "D"} <= set(law.variables) and len(records) > 2:
        if abs(np.corrcoef(problem.logs["N"], problem.logs["D"])[0, 1]) > 0.98:
            found.append("N and D rise together; their terms can hardly be told apart")
    small = int(np.sum(records.N < 50e6))
    if records.natural_text and small and "N" in law.variables:
        which = "" if records.count == "non_embedding" else f" (N is {records.count})"
        found.append(
            f"{small} of {len(records)} models are below 50M non-embedding parameters{which}, "
            "where the law may not hold on natural text"
        )
    if records.middle is not None and np.any(records.middle):
        found.append(
            f"{int(np.sum(records.middle))} points come from the middle of a run's schedule; while "
            "the learning rate is high their loss is too"
        )
    if records.count == "unstated":
        found.append("whether N counts embeddings is not stated in the records")
    if np.mean(converged) < 0.5:
        found.append(f"only {int(np.sum(converged))} of {len(converged)} starts converged")
    if 0 < len(samples) < _FEW_RESAMPLES:
        found.append(
            f"{len(samples)} resamples are too few for the ends of an interval: take 1,000 or so"
        )
    if len(samples):
        dead = np.mean(
            [bool(problem.defects(theta)) for theta in samples[:: max(1, len(samples) // 200)]]
        )
        if dead > 0.01:
            found.append(
                f"{100 * dead:.0f} % of the resamples are degenerate: the data hardly hold "
                "all terms"
            )
    return found


def load_fit(path: str | Path) -> Fit:
    """A fit from its fit.json; see `scaling.loading`."""
    from scaling import loading

    return loading.load_fit(path)


make_callable(__name__)

if __name__ == "__main__":
    from scaling.command import main

    raise SystemExit(main())
