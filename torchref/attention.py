"""Causal attention: the plain form, PyTorch's fused kernel, and the cache of keys and values.

Legend: B batch, L length, T keys, H query heads, G key/value heads, K head width,
C context length.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from jaxlm.config.schema import ResolvedModel
from torchref.dropout import Dropout, drop
from torchref.layers import at_least_float32


class Cache(NamedTuple):
    """Keys and values of one block, each (B, C, G, K), filled in place."""

    keys: Tensor
    values: Tensor


def empty_cache(model: ResolvedModel, batch: int, dtype: torch.dtype, device) -> list[Cache]:
    """A cache of zeros for `batch` sequences of up to context_length tokens."""
    shape = (batch, model.context_length, model.n_kv_heads, model.head_dim)
    zeros = lambda: torch.zeros(shape, dtype=dtype, device=device)  # noqa: E731
    return [Cache(zeros(), zeros()) for _ in range(model.n_layers)]


def attend(
    fused: bool,
    q_BxLxHxK: Tensor,
    k_BxTxGxK: Tensor,
    v_BxTxGxK: Tensor,
    divisor: float,
    start: int,
    rate: float,
    dropout: Dropout | None,
    site: int,
    show: Callable[[Tensor], object],
) -> Tensor:
    """Attention (B, L, H, K) by the fused kernel, or in the plain form under attention dropout."""
    heads = q_BxLxHxK.shape[2]
    q = q_BxLxHxK.transpose(1, 2)
    k, v = share_heads(k_BxTxGxK, heads), share_heads(v_BxTxGxK, heads)
    if fused and (dropout is None or rate == 0.0):
        return fused_attention(q, k, v, divisor).transpose(1, 2)
    return plain_attention(q, k, v, divisor, start, rate, dropout, site, show).transpose(1, 2)


def plain_attention(
    q_BxHxLxK: Tensor,
    k_BxHxTxK: Tensor,
    v_BxHxTxK: Tensor,
    divisor: float,
    start: int,
    rate: float,
    dropout: Dropout | None,
    site: int,
    show: Callable[[Tensor], object],
) -> Tensor:
    """softmax(q k^T / divisor) v; query l sees keys 0..start+l. Softmax in >= float32.

    `show` receives the scaled scores (B, H, L, T).
    """
    scores = attention_scores(q_BxHxLxK, k_BxHxTxK, divisor)
    show(scores)
    visible_LxT = causal_mask(start, scores.shape[2], scores.shape[3], scores.device)
    weights = scores.masked_fill(~visible_LxT, -math.inf).softmax(dim=-1).to(q_BxHxLxK.dtype)
    return drop(weights, rate, dropout, site) @ v_BxHxTxK


def attention_scores(q_BxHxLxK: Tensor, k_BxHxTxK: Tensor, divisor: float) -> Tensor:
    """q k^T / divisor, in at least float32; the divisor is sqrt(K), or muP's."""
    scores = at_least_float32(q_BxHxLxK) @ at_least_float32(k_BxHxTxK).mT
    return scores / divisor


def fused_attention(
    q_BxHxLxK: Tensor, k_BxHxLxK: Tensor, v_BxHxLxK: Tensor, divisor: float
) -> Tensor:
    """PyTorch's causal kernel. On a CPU its 16-bit backward pass is half as fast as the 32-bit one,
    so the inputs are widened to 32 bits there."""
    narrow = q_BxHxLxK.dtype
    wide = at_least_float32 if q_BxHxLxK.device.type == "cpu" else (lambda x: x)
    q, k, v = wide(q_BxHxLxK), wide(k_BxHxLxK), wide(v_BxHxLxK)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0 / divisor).to(narrow)


def causal_mask(start: int, queries: int, keys: int, device) -> Tensor:
    """(L, T), true where query l at position start + l sees key t."""
    positions_L = start + torch.arange(queries, device=device)
    return torch.arange(keys, device=device)[None, :] <= positions_L[:, None]


def share_heads(x_BxTxGxK: Tensor, heads: int) -> Tensor:
    """(B, T, G, K) -> (B, H, T, K): query heads g H/G + r share key/value head g."""
    return x_BxTxGxK.repeat_interleave(heads // x_BxTxGxK.shape[2], dim=2).transpose(1, 2)
