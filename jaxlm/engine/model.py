"""The decoder-only Transformer in Flax Linen: a pure function of parameters and tokens.

Legend: B batch, L length, T keys looked at, D model width, H query heads, G key/value heads,
K head width, F feed-forward width, V vocabulary, C context length.
The parameter tree, flattened with dots, is the canonical one of `parameters.parameter_shapes`.
"""

import functools
import itertools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlm.config.schema import ModelConfig
from jaxlm.spec.parametrization import readout_factor, score_divisor

Array = jax.Array


_BLOCK = 64  # queries of one block of attention, at least


class Rate(NamedTuple):
    """A dropout rate: an element stays where its bits reach the threshold. May be traced."""

    threshold: Any  # uint32
    kept: Any  # 1 - rate

    @classmethod
    def of(cls, rate: float) -> "Rate | None":
        """None, which costs nothing, for 0."""
        return cls(np.uint32(rate * 2**32), 1.0 - rate) if rate else None


class Rates(NamedTuple):
    """Of the attention's probabilities, and of what joins the residual stream."""

    attention: Rate | None
    residual: Rate | None

    @classmethod
    def of(cls, model: ModelConfig) -> "Rates":
        return cls(Rate.of(model.attention_dropout), Rate.of(model.residual_dropout))


class Dropout(NamedTuple):
    """Randomness of one step: a key made of (seed, step), and the global number of each row."""

    key: Array
    rows_B: Array
    rates: Rates


def random_key(seed: int | Array) -> Array:
    """The key of a seed below 2^32, by the one generator that both backends have."""
    return jax.random.key(seed, impl="threefry2x32")


class Cache(NamedTuple):
    """Keys and values of every block: two tuples of arrays (B, C, G, K)."""

    keys: tuple
    values: tuple


def empty_cache(model: ModelConfig, batch: int, dtype: Any) -> Cache:
    """A cache of zeros for `batch` sequences of up to context_length tokens."""
    shape = (batch, model.context_length, model.n_kv_heads, model.head_dim)
    zeros = tuple(jnp.zeros(shape, dtype) for _ in range(model.n_layers))
    return Cache(zeros, zeros)


def at_least_float32(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def drop(x: Array, dropout: Dropout | None, kind: str, site: int) -> Array:
    """Inverted dropout, keyed by (seed, step, site, global row): devices do not change it.

    An element stays where its 32 random bits (Threefry, Salmon et al. 2011) reach rate * 2^32, so
    that neither the precision nor the backend changes the mask. `kind` is attention or residual.
    """
    rate = getattr(dropout.rates, kind) if dropout else None
    if rate is None:
        return x
    key = jax.random.fold_in(dropout.key, site)
    keys_B = jax.vmap(jax.random.fold_in, (None, 0))(key, dropout.rows_B)
    bits = jax.vmap(lambda k: jax.random.bits(k, x.shape[1:], "uint32"))(keys_B)
    return jnp.where(bits >= rate.threshold, x / jnp.asarray(rate.kept, x.dtype), jnp.zeros_like(x))


def rotation_tables(model: ModelConfig) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines, float64 (C, K/2), of rotary positions (Su et al. 2021, eq. 34)."""
    half = model.head_dim // 2
    frequency = model.rope_theta ** (-np.arange(half, dtype=np.float64) / half)
    angle = np.arange(model.context_length, dtype=np.float64)[:, None] * frequency
    return np.cos(angle), np.sin(angle)


def sinusoidal_table(model: ModelConfig) -> np.ndarray:
    """Positions of Vaswani et al. 2017 (section 3.5), float64 (C, D): sines even, cosines odd."""
    width = model.d_model
    frequency = 10000.0 ** (-np.arange(0, width, 2, dtype=np.float64) / width)
    angle = np.arange(model.context_length, dtype=np.float64)[:, None] * frequency
    table = np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    return table.reshape(model.context_length, -1)[:, :width]


def rotate(x_BxLxHxK: Array, start: Array | int, model: ModelConfig) -> Array:
    """Rotate the halves (x1, x2) of each head by its position's angles, in at least float32."""
    length, x = x_BxLxHxK.shape[1], at_least_float32(x_BxLxHxK)
    cos, sin = (
        lax.dynamic_slice_in_dim(jnp.asarray(table, x.dtype), start, length)[:, None]
        for table in rotation_tables(model)
    )
    x1, x2 = jnp.split(x, 2, axis=-1)
    rotated = jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1)
    return rotated.astype(x_BxLxHxK.dtype)


