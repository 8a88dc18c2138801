"""Causal attention: a plain form that defines it, and faster kernels.

Legend: B batch, L length, T keys, H query heads, G key/value heads, K head width,
C context length.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.config.schema import ResolvedModel
from jaxlm.engine.dropout import Dropout, drop

Array = jax.Array

_BLOCK = 64  # the fewest queries in a block


class Cache(NamedTuple):
    """Keys and values of every block: two tuples of arrays (B, C, G, K)."""

    keys: tuple
    values: tuple


def empty_cache(model: ResolvedModel, batch: int, dtype: Any) -> Cache:
    """A cache of zeros for `batch` sequences of up to context_length tokens."""
    shape = (batch, model.context_length, model.n_kv_heads, model.head_dim)
    zeros = tuple(jnp.zeros(shape, dtype) for _ in range(model.n_layers))
    return Cache(zeros, zeros)


def attend(
    kernel: str,
    q_BxLxHxK: Array,
    k_BxTxGxK: Array,
    v_BxTxGxK: Array,
    divisor: float,
    start: Array | int,
    dropout: Dropout | None,
    site: int,
    show: Callable[[Array], object],
) -> Array:
    """Attention (B, L, H, K) by a kernel; in the plain form if its probabilities have dropout."""
    whole = dropout is None or dropout.rates.attention is None
    if kernel == "cudnn" and whole:
        return jax.nn.dot_product_attention(
            q_BxLxHxK, k_BxTxGxK, v_BxTxGxK,
            is_causal=True, scale=1.0 / divisor, implementation="cudnn",
        )  # fmt: skip
    if kernel == "blocks" and whole:
        return blocked_attention(q_BxLxHxK, k_BxTxGxK, v_BxTxGxK, divisor)
    return plain_attention(q_BxLxHxK, k_BxTxGxK, v_BxTxGxK, divisor, start, dropout, site, show)


def plain_attention(
    q_BxLxHxK: Array,
    k_BxTxGxK: Array,
    v_BxTxGxK: Array,
    divisor: float,
    start: Array | int,
    dropout: Dropout | None = None,
    site: int = 0,
    show: Callable[[Array], object] = lambda scores: None,
) -> Array:
    """softmax(q k^T / divisor) v; query l sees keys 0..start+l. Softmax in >= float32.

    Heads are grouped as h = g * (H / G) + r, as in Hugging Face Llama. The divisor is sqrt(K), or
    muP's. `show` receives the scaled scores (B, H, L, T).
    """
    B, L, H, K = q_BxLxHxK.shape
    T, G = k_BxTxGxK.shape[1:3]
    dtype = jnp.promote_types(q_BxLxHxK.dtype, jnp.float32)
    q = q_BxLxHxK.reshape(B, L, G, H // G, K)
    scores = jnp.einsum("blgrk,btgk->bgrlt", q, k_BxTxGxK, preferred_element_type=dtype)
    scores = scores / divisor
    show(scores.reshape(B, H, L, T))
    visible_LxT = jnp.arange(T)[None, :] <= start + jnp.arange(L)[:, None]
    scores = jnp.where(visible_LxT, scores, jnp.finfo(dtype).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(q.dtype)
    weights = drop(weights, dropout, "attention", site)
    return jnp.einsum("bgrlt,btgk->blgrk", weights, v_BxTxGxK).reshape(B, L, H, K)


def blocked_attention(
    q_BxLxHxK: Array, k_BxLxGxK: Array, v_BxLxGxK: Array, divisor: float
) -> Array:
    """`plain_attention` for whole sequences without dropout, in blocks of queries.

    Each block skips the keys after its last query. The head axes come first, so that XLA transposes
    each operand once rather than for every product. On a CPU this halves the time.
    """
    B, L, H, K = q_BxLxHxK.shape
    G = k_BxLxGxK.shape[2]
    dtype = jnp.promote_types(q_BxLxHxK.dtype, jnp.float32)
    q_BxGxRxLxK = q_BxLxHxK.reshape(B, L, G, H // G, K).transpose(0, 2, 3, 1, 4)
    k_BxGxLxK, v_BxGxLxK = (x.transpose(0, 2, 1, 3) for x in (k_BxLxGxK, v_BxLxGxK))
    bounds = np.linspace(0, L, min(8, max(1, L // _BLOCK)) + 1).astype(int).tolist()
    mixed = []
    for start, stop in itertools.pairwise(bounds):
        q, k, v = q_BxGxRxLxK[..., start:stop, :], k_BxGxLxK[:, :, :stop], v_BxGxLxK[:, :, :stop]
        scores = jnp.einsum("bgrlk,bgtk->bgrlt", q, k, preferred_element_type=dtype)
        visible = np.arange(stop)[None, :] <= np.arange(start, stop)[:, None]
        scores = jnp.where(visible, scores / divisor, jnp.finfo(dtype).min)
        weights = jax.nn.softmax(scores, axis=-1).astype(q.dtype)
        mixed.append(jnp.einsum("bgrlt,bgtk->bgrlk", weights, v))
    return jnp.concatenate(mixed, axis=3).transpose(0, 3, 1, 2, 4).reshape(B, L, H, K)
