"""How each quantity scales with the width: the table behind `model.parametrization`.

`standard` scales only the attention scores, by 1/sqrt(head_dim). `mup` is the maximal update
parametrization for Adam and similar optimizers (Yang et al. 2022, "Tensor Programs V", table 8, the
form in which the head may be tied): at every width, a step changes each activation by the same
amount, so the same learning rate is best for all. With m = d_model / base_width, the factors are

| role    | parameters                  | initial std | learning rate | also                  |
| ------- | --------------------------- | ----------- | ------------- | --------------------- |
| table   | token and learned positions | 1           | 1             |                       |
| hidden  | attention, feed-forward     | m^-1/2      | m^-1          | scores by 1/head_dim  |
| readout | the untied head             | 1           | 1             | its input by m^-1,    |
|         |                             |             |               | also if it is tied    |
| vector  | norms and biases            | 1           | 1             |                       |

- Each step decays every matrix by lr x weight_decay x p, whatever its own rate: the factor applies
  only to the direction, so decay is the same at all widths (Wortsman et al. 2023).
- n_heads x head_dim and d_ff are assumed to grow in proportion to d_model.
- Lion's step is a sign, and Adam's nearly is, so the same table applies to both.
- Adam's epsilon is not scaled. The gradients of matrices fall as 1/m and stay far above 1e-8.
- At d_model = base_width every factor is exactly 1: both parametrizations give the same bits.
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
    assert model.base_width is not None  # the configuration was checked
    return model.d_model / model.base_width


def std_factor(model: ResolvedModel, name: str) -> float:
    """The factor on the initial standard deviation of one parameter."""
    return width_ratio(model) ** MUP[role_of(name)].std


def lr_factor(model: ResolvedModel, name: str) -> float:
    """The factor on the learning rate of one parameter, except in its decay."""
    return width_ratio(model) ** MUP[role_of(name)].lr


def readout_factor(model: ResolvedModel) -> float:
    """The factor on the input of the head, or of the embedding tied to it."""
    return 1.0 / width_ratio(model)


def score_divisor(model: ResolvedModel) -> float:
    """The divisor of q k^T: sqrt(K), or K / sqrt(base K) under muP; K is the head width."""
    root = math.sqrt(model.head_dim)
    if model.parametrization == "mup":
        assert model.base_head_dim is not None
        root *= math.sqrt(model.head_dim / model.base_head_dim)
    return root
