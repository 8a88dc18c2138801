"""The decoder-only Transformer in Flax Linen: a pure function of parameters and tokens.

Legend: B batch, L length, D model width, H query heads, G key/value heads, K head width,
F feed-forward width, V vocabulary, C context length.
The parameter tree, flattened with dots, is the canonical one of `parameters.parameter_shapes`.
`sow` records the output of each part in the collection `components`, for inspection.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxlm.config.model_kinds import FEED_FORWARDS
from jaxlm.config.schema import ResolvedModel
from jaxlm.engine.attention import Cache, attend
from jaxlm.engine.dropout import Dropout, drop
from jaxlm.engine.kernels import Kernels
from jaxlm.engine.layers import (
    ACTIVATIONS,
    Embedding,
    Linear,
    Norm,
    at_least_float32,
    rotate,
    sinusoidal_table,
)
from jaxlm.spec.parametrization import readout_factor, score_divisor

Array = jax.Array


class Transformer(nn.Module):
    """Tokens (B, L) -> logits (B, L, V) in at least float32, with the new cache if one is given.

    `model` is resolved (`schema.resolve_model`); `dtype` is the compute type. With a `cache`, the
    tokens take positions start..start+L and attend to the cached positions before them. With
    `remat`, each block's activations are recomputed in the backward pass.
    """

    model: ResolvedModel
    dtype: Any = jnp.float32
    kernels: Kernels = Kernels()
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        tokens_BxL: Array,
        start: Array | int = 0,
        cache: Cache | None = None,
        dropout: Dropout | None = None,
    ) -> Array | tuple[Array, Cache]:
        m, platform = self.model, self.kernels.platform
        embed = Embedding(m.vocab_size, m.d_model, platform, name="embed")
        x = embed(tokens_BxL, self.dtype)
        x = self._with_positions(x, start)
        x = drop(x, dropout, "residual", 0)
        self.sow("components", "embedding", x)
        x, cache_out = Blocks(m, self.kernels, self.remat, name="blocks")(x, start, cache, dropout)
        x = block_norm(m, "final_norm")(x)
        self.sow("components", "normed", x)
        if (factor := readout_factor(m)) != 1.0:
            x = (at_least_float32(x) * factor).astype(x.dtype)
        if m.tie_embeddings:
            logits_BxLxV = embed.attend(x)
        else:
            wide = jnp.promote_types(x.dtype, jnp.float32)
            logits_BxLxV = Linear(m.vocab_size, m.head_bias, wide, platform, name="head")(x)
        self.sow("components", "logits", logits_BxLxV)
        return logits_BxLxV if cache is None else (logits_BxLxV, cache_out)

    def _with_positions(self, x_BxLxD: Array, start: Array | int) -> Array:
        """The embedding plus the learned or sinusoidal positions, if the model has either."""
        m, length = self.model, x_BxLxD.shape[1]
        if m.position == "learned":
            table = Embedding(m.context_length, m.d_model, self.kernels.platform, name="position")
            return x_BxLxD + table(start + jnp.arange(length), x_BxLxD.dtype)
        if m.position == "sinusoidal":
            table_CxD = jnp.asarray(sinusoidal_table(m), x_BxLxD.dtype)
            return x_BxLxD + lax.dynamic_slice_in_dim(table_CxD, start, length)
        return x_BxLxD


class Blocks(nn.Module):
    """The stack of blocks, named "0", "1", ..."""

    model: ResolvedModel
    kernels: Kernels
    remat: bool

    @nn.compact
    def __call__(
        self, x_BxLxD: Array, start: Array | int, cache: Cache | None, dropout: Dropout | None
    ) -> tuple[Array, Cache]:
        block = nn.remat(Block) if self.remat else Block
        keys, values = [], []
        for layer in range(self.model.n_layers):
            x_BxLxD, k, v = block(self.model, layer, self.kernels, name=str(layer))(
                x_BxLxD, start, cache, dropout
            )
            keys.append(k)
            values.append(v)
        return x_BxLxD, Cache(tuple(keys), tuple(values))


class Block(nn.Module):
    """Attention and feed-forward, each x + f(norm(x)) (pre) or norm(x + f(x)) (post)."""

    model: ResolvedModel
    layer: int
    kernels: Kernels

    @nn.compact
    def __call__(
        self, x_BxLxD: Array, start: Array | int, cache: Cache | None, dropout: Dropout | None
    ) -> tuple[Array, Array, Array]:
        m, x = self.model, x_BxLxD
        attention = Attention(m, self.layer, self.kernels, name="attention")
        feedforward = FeedForward(m, self.kernels.platform, name="feedforward")
        attention_norm = block_norm(m, "attention_norm")
        feedforward_norm = block_norm(m, "feedforward_norm")
        pre = m.norm_placement == "pre"

        y = attention_norm(x) if pre else x
        self.sow("components", "attention_input", y)
        y, keys, values = attention(y, start, cache, dropout)
        self.sow("components", "attention_output", y)
        x = x + y if m.residual else y
        x = x if pre else attention_norm(x)
        self.sow("components", "after_attention", x)

        y = feedforward_norm(x) if pre else x
        self.sow("components", "feedforward_input", y)
        y = drop(feedforward(y), dropout, "residual", 3 * self.layer + 3)
        self.sow("components", "feedforward_output", y)
        x = x + y if m.residual else y
        x = x if pre else feedforward_norm(x)
        self.sow("components", "after_feedforward", x)
        return x, keys, values


def block_norm(model: ResolvedModel, name: str) -> Norm:
    """A norm of the residual stream."""
    return Norm(model.norm, model.norm_eps, bias=model.bias == "all", name=name)


class Attention(nn.Module):
    """Causal multi-head attention with grouped keys and values (Ainslie et al. 2023).

    Returns the output and the keys and values: (B, C, G, K) with a cache, (B, L, G, K) without.
    """

    model: ResolvedModel
    layer: int
    kernels: Kernels

    @nn.compact
    def __call__(
        self, x_BxLxD: Array, start: Array | int, cache: Cache | None, dropout: Dropout | None
    ) -> tuple[Array, Array, Array]:
        m = self.model
        q = self._heads("query", m.n_heads, x_BxLxD)
        k = self._heads("key", m.n_kv_heads, x_BxLxD)
        v = self._heads("value", m.n_kv_heads, x_BxLxD)
        if m.qk_norm:
            q = Norm("rmsnorm", m.norm_eps, name="query_norm")(q)
            k = Norm("rmsnorm", m.norm_eps, name="key_norm")(k)
        for name, value in (("q", q), ("k", k), ("v", v)):
            self.sow("components", name, value)
        if m.position == "rope":
            q, k = rotate(q, start, m), rotate(k, start, m)
            self.sow("components", "rotated_q", q)
            self.sow("components", "rotated_k", k)
        if cache is not None:
            k = lax.dynamic_update_slice_in_dim(cache.keys[self.layer], k, start, axis=1)
            v = lax.dynamic_update_slice_in_dim(cache.values[self.layer], v, start, axis=1)
        site = 3 * self.layer + 1
        show = lambda scores: self.sow("components", "scores", scores)  # noqa: E731
        kernel = self.kernels.attention if cache is None else "plain"
        offset = 0 if cache is None else start
        mixed = attend(kernel, q, k, v, score_divisor(m), offset, dropout, site, show)
        mixed = mixed.reshape(*mixed.shape[:2], m.n_heads * m.head_dim)
        self.sow("components", "mixed", mixed)
        y = Linear(m.d_model, m.bias == "all", None, self.kernels.platform, name="output")(mixed)
        return drop(y, dropout, "residual", site + 1), k, v

    def _heads(self, name: str, heads: int, x_BxLxD: Array) -> Array:
        """(B, L, heads, K)."""
        m, platform = self.model, self.kernels.platform
        linear = Linear(heads * m.head_dim, m.bias in ("qkv", "all"), None, platform, name=name)
        return linear(x_BxLxD).reshape(*x_BxLxD.shape[:2], heads, m.head_dim)


class FeedForward(nn.Module):
    """down(act(up x)), or gated: down(act(gate x) * up x) (Shazeer 2020)."""

    model: ResolvedModel
    platform: str

    @nn.compact
    def __call__(self, x_BxLxD: Array) -> Array:
        m, activation = self.model, ACTIVATIONS[self.model.ffn]
        linear = lambda name, out: Linear(out, m.bias == "all", None, self.platform, name=name)  # noqa: E731
        up_BxLxF = linear("up", m.d_ff)(x_BxLxD)
        if FEED_FORWARDS[m.ffn].gated:
            hidden_BxLxF = activation(linear("gate", m.d_ff)(x_BxLxD)) * up_BxLxF
        else:
            hidden_BxLxF = activation(up_BxLxF)
        self.sow("components", "hidden", hidden_BxLxF)
        return linear("down", m.d_model)(hidden_BxLxF)
