"""A line search for the strong Wolfe conditions, one evaluation at a time.

Moré and Thuente, "Line search algorithms with guaranteed sufficient decrease", ACM TOMS 20 (1994):
an interval that holds an acceptable step shrinks by cubic, quadratic and secant interpolation. Near
a minimum, where the function's decrease drowns in rounding, the slopes decide instead (approximate
Wolfe conditions; Hager and Zhang, SIAM J. Optim. 16 (2005), section 4).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

SEARCHING, FOUND, FAILED = range(3)

_DECREASE = 1e-4  # of what the slope promises, at least
_CURVATURE = 0.9  # of the first slope may remain, at most
_NOISE = 1e-12  # rounding error of a function, relative to its value: generous, for long sums
_NARROW = 1e-14  # an interval this narrow, relative to its ends, holds no other step
_PATIENCE = 20  # trials after which any decrease is enough
_LIMIT = 60


class Search(NamedTuple):
    """A search along one direction; every field is a scalar."""

    step: jax.Array  # the next to try
    fun: jax.Array  # at step 0
    slope: jax.Array
    low: jax.Array  # the best step so far, an end of the interval
    low_fun: jax.Array
    low_slope: jax.Array
    high: jax.Array  # the interval's other end, once `bracketed`
    high_fun: jax.Array
    high_slope: jax.Array
    bracketed: jax.Array
    width: jax.Array  # of the interval one and two trials ago
    width_before: jax.Array
    cap: jax.Array  # the longest step allowed
    tried: jax.Array


def begin(fun: jax.Array, slope: jax.Array, step: jax.Array | float, cap: jax.Array) -> Search:
    """A search from a point with this value and (negative) slope, `step` to be tried first."""
    zero = jnp.zeros_like(fun)
    return Search(
        step=jnp.minimum(step, cap) + zero,
        fun=fun,
        slope=slope,
        low=zero,
        low_fun=fun,
        low_slope=slope,
        high=zero,
        high_fun=fun,
        high_slope=slope,
        bracketed=zero > 1,
        width=zero + jnp.inf,
        width_before=zero + jnp.inf,
        cap=cap + zero,
        tried=jnp.zeros((), jnp.int32),
    )


def _cubic(
    a: jax.Array,
    fun_a: jax.Array,
    slope_a: jax.Array,
    b: jax.Array,
    fun_b: jax.Array,
    slope_b: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Where the cubic through both ends has its minimum, and that as a fraction from a to b."""
    theta = 3 * (fun_a - fun_b) / (b - a) + slope_a + slope_b
    scale = jnp.maximum(jnp.abs(theta), jnp.maximum(jnp.abs(slope_a), jnp.abs(slope_b)))
    scale = jnp.where(scale > 0, scale, 1.0)
    root = (theta / scale) ** 2 - (slope_a / scale) * (slope_b / scale)
    gamma = jnp.where(b < a, -scale, scale) * jnp.sqrt(jnp.maximum(root, 0.0))
    fraction = _ratio(gamma - slope_a + theta, 2 * gamma - slope_a + slope_b)
    return a + fraction * (b - a), fraction


def _ratio(top: jax.Array, bottom: jax.Array) -> jax.Array:
    return top / jnp.where(bottom == 0, jnp.finfo(bottom.dtype).tiny, bottom)


