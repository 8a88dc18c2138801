"""The simplex method of Nelder and Mead (Computer Journal 7, 1965).

It needs no derivatives and tolerates noise. Moves, tests and first simplex are those of scipy, so
both follow the same path. But a simplex may shrink onto a point that is not a minimum (McKinnon,
SIAM J. Optim. 9 (1998)). Therefore the end point is probed on both sides along each parameter, and
a new simplex starts wherever the function is lower.
Shapes: P parameters, V = P + 1 vertices.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from scaling.optimize.method import (
    CONVERGED,
    EVALUATION_LIMIT,
    FLOOR,
    ITERATION_LIMIT,
    NOT_FINITE,
    RUNNING,
    UNBOUNDED,
    Evaluation,
    Method,
    Options,
    first_status,
)

# What the trial point is for. FIRST and SHRINK evaluate one vertex at a time, PROBE one side.
FIRST, REFLECT, EXPAND, OUTSIDE, INSIDE, SHRINK, PROBE = range(7)


class State(NamedTuple):
    trial: jax.Array
    phase: jax.Array
    vertex: jax.Array  # the trial: one of V vertices (FIRST, SHRINK), one of 2 P sides (PROBE)
    simplex_VxP: jax.Array  # sorted, best first, once the phase is past FIRST
    values_V: jax.Array
    reflected: jax.Array  # (P,) and its value
    reflected_value: jax.Array
    x: jax.Array
    fun: jax.Array
    lower: jax.Array
    upper: jax.Array
    nit: jax.Array
    nfev: jax.Array
    status: jax.Array


def _around(x0: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
    """(V, P) x0, then x0 with each parameter in turn 5 % larger, or 0.00025 where it is 0."""
    nudged = jnp.where(x0 != 0, 1.05 * x0, 0.00025)
    # A vertex above the upper bound is reflected at it: clipping would make the simplex flat.
    nudged = jnp.clip(jnp.where(nudged > upper, 2 * upper - nudged, nudged), lower, upper)
    return jnp.concatenate([x0[None], jnp.where(jnp.eye(x0.shape[0], dtype=bool), nudged, x0)])


def start(x0: jax.Array, lower: jax.Array, upper: jax.Array, options: Options) -> State:
    """The first state: the vertices of the first simplex are evaluated in turn."""
    x0 = jnp.clip(x0, lower, upper)
    zero = jnp.zeros((), jnp.int32)
    infinite = jnp.asarray(jnp.inf, x0.dtype)
    return State(
        trial=x0,
        phase=zero + FIRST,
        vertex=zero,
        simplex_VxP=_around(x0, lower, upper),
        values_V=jnp.full(x0.shape[0] + 1, jnp.inf, x0.dtype),
        reflected=x0,
        reflected_value=infinite,
        x=x0,
        fun=infinite,
        lower=lower,
        upper=upper,
        nit=zero,
        nfev=zero,
        status=zero + RUNNING,
    )


def _along(state: State, multiple: jax.Array) -> jax.Array:
    """The worst vertex reflected through the centre of the others, at `multiple` its distance."""
    centre = jnp.mean(state.simplex_VxP[:-1], axis=0)
    point = (1 + multiple) * centre - multiple * state.simplex_VxP[-1]
    return jnp.clip(point, state.lower, state.upper)


def _side(state: State, distance: float) -> jax.Array:
    """The best vertex with one parameter moved up or down, as `state.vertex` selects."""
    best = state.simplex_VxP[0]
    far = jnp.where(state.vertex % 2 == 0, distance, -distance) * jnp.maximum(1.0, jnp.abs(best))
    moved = jnp.where(jnp.arange(best.shape[0]) == state.vertex // 2, best + far, best)
    return jnp.clip(moved, state.lower, state.upper)


def _judge(state: State, value: jax.Array) -> tuple[State, jax.Array]:
    """Use the trial's value. Returns the state and whether the iteration is over."""
    phase, best, worst = state.phase, state.values_V[0], state.values_V[-1]
    reflecting, expanding = phase == REFLECT, phase == EXPAND
    better_than_second = value < state.values_V[-2]
    outer = (phase == OUTSIDE) & (value <= state.reflected_value)
    hit = outer | (phase == INSIDE) & (value < worst)
    miss = ((phase == OUTSIDE) | (phase == INSIDE)) & ~hit
    next_phase = jnp.where(
        reflecting,
        jnp.where(value < best, EXPAND, jnp.where(value < worst, OUTSIDE, INSIDE)),
        jnp.where(miss, SHRINK, phase),
    )
    settled = reflecting & (value >= best) & better_than_second
    listed = (phase == FIRST) | (phase == SHRINK)
    counted = listed | (phase == PROBE)
    full = listed & (state.vertex == state.values_V.shape[0] - 1)
    over = settled | expanding | hit | full

    # The worst vertex is replaced by the trial, or by the reflection if expanding did not help.
    vain = expanding & (value >= state.reflected_value)
    point = jnp.where(vain, state.reflected, state.trial)
    point_value = jnp.where(vain, state.reflected_value, value)
    replaces = settled | expanding | hit
    place = jnp.where(listed, state.vertex, jnp.where(replaces, state.values_V.shape[0] - 1, -1))
    here = jnp.arange(state.values_V.shape[0]) == place
    state = state._replace(
        phase=next_phase,
        vertex=jnp.where(counted, state.vertex + 1, jnp.where(miss, 1, state.vertex)),
        simplex_VxP=jnp.where(here[:, None], point, state.simplex_VxP),
        values_V=jnp.where(here, point_value, state.values_V),
        reflected=jnp.where(reflecting, state.trial, state.reflected),
        reflected_value=jnp.where(reflecting, value, state.reflected_value),
    )
    return state, over


