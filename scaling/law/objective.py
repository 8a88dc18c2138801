"""What a fit minimizes: the loss of the residuals ln L - ln L(N, D), with its exact derivatives.

Hoffmann et al. 2022, approach 3: Huber's loss of the residual in log loss, where the terms of the
law are summed by log-sum-exp. For laws whose logs are linear in their coordinates, the gradient and
the Hessian are written out. With softmax weights p_k of the terms and features x_k of their logs,

    d ln L = m = sum_k p_k x_k        d2 ln L = sum_k p_k x_k x_k' - m m'

which costs a tenth of differentiating twice automatically. Shapes: n points, P coordinates.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from scaling.law.laws import Law, Logs

Found = tuple[jax.Array, jax.Array, jax.Array]  # value, gradient, Hessian
Objective = Callable[..., Found]  # takes theta and the data, see `objective`


def rho(residual: jax.Array, delta: jax.Array) -> jax.Array:
    """Huber's loss: half the square below delta, a line of slope delta above it."""
    size = jnp.abs(residual)
    return jnp.where(size < delta, 0.5 * residual**2, delta * (size - 0.5 * delta))


def psi(residual: jax.Array, delta: jax.Array) -> jax.Array:
    """Derivative of `rho`."""
    return jnp.clip(residual, -delta, delta)


@functools.lru_cache(maxsize=64)
def objective(law: Law) -> Objective:
    """The objective of a law: f(theta, weights, log_loss, logs, delta, unit).

    f takes theta (P,), weights and log_loss (n,), logs (a dict of (n,)) and the scalars delta and
    unit. It returns the value (), the gradient (P,) and the Hessian (P, P), all divided by unit.
    """
    return _written_out(law) if law.slots else _differentiated(law)


def _written_out(law: Law) -> Objective:
    slots, size = law.slots, len(law.coordinates)

    def evaluate(
        theta: jax.Array,
        weights: jax.Array,
        log_loss: jax.Array,
        logs: Logs,
        delta: jax.Array,
        unit: jax.Array,
    ) -> Found:
        weights = weights / unit
        terms = [jnp.exp(log_term) for log_term in law.log_terms_of(theta, logs)]
        total = sum(terms)
        residual = log_loss - jnp.log(total)
        slope = weights * psi(residual, delta)
        bend = weights * (jnp.abs(residual) < delta)
        features = [1.0 if s.variable is None else s.sign * logs[s.variable] for s in slots]
        moved = [terms[s.term] / total * x for s, x in zip(slots, features, strict=True)]
        gradient: list[jax.Array | float] = [0.0] * size
        hessian: list[list[jax.Array | float]] = [[0.0] * size for _ in range(size)]
        for i, first in enumerate(slots):
            gradient[first.index] -= jnp.sum(slope * moved[i])
            for j, second in enumerate(slots[: i + 1]):
                product = (slope + bend) * moved[i] * moved[j]
                if first.term == second.term:
                    product -= slope * moved[i] * features[j]
                entry = jnp.sum(product)
                hessian[first.index][second.index] += entry
                if i != j:
                    hessian[second.index][first.index] += entry
        value = jnp.sum(weights * rho(residual, delta))
        return value, jnp.stack(gradient), jnp.stack([jnp.stack(row) for row in hessian])

    return evaluate


def _differentiated(law: Law) -> Objective:
    def value(
        theta: jax.Array,
        weights: jax.Array,
        log_loss: jax.Array,
        logs: Logs,
        delta: jax.Array,
        unit: jax.Array,
    ) -> jax.Array:
        return jnp.sum(weights / unit * rho(log_loss - law.log_loss(theta, logs), delta))

    def gradient(theta: jax.Array, *data: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        found = jax.value_and_grad(value)(theta, *data)
        return found[1], found

    def evaluate(theta: jax.Array, *data: Any) -> Found:
        hessian, (fun, slope) = jax.jacfwd(gradient, has_aux=True)(theta, *data)
        return fun, slope, hessian

    return evaluate


@functools.lru_cache(maxsize=64)
def objective_on_plane(law: Law) -> Objective:
    """The objective on the plane theta = base + basis y, as f(y, base, basis, ...).

    Used for profiles and for fits with fixed parameters. y is (Q,), base (P,), basis (P, Q).
    """
    whole = objective(law)

    def evaluate(y: jax.Array, base: jax.Array, basis_PxQ: jax.Array, *data: Any) -> Found:
        value, gradient, hessian = whole(base + basis_PxQ @ y, *data)
        return value, basis_PxQ.T @ gradient, basis_PxQ.T @ hessian @ basis_PxQ

    return evaluate
