"""A line search for the strong Wolfe conditions, one evaluation at a time.

Moré and Thuente, "Line search algorithms with guaranteed sufficient decrease", ACM TOMS 20 (1994):
an interval that contains an acceptable step is narrowed by cubic, quadratic and secant
interpolation. Near a minimum, where the decrease of the function is lost in rounding, the slopes
decide instead (approximate Wolfe conditions; Hager and Zhang, SIAM J. Optim. 16 (2005), section 4).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

SEARCHING, FOUND, FAILED = range(3)

_DECREASE = 1e-4  # least decrease, as a share of that predicted by the first slope
_CURVATURE = 0.9  # largest final slope, as a share of the first slope
_NOISE = 1e-12  # rounding error of the function relative to its value; generous, for long sums
_NARROW = 1e-14  # an interval this narrow, relative to its ends, contains no other step
_PATIENCE = 20  # trials after which any decrease is accepted
_LIMIT = 60  # trials after which the search fails


class Search(NamedTuple):
    """A search along one direction; every field is a scalar."""

    step: jax.Array  # the next trial
    fun: jax.Array  # at step 0
    slope: jax.Array  # at step 0
    low: jax.Array  # the best step so far, one end of the interval
    low_fun: jax.Array
    low_slope: jax.Array
    high: jax.Array  # the other end of the interval, once `bracketed`
    high_fun: jax.Array
    high_slope: jax.Array
    bracketed: jax.Array
    width: jax.Array  # of the interval one trial ago
    width_before: jax.Array  # two trials ago
    cap: jax.Array  # the longest step allowed
    tried: jax.Array  # number of trials so far


def begin(fun: jax.Array, slope: jax.Array, step: jax.Array | float, cap: jax.Array) -> Search:
    """Begin a search at a point with value `fun` and negative `slope`; `step` is tried first."""
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
    """The minimum of the cubic through both ends: its place, also as a fraction from a to b."""
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

    All values and slopes, including those in `search`, belong to the auxiliary function.
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

    # 1. Higher: the minimum lies between. Take the cubic, or halfway from it to the parabola.
    curve = (search.low_fun - fun) / (step - low) + search.low_slope
    parabola = low + 0.5 * _ratio(search.low_slope, curve) * (step - low)
    forth, _ = _cubic(low, search.low_fun, search.low_slope, step, fun, slope)
    close = jnp.abs(forth - low) < jnp.abs(parabola - low)
    first = jnp.where(close, forth, forth + 0.5 * (parabola - forth))
    # 2. Lower, and the slope has changed sign: the minimum lies between.
    second = jnp.where(blurred, secant, farther(back, secant, step))
    # 3. Lower, and the slope is smaller: the minimum lies ahead, if the cubic has one there.
    ahead = jnp.where(fraction < 0, back, far)
    ahead = jnp.where(blurred, secant, ahead)
    limit = step + 0.66 * (search.high - step)
    inside = nearer(ahead, secant, step)
    inside = jnp.where(step > low, jnp.minimum(limit, inside), jnp.maximum(limit, inside))
    third = jnp.where(search.bracketed, inside, farther(ahead, secant, step))
    # 4. Lower, and the slope is larger: go towards the other end of the interval, or far ahead.
    across, _ = _cubic(step, fun, slope, search.high, search.high_fun, search.high_slope)
    fourth = jnp.where(search.bracketed, across, far)

    lower = jnp.where(opposed, second, jnp.where(slower, third, fourth))
    return jnp.where(higher, first, lower), search.bracketed | higher | opposed


def _acceptable(search: Search, fun: jax.Array, slope: jax.Array, noise: jax.Array) -> jax.Array:
    """The strong Wolfe conditions at `search.step`, or the decrease alone at the cap."""
    enough = fun <= search.fun + _DECREASE * search.step * search.slope
    # The same condition as `enough`, from slopes alone: free of the function's rounding.
    nearly = (fun <= search.fun + noise) & (slope <= -0.8 * search.slope)
    gentle = jnp.abs(slope) <= -_CURVATURE * search.slope
    at_cap = (search.step >= search.cap) & (slope <= 0)
    return gentle & (enough | nearly) | enough & at_cap


End = tuple[jax.Array, jax.Array, jax.Array]  # step, value, slope


def _ends(search: Search, tried: End, higher: jax.Array, opposed: jax.Array) -> tuple[End, End]:
    """The interval's (low end, high end) after a trial: the trial replaces one of them."""
    low = (search.low, search.low_fun, search.low_slope)
    high = (search.high, search.high_fun, search.high_slope)
    replaced = [
        jnp.where(higher, t, jnp.where(opposed, a, b))
        for t, a, b in zip(tried, low, high, strict=True)
    ]
    kept = [jnp.where(higher, a, t) for t, a in zip(tried, low, strict=True)]
    return (kept[0], kept[1], kept[2]), (replaced[0], replaced[1], replaced[2])


def advance(
    search: Search, fun: jax.Array, slope: jax.Array, finite: jax.Array
) -> tuple[Search, jax.Array]:
    """Take the function's value and slope at `search.step` and choose the next step.

    Returns:
      The updated search, and a verdict: FOUND (the step just tried is acceptable), FAILED (no step
      is; `low` is the best one tried, 0 if none was lower) or SEARCHING.
    """
    step = search.step
    # A point where the function is not finite is treated as a wall, as steep as the descent to it.
    rise = jnp.abs(search.low_slope * (step - search.low))
    fun = jnp.where(finite, fun, search.low_fun + rise + jnp.abs(search.low_fun) * 1e-3)
    slope = jnp.where(finite, slope, jnp.sign(step - search.low) * jnp.abs(search.low_slope))
    noise = _NOISE * jnp.abs(search.fun)
    tried = search.tried + 1

    found = finite & _acceptable(search, fun, slope, noise)

    # The auxiliary function, with the required decrease subtracted, has its minimum where both
    # conditions hold.
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
    # Steps grow, so that a function without a minimum is left quickly.
    reach = jnp.where(tried < 8, 4.0, 1e3) * (step - search.low)
    proposal, bracketed = _propose(aux, aux_fun, aux_slope, noise, step + reach)
    proposal = jnp.where(
        bracketed,
        proposal,
        jnp.clip(proposal, step + 1.1 * (step - search.low), step + reach),
    )

    higher = aux_fun > aux.low_fun + noise
    opposed = aux_slope * aux.low_slope < 0
    (low, low_fun, low_slope), (high, high_fun, high_slope) = _ends(
        search, (step, fun, slope), higher, opposed
    )
    width = jnp.abs(high - low)
    slow = width >= 0.66 * search.width_before
    middle = low + 0.5 * (high - low)
    within = (proposal > jnp.minimum(low, high)) & (proposal < jnp.maximum(low, high))
    proposal = jnp.where(bracketed & (slow | ~within), middle, proposal)
    proposal = jnp.minimum(proposal, search.cap)

    narrow = bracketed & (width <= _NARROW * jnp.maximum(jnp.abs(low), jnp.abs(high)))
    # If the slope jumps, the interval may contain no gentle one: accept the decrease so far.
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