def _propose(
    search: Search, fun: jax.Array, slope: jax.Array, noise: jax.Array, far: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The next step by interpolation (section 4 of the paper), and whether a minimum is bracketed.

    `fun` and `slope` at search.step, and those in `search`, are the auxiliary function's.
    """
    step, low = search.step, search.low
    back, fraction = _cubic(step, fun, slope, low, search.low_fun, search.low_slope)
    secant = step + _ratio(slope, slope - search.low_slope) * (low - step)
    blurred = jnp.abs(fun - search.low_fun) <= noise
    higher = fun > search.low_fun + noise
    opposed = slope * search.low_slope < 0
    slower = jnp.abs(slope) <= jnp.abs(search.low_slope)

    def nearer(a: jax.Array, b: jax.Array, to: jax.Array) -> jax.Array:
        return jnp.where(jnp.abs(a - to) < jnp.abs(b - to), a, b)

    def farther(a: jax.Array, b: jax.Array, to: jax.Array) -> jax.Array:
        return jnp.where(jnp.abs(a - to) > jnp.abs(b - to), a, b)

    # 1. Higher: the minimum lies between. The cubic, or half way from it to the parabola.
    curve = (search.low_fun - fun) / (step - low) + search.low_slope
    parabola = low + 0.5 * _ratio(search.low_slope, curve) * (step - low)
    forth, _ = _cubic(low, search.low_fun, search.low_slope, step, fun, slope)
    close = jnp.abs(forth - low) < jnp.abs(parabola - low)
    first = jnp.where(close, forth, forth + 0.5 * (parabola - forth))
    # 2. Lower, the slope turned round: the minimum lies between.
    second = jnp.where(blurred, secant, farther(back, secant, step))
    # 3. Lower, and the slope fades: the minimum lies ahead, if the cubic has one there.
    ahead = jnp.where(fraction < 0, back, far)
    ahead = jnp.where(blurred, secant, ahead)
    limit = step + 0.66 * (search.high - step)
    inside = nearer(ahead, secant, step)
    inside = jnp.where(step > low, jnp.minimum(limit, inside), jnp.maximum(limit, inside))
    third = jnp.where(search.bracketed, inside, farther(ahead, secant, step))
    # 4. Lower, and the slope grows: toward the interval's other end, or far ahead.
    across, _ = _cubic(step, fun, slope, search.high, search.high_fun, search.high_slope)
    fourth = jnp.where(search.bracketed, across, far)

    lower = jnp.where(opposed, second, jnp.where(slower, third, fourth))
    return jnp.where(higher, first, lower), search.bracketed | higher | opposed


def advance(
    search: Search, fun: jax.Array, slope: jax.Array, finite: jax.Array
) -> tuple[Search, jax.Array]:
    """Judge the function's value and slope at `search.step`; give the search with its next step.

    Returns:
      The search and FOUND (the step just tried is acceptable), FAILED (none is; `low` is the best
      step met, 0 if none was lower) or SEARCHING.
    """
    step = search.step
    # Where the function is not finite stands a wall, as steep as the way down to it.
    rise = jnp.abs(search.low_slope * (step - search.low))
    fun = jnp.where(finite, fun, search.low_fun + rise + jnp.abs(search.low_fun) * 1e-3)
    slope = jnp.where(finite, slope, jnp.sign(step - search.low) * jnp.abs(search.low_slope))
    noise = _NOISE * jnp.abs(search.fun)
    tried = search.tried + 1

    enough = fun <= search.fun + _DECREASE * step * search.slope
    # Interpolation between slopes says the same as `enough`, without the function's rounding.
    nearly = (fun <= search.fun + noise) & (slope <= -0.8 * search.slope)
    gentle = jnp.abs(slope) <= -_CURVATURE * search.slope
    at_cap = (step >= search.cap) & (slope <= 0)
    found = finite & (gentle & (enough | nearly) | enough & at_cap)

    # The auxiliary function, less the decrease demanded, has its minimum where both hold.
    def less(fun: jax.Array, step: jax.Array) -> jax.Array:
        return fun - search.fun - _DECREASE * step * search.slope

    demand = _DECREASE * search.slope
    aux = search._replace(
        low_fun=less(search.low_fun, search.low),
        low_slope=search.low_slope - demand,
        high_fun=less(search.high_fun, search.high),
        high_slope=search.high_slope - demand,
    )
    aux_fun, aux_slope = less(fun, step), slope - demand
    # A function without a minimum is left by strides that grow.
    reach = jnp.where(tried < 8, 4.0, 1e3) * (step - search.low)
    proposal, bracketed = _propose(aux, aux_fun, aux_slope, noise, step + reach)
    proposal = jnp.where(
        bracketed,
        proposal,
        jnp.clip(proposal, step + 1.1 * (step - search.low), step + reach),
    )

    higher = aux_fun > aux.low_fun + noise
    opposed = aux_slope * aux.low_slope < 0
    tried_end = (step, fun, slope)
    low_end = (search.low, search.low_fun, search.low_slope)
    high_end = (search.high, search.high_fun, search.high_slope)
    high, high_fun, high_slope = (
        jnp.where(higher, t, jnp.where(opposed, low, high))
        for t, low, high in zip(tried_end, low_end, high_end, strict=True)
    )
    low, low_fun, low_slope = (
        jnp.where(higher, low, t) for t, low in zip(tried_end, low_end, strict=True)
    )
    width = jnp.abs(high - low)
    slow = width >= 0.66 * search.width_before
    middle = low + 0.5 * (high - low)
    within = (proposal > jnp.minimum(low, high)) & (proposal < jnp.maximum(low, high))
    proposal = jnp.where(bracketed & (slow | ~within), middle, proposal)
    proposal = jnp.minimum(proposal, search.cap)

    narrow = bracketed & (width <= _NARROW * jnp.maximum(jnp.abs(low), jnp.abs(high)))
    # Where slopes jump there may be no gentle one in the interval: what was gained is taken.
    weary = bracketed & (tried >= _PATIENCE) & (low_fun < search.fun - noise)
    failed = narrow | weary | (tried >= _LIMIT) | (proposal == step)
    verdict = jnp.where(found, FOUND, jnp.where(failed, FAILED, SEARCHING))
    moved = Search(
        proposal,
        search.fun,
        search.slope,
        low,
        low_fun,
        low_slope,
        high,
        high_fun,
        high_slope,
        bracketed,
        jnp.where(bracketed, width, search.width),
        jnp.where(bracketed, search.width, search.width_before),
        search.cap,
        tried,
    )
    return moved, verdict
