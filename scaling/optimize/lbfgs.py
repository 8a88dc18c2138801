"""L-BFGS: BFGS with limited memory, the last pairs of step and gradient change; supports bounds.

The two-loop recursion of Nocedal and Wright, "Numerical Optimization", 2nd ed., algorithm 7.4. With
bounds the recursion runs in the subspace of the parameters that may move (two-metric projection;
Bertsekas, SIAM J. Control Optim. 20 (1982)). Shapes: P parameters, H stored pairs.
"""

import jax
import jax.numpy as jnp

from scaling.optimize.method import Options
from scaling.optimize.quasi_newton import EPS, Curvature, Memory, State, descent


def _start_memory(size: int, options: Options) -> Memory:
    return {"pairs": (jnp.zeros((options.history, size)), jnp.zeros((options.history, size)))}


def _learn(state: State, step: jax.Array, change: jax.Array) -> Memory:
    def push(rows: jax.Array, row: jax.Array) -> jax.Array:
        rows = jnp.where(state.fresh, 0.0, rows)
        return jnp.roll(rows, -1, axis=0).at[-1].set(row)

    assert state.pairs is not None
    steps_HxP, changes_HxP = state.pairs
    return {"pairs": (push(steps_HxP, step), push(changes_HxP, change))}


def _product(state: State, gradient: jax.Array) -> jax.Array:
    assert state.pairs is not None
    free = gradient != 0
    steps_HxP, changes_HxP = (jnp.where(free, rows, 0.0) for rows in state.pairs)
    curvature_H = jnp.sum(steps_HxP * changes_HxP, axis=1)
    size_H = jnp.linalg.norm(steps_HxP, axis=1) * jnp.linalg.norm(changes_HxP, axis=1)
    known_H = curvature_H > EPS * size_H
    weight_H = jnp.where(known_H, 1 / jnp.where(known_H, curvature_H, 1.0), 0.0)

    def backward(
        vector: jax.Array, pair: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        step, change, weight = pair
        part = weight * (step @ vector)
        return vector - part * change, part

    def forward(
        vector: jax.Array, pair: tuple[jax.Array, jax.Array, jax.Array, jax.Array]
    ) -> tuple[jax.Array, None]:
        step, change, weight, part = pair
        return vector + (part - weight * (change @ vector)) * step, None

    pairs = (steps_HxP, changes_HxP, weight_H)
    vector, part_H = jax.lax.scan(backward, gradient, pairs, reverse=True)
    # The newest pair sets the scale of the part that no pair covers (equation 7.20).
    scale_H = curvature_H / jnp.maximum(jnp.sum(changes_HxP**2, axis=1), jnp.finfo(float).tiny)
    newest = jnp.max(jnp.where(known_H, jnp.arange(known_H.shape[0]), -1))
    scale = jnp.where(newest >= 0, scale_H[newest], 1.0)
    product, _ = jax.lax.scan(forward, scale * vector, (*pairs, part_H))
    return product


METHOD = descent(Curvature(_start_memory, _learn, _product, lambda size: 15_000, bounded=True))
