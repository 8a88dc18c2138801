"""Dropout with the engine's masks, bit for bit.

Legend: B batch.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from torchref.threefry import Key, keep_mask


class Dropout(NamedTuple):
    """The randomness of one step: a key from (seed, step), and the global number of each row."""

    key: Key
    rows_B: Tensor


def drop(x: Tensor, rate: float, dropout: Dropout | None, site: int) -> Tensor:
    """Inverted dropout, keyed by (seed, step, site, global row)."""
    if dropout is None or rate == 0.0:
        return x
    keep = keep_mask(*dropout.key, site, dropout.rows_B, x[0].numel(), rate)
    return torch.where(keep.view(x.shape), x / (1.0 - rate), torch.zeros_like(x))
