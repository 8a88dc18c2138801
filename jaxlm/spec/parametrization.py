"""What scales how with the width: the one table behind `model.parametrization`.

`standard` scales nothing but the attention scores, by 1/sqrt(head_dim). `mup` is the maximal update
parametrization for Adam and its like (Yang et al. 2022, "Tensor Programs V", table 8, the form in
which the head may be tied): at every width a step changes each activation by as much, so that one
learning rate is the best for all. With m = d_model / base_width, the factors are

| role    | parameters                  | initial std | learning rate | besides               |
| ------- | --------------------------- | ----------- | ------------- | --------------------- |
| table   | token and learned positions | 1           | 1             |                       |
| hidden  | attention, feed-forward     | m^-1/2      | m^-1          | scores by 1/head_dim  |
| readout | the untied head             | 1           | 1             | its input by m^-1,    |
|         |                             |             |               | that of a tied one too |
| vector  | norms and biases            | 1           | 1             |                       |

- Decay is lr x weight_decay x p a step for every matrix, whatever its own rate: the factor is on
  the direction alone, so that decay is the same at all widths (Wortsman et al. 2023).
- n_heads x head_dim and d_ff are taken to grow in proportion to d_model.
- The step of Lion is a sign and that of Adam nearly is: one table holds for both.
- Adam's epsilon is not scaled. The gradients of matrices fall with 1/m, and are far above 1e-8.
- At d_model = base_width every factor is exactly 1: both parametrizations are the same bits.
"""

import math
from typing import NamedTuple

from jaxlm.config.schema import ResolvedModel


class Exponents(NamedTuple):
    """Powers of d_model / base_width."""

    std: float
    lr: float


MUP = {
    "table": Exponents(std=0.0, lr=0.0),
    "hidden": Exponents(std=-0.5, lr=-1.0),
    "readout": Exponents(std=0.0, lr=0.0),
    "vector": Exponents(std=0.0, lr=0.0),
}


def role_of(name: str) -> str:
    """The row of the table that a parameter belongs to, by its canonical name."""
    *path, layer, leaf = name.split(".")
    if leaf == "bias" or layer.endswith("norm"):
        return "vector"
    if path and path[-1] in ("attention", "feedforward"):
        return "hidden"
    return {"embed": "table", "position": "table", "head": "readout"}[layer]


def width_ratio(model: ResolvedModel) -> float:
    """m = d_model / base_width; 1 under the standard parametrization."""
    if model.parametrization != "mup":
        return 1.0
    assert model.base_width is not None  # as the configuration was checked
    return model.d_model / model.base_width


def std_factor(model: ResolvedModel, name: str) -> float:
    """What multiplies the initial standard deviation of one parameter."""
    return width_ratio(model) ** MUP[role_of(name)].std


def lr_factor(model: ResolvedModel, name: str) -> float:
    """What multiplies the learning rate of one parameter, its decay excepted."""
    return width_ratio(model) ** MUP[role_of(name)].lr


def readout_factor(model: ResolvedModel) -> float:
    """What multiplies the input of the head, or of the embedding tied to it."""
    return 1.0 / width_ratio(model)


def score_divisor(model: ResolvedModel) -> float:
    """What divides q k^T: sqrt(K), or K / sqrt(base K) under muP, K being the head's width."""
    root = math.sqrt(model.head_dim)
    if model.parametrization == "mup":
        assert model.base_head_dim is not None
        root *= math.sqrt(model.head_dim / model.base_head_dim)
    return root
