"""The decoder-only Transformer in PyTorch.

Legend: B batch, L length, T keys looked at, D model width, H query heads, G key/value heads,
K head width, F feed-forward width, V vocabulary, C context length.
The state_dict is the canonical parameter tree of `jaxlm.spec.parameters.parameter_shapes`.

Types. Parameters are float32 (or float64). The residual stream and all products have the compute
type `dtype`; norms, softmax, rotation and loss have at least float32, as in the engine.
(`torch.autocast` would keep the residual stream in float32 and so be another computation.)

Every `nn.Identity` is a place to look at: a forward hook on it sees what its name says.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from jaxlm.config.schema import ResolvedModel
from jaxlm.spec.parameters import initial_parameters
from jaxlm.spec.parametrization import readout_factor, score_divisor
from torchref.threefry import Key, keep_mask


class Dropout(NamedTuple):
    """Randomness of one step: a key made of (seed, step), and the global number of each row."""

    key: Key
    rows_B: Tensor


class Cache(NamedTuple):
    """Keys and values of one block, each (B, C, G, K), filled in place."""

    keys: Tensor
    values: Tensor


def empty_cache(model: ResolvedModel, batch: int, dtype: torch.dtype, device) -> list[Cache]:
    """A cache of zeros for `batch` sequences of up to context_length tokens."""
    shape = (batch, model.context_length, model.n_kv_heads, model.head_dim)
    zeros = lambda: torch.zeros(shape, dtype=dtype, device=device)  # noqa: E731
    return [Cache(zeros(), zeros()) for _ in range(model.n_layers)]


def at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def drop(x: Tensor, rate: float, dropout: Dropout | None, site: int) -> Tensor:
    """Inverted dropout, keyed by (seed, step, site, global row)."""
    if dropout is None or rate == 0.0:
        return x
    keep = keep_mask(*dropout.key, site, dropout.rows_B, x[0].numel(), rate)
    return torch.where(keep.view(x.shape), x / (1.0 - rate), torch.zeros_like(x))


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
    """Rotate the halves (x1, x2) of each head by its position's angles."""
    x1, x2 = at_least_float32(x_BxLxHxK).chunk(2, dim=-1)
    cos, sin = cos_LxK2[:, None], sin_LxK2[:, None]
    return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], dim=-1).to(x_BxLxHxK.dtype)


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


class Embedding(nn.Module):
    """A table of one row for each token or position."""

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


class NoNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def block_norm(model: ResolvedModel) -> nn.Module:
    if model.norm == "none":
        return NoNorm()
    if model.norm == "rmsnorm":
        return RMSNorm(model.d_model, model.norm_eps)
    return LayerNorm(model.d_model, model.norm_eps, bias=model.bias == "all")


def attention_scores(q_BxHxLxK: Tensor, k_BxHxTxK: Tensor, divisor: float) -> Tensor:
    """q k^T / divisor, in at least float32; the divisor is sqrt(K), or muP's."""
    scores = at_least_float32(q_BxHxLxK) @ at_least_float32(k_BxHxTxK).mT
    return scores / divisor


def fused_attention(
    q_BxHxLxK: Tensor, k_BxHxLxK: Tensor, v_BxHxLxK: Tensor, divisor: float
) -> Tensor:
    """PyTorch's causal kernel. Its 16-bit backward pass is half as fast as the 32-bit one on a
    CPU, so there it gets 32 bits."""
    narrow = q_BxHxLxK.dtype
    wide = at_least_float32 if q_BxHxLxK.device.type == "cpu" else (lambda x: x)
    q, k, v = wide(q_BxHxLxK), wide(k_BxHxLxK), wide(v_BxHxLxK)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0 / divisor).to(narrow)


def causal_mask(start: int, queries: int, keys: int, device) -> Tensor:
    """(L, T), true where query l at position start + l may look at key t."""
    positions_L = start + torch.arange(queries, device=device)
    return torch.arange(keys, device=device)[None, :] <= positions_L[:, None]