def product(a: Array, b: Array, axes_a: tuple, axes_b: tuple, dtype: Any) -> Array:
    """Sum over the given axes of a and b, accumulated and returned in `dtype`.

    XLA on a CPU lacks some products of 16-bit types with a 32-bit result; they are widened first,
    which gives the same numbers.
    """
    if dtype != a.dtype and jax.default_backend() == "cpu":
        a, b = a.astype(dtype), b.astype(dtype)
    return lax.dot_general(a, b, ((axes_a, axes_b), ((), ())), preferred_element_type=dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def linear(x: Array, weight: Array, dtype: Any) -> Array:
    """x W^T for a weight (out, in), multiplied in x's type, with a result of type `dtype`.

    The gradient of W is accumulated in W's own type; see `weight_gradient`.
    """
    return product(x, weight.astype(x.dtype), (x.ndim - 1,), (1,), dtype)


def _linear_forward(x: Array, weight: Array, dtype: Any) -> tuple[Array, tuple[Array, Array]]:
    return linear(x, weight, dtype), (x, weight)


def _linear_backward(dtype: Any, saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, weight = saved
    dy = dy.astype(x.dtype)
    dx = product(dy, weight.astype(x.dtype), (dy.ndim - 1,), (0,), x.dtype)
    return dx, weight_gradient(x, dy, weight.dtype)


def weight_gradient(x: Array, dy: Array, dtype: Any) -> Array:
    """dy^T x over all rows, (out, in).

    XLA on a CPU transposes the first factor of such a product, so the narrower one had better be
    first: as (x^T dy)^T where that is x. The barrier keeps XLA from folding the outer transpose
    into the product again, which nearly halves its speed (benchmarks/weight_gradient.py).
    """
    rows = tuple(range(x.ndim - 1))
    if x.shape[-1] > dy.shape[-1] or jax.default_backend() != "cpu":
        return product(dy, x, rows, rows, dtype)
    return lax.optimization_barrier(product(x, dy, rows, rows, dtype)).T


linear.defvjp(_linear_forward, _linear_backward)


class Linear(nn.Module):
    """y = x W^T + b with the weight stored as (out, in)."""

    features: int
    bias: bool = False
    output_dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        weight = self.param("weight", nn.initializers.zeros, (self.features, x.shape[-1]))
        y = linear(x, weight, self.output_dtype or x.dtype)
        if self.bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,)).astype(y.dtype)
        return y


class Norm(nn.Module):
    """RMSNorm (Zhang and Sennrich 2019) or LayerNorm (Ba et al. 2016), in at least float32."""

    kind: str
    eps: float
    bias: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if self.kind == "none":
            return x
        weight = self.param("weight", nn.initializers.ones, (x.shape[-1],))
        y = at_least_float32(x)
        if self.kind == "layernorm":
            y = y - y.mean(-1, keepdims=True)
        y = y * lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.eps) * weight
        if self.kind == "layernorm" and self.bias:
            y = y + self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return y.astype(x.dtype)


def block_norm(model: ModelConfig, name: str) -> Norm:
    return Norm(model.norm, model.norm_eps, bias=model.bias == "all", name=name)


class Embedding(nn.Module):
    """A table of V x D; `attend` gives logits where the head is tied to it."""

    rows: int
    width: int

    def setup(self) -> None:
        self.weight = self.param("weight", nn.initializers.zeros, (self.rows, self.width))

    def __call__(self, indices: Array, dtype: Any) -> Array:
        return self.weight[indices].astype(dtype)

    def attend(self, x: Array) -> Array:
        return linear(x, self.weight, jnp.promote_types(x.dtype, jnp.float32))


