"""The update rule: optax moments, decoupled decay on matrices only, and the checkpoint's form."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxlm.config.schema import ModelConfig, OptimizerConfig
from jaxlm.engine.model import flatten, nest
from jaxlm.spec.parameters import parameter_shapes
from jaxlm.spec.parametrization import lr_factor


def rule(config: OptimizerConfig) -> optax.GradientTransformation:
    """Gradients -> direction, before decay and learning rate.

    adamw: Loshchilov and Hutter 2019, as torch.optim.AdamW (eps outside the root, bias correction);
    lion: Chen et al. 2023.
    """
    first, second = config.betas
    if config.name == "lion":
        return optax.scale_by_lion(first, second)
    return optax.scale_by_adam(first, second, config.eps)


def clip(gradients: Any, norm: jax.Array, limit: float | None) -> Any:
    """g * min(1, limit / norm), the global norm being given (Pascanu et al. 2013)."""
    if limit is None:
        return gradients
    factor = jnp.minimum(1.0, limit / norm)
    return jax.tree.map(lambda g: g * factor.astype(g.dtype), gradients)


def lr_factors(model: ModelConfig) -> Any:
    """The tree of factors of the learning rate, as `parametrization` has them."""
    return nest({name: lr_factor(model, name) for name in parameter_shapes(model)})


def updates(
    parameters: Any, direction: Any, factors: Any, lr: jax.Array, weight_decay: float
) -> Any:
    """What to add to the parameters: -lr (factor direction + weight_decay p).

    Decay on matrices only, and its size does not depend on the parameter's factor.
    """

    def update(p: jax.Array, u: jax.Array, factor: float) -> jax.Array:
        step = factor * u
        return -lr.astype(p.dtype) * (step + weight_decay * p if p.ndim == 2 else step)

    return jax.tree.map(update, parameters, direction, factors)


def to_checkpoint(moments: Any) -> dict[str, Any]:
    """optax's named tuple as a dict of the canonical flat trees: count, mu.NAME, nu.NAME."""
    return {
        field: flatten(value) if isinstance(value, dict) else value
        for field, value in moments._asdict().items()
    }


def from_checkpoint(config: OptimizerConfig, parameters: Any, saved: dict[str, Any]) -> Any:
    """The inverse of `to_checkpoint`."""
    kind = type(jax.eval_shape(rule(config).init, parameters))
    fields = {
        field: nest(value) if isinstance(value, dict) else value for field, value in saved.items()
    }
    return kind(**fields)
