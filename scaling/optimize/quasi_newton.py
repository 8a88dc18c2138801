"""Descent along quasi-Newton directions: the part that BFGS and L-BFGS share.

A method provides two functions: one updates its memory after a step, the other multiplies its
inverse Hessian by a gradient. This file adds the line search, the restart when the search fails,
the bounds and the stopping tests. Shapes: P parameters, H stored pairs.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypedDict

import jax
import jax.numpy as jnp

from scaling.optimize import line_search as linesearch
from scaling.optimize.line_search import FAILED, FOUND, SEARCHING
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

EPS = 2.220446049250313e-16


class Memory(TypedDict, total=False):
    """The fields of a state that hold curvature; each method sets one of them."""

    hess_inv: jax.Array
    pairs: tuple[jax.Array, jax.Array]


class State(NamedTuple):
    trial: jax.Array
    x: jax.Array
    fun: jax.Array
    jac: jax.Array
    direction: jax.Array
    search: linesearch.Search  # along `direction` from x
    low_jac: jax.Array  # gradient at search.low
    steepest: jax.Array  # largest gradient component seen so far
    settled: jax.Array  # whether almost no decrease was predicted at the last point
    fresh: jax.Array  # memory is empty or was cleared: steepest descent
    hess_inv: jax.Array | None  # bfgs: (P, P)
    pairs: (
        tuple[jax.Array, jax.Array] | None
    )  # l-bfgs: steps and gradient changes, (H, P) each, newest last
    lower: jax.Array
    upper: jax.Array
    nit: jax.Array
    nfev: jax.Array
    status: jax.Array


def freely(x: jax.Array, jac: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
    """(P,) bool: which parameters may move. False at a bound beyond which the function falls."""
    return ~((x <= lower) & (jac >= 0) | (x >= upper) & (jac <= 0))


def snap(x: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
    """Move parameters that lie beyond a bound, or within rounding error of it, onto the bound."""
    near = 4 * EPS * jnp.maximum(1.0, jnp.abs(x))
    x = jnp.where(x - lower <= near, lower, x)
    return jnp.where(upper - x <= near, upper, x)


def projected(x: jax.Array, jac: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
    """The step -jac, clipped to the bounds: zero at a constrained minimum."""
    return jnp.clip(-jac, lower - x, upper - x)


def _room(x: jax.Array, step: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
    """The largest multiple of `step` that stays within bounds."""
    room = jnp.where(step > 0, upper - x, jnp.where(step < 0, lower - x, jnp.inf))
    return jnp.min(room / jnp.where(step == 0, 1.0, step))


class Curvature(NamedTuple):
    """What distinguishes one method from another: its memory of curvature, and its limits.

    Attributes:
      start: (P, options) -> the empty memory (`hess_inv` or `pairs`).
      learn: (state, step, gradient change) -> the updated memory.
      product: (state, gradient with zeros where a bound holds) -> inverse Hessian times gradient.
      default_limit: P -> default iteration limit.
      bounded: whether bounds are supported.
    """

    start: Callable[[int, Options], Memory]
    learn: Callable[[State, jax.Array, jax.Array], Memory]
    product: Callable[[State, jax.Array], jax.Array]
    default_limit: Callable[[int], int]
    bounded: bool


def descent(curvature: Curvature) -> Method:
    """Make a method from a memory of curvature."""
    return Method(
        order=1,
        start=partial(_start, curvature),
        advance=partial(_advance, curvature),
        bounded=curvature.bounded,
    )


def _start(
    curvature: Curvature, x0: jax.Array, lower: jax.Array, upper: jax.Array, options: Options
) -> State:
    x0 = jnp.clip(x0, lower, upper)
    zero = jnp.zeros((), jnp.int32)
    nothing = jnp.zeros((), x0.dtype)
    memory = curvature.start(x0.shape[0], options)
    return State(
        trial=x0,
        x=x0,
        fun=nothing + jnp.inf,
        jac=jnp.zeros_like(x0),
        direction=jnp.zeros_like(x0),
        search=linesearch.begin(nothing, nothing, nothing, nothing + jnp.inf),
        low_jac=jnp.zeros_like(x0),
        steepest=nothing,
        settled=zero > 0,
        fresh=zero == 0,
        hess_inv=memory.get("hess_inv"),
        pairs=memory.get("pairs"),
        lower=lower,
        upper=upper,
        nit=zero,
        nfev=zero,
        status=zero + RUNNING,
    )


def _advance(curvature: Curvature, state: State, at: Evaluation, options: Options) -> State:
    jac = at.jac
    assert jac is not None  # order 1
    limit = options.maxiter
    limit = curvature.default_limit(state.x.shape[0]) if limit is None else limit
    first, asked, before = state.nfev == 0, state.trial, state
    finite = jnp.isfinite(at.fun) & jnp.all(jnp.isfinite(jac))
    spent = state.nfev + 1 >= (2**31 - 1 if options.maxfev is None else options.maxfev)

    state, verdict = _search(state, at.fun, jac, finite, spent)
    state, stays = _move(curvature, state, at.fun, jac, verdict)
    # If the search along a learned direction fails, clear the memory, once.
    exhausted = stays & state.fresh
    state = state._replace(fresh=state.fresh | stays)
    turns = first | (verdict != SEARCHING)
    state = jax.lax.cond(turns, partial(_depart, curvature), lambda state: state, state)
    state, arrived = _judge(state, before, turns, stays, options)

    status = first_status(
        state.status,
        (first & ~finite & ~(at.fun < FLOOR), NOT_FINITE),
        ((at.fun < FLOOR) | finite & (jnp.max(jnp.abs(asked)) > FAR), UNBOUNDED),
        (arrived, CONVERGED),
        (spent, EVALUATION_LIMIT),
        (exhausted, NO_PROGRESS),
        (state.nit >= limit, ITERATION_LIMIT),
    )
    bottomless = status == UNBOUNDED
    trial = state.x + state.search.step * state.direction
    return state._replace(
        trial=snap(trial, state.lower, state.upper),
        x=jnp.where(bottomless, asked, state.x),
        fun=jnp.where(bottomless, at.fun, state.fun),
        jac=jnp.where(bottomless, jac, state.jac),
        status=status,
    )


def _search(
    state: State, fun: jax.Array, jac: jax.Array, finite: jax.Array, spent: jax.Array
) -> tuple[State, jax.Array]:
    """Give the value at the trial point to the line search; its verdict on that point."""
    first, step = state.nfev == 0, state.search.step
    search, verdict = linesearch.advance(state.search, fun, jac @ state.direction, finite & ~first)
    verdict = jnp.where(spent & (verdict == SEARCHING), FAILED, verdict)
    low_jac = jnp.where(finite & (search.low == step), jac, state.low_jac)
    return state._replace(search=search, low_jac=low_jac), verdict


def _move(
    curvature: Curvature, state: State, fun: jax.Array, jac: jax.Array, verdict: jax.Array
) -> tuple[State, jax.Array]:
    """Move to the point that the line search ended at, if any; and whether it found none.

    A failed search still moves to its lowest point if that one is lower than x.
    """
    first, search, found = state.nfev == 0, state.search, verdict == FOUND
    gained = state.fun - search.low_fun > 4 * EPS * jnp.abs(state.fun)
    lower_met = (verdict == FAILED) & gained
    low = snap(state.x + search.low * state.direction, state.lower, state.upper)

    def move(state: State) -> State:
        return _arrive(
            curvature,
            state,
            jnp.where(found, state.trial, low),
            jnp.where(found, fun, search.low_fun),
            jnp.where(found, jac, state.low_jac),
        )

    moves = ~first & (found | lower_met)
    stays = ~first & (verdict == FAILED) & ~lower_met
    state = state._replace(nfev=state.nfev + 1)
    origin = state._replace(x=state.trial, fun=fun, jac=jac)
    state = jax.lax.cond(moves, move, lambda state: state, state)
    return jax.tree.map(lambda a, b: jnp.where(first, a, b), origin, state), stays


def _arrive(
    curvature: Curvature, state: State, trial: jax.Array, fun: jax.Array, jac: jax.Array
) -> State:
    """Move to an accepted point and learn from the step."""
    step, change = trial - state.x, jac - state.jac
    curved = step @ change > EPS * jnp.linalg.norm(step) * jnp.linalg.norm(change)
    learned = curvature.learn(state, step, change)
    kept = {key: getattr(state, key) for key in learned}
    memory = jax.tree.map(lambda new, old: jnp.where(curved, new, old), learned, kept)
    return state._replace(
        x=trial, fun=fun, jac=jac, fresh=state.fresh & ~curved, nit=state.nit + 1, **memory
    )


def _depart(curvature: Curvature, state: State) -> State:
    """Choose a direction at x and begin a line search along it."""
    x, jac, lower, upper = state.x, state.jac, state.lower, state.upper
    free = jnp.where(freely(x, jac, lower, upper), jac, 0.0)
    steepest = -free / jnp.maximum(1.0, jnp.linalg.norm(free))
    learned = -curvature.product(state, free)
    fresh = state.fresh | ~(learned @ free < 0)  # rounding: not even a descent direction
    direction, cap = jnp.where(fresh, steepest, learned), jnp.inf
    if curvature.bounded:
        direction = _fold(curvature, state, free, direction)
        cap = _room(x, direction, lower, upper)
    search = linesearch.begin(state.fun, jac @ direction, 1.0, jnp.maximum(cap, EPS))
    return state._replace(direction=direction, search=search, low_jac=jac, fresh=fresh)


def _fold(curvature: Curvature, state: State, free: jax.Array, direction: jax.Array) -> jax.Array:
    """A descent direction whose full step stays within bounds and may reach several at once."""
    x, jac, lower, upper = state.x, state.jac, state.lower, state.upper
    folded = jnp.clip(x + direction, lower, upper) - x
    met = folded != direction
    longest = jnp.linalg.norm(direction) / jnp.maximum(jnp.linalg.norm(free), 1e-300)
    steepest = jnp.clip(x - longest * free, lower, upper) - x

    def around(folded: jax.Array) -> jax.Array:
        # A parameter may reach its bound only because of the others. So the direction of the
        # others is computed without it, and it follows its own slope.
        alone = -curvature.product(state, jnp.where(met, 0.0, free))
        alone = jnp.clip(x + jnp.where(met, steepest, alone), lower, upper) - x
        down = [jac @ way <= 1e-2 * (jac @ steepest) for way in (folded, alone)]
        return jnp.where(down[0], folded, jnp.where(down[1], alone, steepest))

    return jax.lax.cond(jnp.any(met), around, lambda folded: folded, folded)


def _judge(
    state: State, before: State, turns: jax.Array, stays: jax.Array, options: Options
) -> tuple[State, jax.Array]:
    """Whether the descent has arrived at a minimum; `before` is the state before this evaluation.

    It arrives if the gradient is small and the next step short, or if twice in a row hardly any
    decrease is predicted.
    """
    gtol = 1e-8 if options.gtol is None else options.gtol
    # Gradients still show the minimum when changes of the function are lost in rounding.
    ftol = 1e-19 if options.ftol is None else options.ftol
    flat = jnp.max(jnp.abs(projected(state.x, state.jac, state.lower, state.upper))) <= gtol
    # A small gradient alone proves nothing: if the function falls towards infinity, the gradient
    # becomes small but the quasi-Newton step stays long.
    length = jnp.linalg.norm(state.direction)
    short = length <= jnp.sqrt(gtol) * (1 + jnp.linalg.norm(state.x))
    predicted = 0.5 * jnp.abs(state.jac @ state.direction)
    # At a kink the predicted decrease shrinks too, but the gradient does not.
    slope, slope_before = (jnp.max(jnp.abs(s.jac)) for s in (state, before))
    steepest = jnp.maximum(state.steepest, slope)
    settled = ~state.fresh & (predicted <= ftol * jnp.abs(state.fun)) & short
    settled = settled & (slope <= 1e-2 * steepest) & (slope < 0.9 * slope_before)
    # One more line search confirms that the function does not fall any further.
    confirmed = state.settled & (settled | stays)
    arrived = turns & (flat & (short | state.fresh) | confirmed)
    settled = jnp.where(turns, settled, state.settled)
    return state._replace(steepest=steepest, settled=settled), arrived
