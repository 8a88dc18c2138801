"""One fitting problem: records, a law and a loss, in the coordinates in which it is solved.

Logs are centred, so that neither units nor the data's place on the axes matter, and the objective
is divided by its value for a constant law, so that tolerances mean the same for every data set.
Shapes: n points, P coordinates, K starts or resamples.
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
"""A delta that no residual of a log loss reaches: least squares."""
_STAGES = (0.1, 0.01)
"""Deltas on the way to a smaller one. Huber's loss with a small delta is all kinks, between which
Newton's method advances slowly, and lets a start far away settle with a dead term; a start that
follows the minimum down from a wide delta meets neither (docs/DECISIONS.md has the figures)."""
_DEAD = 1e-4
"""A term that makes up less than this share of the loss at every point is dead."""
_FLAT = 0.1
"""A term whose log falls by less than this over the data cannot be told from a constant."""
_SAME_OBJECTIVE = 1e-6
"""Objectives closer than this, relatively, belong to one minimum."""
_FINE = (0.1, 0.03, 0.01, 0.003)
_FEW = 100
"""With fewer points the kinks of Huber's loss leave local minima on any one way down, and an
outlier can draw the wide delta's minimum into a dead term: the starts also go straight down, and
by _FINE."""
_MANY = 2000
"""With more points starts that have met go on as one: each of them costs time."""
_ROUNDS = 4
"""How often the best descent that has not ended may go on."""

_THINNED = 5000
"""Points that the wide deltas see at most, evenly spread over the losses."""
_ROWS, _ROOM = 4096, 2**23
"""Fits and resamples of few points (rows x points within the room) share one compiled program."""


@dataclasses.dataclass(frozen=True)
class Solutions:
    """Local minima, one for each start: theta (K, P) centred, the objective's sum (K,), whether
    each has converged, the number of evaluations, and which descent it ended with (K,): starts
    that have met share one."""

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
        """(K,) bool: has converged to the best objective."""
        least = self.objective[self.best]
        return self.converged & (self.objective <= least * (1 + _SAME_OBJECTIVE) + tolerance)

    def descents(self, among: np.ndarray) -> int:
        """How many descents were made to their end by the solutions `among` (K,) bool."""
        return len(np.unique(self.descent[among]))


@dataclasses.dataclass(frozen=True)
class Problem:
    """logs (centred) and log_loss of the points, their weights (mean 1), centre and delta.

    `fixed` are the parameters held at a value, `plane` what that leaves free (None: everything).
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
        """The problem of fitting `law` to records; delta None means least squares.

        Raises:
          ScalingError: fewer points than parameters, a column missing, a variable that is constant.
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
        """The law's data-driven starts, centred (K, P), where what is fixed has its value."""
        starts = np.asarray(self.law.starts(self.logs, self.log_loss), float)
        if self.plane is None:
            return starts
        return self.plane.outside(self.plane.inside(starts))

    def search(self) -> Solutions:
        """The minima reached from the law's starts, by more than one way where one may miss."""
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
            # The program is compiled for as many lanes as there are starts.
            going = np.argsort(lower, kind="stable")[: len(starts)]
            found = _replaced(found, going, self.solve(found.theta[going], ()))
        return found

    def proper(self, found: Solutions) -> bool:
        """Whether the best of the solutions has converged, with no dead or constant term."""
        return bool(found.converged[found.best]) and not self.defects(found.theta[found.best])

    def solve(self, starts: np.ndarray, stages: Sequence[float] | None = None) -> Solutions:
        """Minimize from each start (K, P), centred, in one call for each of the deltas `stages`
        (by default _STAGES) and one for the problem's own.

        Of more than _MANY points starts whose ways have met go on as one.
        """
        stages = self._stages(_STAGES) if stages is None else stages
        theta, evaluations = np.asarray(starts, float), np.zeros(len(starts), int)
        at = np.arange(len(theta))  # where each start is now
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
            # What Newton's step could still gain, against what there is.
            small = np.abs(decrement) <= 1e-9 * fun + 1e-16
        converged = (np.asarray(found.status) == 0) | (small & np.isfinite(fun))
        return Solutions(theta[at], fun[at] * self.unit, converged[at], evaluations, at)

    def refit(self, starts: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The best minimum (R, P) of each of R problems with weights (R, n), all from M starts.

        starts: (M, P). Starts whose ways have met go on as one. A single start is taken to be near
        its minimum and goes there directly.
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
        """Those of the deltas that lie well above this problem's own."""
        return [delta for delta in deltas if delta > 2 * self.delta]

    def _minimize(self, starts: np.ndarray, weights: np.ndarray, delta: float) -> Result:
        """Where something is fixed, jac and hess_inv are those within the plane."""
        log_loss, logs = self.log_loss, self.logs
        if delta != self.delta and len(self) > _THINNED:
            # On the way only: where it ends, all points count.
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
        """The plane once for each of `count` lanes."""
        assert self.plane is not None
        parts = (self.plane.base_P, self.plane.basis_PxQ)
        base, basis = (np.broadcast_to(part, (count, *part.shape)) for part in parts)
        return base, basis

    def solve_on_planes(self, base: np.ndarray, basis: np.ndarray, rows: int = 1) -> np.ndarray:
        """Least objectives (K,) over theta = base_k + basis_k y; base (K, P), basis (K, P, Q).

        rows: as of `minimize_many`.
        """
        if basis.shape[-1] == 0:  # nothing left to vary
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
        """Logs of the law's terms at the points, (T, n), for centred theta (P,)."""
        return np.array(
            [np.broadcast_to(t, len(self)) for t in self.law.log_terms_of(theta, self.logs)]
        )

    def residuals(self, theta: np.ndarray) -> np.ndarray:
        """ln L - ln L(N, D) at the points, (n,)."""
        return self.log_loss - np.logaddexp.reduce(self.log_terms(theta), axis=0)

    def jacobian(self, theta: np.ndarray, step: float = 1e-6) -> np.ndarray:
        """d ln L / d theta at the points, (n, P), by central differences."""
        columns = []
        for i in range(len(theta)):
            shift = np.zeros(len(theta))
            shift[i] = step * (1 + abs(theta[i]))
            change = self.residuals(theta - shift) - self.residuals(theta + shift)
            columns.append(change / (2 * shift[i]))
        return np.stack(columns, -1)

    def loss_of(self, residual: np.ndarray) -> float:
        """The objective's sum for residuals (n,)."""
        return float(np.sum(self.weights * huber(self.delta, residual)))

    def defects(self, theta: np.ndarray) -> list[str]:
        """What makes a solution degenerate, in words; empty for a proper one."""
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
    """Problems at work at a time: so many that what is computed at their points stays in memory."""
    return int(np.clip(2**22 // points, 1, 128))


def _meetings(owner: np.ndarray, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (K, P) of one owner (K,) that coincide to five digits count as one.

    Returns the index of one point of each meeting, and the meeting of each point (K,).
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
    """The solutions of several ways as one; each way's descents are its own."""
    shifts = np.cumsum([0, *(len(s.theta) for s in several[:-1])])
    columns = {f.name: [getattr(s, f.name) for s in several] for f in dataclasses.fields(Solutions)}
    columns["descent"] = [d + shift for d, shift in zip(columns["descent"], shifts, strict=True)]
    return Solutions(**{name: np.concatenate(parts) for name, parts in columns.items()})


def _replaced(found: Solutions, rows: np.ndarray, new: Solutions) -> Solutions:
    """The solutions with those of `rows` gone on to `new`."""
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
        # With something fixed one value may be enough; `identify` says where it is not.
        if np.ptp(np.log(values)) < 1e-6 and not fixed:
            others = [v for v in "ND" if v != variable]
            raise ScalingError(
                f"{variable} is the same in all {len(records)} records ({values[0]:.4g}), so that "
                f"law={law.name} cannot be determined.\nAdd other values, or fit in one variable: "
                f"law=power_{others[0]}."
            )
