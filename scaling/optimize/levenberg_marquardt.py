"""Levenberg-Marquardt as a trust-region method; each subproblem is solved exactly.

Moré, "The Levenberg-Marquardt algorithm: implementation and theory" (1978): the region is an
ellipsoid scaled by the norms of the Jacobian's columns. The step comes from a singular value
decomposition instead of the paper's QR, so a rank-deficient Jacobian needs no special case.
Parameters that a step would take beyond a bound are held at that bound.
Shapes: P parameters, M residuals, S = min(M, P) singular values.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from scaling.optimize.method import (
    CONVERGED,
    EVALUATION_LIMIT,
    FAR,
    NO_PROGRESS,
    NOT_FINITE,
    RUNNING,
    UNBOUNDED,
    Evaluation,
    Options,
    first_status,
)
from scaling.optimize.quasi_newton import EPS, freely, projected, snap
from scaling.optimize.secular import shift_to

_TINY = 1e-300


class State(NamedTuple):
    trial: jax.Array
    predicted: jax.Array  # decrease that the linear model predicts for the trial
    interior: jax.Array  # whether the trial is the full Gauss-Newton step, inside the region
    x: jax.Array
    fun: jax.Array  # the cost
    jac: jax.Array  # gradient of the cost
    residuals: jax.Array  # (M,), scaled if the loss is robust
    jacobian: jax.Array  # (M, P), likewise
    scale: jax.Array  # (P,) largest norm so far of each column of the Jacobian
    radius: jax.Array
    lower: jax.Array
    upper: jax.Array
    nit: jax.Array
    nfev: jax.Array
    status: jax.Array


class Step(NamedTuple):
    step: jax.Array
    interior: jax.Array
    whole: jax.Array  # the Gauss-Newton step, (P,)
    promise: jax.Array  # decrease that the linear model predicts for `whole`


def start(x0: jax.Array, count: int, lower: jax.Array, upper: jax.Array) -> State:
    """The first state: `count` residuals are evaluated at x0 first."""
    x0 = jnp.clip(x0, lower, upper)
    zero = jnp.zeros((), jnp.int32)
    nothing = jnp.zeros((), x0.dtype)
    return State(
        trial=x0,
        predicted=nothing,
        interior=zero > 0,
        x=x0,
        fun=nothing + jnp.inf,
        jac=jnp.zeros_like(x0),
        residuals=jnp.zeros(count, x0.dtype),
        jacobian=jnp.zeros((count, x0.shape[0]), x0.dtype),
        scale=jnp.zeros_like(x0),
        radius=nothing,
        lower=lower,
        upper=upper,
        nit=zero,
        nfev=zero,
        status=zero + RUNNING,
    )


def damped_step(
    residuals: jax.Array, jacobian: jax.Array, scale: jax.Array, radius: jax.Array
) -> Step:
    """The step s that minimizes |residuals + jacobian s| with |scale s| <= radius."""
    left, sigma_S, right = jnp.linalg.svd(jacobian / scale, full_matrices=False)
    threshold = EPS * max(jacobian.shape) * sigma_S[0]
    known = sigma_S > jnp.maximum(threshold, _TINY)
    part_S = jnp.where(known, left.T @ residuals, 0.0)
    sigma_S = jnp.where(known, sigma_S, 1.0)

    def denominators(shift: jax.Array | float) -> jax.Array:
        return sigma_S**2 + shift

    numerator_S = -sigma_S * part_S
    whole = numerator_S / denominators(0.0)
    length = jnp.linalg.norm(whole)
    interior = length <= radius
    low = jnp.zeros_like(radius)
    high = jnp.linalg.norm(numerator_S) / jnp.maximum(radius, _TINY)
    between = lambda low, high: jnp.maximum(1e-3 * high, jnp.sqrt(low * high))  # noqa: E731
    shift = shift_to(radius, numerator_S, denominators, low, high, low, between)
    step = numerator_S / denominators(shift)
    step = step * jnp.minimum(1.0, radius / jnp.maximum(jnp.linalg.norm(step), _TINY))
    step = jnp.where(interior, whole, step)
    promise = 0.5 * jnp.sum(part_S**2)
    return Step(right.T @ step / scale, interior, right.T @ whole / scale, promise)


def bounded_step(state: State, scale: jax.Array, bounded: bool) -> Step:
    """The damped step of the parameters that may move; the others are held at their bounds."""
    x, jacobian, residuals = state.x, state.jacobian, state.residuals
    if not bounded:
        return damped_step(residuals, jacobian, scale, state.radius)
    held = ~freely(x, state.jac, state.lower, state.upper)
    place = jnp.zeros_like(x)

    def attempt(held: jax.Array, place: jax.Array) -> tuple[Step, jax.Array, jax.Array]:
        moved = residuals + jacobian @ place
        found = damped_step(moved, jnp.where(held, 0.0, jacobian), scale, state.radius)
        step = jnp.where(held, place, found.step)
        return found, step, jnp.clip(x + step, state.lower, state.upper) - x

    first, step, folded = attempt(held, place)
    promise = first.promise
    whole = jnp.clip(x + first.whole, state.lower, state.upper) - x
    # Hold each parameter that would pass a bound there, and recompute the step of the others.
    for _ in range(2):
        held = held | (folded != step)
        _, step, folded = attempt(held, jnp.where(held, folded, 0.0))
    # If that step does not lead down, take the steepest one to the minimum of the model.
    reach = state.radius / jnp.maximum(jnp.linalg.norm(state.jac / scale), _TINY)
    steepest = jnp.clip(x - reach * state.jac / scale**2, state.lower, state.upper) - x
    bend = jnp.sum((jacobian @ steepest) ** 2)
    steepest = steepest * jnp.minimum(1.0, -(state.jac @ steepest) / jnp.maximum(bend, _TINY))
    down = _promise(state, folded) >= 1e-2 * _promise(state, steepest)
    return Step(jnp.where(down, folded, steepest), first.interior, whole, promise)


def _promise(state: State, step: jax.Array) -> jax.Array:
    """The decrease of the cost that the linear model predicts for a step."""
    return -(state.jac @ step + 0.5 * jnp.sum((state.jacobian @ step) ** 2))


def _steepness(state: State, x: jax.Array, jac: jax.Array) -> jax.Array:
    """The norm of the projected gradient, scaled like the trust region."""
    return jnp.linalg.norm(projected(x, jac, state.lower, state.upper) / state.scale)


def _new_radius(
    state: State, ratio: jax.Array, decrease: jax.Array, length: jax.Array
) -> jax.Array:
    """The trust radius after a step of scaled `length` gave `ratio` of its predicted decrease."""
    # The minimum of the parabola through the value, the slope and the new value.
    slope = -(state.jac @ (state.trial - state.x))
    cut = jnp.where(decrease >= 0, 0.5, 0.5 * slope / jnp.maximum(slope - decrease, _TINY))
    cut = jnp.clip(jnp.where(jnp.isfinite(decrease), cut, 0.1), 0.1, 0.5)
    shrunk = cut * jnp.minimum(state.radius, 10 * length)
    grown = (ratio >= 0.75) | state.interior
    return jnp.where(ratio <= 0.25, shrunk, jnp.where(grown, 2 * length, state.radius))


def advance(state: State, at: Evaluation, options: Options, bounded: bool) -> State:
    """Accept or reject the trial by its share of the predicted decrease; choose the next trial."""
    assert at.residuals is not None and at.jacobian is not None
    gtol = 1e-10 if options.gtol is None else options.gtol
    ftol = 1e-16 if options.ftol is None else options.ftol
    xtol = 1e-10 if options.xtol is None else options.xtol
    size = state.x.shape[0]
    limit = 200 * (size + 1) if options.maxfev is None else options.maxfev

    first = state.nfev == 0
    finite = jnp.isfinite(at.fun) & jnp.all(jnp.isfinite(at.residuals))
    finite = finite & jnp.all(jnp.isfinite(at.jacobian))
    decrease = jnp.where(finite, state.fun - at.fun, -jnp.inf)
    noise = 8 * EPS * jnp.abs(state.fun)
    ratio = (decrease + noise) / (state.predicted + noise)
    gradient = at.jacobian.T @ at.residuals
    # If the decrease is lost in rounding, the gradients decide.
    steepness = _steepness(state, state.x, state.jac)
    gentler = (decrease >= -noise) & (_steepness(state, state.trial, gradient) < steepness)
    accept = finite & (first | ((ratio > 1e-4) & ((decrease >= 0) | gentler)))
    length = jnp.linalg.norm(state.scale * (state.trial - state.x))
    radius = _new_radius(state, jnp.where(accept, ratio, 0.0), decrease, length)

    new = (state.trial, at.fun, gradient, at.residuals, at.jacobian)
    old = (state.x, state.fun, state.jac, state.residuals, state.jacobian)
    x, fun, jac, residuals, jacobian = (
        jnp.where(accept, a, b) for a, b in zip(new, old, strict=True)
    )
    columns = jnp.linalg.norm(jacobian, axis=0)
    scale = jnp.maximum(state.scale, jnp.where(first & (columns == 0), 1.0, columns))
    size_x = jnp.linalg.norm(scale * x)
    radius = jnp.where(first, 100 * jnp.where(size_x > 0, size_x, 1.0), radius)
    state = state._replace(
        x=x, fun=fun, jac=jac, residuals=residuals, jacobian=jacobian, radius=radius, scale=scale
    )
    found = bounded_step(state, scale, bounded)
    # The first step limits the radius to a sensible length.
    length = jnp.linalg.norm(scale * found.step)
    radius = jnp.where(first, jnp.minimum(radius, length), radius)

    down = jnp.abs(projected(x, jac, state.lower, state.upper)) if bounded else jnp.abs(jac)
    cosine = down / jnp.maximum(columns * jnp.sqrt(2 * fun), _TINY)
    whole = jnp.linalg.norm(scale * found.whole)
    arrived = (
        (jnp.max(cosine) <= gtol)
        | (found.promise <= ftol * fun)
        | (whole <= xtol * (xtol * jnp.linalg.norm(scale) + size_x))
    )
    stuck = jnp.all(jnp.abs(found.step) <= EPS * jnp.abs(x))
    nfev = state.nfev + 1
    status = first_status(
        state.status,
        (first & ~finite, NOT_FINITE),
        (jnp.max(jnp.abs(x)) > FAR, UNBOUNDED),
        # A step that cannot move x is a failure, unless the predicted decrease is below rounding.
        (arrived | stuck & (found.promise <= 8 * EPS * fun), CONVERGED),
        (stuck, NO_PROGRESS),
        (nfev >= limit, EVALUATION_LIMIT),
    )
    return state._replace(
        trial=snap(x + found.step, state.lower, state.upper),
        predicted=_promise(state, found.step),
        interior=found.interior,
        radius=radius,
        nit=state.nit + jnp.where(first, 0, 1),
        nfev=nfev,
        status=status,
    )
