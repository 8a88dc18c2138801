"""The update rules (optimizer.name=...): one dataclass for each, with exactly its keys.

`jaxlm.engine.optimizer` and `torchref.optimizer` implement each rule.
"""

from dataclasses import dataclass

from jaxlm.config.keys import Kinds, key


@dataclass
class OptimizerConfig:
    """The keys that all update rules share."""

    name: str = key("", "the update rule")
    lr: float = key(1e-3, "peak learning rate")
    weight_decay: float = key(
        0.1, "weight decay of matrices (times lr); norms and biases never decay"
    )
    clip_norm: float | None = key(1.0, "maximum global gradient norm; null: no clipping")


@dataclass
class AdamW(OptimizerConfig):
    """Loshchilov and Hutter 2019."""

    name: str = key("adamw", "Adam with decoupled weight decay")
    betas: list[float] = key([0.9, 0.95], "decay rates of the first and second moment")
    eps: float = key(1e-8, "epsilon, added outside the square root")


@dataclass
class Lion(OptimizerConfig):
    """Chen et al. 2023."""

    name: str = key("lion", "the sign of an interpolated momentum")
    betas: list[float] = key(
        [0.9, 0.95], "weight of the momentum in the step; decay rate of the momentum"
    )


OPTIMIZERS = Kinds(AdamW, Lion)
