"""The secular equation: the shift that reduces a trust-region step to the radius.

Moré and Sorensen, SIAM J. Sci. Stat. Comput. 4 (1983). Shapes: P components, in a basis in which
the shifted matrix is diagonal.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Bracket = tuple[jax.Array, jax.Array, jax.Array]  # low, high, shift

_TINY = 1e-300  # keeps divisions finite
_ITERATIONS = 12


def shift_to(
    radius: jax.Array,
    numerator_P: jax.Array,
    denominators: Callable[[jax.Array], jax.Array],
    low: jax.Array,
    high: jax.Array,
    start: jax.Array,
    middle: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
    """The shift in [low, high] at which the norm of numerator_P / denominators(shift) is `radius`.

    Newton's iteration on 1/|s| - 1/radius, which is nearly linear, starts at `start` and stays in
    the bracket [low, high]: an iterate outside it is replaced by middle(low, high).
    """

    def refine(_: int, bracket: Bracket) -> Bracket:
        low, high, shift = bracket
        below_P = denominators(shift)
        step_P = numerator_P / below_P
        norm = jnp.linalg.norm(step_P)
        long = norm > radius
        low, high = jnp.where(long, shift, low), jnp.where(long, high, shift)
        slope = jnp.maximum(jnp.sum(step_P**2 / below_P), _TINY)
        proposal = shift + (norm / jnp.maximum(radius, _TINY) - 1) * norm**2 / slope
        inside = (proposal > low) & (proposal < high)
        return low, high, jnp.where(inside, proposal, middle(low, high))

    bracket: Bracket = jax.lax.fori_loop(0, _ITERATIONS, refine, (low, high, start))
    return bracket[2]
