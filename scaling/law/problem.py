"""One fitting problem: records, a law and a loss, in the coordinates in which it is solved.

Logs are centred, so that neither the units nor the location of the data matter. The objective is
divided by its value for a constant law, so that tolerances mean the same for every data set.
Shapes: n points, P coordinates, K starting points or resamples.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import huber

from scaling.errors import ScalingError
from scaling.law.fixed import Plane, plane_of
from scaling.law.laws import Law
from scaling.law.objective import objective, objective_on_plane
from scaling.optimize.minimize import Result, minimize_many
from scaling.optimize.precision import in_float64
from scaling.records.records import Records

SQUARES = 1e9
"""A delta larger than any residual of a log loss, which makes the objective least squares."""
_STAGES = (0.1, 0.01)
"""Intermediate deltas. Huber's loss with a small delta has many kinks: Newton's method is slow
between them, and a distant starting point may end with a dead term. Following the minimum down from
a wide delta avoids both (docs/DECISIONS.md has the figures)."""
_DEAD = 1e-4
"""A term that makes up less than this share of the loss at every point is dead."""
_FLAT = 0.1
"""A term whose log falls by less than this over the data is as good as constant."""
_SAME_OBJECTIVE = 1e-6
"""Objectives whose relative difference is smaller than this belong to one minimum."""
_FINE = (0.1, 0.03, 0.01, 0.003)
"""A finer sequence of intermediate deltas."""
_FEW = 100
"""With fewer points, the kinks of Huber's loss leave local minima on any sequence of deltas, and an
outlier can pull the wide delta's minimum towards a dead term. So each starting point is also solved
without intermediate deltas, and through _FINE."""
_MANY = 2000
"""With more points, descents that have met are continued as one, since each costs time."""
_ROUNDS = 4
"""How often the best descents that have not converged are continued."""

_THINNED = 5000
"""The most points used at a wide delta, evenly spread over the losses."""
_ROWS, _ROOM = 4096, 2**23
"""Fits and resamples share one compiled program of _ROWS rows if rows x points is within _ROOM."""


@dataclasses.dataclass(frozen=True)
class Solutions:
    """Local minima, one for each starting point.

    Attributes:
      theta: (K, P) centred coordinates.
      objective: (K,) sums of the objective.
      converged: (K,) bool.
      evaluations: (K,) numbers of evaluations.
      descent: (K,) the index of the descent; descents that have met share one.
    """

    theta: np.ndarray
    objective: np.ndarray
    converged: np.ndarray
    evaluations: np.ndarray
    descent: np.ndarray

    @property
    def best(self) -> int:
        """Index of the lowest objective."""
        return int(np.argmin(np.where(np.isfinite(self.objective), self.objective, np.inf)))

    def reached(self, tolerance: float) -> np.ndarray:
        """(K,) bool: which solutions have converged to the best objective."""
        least = self.objective[self.best]
        return self.converged & (self.objective <= least * (1 + _SAME_OBJECTIVE) + tolerance)

    def descents(self, among: np.ndarray) -> int:
        """The number of distinct descents among the solutions selected by `among`, (K,) bool."""
        return len(np.unique(self.descent[among]))


@dataclasses.dataclass(frozen=True)
class Problem:
    """The data of a fit in centred logs, its law and its loss.

    Attributes:
      law: the law to fit.
      logs: centred ln of each variable, (n,).
      log_loss: ln of the losses, (n,).
      weights: (n,), with mean 1.
      centre: the mean that was subtracted from the logs of each variable.
      delta: of Huber's loss, in nats of log loss.
      unit: the objective of a constant law, by which the objective is divided.
      fixed: parameters fixed at a value.
      plane: the coordinates that stay free; None for all.
    """

    law: Law
    logs: Mapping[str, np.ndarray]
    log_loss: np.ndarray
    weights: np.ndarray
    centre: Mapping[str, float]
    delta: float
    unit: float
    fixed: Mapping[str, float] = dataclasses.field(default_factory=dict)
    plane: Plane | None = None

    @classmethod
    def of(
        cls,
        records: Records,
        law: Law,
        delta: float | None,
        fixed: Mapping[str, float] | None = None,
    ) -> "Problem":
        """Set up the fit of `law` to records; delta=None means least squares.

        Raises:
          ScalingError: fewer points than free parameters, a missing column, a constant variable,
            or a delta that is not positive.
        """
        if delta is not None and not delta > 0:
            raise ScalingError(f"delta={delta} must be above 0; None means least squares.")
        fixed = dict(fixed or {})
        _check(records, law, fixed)
        raw: dict[str, np.ndarray] = {
            v: np.log(np.asarray(records.unique if v == "U" else getattr(records, v)))
            for v in law.variables
        }
        centre = {v: float(np.mean(x)) if law.scales else 0.0 for v, x in raw.items()}
        if "U" in centre:
            centre["U"] = centre["D"]
        log_loss = np.log(records.loss)
        weights = np.ones(len(log_loss)) if records.weight is None else np.asarray(records.weight)
        weights = weights / np.mean(weights)
        delta = SQUARES if delta is None else float(delta)
        spread = np.abs(log_loss - np.median(log_loss))
        unit = float(np.sum(weights * np.where(spread < delta, spread**2, delta * spread)))
        logs = {v: x - centre[v] for v, x in raw.items()}
        plane = plane_of(law, fixed, centre)
        return cls(law, logs, log_loss, weights, centre, delta, max(unit, 1e-300), fixed, plane)

    def __len__(self) -> int:
        return len(self.log_loss)

    @property
    def basis(self) -> np.ndarray:
        """The directions (P, Q) in which theta is free."""
        return np.eye(len(self.law.coordinates)) if self.plane is None else self.plane.basis_PxQ

    def starts(self) -> np.ndarray:
        """The law's starting points for these data, (K, P) centred, moved onto the plane."""
        starts = np.asarray(self.law.starts(self.logs, self.log_loss), float)
        if self.plane is None:
            return starts
        return self.plane.outside(self.plane.inside(starts))

    def search(self) -> Solutions:
        """The minima reached from the law's starting points.

        Several sequences of deltas are tried if one may miss the best minimum.
        """
        starts = self.starts()
        found = self.solve(starts, self._stages(_STAGES))
        ways = [(), self._stages(_FINE)]
        if len(self) < _FEW or not self.proper(found):
            found = _together([found, *(self.solve(starts, way) for way in ways)])
        for _ in range(_ROUNDS):
            lower = np.where(found.converged, np.inf, found.objective)
            least = np.min(found.objective, initial=np.inf, where=found.converged)
            if not np.any(lower < least * (1 - _SAME_OBJECTIVE)):
                break
            # The program is compiled for as many lanes as there are starting points.
            going = np.argsort(lower, kind="stable")[: len(starts)]
            found = _replaced(found, going, self.solve(found.theta[going], ()))
        return found

    def proper(self, found: Solutions) -> bool:
        """Whether the best solution has converged and has no dead or constant term."""
        return bool(found.converged[found.best]) and not self.defects(found.theta[found.best])

    def solve(self, starts: np.ndarray, stages: Sequence[float] | None = None) -> Solutions:
        """Minimize from each starting point (K, P), centred.

        One call solves each of the intermediate deltas `stages` (default: _STAGES), and a last one
        the problem's own delta. With more than _MANY points, descents that have met are continued
        as one.
        """
        stages = self._stages(_STAGES) if stages is None else stages
        theta, evaluations = np.asarray(starts, float), np.zeros(len(starts), int)
        at = np.arange(len(theta))  # row of theta for each starting point
        for delta in (*stages, self.delta):
            weights = np.broadcast_to(self.weights, (len(theta), len(self)))
            found = self._minimize(theta, weights, delta)
            theta = np.asarray(found.x)
            evaluations += np.asarray(found.nfev)[at]
            if delta != self.delta and len(self) > _MANY:
                first, met = _meetings(np.zeros(len(theta), int), theta)
                theta, at = theta[first], met[at]
        fun, slope = np.asarray(found.fun), np.asarray(found.jac)
        with np.errstate(invalid="ignore", over="ignore"):
            decrement = np.einsum("kp,kpq,kq->k", slope, np.asarray(found.hess_inv), slope)
            # Compare the gain of one more Newton step with the objective.
            small = np.abs(decrement) <= 1e-9 * fun + 1e-16
        converged = (np.asarray(found.status) == 0) | (small & np.isfinite(fun))
        return Solutions(theta[at], fun[at] * self.unit, converged[at], evaluations, at)

    def refit(self, starts: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The best minimum (R, P) of each of R problems with weights (R, n).

        All problems begin at the starting points (M, P); descents that have met are continued as
        one. A single starting point is assumed to be near its minimum and uses no intermediate
        deltas.
        """
        problems, size = len(weights), starts.shape[1]
        owner = np.repeat(np.arange(problems), len(starts))
        theta = np.tile(starts, (problems, 1))
        for delta in self._stages(_STAGES) if len(starts) > 1 else []:
            theta = np.asarray(self._minimize(theta, weights[owner], delta).x)
            first, _ = _meetings(owner, theta)
            owner, theta = owner[first], theta[first]
        found = self._minimize(theta, weights[owner], self.delta)
        objective = np.asarray(found.fun)
        order = np.lexsort((np.where(np.isfinite(objective), objective, np.inf), owner))
        first = order[np.searchsorted(owner[order], np.arange(problems))]
        return np.asarray(found.x)[first].reshape(problems, size)

    def _stages(self, deltas: Sequence[float]) -> list[float]:
        """The deltas that are well above this problem's own."""
        return [delta for delta in deltas if delta > 2 * self.delta]

    def _minimize(self, starts: np.ndarray, weights: np.ndarray, delta: float) -> Result:
        """Minimize from each start at one delta; with a plane, jac and hess_inv are within it."""
        log_loss, logs = self.log_loss, self.logs
        if delta != self.delta and len(self) > _THINNED:
            # Only at intermediate deltas: the last one uses all points.
            some = np.linspace(0, len(self) - 1, _THINNED).round().astype(int)
            some = np.argsort(log_loss, kind="stable")[some]
            log_loss, weights = log_loss[some], weights[:, some]
            logs = {name: x[some] for name, x in logs.items()}
        count = len(log_loss)
        unit = self.unit * min(delta, 1.0) / min(self.delta, 1.0)
        function, lanes = objective(self.law), (weights,)
        if self.plane is not None:
            function, lanes = objective_on_plane(self.law), (*self._planes(len(starts)), weights)
            starts = self.plane.inside(starts)
        found = minimize_many(
            function,
            starts,
            (log_loss, logs, delta, unit),
            lanes,
            method="newton",
            hess=True,
            options={"maxiter": 150, "gtol": 1e-12, "ftol": 1e-13},
            width=_width(count),
            rows=_ROWS if _ROWS * count <= _ROOM else 1,
        )
        if self.plane is None:
            return found
        return dataclasses.replace(found, x=self.plane.outside(np.asarray(found.x)))

    def _planes(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The base and basis of the plane, repeated for `count` lanes."""
        assert self.plane is not None
        parts = (self.plane.base_P, self.plane.basis_PxQ)
        base, basis = (np.broadcast_to(part, (count, *part.shape)) for part in parts)
        return base, basis

    def solve_on_planes(self, base: np.ndarray, basis: np.ndarray, rows: int = 1) -> np.ndarray:
        """The least objective (K,) on each of K planes theta = base_k + basis_k y.

        base is (K, P), basis (K, P, Q); rows as in `minimize_many`.
        """
        if basis.shape[-1] == 0:  # no free coordinate
            return np.array([self.loss_of(self.residuals(theta)) for theta in base])
        found = minimize_many(
            objective_on_plane(self.law),
            np.zeros((len(base), basis.shape[-1])),
            (self.weights, self.log_loss, self.logs, self.delta, self.unit),
            (base, basis),
            method="newton",
            hess=True,
            options={"maxiter": 150, "gtol": 1e-12, "ftol": 1e-10},
            width=_width(len(self)),
            rows=rows,
        )
        return np.asarray(found.fun) * self.unit

    @in_float64
    def log_terms(self, theta: np.ndarray) -> np.ndarray:
        """The logs of the law's T terms at the points, (T, n), for centred theta (P,)."""
        return np.array(
            [np.broadcast_to(t, len(self)) for t in self.law.log_terms_of(theta, self.logs)]
        )

    def residuals(self, theta: np.ndarray) -> np.ndarray:
        """The residuals ln L - ln L(N, D) at the points, (n,)."""
        return self.log_loss - np.logaddexp.reduce(self.log_terms(theta), axis=0)

    def jacobian(self, theta: np.ndarray, step: float = 1e-6) -> np.ndarray:
        """The derivatives d ln L / d theta at the points, (n, P), by central differences."""
        columns = []
        for i in range(len(theta)):
            shift = np.zeros(len(theta))
            shift[i] = step * (1 + abs(theta[i]))
            change = self.residuals(theta - shift) - self.residuals(theta + shift)
            columns.append(change / (2 * shift[i]))
        return np.stack(columns, -1)

    def loss_of(self, residual: np.ndarray) -> float:
        """The sum of the objective for residuals (n,)."""
        return float(np.sum(self.weights * huber(self.delta, residual)))

    def defects(self, theta: np.ndarray) -> list[str]:
        """The reasons why a solution is degenerate, in words; empty if it is not."""
        terms = self.log_terms(theta)
        if len(terms) == 1:
            return []
        shares = np.exp(terms - np.logaddexp.reduce(terms, axis=0))
        found = []
        for name, share in zip(self.law.terms, shares, strict=True):
            if np.max(share) < _DEAD and name not in self.fixed:
                found.append(f"the term {name} is dead: at most {np.max(share):.1e} of any loss")
        for coefficient, exponent, variable in self.law.scales:
            value = theta[self.law.at(exponent)]
            if exponent in self.fixed:
                continue
            if value * np.ptp(self.logs[variable]) < _FLAT:
                name = coefficient.removeprefix("log_")
                found.append(
                    f"{name}'s term hardly falls with {variable} ({exponent} = {value:.2g})"
                )
        return found


def _width(points: int) -> int:
    """The number of lanes: limited so that intermediate arrays over all points fit in memory."""
    return int(np.clip(2**22 // points, 1, 128))


def _meetings(owner: np.ndarray, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Group the points (K, P) of one owner (K,) that coincide to five digits.

    Returns the index of one point of each group, and the group of each point (K,).
    """
    order = np.lexsort((theta[:, 0], owner))
    owner, theta = owner[order], theta[order]
    new = np.ones(len(owner), bool)
    near = np.all(np.abs(np.diff(theta, axis=0)) <= 1e-5 * (1 + np.abs(theta[1:])), axis=1)
    new[1:] = ~(near & (owner[1:] == owner[:-1]))
    meeting = np.empty(len(order), int)
    meeting[order] = np.cumsum(new) - 1
    return order[new], meeting


def _together(several: Sequence[Solutions]) -> Solutions:
    """Concatenate solutions; each keeps descents of its own."""
    shifts = np.cumsum([0, *(len(s.theta) for s in several[:-1])])
    columns = {f.name: [getattr(s, f.name) for s in several] for f in dataclasses.fields(Solutions)}
    columns["descent"] = [d + shift for d, shift in zip(columns["descent"], shifts, strict=True)]
    return Solutions(**{name: np.concatenate(parts) for name, parts in columns.items()})


def _replaced(found: Solutions, rows: np.ndarray, new: Solutions) -> Solutions:
    """The solutions, with those in `rows` continued to `new`."""
    columns = {f.name: getattr(found, f.name).copy() for f in dataclasses.fields(Solutions)}
    for name in ("theta", "objective", "converged"):
        columns[name][rows] = getattr(new, name)
    columns["evaluations"][rows] += new.evaluations
    return Solutions(**columns)


def _check(records: Records, law: Law, fixed: Mapping[str, float]) -> None:
    needed = len(law.coordinates) - len(fixed)
    count = len(records) if records.weight is None else int(np.count_nonzero(records.weight))
    if count < needed:
        lines = [
            f"{count} record{'s' * (count != 1)}{' of weight above 0' * (count != len(records))} "
            f"cannot determine the {needed} parameters of law={law.name}: "
            f"{', '.join(name for name in law.parameters if name not in fixed)}.",
            *records.notes[:2],
        ]
        raise ScalingError("\n".join(lines))
    if "U" in law.variables and records.unique is None:
        raise ScalingError(
            f"law={law.name} needs a column of unique training tokens (U, unique_tokens)."
        )
    for variable in law.variables:
        if variable == "U":
            continue
        values = getattr(records, variable)
        # With fixed parameters one value may be enough; `identify` reports if it is not.
        if np.ptp(np.log(values)) < 1e-6 and not fixed:
            others = [v for v in "ND" if v != variable]
            raise ScalingError(
                f"{variable} is the same in all {len(records)} records ({values[0]:.4g}), so "
                f"law={law.name} cannot be determined.\nAdd records with other values, or fit a "
                f"law of one variable: law=power_{others[0]}."
            )