def share_heads(x_BxTxGxK: Tensor, heads: int) -> Tensor:
    """(B, T, G, K) -> (B, H, T, K): key/value head g serves the query heads g H/G + r."""
    return x_BxTxGxK.repeat_interleave(heads // x_BxTxGxK.shape[2], dim=2).transpose(1, 2)


class Attention(nn.Module):
    """Causal multi-head attention with grouped keys and values (Ainslie et al. 2023).

    Training takes PyTorch's fused kernel; the plain form serves the cache, attention dropout, and
    whoever wants to look at the scores (`fused = False`).
    """

    def __init__(self, model: ResolvedModel, layer: int) -> None:
        super().__init__()
        m, self.model, self.layer, self.fused = model, model, layer, True
        bias = m.bias in ("qkv", "all")
        self.query = Linear(m.d_model, m.n_heads * m.head_dim, bias)
        self.key = Linear(m.d_model, m.n_kv_heads * m.head_dim, bias)
        self.value = Linear(m.d_model, m.n_kv_heads * m.head_dim, bias)
        if m.qk_norm:
            self.query_norm = RMSNorm(m.head_dim, m.norm_eps)
            self.key_norm = RMSNorm(m.head_dim, m.norm_eps)
        self.output = Linear(m.n_heads * m.head_dim, m.d_model, m.bias == "all")
        for name in ("q", "k", "v", "rotated_q", "rotated_k", "scores", "mixed"):
            self.add_module(name, nn.Identity())

    def forward(self, x_BxLxD, rotation, start, cache, dropout):
        m, (B, L, _) = self.model, x_BxLxD.shape
        q = self.query(x_BxLxD).view(B, L, m.n_heads, m.head_dim)
        k = self.key(x_BxLxD).view(B, L, m.n_kv_heads, m.head_dim)
        v = self.value(x_BxLxD).view(B, L, m.n_kv_heads, m.head_dim)
        if m.qk_norm:
            q, k = self.query_norm(q), self.key_norm(k)
        q, k, v = self.q(q), self.k(k), self.v(v)
        if rotation is not None:
            q, k = self.rotated_q(rotate(q, *rotation)), self.rotated_k(rotate(k, *rotation))
        if cache is not None:
            cache.keys[:, start : start + L], cache.values[:, start : start + L] = k, v
            k, v = cache.keys[:, : start + L], cache.values[:, : start + L]

        q, k, v = q.transpose(1, 2), share_heads(k, m.n_heads), share_heads(v, m.n_heads)
        if self.fused and cache is None and (dropout is None or m.attention_dropout == 0.0):
            mixed = fused_attention(q, k, v, score_divisor(m))
        else:
            scores = self.scores(attention_scores(q, k, score_divisor(m)))
            visible_LxT = causal_mask(start, L, k.shape[2], x_BxLxD.device)
            weights = scores.masked_fill(~visible_LxT, -math.inf).softmax(dim=-1).to(q.dtype)
            mixed = drop(weights, m.attention_dropout, dropout, 3 * self.layer + 1) @ v
        mixed = self.mixed(mixed.transpose(1, 2).reshape(B, L, m.n_heads * m.head_dim))
        return drop(self.output(mixed), m.residual_dropout, dropout, 3 * self.layer + 2)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "swiglu": F.silu,
    "silu": F.silu,
    "geglu": F.gelu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
}


class FeedForward(nn.Module):
    """down(act(up x)), or gated: down(act(gate x) * up x) (Shazeer 2020)."""

    def __init__(self, model: ResolvedModel) -> None:
        super().__init__()
        m, self.activation, bias = model, ACTIVATIONS[model.ffn], model.bias == "all"
        self.gated = m.ffn in ("swiglu", "geglu")
        if self.gated:
            self.gate = Linear(m.d_model, m.d_ff, bias)
        self.up = Linear(m.d_model, m.d_ff, bias)
        self.down = Linear(m.d_ff, m.d_model, bias)
        self.hidden = nn.Identity()

    def forward(self, x_BxLxD: Tensor) -> Tensor:
        if self.gated:
            hidden_BxLxF = self.activation(self.gate(x_BxLxD)) * self.up(x_BxLxD)
        else:
            hidden_BxLxF = self.activation(self.up(x_BxLxD))
        return self.down(self.hidden(hidden_BxLxF))


class Block(nn.Module):
    """Attention and feed-forward, each x + f(norm(x)) (pre) or norm(x + f(x)) (post)."""

    def __init__(self, model: ResolvedModel, layer: int) -> None:
        super().__init__()
        self.model, self.layer = model, layer
        self.attention_norm, self.attention = block_norm(model), Attention(model, layer)
        self.feedforward_norm, self.feedforward = block_norm(model), FeedForward(model)
        for part in ("attention", "feedforward"):
            for name in (f"{part}_input", f"{part}_output", f"after_{part}"):
                self.add_module(name, nn.Identity())

    def forward(self, x_BxLxD, rotation, start, cache, dropout):
        m, x = self.model, x_BxLxD
        pre, norm1, norm2 = m.norm_placement == "pre", self.attention_norm, self.feedforward_norm

        y = self.attention_input(norm1(x) if pre else x)
        y = self.attention_output(self.attention(y, rotation, start, cache, dropout))
        x = x + y if m.residual else y
        x = self.after_attention(x if pre else norm1(x))

        y = self.feedforward(self.feedforward_input(norm2(x) if pre else x))
        y = self.feedforward_output(drop(y, m.residual_dropout, dropout, 3 * self.layer + 3))
        x = x + y if m.residual else y
        return self.after_feedforward(x if pre else norm2(x))


