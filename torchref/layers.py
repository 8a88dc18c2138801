"""The building blocks of the network: linear layers, norms, embeddings, activations, positions.

Legend: B batch, L length, C context length, D model width, H heads, K head width.
Parameters are float32 (or float64). A product has the type of its input; norms and rotation are
computed in at least float32.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jaxlm.config.schema import ResolvedModel


def at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


class Linear(nn.Module):
    """y = x W^T + b, the weight stored as (out, in) and rounded to the type of x."""

    def __init__(self, into: int, out: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out, into))
        self.bias = nn.Parameter(torch.empty(out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(
            x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype)
        )


class Projection(Linear):
    """A linear layer whose output is split into heads: (B, L, D) -> (B, L, H, K)."""

    def __init__(self, into: int, heads: int, width: int, bias: bool = False) -> None:
        super().__init__(into, heads * width, bias)
        self.heads, self.width = heads, width

    def forward(self, x_BxLxD: Tensor) -> Tensor:
        return super().forward(x_BxLxD).view(*x_BxLxD.shape[:2], self.heads, self.width)


class Embedding(nn.Module):
    """A table with one row for each token or position."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width))

    def forward(self, indices: Tensor) -> Tensor:
        return F.embedding(indices, self.weight)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019), in at least float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.empty(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        y = at_least_float32(x)
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps) * self.weight
        return y.to(x.dtype)


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(variance + eps) * weight + bias (Ba et al. 2016), in at least float32."""

    def __init__(self, width: int, eps: float, bias: bool) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.empty(width)), eps
        self.bias = nn.Parameter(torch.empty(width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.layer_norm(at_least_float32(x), self.weight.shape, self.weight, self.bias, self.eps)
        return y.to(x.dtype)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "swiglu": F.silu,
    "silu": F.silu,
    "geglu": F.gelu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
}


def rotation_tables(model: ResolvedModel) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines, float64 (C, K/2), of rotary positions (Su et al. 2021, eq. 34)."""
    half = model.head_dim // 2
    frequency = model.rope_theta ** -(np.arange(half) / half)
    angle = np.outer(np.arange(model.context_length), frequency)
    return np.cos(angle), np.sin(angle)


def sinusoidal_table(model: ResolvedModel) -> np.ndarray:
    """Positions of Vaswani et al. 2017 (section 3.5), float64 (C, D): sines even, cosines odd."""
    table = np.zeros((model.context_length, model.d_model))
    even = np.arange(0, model.d_model, 2)
    angle = np.outer(np.arange(model.context_length), 10000.0 ** -(even / model.d_model))
    table[:, 0::2] = np.sin(angle)
    table[:, 1::2] = np.cos(angle)[:, : model.d_model // 2]
    return table


def rotate(x_BxLxHxK: Tensor, cos_LxK2: Tensor, sin_LxK2: Tensor) -> Tensor:
    """Rotate the halves (x1, x2) of each head by the angles of its position."""
    x1, x2 = at_least_float32(x_BxLxHxK).chunk(2, dim=-1)
    cos, sin = cos_LxK2[:, None], sin_LxK2[:, None]
    return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], dim=-1).to(x_BxLxHxK.dtype)
