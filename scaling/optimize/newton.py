"""Newton's method with a trust region; each subproblem is solved exactly.

Moré and Sorensen, SIAM J. Sci. Stat. Comput. 4 (1983). In the basis of the Hessian's eigenvectors,
the subproblem min g.s + s.H.s/2 with |s| <= radius becomes one equation in one unknown, including
the hard case (Conn, Gould and Toint, "Trust Region Methods" (2000), section 7.3). The method is
meant for small P, up to about a hundred, where a decomposition costs less than an evaluation.
Shapes: P parameters.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from scaling.optimize.method import (
    CONVERGED,
    EVALUATION_LIMIT,
    FAR,
    FLOOR,
    ITERATION_LIMIT,
    NO_PROGRESS,
    NOT_FINITE,
    RUNNING,
    UNBOUNDED,
    Evaluation,
    Method,
    Options,
    first_status,
)
from scaling.optimize.secular import shift_to

_EPS = 2.220446049250313e-16


class State(NamedTuple):
    trial: jax.Array
    predicted: jax.Array  # decrease that the quadratic model predicts for the trial
    x: jax.Array
    fun: jax.Array
    jac: jax.Array
    hess: jax.Array
    radius: jax.Array
    nit: jax.Array
    nfev: jax.Array
    status: jax.Array


def start(x0: jax.Array, lower: jax.Array, upper: jax.Array, options: Options) -> State:
    """The first state: x0 is evaluated first. `lower` and `upper` are ignored."""
    size = x0.shape[0]
    infinite = jnp.asarray(jnp.inf, x0.dtype)
    zero = jnp.zeros((), jnp.int32)
    return State(
        trial=x0,
        predicted=jnp.ones((), x0.dtype),
        x=x0,
        fun=infinite,
        jac=jnp.zeros_like(x0),
        hess=jnp.eye(size, dtype=x0.dtype),
        radius=jnp.asarray(options.radius, x0.dtype),
        nit=zero,
        nfev=zero,
        status=zero + RUNNING,
    )


def subproblem(
    gradient: jax.Array, hessian: jax.Array, radius: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Minimize the quadratic model g.s + s.H.s/2 subject to |s| <= radius.

    Returns:
      The step (P,), whether it is a Newton step inside the region, and the smallest eigenvalue.
    """
    eigenvalues, vectors = jnp.linalg.eigh(hessian)
    slopes = vectors.T @ gradient
    smallest = eigenvalues[0]
    scale = jnp.maximum(jnp.max(jnp.abs(eigenvalues)), jnp.finfo(gradient.dtype).tiny)
    threshold = scale * gradient.shape[0] * _EPS
    floor = jnp.maximum(0.0, -smallest)

    def denominators(shift: jax.Array | float) -> jax.Array:
        shifted: jax.Array = eigenvalues + shift
        return jnp.where(jnp.abs(shifted) > threshold, shifted, threshold)

    def components(shift: jax.Array | float) -> jax.Array:
        step: jax.Array = -slopes / denominators(shift)
        return step

    interior = (smallest > threshold) & (jnp.linalg.norm(components(0.0)) <= radius)
    low, high = floor, floor + jnp.linalg.norm(gradient) / radius + threshold
    start = jnp.maximum(low, jnp.minimum(high, low + 0.01 * (high - low)))
    halfway = lambda low, high: 0.5 * (low + high)  # noqa: E731
    shift = shift_to(radius, -slopes, denominators, low, high, start, halfway)
    boundary = components(shift)
    # The hard case: the slope along the lowest eigenvector is 0, so no shift reaches the radius.
    missing = jnp.sqrt(jnp.maximum(radius**2 - jnp.sum(boundary**2), 0.0))
    hard = (smallest < threshold) & (jnp.sum(boundary**2) < (0.9 * radius) ** 2)
    toward = jnp.where(slopes[0] > 0, -1.0, 1.0)
    boundary = boundary.at[0].add(jnp.where(hard, toward * missing, 0.0))
    norm = jnp.linalg.norm(boundary)
    boundary = boundary * jnp.minimum(1.0, radius / jnp.maximum(norm, 1e-300))
    return vectors @ jnp.where(interior, components(0.0), boundary), interior, smallest


def advance(state: State, at: Evaluation, options: Options) -> State:
    """Accept or reject the trial by its share of the predicted decrease; choose the next trial."""
    assert at.jac is not None and at.hess is not None  # order 2
    gtol = 1e-8 if options.gtol is None else options.gtol
    ftol = 1e-19 if options.ftol is None else options.ftol
    xtol = 1e-14 if options.xtol is None else options.xtol
    limit = 200 if options.maxiter is None else options.maxiter
    most = 2**31 - 1 if options.maxfev is None else options.maxfev

    first = state.nfev == 0
    finite = jnp.isfinite(at.fun) & jnp.all(jnp.isfinite(at.jac)) & jnp.all(jnp.isfinite(at.hess))
    decrease = jnp.where(finite, state.fun - at.fun, -jnp.inf)
    noise = 8 * _EPS * jnp.abs(state.fun)
    ratio = (decrease + noise) / (state.predicted + noise)
    # If the decrease is lost in rounding, the gradients decide.
    gentler = (decrease >= -noise) & (jnp.linalg.norm(at.jac) < jnp.linalg.norm(state.jac))
    accept = finite & (first | ((ratio > 1e-4) & ((decrease >= 0) | gentler)))
    length = jnp.linalg.norm(state.trial - state.x)
    radius = jnp.where(
        ~accept | (ratio < 0.25),
        0.25 * jnp.minimum(length, state.radius),
        jnp.where((ratio > 0.75) & (length > 0.9 * state.radius), 2 * state.radius, state.radius),
    )
    radius = jnp.where(first, state.radius, radius)
    x, fun, jac, hess = (
        jnp.where(accept, new, old)
        for new, old in zip(
            (state.trial, at.fun, at.jac, at.hess),
            (state.x, state.fun, state.jac, state.hess),
            strict=True,
        )
    )
    hess = jnp.where(jnp.isfinite(hess), hess, 0.0)
    step, interior, smallest = subproblem(jac, hess, radius)
    predicted = -(jac @ step + 0.5 * step @ hess @ step)
    slope = jnp.max(jnp.abs(jac))
    nit = state.nit + jnp.where(first, 0, 1)
    nfev = state.nfev + 1
    # A small gradient alone proves nothing: if the function falls towards infinity, Newton's step
    # stays long. On the boundary, the test is that some direction has no curvature.
    length = jnp.linalg.norm(step)
    curvature = _EPS * x.shape[0] * jnp.max(jnp.abs(hess))
    short = jnp.where(interior, length <= 1e-6 * (1 + jnp.linalg.norm(x)), smallest <= curvature)
    flat = (slope <= gtol) & short & (smallest >= -curvature)
    stuck = length <= xtol * (1 + jnp.linalg.norm(x))
    settled = interior & (stuck | (predicted <= ftol * jnp.abs(fun)))
    status = first_status(
        state.status,
        (~jnp.isfinite(fun), NOT_FINITE),
        ((fun < FLOOR) | (jnp.max(jnp.abs(x)) > FAR), UNBOUNDED),
        (flat | settled, CONVERGED),
        (stuck, NO_PROGRESS),
        (nit >= limit, ITERATION_LIMIT),
        (nfev >= most, EVALUATION_LIMIT),
    )
    trial = x + step
    return State(trial, predicted, x, fun, jac, hess, radius, nit, nfev, status)


METHOD = Method(order=2, start=start, advance=advance)
