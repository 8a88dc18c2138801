"""The update rules (optimizer.name=...): one dataclass for each, with exactly its keys.

`jaxlm.engine.optimizer` and `torchref.optimizer` have the rule of each.
"""

from dataclasses import dataclass

from jaxlm.config.keys import Kinds, key


@dataclass
class OptimizerConfig:
    """The keys of every update rule."""

    name: str = key("", "the update rule")
    lr: float = key(1e-3, "peak learning rate")
    weight_decay: float = key(0.1, "decay of matrices (times lr); norms and biases never decay")
    clip_norm: float | None = key(1.0, "largest global gradient norm; null: no clipping")


@dataclass
class AdamW(OptimizerConfig):
    """Loshchilov and Hutter 2019."""

    name: str = key("adamw", "Adam with decoupled weight decay")
    betas: list[float] = key([0.9, 0.95], "decay of the first and second moment")
    eps: float = key(1e-8, "added outside the root")


@dataclass
class Lion(OptimizerConfig):
    """Chen et al. 2023."""

    name: str = key("lion", "the sign of an interpolated momentum")
    betas: list[float] = key([0.9, 0.95], "weight of the momentum in the step; its decay")


OPTIMIZERS = Kinds(AdamW, Lion)