def plain_attention(
    q_BxLxHxK,
    k_BxTxGxK,
    v_BxTxGxK,
    divisor,
    start,
    dropout=None,
    site=0,
    show=lambda *_: None,
):
    """softmax(q k^T / divisor) v; query l sees the keys 0..start+l. Softmax in >= float32.

    Heads are grouped as h = g * (H / G) + r, as in Hugging Face Llama. The divisor is sqrt(K), or
    muP's. `show` is given the scaled scores (B, H, L, T) by their name.
    """
    B, L, H, K = q_BxLxHxK.shape
    T, G = k_BxTxGxK.shape[1:3]
    dtype = jnp.promote_types(q_BxLxHxK.dtype, jnp.float32)
    q = q_BxLxHxK.reshape(B, L, G, H // G, K)
    scores = jnp.einsum("blgrk,btgk->bgrlt", q, k_BxTxGxK, preferred_element_type=dtype)
    scores = scores / divisor
    show("scores", scores.reshape(B, H, L, T))
    visible_LxT = jnp.arange(T)[None, :] <= start + jnp.arange(L)[:, None]
    scores = jnp.where(visible_LxT, scores, jnp.finfo(dtype).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(q.dtype)
    weights = drop(weights, dropout, "attention", site)
    return jnp.einsum("bgrlt,btgk->blgrk", weights, v_BxTxGxK).reshape(B, L, H, K)


def blocked_attention(q_BxLxHxK, k_BxLxGxK, v_BxLxGxK, divisor):
    """`plain_attention` of whole sequences without dropout, in blocks of queries.

    A block skips the keys after its last query, and the heads come first, so that XLA transposes
    each operand once instead of for every product: half the time of the plain form on a CPU.
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


class Attention(nn.Module):
    """Causal multi-head attention with grouped keys and values (Ainslie et al. 2023)."""

    model: ModelConfig
    layer: int
    kernel: str = "plain"

    @nn.compact
    def __call__(self, x_BxLxD, start, cache, dropout):
        m = self.model
        split = lambda y, heads: y.reshape(*y.shape[:2], heads, m.head_dim)  # noqa: E731
        qkv_bias = m.bias in ("qkv", "all")
        q = split(Linear(m.n_heads * m.head_dim, qkv_bias, name="query")(x_BxLxD), m.n_heads)
        k = split(Linear(m.n_kv_heads * m.head_dim, qkv_bias, name="key")(x_BxLxD), m.n_kv_heads)
        v = split(Linear(m.n_kv_heads * m.head_dim, qkv_bias, name="value")(x_BxLxD), m.n_kv_heads)
        if m.qk_norm:
            q = Norm("rmsnorm", m.norm_eps, name="query_norm")(q)
            k = Norm("rmsnorm", m.norm_eps, name="key_norm")(k)
        self.sow("components", "q", q)
        self.sow("components", "k", k)
        self.sow("components", "v", v)
        if m.position == "rope":
            q, k = rotate(q, start, m), rotate(k, start, m)
            self.sow("components", "rotated_q", q)
            self.sow("components", "rotated_k", k)
        site, divisor = 3 * self.layer + 1, score_divisor(m)
        whole = dropout is None or dropout.rates.attention is None
        if cache is not None:
            keys = lax.dynamic_update_slice_in_dim(cache.keys[self.layer], k, start, axis=1)
            values = lax.dynamic_update_slice_in_dim(cache.values[self.layer], v, start, axis=1)
            mixed = plain_attention(q, keys, values, divisor, start)
        elif self.kernel == "cudnn" and whole:
            keys, values = k, v
            mixed = jax.nn.dot_product_attention(
                q, k, v, is_causal=True, scale=1.0 / divisor, implementation="cudnn"
            )
        elif self.kernel == "blocks" and whole:
            keys, values = k, v
            mixed = blocked_attention(q, k, v, divisor)
        else:
            keys, values = k, v
            show = functools.partial(self.sow, "components")
            mixed = plain_attention(q, k, v, divisor, 0, dropout, site, show)
        mixed = mixed.reshape(*mixed.shape[:2], m.n_heads * m.head_dim)
        self.sow("components", "mixed", mixed)
        y = Linear(m.d_model, m.bias == "all", name="output")(mixed)
        return drop(y, dropout, "residual", site + 1), keys, values


class FeedForward(nn.Module):
    """down(act(up x)), or gated: down(act(gate x) * up x) (Shazeer 2020)."""

    model: ModelConfig

    @nn.compact
    def __call__(self, x_BxLxD: Array) -> Array:
        m, bias = self.model, self.model.bias == "all"
        up_BxLxF = Linear(m.d_ff, bias, name="up")(x_BxLxD)
        if m.ffn in ("swiglu", "geglu"):
            gate_BxLxF = Linear(m.d_ff, bias, name="gate")(x_BxLxD)
            hidden = ACTIVATIONS[m.ffn](gate_BxLxF) * up_BxLxF
        else:
            hidden = ACTIVATIONS[m.ffn](up_BxLxF)
        self.sow("components", "hidden", hidden)
        return Linear(m.d_model, bias, name="down")(hidden)


def gelu(x: Array) -> Array:
    """x Phi(x) (Hendrycks and Gimpel 2016), by erf: jax.nn.gelu takes erfc, far slower on a CPU."""
    return 0.5 * x * (1.0 + lax.erf(x * np.asarray(math.sqrt(0.5), x.dtype)))


ACTIVATIONS = {
    "swiglu": jax.nn.silu,
    "silu": jax.nn.silu,
    "geglu": gelu,
    "gelu": gelu,
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
}


class Block(nn.Module):
    """Attention and feed-forward, each x + f(norm(x)) (pre) or norm(x + f(x)) (post)."""

    model: ModelConfig
    layer: int
    kernel: str = "plain"

    @nn.compact
    def __call__(self, x_BxLxD, start, cache, dropout):
        m = self.model
        attention = Attention(m, self.layer, self.kernel, name="attention")
        feedforward = FeedForward(m, name="feedforward")
        attention_norm, feedforward_norm = (
            block_norm(m, f"{name}_norm") for name in ("attention", "feedforward")
        )
        pre = m.norm_placement == "pre"
        x = x_BxLxD

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


class Blocks(nn.Module):
    """The stack of blocks, named "0", "1", ...; with `remat` each is recomputed going backward."""

    model: ModelConfig
    kernel: str = "plain"
    remat: bool = False

    @nn.compact
    def __call__(self, x_BxLxD, start, cache, dropout):
        block = nn.remat(Block) if self.remat else Block
        keys, values = [], []
        for layer in range(self.model.n_layers):
            x_BxLxD, k, v = block(self.model, layer, self.kernel, name=str(layer))(
                x_BxLxD, start, cache, dropout
            )
            keys.append(k)
            values.append(v)
        return x_BxLxD, Cache(tuple(keys), tuple(values))


class Transformer(nn.Module):
    """Tokens (B, L) -> logits (B, L, V) in at least float32, and the cache where one was given.

    `model` is resolved (`schema.resolve_model`); `dtype` is the compute type. With a `cache`, the
    tokens are the positions start..start+L and see what the cache holds before them.
    """

    model: ModelConfig
    dtype: Any = jnp.float32
    kernel: str = "plain"
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        tokens_BxL: Array,
        start: Array | int = 0,
        cache: Cache | None = None,
        dropout: Dropout | None = None,
    ) -> Array | tuple[Array, Cache]:
        m, length = self.model, tokens_BxL.shape[1]
        embed = Embedding(m.vocab_size, m.d_model, name="embed")
        x = embed(tokens_BxL, self.dtype)
        if m.position == "learned":
            positions_L = start + jnp.arange(length)
            x = x + Embedding(m.context_length, m.d_model, name="position")(positions_L, x.dtype)
        elif m.position == "sinusoidal":
            table = jnp.asarray(sinusoidal_table(m), x.dtype)
            x = x + lax.dynamic_slice_in_dim(table, start, length)
        x = drop(x, dropout, "residual", 0)
        self.sow("components", "embedding", x)
        x, cache_out = Blocks(m, self.kernel, self.remat, name="blocks")(x, start, cache, dropout)
        x = block_norm(m, "final_norm")(x)
        self.sow("components", "normed", x)
        if (factor := readout_factor(m)) != 1.0:
            x = (at_least_float32(x) * factor).astype(x.dtype)
        if m.tie_embeddings:
            logits_BxLxV = embed.attend(x)
        else:
            wide = jnp.promote_types(x.dtype, jnp.float32)
            logits_BxLxV = Linear(m.vocab_size, m.head_bias, wide, name="head")(x)
        self.sow("components", "logits", logits_BxLxV)
        return logits_BxLxV if cache is None else (logits_BxLxV, cache_out)


def nest(flat: dict[str, Any]) -> dict[str, Any]:
    """{'blocks.0.norm.weight': x} -> {'blocks': {'0': {'norm': {'weight': x}}}}, Flax's form."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *path, leaf = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = value
    return tree


def flatten(tree: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `nest`."""
    from flax.traverse_util import flatten_dict

    return flatten_dict(tree, sep=".")