def advance(state: State, at: Evaluation, options: Options) -> State:
    """Use the trial, sort the vertices when an iteration is over, and choose the next trial."""
    xtol = 1e-10 if options.xtol is None else options.xtol
    ftol = 1e-10 if options.ftol is None else options.ftol
    size = state.x.shape[0]
    limit = 1000 * size if options.maxiter is None else options.maxiter
    nfev = state.nfev + 1
    spent = nfev >= (2**31 - 1 if options.maxfev is None else options.maxfev)

    first = state.nfev == 0
    began, asked = state.phase, state.trial
    value = jnp.where(jnp.isnan(at.fun), jnp.inf, at.fun)
    state, over = _judge(state, value)
    order = jnp.argsort(state.values_V)
    simplex_VxP = jnp.where(over, state.simplex_VxP[order], state.simplex_VxP)
    values_V = jnp.where(over, state.values_V[order], state.values_V)

    spread = jnp.max(jnp.abs(simplex_VxP[1:] - simplex_VxP[0]))
    small = (spread <= xtol) & (jnp.max(jnp.abs(values_V[1:] - values_V[0])) <= ftol)
    phase = jnp.where(over, jnp.where(small, PROBE, REFLECT), state.phase)
    probing = began == PROBE
    fooled = probing & (value < values_V[0] - ftol)
    phase = jnp.where(fooled, FIRST, phase)
    around_VxP = _around(asked, state.lower, state.upper)
    simplex_VxP = jnp.where(fooled, around_VxP, simplex_VxP)
    values_V = jnp.where(fooled, jnp.inf, values_V)
    vertex = jnp.where((phase == PROBE) & ~probing | fooled, 0, state.vertex)
    state = state._replace(simplex_VxP=simplex_VxP, values_V=values_V, vertex=vertex)
    multiple = jnp.select(
        [phase == REFLECT, phase == EXPAND, phase == OUTSIDE], [1.0, 2.0, 0.5], -0.5
    )
    vertex = jnp.minimum(vertex, size)
    # A shrinking vertex moves halfway to the best one and is then evaluated.
    shrunk = simplex_VxP[0] + 0.5 * (simplex_VxP[vertex] - simplex_VxP[0])
    shrunk = jnp.clip(shrunk, state.lower, state.upper)
    trial = jnp.where(phase == SHRINK, shrunk, _along(state, multiple))
    trial = jnp.where(phase == FIRST, simplex_VxP[vertex], trial)
    trial = jnp.where(phase == PROBE, _side(state, max(1e-6, 100 * xtol)), trial)

    nit = state.nit + jnp.where(over & (began != FIRST), 1, 0)
    better = first | (value < state.fun)
    status = first_status(
        state.status,
        (first & ~jnp.isfinite(at.fun) & ~(at.fun < FLOOR), NOT_FINITE),
        (at.fun < FLOOR, UNBOUNDED),
        (probing & ~fooled & (state.vertex >= 2 * size), CONVERGED),
        (spent, EVALUATION_LIMIT),
        (nit >= limit, ITERATION_LIMIT),
    )
    return state._replace(
        trial=trial,
        phase=phase,
        x=jnp.where(better, asked, state.x),
        fun=jnp.where(better, at.fun, state.fun),
        nit=nit,
        nfev=nfev,
        status=status,
    )


METHOD = Method(order=0, start=start, advance=advance, bounded=True)
