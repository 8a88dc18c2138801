"""The update rule: optax moments, decoupled decay on matrices only, and the form in checkpoints."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxlm.config.optimizers import AdamW, Lion, OptimizerConfig
from jaxlm.config.schema import ResolvedModel
from jaxlm.engine.tree import nest
from jaxlm.spec.parameters import parameter_shapes
from jaxlm.spec.parametrization import lr_factor


def _adamw(config: AdamW) -> optax.GradientTransformation:
    """Loshchilov and Hutter 2019, as torch.optim.AdamW: eps outside the root, bias correction."""
    return optax.scale_by_adam(*config.betas, config.eps)


def _lion(config: Lion) -> optax.GradientTransformation:
    """Chen et al. 2023."""
    return optax.scale_by_lion(*config.betas)


RULES: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adamw": _adamw,
    "lion": _lion,
}


def rule(config: OptimizerConfig) -> optax.GradientTransformation:
    """Gradients -> direction, before decay and learning rate."""
    return RULES[config.name](config)


def clip(gradients: Any, norm: jax.Array, limit: float | None) -> Any:
    """g * min(1, limit / norm), where `norm` is the global norm (Pascanu et al. 2013)."""
    if limit is None:
        return gradients
    factor = jnp.minimum(1.0, limit / norm)
    return jax.tree.map(lambda g: g * factor.astype(g.dtype), gradients)


def lr_factors(model: ResolvedModel) -> Any:
    """The tree of learning rate factors from `parametrization`."""
    return nest({name: lr_factor(model, name) for name in parameter_shapes(model)})


def updates(
    parameters: Any, direction: Any, factors: Any, lr: jax.Array, weight_decay: float
) -> Any:
    """The changes to add to the parameters: -lr (factor direction + weight_decay p).

    Decay applies to matrices only and does not depend on the parameter's factor.
    """

    def update(p: jax.Array, u: jax.Array, factor: float) -> jax.Array:
        step = factor * u
        return -lr.astype(p.dtype) * (step + weight_decay * p if p.ndim == 2 else step)

    return jax.tree.map(update, parameters, direction, factors)


def to_checkpoint(moments: Any) -> dict[str, Any]:
    """The state of any optax transformation as a tree of two levels, for a checkpoint.

    AdamW gives count, mu.NAME and nu.NAME; a chain gives 0.count, 0.mu.NAME, 1.trace.NAME.
    Typed random keys are stored as integers; empty leaves are not stored.
    """
    tree: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(moments):
        if leaf.size:
            first, *rest = _names(path)
            inside = tree.setdefault(first, {}) if rest else tree
            inside[".".join(rest) if rest else first] = _data(leaf)
    return tree


def from_checkpoint(config: OptimizerConfig, parameters: Any, saved: dict[str, Any]) -> Any:
    """The inverse of `to_checkpoint`."""
    return moments_of(rule(config), parameters, saved)


def moments_of(rule: optax.GradientTransformation, parameters: Any, saved: dict[str, Any]) -> Any:
    """The transformation's state for these parameters, from what `to_checkpoint` returned."""

    def value(path: tuple, leaf: jax.ShapeDtypeStruct) -> Any:
        if not leaf.size:
            return jnp.zeros(leaf.shape, leaf.dtype)
        first, *rest = _names(path)
        found = saved[first][".".join(rest)] if rest else saved[first]
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(found, impl=_generator(leaf))
        return found

    return jax.tree_util.tree_map_with_path(value, jax.eval_shape(rule.init, parameters))


def _generator(key: jax.ShapeDtypeStruct) -> Any:
    """The generator of a typed random key, which only a traced key reveals."""
    found = []
    jax.eval_shape(lambda traced: found.append(jax.random.key_impl(traced)), key)
    return found[0]


def _names(path: tuple) -> list[str]:
    return [jax.tree_util.keystr((entry,), simple=True) for entry in path]


def _data(leaf: Any) -> Any:
    """A typed random key as integers, anything else unchanged."""
    if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.eval_shape(jax.random.key_data, leaf)
    return jax.random.key_data(leaf)
