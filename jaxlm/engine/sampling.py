"""From logits to the next token: penalty, temperature, top-k, top-p and min-p, in this order.

Legend: B rows (samples), V vocabulary. Options are traced: a new one needs no compilation.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlm.engine.dropout import random_key
from jaxlm.engine.layers import Array, at_least_float32
from jaxlm.spec.sampling import Sampling

_ALL = np.iinfo(np.int32).max
_COLDEST = 1e-30  # a logit divided by less could overflow


class Thresholds(NamedTuple):
    """`Sampling` as scalars; a filter that is switched off has a neutral value."""

    temperature: Any
    top_k: Any
    top_p: Any
    min_p: Any
    repetition_penalty: Any


def thresholds(sampling: Sampling) -> Thresholds:
    temperature, top_k, top_p, min_p, repetition_penalty = sampling
    return Thresholds(
        np.float64(temperature),
        np.int32(_ALL if top_k is None else min(top_k, _ALL)),
        np.float64(1.0 if top_p is None else top_p),
        np.float64(0.0 if min_p is None else min_p),
        np.float64(repetition_penalty),
    )


def filtered_logits(logits_BxV: Array, seen_BxV: Array, sampling: Thresholds) -> Array:
    """The logits that a token is drawn from, (B, V), at least float32; -inf where removed.

    repetition_penalty divides positive logits of `seen` tokens and multiplies negative ones (CTRL,
    Keskar et al. 2019, section 4.1); temperature divides all; top_k keeps the most likely tokens;
    top_p keeps the smallest set whose mass reaches p, including the token that crosses p (Holtzman
    et al. 2020); min_p keeps tokens at least this fraction as likely as the most likely one (Nguyen
    et al. 2024). Of equal logits the lower id ranks first. Temperature 0 keeps only the first.
    """
    x = at_least_float32(logits_BxV)
    temperature, top_p, min_p, penalty = (
        jnp.asarray(getattr(sampling, name)).astype(x.dtype)
        for name in ("temperature", "top_p", "min_p", "repetition_penalty")
    )
    x = jnp.where(seen_BxV, jnp.where(x > 0, x / penalty, x * penalty), x)
    greedy = temperature == 0
    x = x / jnp.where(greedy, 1.0, jnp.maximum(temperature, _COLDEST))
    ordered = (sampling.top_k < x.shape[-1]) | (top_p < 1)
    branch = jnp.where(greedy, 0, jnp.where(ordered, 1, 2))
    x = lax.switch(
        branch,
        [
            lambda x: keep(x, jnp.arange(x.shape[-1]) == jnp.argmax(x, -1, keepdims=True)),
            lambda x: likeliest(x, sampling.top_k, top_p),
            lambda x: x,
        ],
        x,
    )
    return keep(x, jnp.exp(x - x.max(-1, keepdims=True)) >= min_p)


def keep(x: Array, mask: Array) -> Array:
    return jnp.where(mask, x, -jnp.inf)


def likeliest(x_BxV: Array, top_k: Array, top_p: Array) -> Array:
    """top_k, then top_p: keeps the head of the order by (descending logit, ascending id)."""
    order_BxV = jnp.argsort(-x_BxV, axis=-1, stable=True)
    sorted_BxV = jnp.take_along_axis(x_BxV, order_BxV, axis=-1)
    head_BxV = jnp.arange(x_BxV.shape[-1]) < top_k
    mass_BxV = jax.nn.softmax(keep(sorted_BxV, head_BxV), axis=-1)
    reached_BxV = jnp.cumsum(mass_BxV, axis=-1)
    before_BxV = jnp.pad(reached_BxV[:, :-1], ((0, 0), (1, 0)))
    # Rounding may let the sum reach 1 early, but p = 1 keeps everything.
    kept_BxV = head_BxV & ((before_BxV < top_p) | (top_p >= 1))
    last_Bx1 = kept_BxV.sum(-1, keepdims=True) - 1
    value, id_ = (jnp.take_along_axis(y, last_Bx1, axis=-1) for y in (sorted_BxV, order_BxV))
    ids_V = jnp.arange(x_BxV.shape[-1])
    return keep(x_BxV, (x_BxV > value) | ((x_BxV == value) & (ids_V <= id_)))


def draw(x_BxV: Array, seed: Array, position: Array) -> Array:
    """One id per row, (B,) int32, from softmax(x), by the Gumbel-max trick.

    The randomness depends only on (seed, row, position): the number of rows, the division of a text
    into chunks and the precision do not change it.
    """
    keys_B = jax.vmap(jax.random.fold_in, (None, 0))(random_key(seed), jnp.arange(len(x_BxV)))
    keys_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, position)
    bits_BxV = jax.vmap(lambda key: jax.random.bits(key, x_BxV.shape[1:], "uint32"))(keys_B)
    uniform_BxV = ((bits_BxV >> 9).astype(jnp.float32) + 0.5) * 2.0**-23  # exact, within (0, 1)
    noise_BxV = -jnp.log(-jnp.log(uniform_BxV))
    return jnp.argmax(x_BxV + noise_BxV, axis=-1).astype(jnp.int32)
