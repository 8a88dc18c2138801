"""BFGS: an approximate inverse Hessian, updated from the gradients seen so far.

Nocedal and Wright, "Numerical Optimization", 2nd ed., section 6.1. Shapes: P parameters.
"""

import jax
import jax.numpy as jnp

from scaling.optimize.method import Options
from scaling.optimize.quasi_newton import Curvature, Memory, State, descent


def _start_memory(size: int, options: Options) -> Memory:
    return {"hess_inv": jnp.eye(size)}


def _learn(state: State, step: jax.Array, change: jax.Array) -> Memory:
    assert state.hess_inv is not None
    curvature = step @ change
    # The identity is scaled (equation 6.20) only if it is too small: BFGS corrects steps that are
    # too long quickly, and steps that are too short slowly.
    scale = jnp.maximum(1.0, curvature / (change @ change))
    eye = jnp.eye(step.shape[0], dtype=step.dtype)
    inverse = jnp.where(state.fresh, scale * eye, state.hess_inv)
    # Apply the two projections of equation 6.17 one after the other. Multiplied out, they would
    # lose an inverse much smaller than the old one to cancellation.
    inverse = inverse - jnp.outer(inverse @ change, step) / curvature
    inverse = inverse - jnp.outer(step, change @ inverse) / curvature
    return {"hess_inv": inverse + jnp.outer(step, step) / curvature}


def _product(state: State, gradient: jax.Array) -> jax.Array:
    assert state.hess_inv is not None
    return state.hess_inv @ gradient


METHOD = descent(Curvature(_start_memory, _learn, _product, lambda size: 200 * size, bounded=False))
