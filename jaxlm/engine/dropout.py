"""Dropout with a mask that is independent of devices, precision and backend.

Legend: B batch.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.config.schema import ResolvedModel

Array = jax.Array


class Rate(NamedTuple):
    """A dropout rate: an element is kept if its random bits reach the threshold. May be traced."""

    threshold: Any  # uint32
    kept: Any  # 1 - rate

    @classmethod
    def of(cls, rate: float) -> "Rate | None":
        """None for a rate of 0, so that it costs nothing."""
        return cls(np.uint32(rate * 2**32), 1.0 - rate) if rate else None


class Rates(NamedTuple):
    """The rates for attention probabilities and for what is added to the residual stream."""

    attention: Rate | None
    residual: Rate | None

    @classmethod
    def of(cls, model: ResolvedModel) -> "Rates":
        return cls(Rate.of(model.attention_dropout), Rate.of(model.residual_dropout))


class Dropout(NamedTuple):
    """The randomness of one step: a key from (seed, step), and the global number of each row."""

    key: Array
    rows_B: Array
    rates: Rates


def random_key(seed: int | Array) -> Array:
    """The key for a seed below 2^32, from the only generator that both backends have."""
    return jax.random.key(seed, impl="threefry2x32")


def drop(x: Array, dropout: Dropout | None, kind: str, site: int) -> Array:
    """Inverted dropout, keyed by (seed, step, site, global row), so that devices do not change it.

    An element is kept if its 32 random bits (Threefry, Salmon et al. 2011) reach rate * 2^32, so
    that neither the precision nor the backend changes the mask. `kind` is attention or residual.
    """
    rate = getattr(dropout.rates, kind) if dropout else None
    if dropout is None or rate is None:
        return x
    key = jax.random.fold_in(dropout.key, site)
    keys_B = jax.vmap(jax.random.fold_in, (None, 0))(key, dropout.rows_B)
    bits = jax.vmap(lambda k: jax.random.bits(k, x.shape[1:], "uint32"))(keys_B)
    return jnp.where(bits >= rate.threshold, x / jnp.asarray(rate.kept, x.dtype), jnp.zeros_like(x))
