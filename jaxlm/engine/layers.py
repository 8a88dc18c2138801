"""The building blocks of the network: products, linear layers, norms, embeddings, positions.

Legend: B batch, L length, C context length, D model width, H heads, K head width, V rows.
`platform` is that of the devices for which a program is compiled: cpu or gpu.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlm.config.schema import ResolvedModel

Array = jax.Array


def at_least_float32(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def product(a: Array, b: Array, axes_a: tuple, axes_b: tuple, dtype: Any, platform: str) -> Array:
    """Sum over the given axes of a and b, accumulated and returned in `dtype`.

    On a CPU, XLA lacks some products of 16-bit types with a 32-bit result. The factors are widened
    first, which gives the same numbers.
    """
    if dtype != a.dtype and platform == "cpu":
        a, b = a.astype(dtype), b.astype(dtype)
    return lax.dot_general(a, b, ((axes_a, axes_b), ((), ())), preferred_element_type=dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def linear(x: Array, weight: Array, dtype: Any, platform: str) -> Array:
    """x W^T for a weight (out, in), multiplied in x's type, with a result of type `dtype`.

    The gradient of W is accumulated in W's own type; see `weight_gradient`.
    """
    return product(x, weight.astype(x.dtype), (x.ndim - 1,), (1,), dtype, platform)


def _linear_forward(
    x: Array, weight: Array, dtype: Any, platform: str
) -> tuple[Array, tuple[Array, Array]]:
    return linear(x, weight, dtype, platform), (x, weight)


def _linear_backward(
    dtype: Any, platform: str, saved: tuple[Array, Array], dy: Array
) -> tuple[Array, Array]:
    x, weight = saved
    dy = dy.astype(x.dtype)
    dx = product(dy, weight.astype(x.dtype), (dy.ndim - 1,), (0,), x.dtype, platform)
    return dx, weight_gradient(x, dy, weight.dtype, platform)


def weight_gradient(x: Array, dy: Array, dtype: Any, platform: str) -> Array:
    """dy^T x over all rows, (out, in).

    On a CPU, XLA transposes the first factor of such a product, so the narrower factor goes first:
    if that is x, this computes (x^T dy)^T. The barrier stops XLA from folding the outer transpose
    back into the product, which would nearly halve its speed (benchmarks/weight_gradient.py).
    """
    rows = tuple(range(x.ndim - 1))
    if x.shape[-1] > dy.shape[-1] or platform != "cpu":
        return product(dy, x, rows, rows, dtype, platform)
    return lax.optimization_barrier(product(x, dy, rows, rows, dtype, platform)).T


linear.defvjp(_linear_forward, _linear_backward)


class Linear(nn.Module):
    """y = x W^T + b with the weight stored as (out, in)."""

    features: int
    bias: bool = False
    output_dtype: Any = None
    platform: str = "cpu"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        weight = self.param("weight", nn.initializers.zeros, (self.features, x.shape[-1]))
        y = linear(x, weight, self.output_dtype or x.dtype, self.platform)
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


class Embedding(nn.Module):
    """A table (V, D); `attend` computes the logits of a tied head."""

    rows: int
    width: int
    platform: str = "cpu"

    def setup(self) -> None:
        self.weight = self.param("weight", nn.initializers.zeros, (self.rows, self.width))

    def __call__(self, indices: Array, dtype: Any) -> Array:
        return self.weight[indices].astype(dtype)

    def attend(self, x: Array) -> Array:
        wide = jnp.promote_types(x.dtype, jnp.float32)
        return linear(x, self.weight, wide, self.platform)


def gelu(x: Array) -> Array:
    """x Phi(x) (Hendrycks and Gimpel 2016), with erf; jax.nn.gelu uses erfc, slower on a CPU."""
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


def rotation_tables(model: ResolvedModel) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines, float64 (C, K/2), of rotary positions (Su et al. 2021, eq. 34)."""
    half = model.head_dim // 2
    frequency = model.rope_theta ** (-np.arange(half, dtype=np.float64) / half)
    angle = np.arange(model.context_length, dtype=np.float64)[:, None] * frequency
    return np.cos(angle), np.sin(angle)


def sinusoidal_table(model: ResolvedModel) -> np.ndarray:
    """Positions of Vaswani et al. 2017 (section 3.5), float64 (C, D): sines even, cosines odd."""
    width = model.d_model
    frequency = 10000.0 ** (-np.arange(0, width, 2, dtype=np.float64) / width)
    angle = np.arange(model.context_length, dtype=np.float64)[:, None] * frequency
    table = np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    return table.reshape(model.context_length, -1)[:, :width]


def rotate(x_BxLxHxK: Array, start: Array | int, model: ResolvedModel) -> Array:
    """Rotate the halves (x1, x2) of each head by the angles of its position, in >= float32."""
    length, x = x_BxLxHxK.shape[1], at_least_float32(x_BxLxHxK)
    cos, sin = (
        lax.dynamic_slice_in_dim(jnp.asarray(table, x.dtype), start, length)[:, None]
        for table in rotation_tables(model)
    )
    x1, x2 = jnp.split(x, 2, axis=-1)
    rotated = jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1)
    return rotated.astype(x_BxLxHxK.dtype)
