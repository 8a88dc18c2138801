"""From logits to the next token: penalty, temperature, top-k, top-p and min-p, in this order.

Legend: B rows (samples), V vocabulary.
"""

import math

import torch
from torch import Tensor

from jaxlm.spec.sampling import Sampling
from torchref.layers import at_least_float32
from torchref.threefry import fold_in, random_bits, random_key

_COLDEST = 1e-30  # a logit divided by less could overflow


def filtered_logits(logits_BxV: Tensor, seen_BxV: Tensor, sampling: Sampling) -> Tensor:
    """The logits that a token is drawn from, (B, V), at least float32; -inf where removed.

    repetition_penalty divides positive logits of `seen` tokens and multiplies negative ones (CTRL,
    Keskar et al. 2019, section 4.1); temperature divides all; top_k keeps the most likely tokens;
    top_p keeps the smallest set whose mass reaches p, including the token that crosses p (Holtzman
    et al. 2020); min_p keeps tokens at least this fraction as likely as the most likely one (Nguyen
    et al. 2024). Of equal logits the lower id ranks first. Temperature 0 keeps only the first.
    """
    temperature, top_k, top_p, min_p, repetition_penalty = sampling
    x = at_least_float32(logits_BxV)
    penalised = torch.where(x > 0, x / repetition_penalty, x * repetition_penalty)
    x = torch.where(seen_BxV, penalised, x)
    if temperature == 0:
        only = torch.zeros_like(x, dtype=torch.bool).scatter_(-1, x.argmax(-1, keepdim=True), True)
        return x.masked_fill(~only, -math.inf)
    x = x / max(temperature, _COLDEST)
    if top_k is not None or (top_p is not None and top_p < 1):
        x = likeliest(x, top_k or x.shape[-1], 1.0 if top_p is None else top_p)
    if min_p is not None:
        x = x.masked_fill((x - x.amax(-1, keepdim=True)).exp() < min_p, -math.inf)
    return x


def likeliest(x_BxV: Tensor, top_k: int, top_p: float) -> Tensor:
    """top_k, then top_p: keeps the head of the order by (descending logit, ascending id)."""
    sorted_BxV, order_BxV = x_BxV.sort(dim=-1, descending=True, stable=True)
    sorted_BxV[:, top_k:] = -math.inf
    if top_p < 1:
        mass_BxV = sorted_BxV.softmax(-1)
        before_BxV = mass_BxV.cumsum(-1).roll(1, dims=-1)
        before_BxV[:, 0] = 0.0
        sorted_BxV = sorted_BxV.masked_fill(before_BxV >= top_p, -math.inf)
    return torch.empty_like(x_BxV).scatter_(-1, order_BxV, sorted_BxV)


def draw(x_BxV: Tensor, seed: int, position: int) -> Tensor:
    """One id per row, (B,), from softmax(x), by the Gumbel-max trick.

    The randomness depends only on (seed, row, position) and is that of the JAX engine: the same
    seed gives the same text in both backends.
    """
    rows_B = torch.arange(len(x_BxV), dtype=torch.int32, device=x_BxV.device)
    keys_B = fold_in(
        fold_in(random_key(seed, x_BxV.device), rows_B), torch.full_like(rows_B, position)
    )
    bits_BxV = (random_bits(keys_B, x_BxV.shape[-1]) >> 9) & (2**23 - 1)
    uniform_BxV = (bits_BxV.float() + 0.5) * 2.0**-23  # exact, within (0, 1)
    return (x_BxV - (-uniform_BxV.log()).log()).argmax(-1)
