"""The decoder-only Transformer in PyTorch.

Legend: B batch, L length, D model width, H query heads, G key/value heads, K head width,
F feed-forward width, V vocabulary, C context length.
The state_dict is the canonical parameter tree of `jaxlm.spec.parameters.parameter_shapes`.

Types. Parameters are float32 (or float64). The residual stream and all products have the compute
type `dtype`; norms, softmax, rotation and loss use at least float32, as in the JAX engine.
(`torch.autocast` would keep the residual stream in float32, which is a different computation.)
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from jaxlm.config.model_kinds import FEED_FORWARDS
from jaxlm.config.schema import ResolvedModel
from jaxlm.spec.parameters import initial_parameters
from jaxlm.spec.parametrization import readout_factor, score_divisor
from torchref.attention import Cache, attend
from torchref.dropout import Dropout, drop
from torchref.layers import (
    ACTIVATIONS,
    Embedding,
    LayerNorm,
    Linear,
    Projection,
    RMSNorm,
    at_least_float32,
    rotate,
    rotation_tables,
    sinusoidal_table,
)

Rotation = tuple[Tensor, Tensor]  # cosines and sines of the current positions, each (L, K/2)


class Transformer(nn.Module):
    """Tokens (B, L) -> logits (B, L, V) in at least float32.

    `model` is resolved (`jaxlm.config.schema.resolve_model`). With a `cache`, the tokens take
    positions start..start+L and attend to the cached positions before them. With `remat`, each
    block's activations are recomputed in the backward pass.
    """

    cos: Tensor  # these three are buffers, present only if the kind of positions needs them
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
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        if model.position == "rope":
            cos_CxK2, sin_CxK2 = rotation_tables(model)
            self.register_buffer("cos", torch.from_numpy(cos_CxK2).to(wide), persistent=False)
            self.register_buffer("sin", torch.from_numpy(sin_CxK2).to(wide), persistent=False)
        elif model.position == "sinusoidal":
            waves_CxD = torch.from_numpy(sinusoidal_table(model)).to(wide)
            self.register_buffer("waves", waves_CxD, persistent=False)

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
        found = [drop(x, m.residual_dropout, dropout, 0)]
        for layer, block in enumerate(self.blocks):
            arguments = (found[-1], rotation, start, cache[layer] if cache else None, dropout)
            if self.remat and self.training:
                found.append(checkpoint(block, *arguments, use_reentrant=False))
            else:
                found.append(block(*arguments))
        return found

    def logits_of(self, x_BxLxD: Tensor) -> Tensor:
        """Logits of the last residual stream: final norm, then the head, or the embedding if tied.

        In bfloat16 the product itself is rounded to 16 bits, unlike in the JAX engine, since
        PyTorch lacks a product with a wider result on some devices.
        """
        x = self.final_norm(x_BxLxD)
        if (factor := readout_factor(self.model)) != 1.0:
            x = (at_least_float32(x) * factor).to(x.dtype)
        tied = self.model.tie_embeddings
        y = F.linear(x, self.embed.weight.to(x.dtype)) if tied else self.head(x)
        return at_least_float32(y)

    def initialise(self, seed: int) -> "Transformer":
        """Give every parameter the same initial value as in the JAX engine; returns itself."""
        dtype = str(self.embed.weight.dtype).removeprefix("torch.")
        values = initial_parameters(self.model, seed, dtype)
        self.load_state_dict({name: torch.from_numpy(value) for name, value in values.items()})
        return self


class Block(nn.Module):
    """Attention and feed-forward, each x + f(norm(x)) (pre) or norm(x + f(x)) (post)."""

    def __init__(self, model: ResolvedModel, layer: int) -> None:
        super().__init__()
        self.model, self.layer = model, layer
        self.attention_norm, self.attention = block_norm(model), Attention(model, layer)
        self.feedforward_norm, self.feedforward = block_norm(model), FeedForward(model)

    def forward(
        self,
        x_BxLxD: Tensor,
        rotation: Rotation | None,
        start: int,
        cache: Cache | None,
        dropout: Dropout | None,
    ) -> Tensor:
        m, x = self.model, x_BxLxD
        pre = m.norm_placement == "pre"

        y = self.attention_norm(x) if pre else x
        y = self.attention(y, rotation, start, cache, dropout)
        x = x + y if m.residual else y
        x = x if pre else self.attention_norm(x)

        y = self.feedforward_norm(x) if pre else x
        y = drop(self.feedforward(y), m.residual_dropout, dropout, 3 * self.layer + 3)
        x = x + y if m.residual else y
        return x if pre else self.feedforward_norm(x)


def block_norm(model: ResolvedModel) -> nn.Module:
    """A norm of the residual stream."""
    if model.norm == "none":
        return nn.Identity()
    if model.norm == "rmsnorm":
        return RMSNorm(model.d_model, model.norm_eps)
    return LayerNorm(model.d_model, model.norm_eps, bias=model.bias == "all")


class Attention(nn.Module):
    """Causal multi-head attention with grouped keys and values (Ainslie et al. 2023).

    Training uses PyTorch's fused kernel. The plain form is used with a cache, with attention
    dropout, and to inspect the scores (`fused = False`). Each `nn.Identity` exposes a value that no
    module computes; see `taps`.
    """

    def __init__(self, model: ResolvedModel, layer: int) -> None:
        super().__init__()
        m, self.model, self.layer, self.fused = model, model, layer, True
        bias = m.bias in ("qkv", "all")
        self.query = Projection(m.d_model, m.n_heads, m.head_dim, bias)
        self.key = Projection(m.d_model, m.n_kv_heads, m.head_dim, bias)
        self.value = Projection(m.d_model, m.n_kv_heads, m.head_dim, bias)
        if m.qk_norm:
            self.query_norm = RMSNorm(m.head_dim, m.norm_eps)
            self.key_norm = RMSNorm(m.head_dim, m.norm_eps)
        self.output = Linear(m.n_heads * m.head_dim, m.d_model, m.bias == "all")
        self.rotated_q, self.rotated_k, self.scores = nn.Identity(), nn.Identity(), nn.Identity()

    def forward(
        self,
        x_BxLxD: Tensor,
        rotation: Rotation | None,
        start: int,
        cache: Cache | None,
        dropout: Dropout | None,
    ) -> Tensor:
        m, L = self.model, x_BxLxD.shape[1]
        q, k, v = self.query(x_BxLxD), self.key(x_BxLxD), self.value(x_BxLxD)
        if m.qk_norm:
            q, k = self.query_norm(q), self.key_norm(k)
        if rotation is not None:
            q, k = self.rotated_q(rotate(q, *rotation)), self.rotated_k(rotate(k, *rotation))
        if cache is not None:
            cache.keys[:, start : start + L], cache.values[:, start : start + L] = k, v
            k, v = cache.keys[:, : start + L], cache.values[:, : start + L]
        site, rate = 3 * self.layer + 1, m.attention_dropout
        fused = self.fused and cache is None
        mixed = attend(fused, q, k, v, score_divisor(m), start, rate, dropout, site, self.scores)
        y = self.output(mixed.flatten(2))
        return drop(y, m.residual_dropout, dropout, site + 1)


class FeedForward(nn.Module):
    """down(act(up x)), or gated: down(act(gate x) * up x) (Shazeer 2020)."""

    def __init__(self, model: ResolvedModel) -> None:
        super().__init__()
        m, bias = model, model.bias == "all"
        self.activation: Callable[[Tensor], Tensor] = ACTIVATIONS[m.ffn]
        self.gated = FEED_FORWARDS[m.ffn].gated
        if self.gated:
            self.gate = Linear(m.d_model, m.d_ff, bias)
        self.up = Linear(m.d_model, m.d_ff, bias)
        self.down = Linear(m.d_ff, m.d_model, bias)

    def forward(self, x_BxLxD: Tensor) -> Tensor:
        if self.gated:
            hidden_BxLxF = self.activation(self.gate(x_BxLxD)) * self.up(x_BxLxD)
        else:
            hidden_BxLxF = self.activation(self.up(x_BxLxD))
        return self.down(hidden_BxLxF)
