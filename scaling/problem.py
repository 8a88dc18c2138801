"""One fitting problem: records, a law and a loss, in the coordinates in which it is solved.

Logs are centred, so that neither units nor the data's place on the axes matter, and the objective
is divided by its value for a constant law, so that tolerances mean the same for every data set.
Shapes: n points, P coordinates, K starts or resamples.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from scaling.errors import ScalingError
from scaling.laws import Law
from scaling.minimize import Result, minimize_many
from scaling.objective import objective, objective_on_plane
from scaling.precision import in_float64

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

_THINNED = 5000
"""Points that the wide deltas see at most, evenly spread over the losses."""
_ROWS, _ROOM = 4096, 2**23
"""Fits and resamples of few points (rows x points within the room) share one compiled program."""


@dataclasses.dataclass(frozen=True)
class Solutions:
    """Local minima, one for each start: theta (K, P) centred, the objective's sum (K,), whether
    each has converged, and the number of evaluations."""

    theta: np.ndarray
    objective: np.ndarray
    converged: np.ndarray
    evaluations: np.ndarray


@dataclasses.dataclass(frozen=True)
class Problem:
    """logs (centred) and log_loss of the points, their weights (mean 1), centre and delta."""

    law: Law
    logs: Mapping[str, np.ndarray]
    log_loss: np.ndarray
    weights: np.ndarray
    centre: Mapping[str, float]
    delta: float
    unit: float

    @classmethod
    def of(cls, records: Any, law: Law, delta: float | None) -> "Problem":
        """The problem of fitting `law` to records; delta None means least squares.

        Raises:
          ScalingError: fewer points than parameters, a column missing, a variable that is constant.
        """
        if delta is not None and not delta > 0:
            raise ScalingError(f"delta={delta} must be above 0; None means least squares.")
        _check(records, law)
        raw = {
            v: np.log(records.unique if v == "U" else getattr(records, v)) for v in law.variables
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
        return cls(law, logs, log_loss, weights, centre, delta, max(unit, 1e-300))

    def __len__(self) -> int:
        return len(self.log_loss)

    def starts(self) -> np.ndarray:
        """The law's data-driven starts, centred (K, P)."""
        starts = self.law.starts(self.logs, self.log_loss)
        return starts if self.law.scales else np.asarray(starts, float)

    def solve(self, starts: np.ndarray) -> Solutions:
        """Minimize from each start (K, P), centred, in one call a stage.

        Starts whose ways have met go on as one.
        """
        theta, evaluations = np.asarray(starts, float), np.zeros(len(starts), int)
        at = np.arange(len(theta))  # where each start is now
        for delta in (*self._stages(), self.delta):
            weights = np.broadcast_to(self.weights, (len(theta), len(self)))
            found = self._minimize(theta, weights, delta)
            theta = np.asarray(found.x)
            evaluations += np.asarray(found.nfev)[at]
            if delta != self.delta:
                first, met = _meetings(np.zeros(len(theta), int), theta)
                theta, at = theta[first], met[at]
        fun, slope = np.asarray(found.fun), np.asarray(found.jac)
        with np.errstate(invalid="ignore", over="ignore"):
            decrement = np.einsum("kp,kpq,kq->k", slope, np.asarray(found.hess_inv), slope)
            # What Newton's step could still gain, against what there is.
            small = np.abs(decrement) <= 1e-9 * fun + 1e-16
        converged = (np.asarray(found.status) == 0) | (small & np.isfinite(fun))
        return Solutions(theta[at], fun[at] * self.unit, converged[at], evaluations)

    def refit(self, starts: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The best minimum (R, P) of each of R problems with weights (R, n), all from M starts.

        starts: (M, P). Starts whose ways have met go on as one. A single start is taken to be near
        its minimum and goes there directly.
        """
        problems, size = len(weights), starts.shape[1]
        owner = np.repeat(np.arange(problems), len(starts))
        theta = np.tile(starts, (problems, 1))
        for delta in self._stages() if len(starts) > 1 else []:
            theta = np.asarray(self._minimize(theta, weights[owner], delta).x)
            first, _ = _meetings(owner, theta)
            owner, theta = owner[first], theta[first]
        found = self._minimize(theta, weights[owner], self.delta)
        objective = np.asarray(found.fun)
        order = np.lexsort((np.where(np.isfinite(objective), objective, np.inf), owner))
        first = order[np.searchsorted(owner[order], np.arange(problems))]
        return np.asarray(found.x)[first].reshape(problems, size)

    def _stages(self) -> list[float]:
        """The wide deltas on the way to this problem's own."""
        return [delta for delta in _STAGES if delta > 2 * self.delta]

    def _minimize(self, starts: np.ndarray, weights: np.ndarray, delta: float) -> Result:
        log_loss, logs = self.log_loss, self.logs
        if delta != self.delta and len(self) > _THINNED:
            # On the way only: where it ends, all points count.
            some = np.linspace(0, len(self) - 1, _THINNED).round().astype(int)
            some = np.argsort(log_loss, kind="stable")[some]
            log_loss, weights = log_loss[some], weights[:, some]
            logs = {name: x[some] for name, x in logs.items()}
        count = len(log_loss)
        return minimize_many(
            objective(self.law),
            starts,
            (log_loss, logs, delta, self.unit * min(delta, 1.0) / min(self.delta, 1.0)),
            (weights,),
            method="newton",
            hess=True,
            options={"maxiter": 150, "gtol": 1e-12, "ftol": 1e-13},
            width=_width(count),
            rows=_ROWS if _ROWS * count <= _ROOM else 1,
        )

    def solve_on_planes(self, base: np.ndarray, basis: np.ndarray) -> np.ndarray:
        """Least objectives (K,) over theta = base_k + basis_k y; base (K, P), basis (K, P, Q)."""
        found = minimize_many(
            objective_on_plane(self.law),
            np.zeros((len(base), basis.shape[-1])),
            (self.weights, self.log_loss, self.logs, self.delta, self.unit),
            (base, basis),
            method="newton",
            hess=True,
            options={"maxiter": 150, "gtol": 1e-12, "ftol": 1e-10},
            width=_width(len(self)),
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

    def defects(self, theta: np.ndarray) -> list[str]:
        """What makes a solution degenerate, in words; empty for a proper one."""
        terms = self.log_terms(theta)
        if len(terms) == 1:
            return []
        shares = np.exp(terms - np.logaddexp.reduce(terms, axis=0))
        found = []
        for name, share in zip(self.law.terms, shares, strict=True):
            if np.max(share) < _DEAD:
                found.append(f"the term {name} is dead: at most {np.max(share):.1e} of any loss")
        for coefficient, exponent, variable in self.law.scales:
            value = theta[self.law.at(exponent)]
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


def _check(records: Any, law: Law) -> None:
    needed = len(law.coordinates)
    count = len(records) if records.weight is None else int(np.count_nonzero(records.weight))
    if count < needed:
        lines = [
            f"{count} record{'s' * (count != 1)}{' of weight above 0' * (count != len(records))} "
            f"cannot determine the {needed} parameters of law={law.name}: "
            f"{', '.join(law.parameters)}.",
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
        if np.ptp(np.log(values)) < 1e-6:
            others = [v for v in "ND" if v != variable]
            raise ScalingError(
                f"{variable} is the same in all {len(records)} records ({values[0]:.4g}), so that "
                f"law={law.name} cannot be determined.\nAdd other values, or fit in one variable: "
                f"law=power_{others[0]}."
            )