class Transformer(nn.Module):
    """Tokens (B, L) -> logits (B, L, V) in at least float32.

    `model` is resolved (`jaxlm.config.schema.resolve_model`). With a `cache`, the tokens are the
    positions start..start+L and see what the cache holds before them. With `remat`, each block's
    activations are computed again in the backward pass.
    """

    embedding: nn.Identity  # seen by hooks, as are normed and logits
    normed: nn.Identity
    logits: nn.Identity
    cos: Tensor
    sin: Tensor
    waves: Tensor

    def __init__(
        self, model: ResolvedModel, dtype: torch.dtype = torch.float32, remat: bool = False
    ) -> None:
        super().__init__()
        self.model, self.dtype, self.remat = model, dtype, remat
        self.embed = Embedding(model.vocab_size, model.d_model)
        if model.position == "learned":
            self.position = Embedding(model.context_length, model.d_model)
        self.blocks = nn.ModuleList(Block(model, layer) for layer in range(model.n_layers))
        self.final_norm = block_norm(model)
        if not model.tie_embeddings:
            self.head = Linear(model.d_model, model.vocab_size, model.head_bias)
        for name in ("embedding", "normed", "logits"):
            self.add_module(name, nn.Identity())
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        if model.position == "rope":
            cos_CxK2, sin_CxK2 = rotation_tables(model)
            self.register_buffer("cos", torch.from_numpy(cos_CxK2).to(wide), persistent=False)
            self.register_buffer("sin", torch.from_numpy(sin_CxK2).to(wide), persistent=False)
        elif model.position == "sinusoidal":
            waves_CxD = torch.from_numpy(sinusoidal_table(model)).to(wide)
            self.register_buffer("waves", waves_CxD, persistent=False)

    def initialise(self, seed: int) -> "Transformer":
        """Give every parameter the initial value that it has in the engine, too; returns itself."""
        dtype = str(self.embed.weight.dtype).removeprefix("torch.")
        values = initial_parameters(self.model, seed, dtype)
        self.load_state_dict({name: torch.from_numpy(value) for name, value in values.items()})
        return self

    def forward(
        self,
        tokens_BxL: Tensor,
        start: int = 0,
        cache: list[Cache] | None = None,
        dropout: Dropout | None = None,
    ) -> Tensor:
        return self.logits_of(self.residuals(tokens_BxL, start, cache, dropout)[-1])

    def residuals(
        self,
        tokens_BxL: Tensor,
        start: int = 0,
        cache: list[Cache] | None = None,
        dropout: Dropout | None = None,
    ) -> list[Tensor]:
        """The residual stream (B, L, D) before the first block and after each."""
        m, stop = self.model, start + tokens_BxL.shape[1]
        x = self.embed(tokens_BxL).to(self.dtype)
        if m.position == "learned":
            x = x + self.position(torch.arange(start, stop, device=x.device)).to(x.dtype)
        elif m.position == "sinusoidal":
            x = x + self.waves[start:stop].to(x.dtype)
        rotation = (self.cos[start:stop], self.sin[start:stop]) if m.position == "rope" else None
        found = [self.embedding(drop(x, m.residual_dropout, dropout, 0))]
        for layer, block in enumerate(self.blocks):
            arguments = (found[-1], rotation, start, cache[layer] if cache else None, dropout)
            if self.remat and self.training:
                found.append(checkpoint(block, *arguments, use_reentrant=False))
            else:
                found.append(block(*arguments))
        return found

    def logits_of(self, x_BxLxD: Tensor) -> Tensor:
        """Logits of the last residual stream: final norm, then the head, or the embedding if tied.

        In bfloat16 the product itself is rounded to 16 bits, since PyTorch has none with a wider
        result on every device; the engine's is not.
        """
        x = self.normed(self.final_norm(x_BxLxD))
        if (factor := readout_factor(self.model)) != 1.0:
            x = (at_least_float32(x) * factor).to(x.dtype)
        tied = self.model.tie_embeddings
        y = F.linear(x, self.embed.weight.to(x.dtype)) if tied else self.head(x)
        return self.logits(at_least_float32(y))
