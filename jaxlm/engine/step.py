"""One optimizer step and one evaluation step, as pure functions to be compiled.

Legend: A accumulation parts, B rows of one part, L length, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import lax

from jaxlm.config.optimizers import OptimizerConfig
from jaxlm.engine import optimizer
from jaxlm.engine.dropout import Dropout, Rates, random_key
from jaxlm.engine.model import Array, Transformer
from jaxlm.engine.tree import flatten
from jaxlm.spec.contract import EvalBatch, StepMetrics
from jaxlm.spec.parameters import group_of, parameter_groups


class TrainState(NamedTuple):
    """Everything that a step changes. `moments` is optax's state."""

    parameters: Any
    moments: Any
    step: Any  # an array or, as in the other fields, its shape or sharding


class Batch(NamedTuple):
    """What a step reads: tokens (A, B, L+1), the rows' global numbers (A, B), the learning rate."""

    tokens: Any
    rows: Any
    lr: Any


def cross_entropy(logits_BxLxV: Array, targets_BxL: Array) -> Array:
    """-log softmax(logits)[target] in nats, (B, L), in the logits' type (at least float32)."""
    chosen = jnp.take_along_axis(logits_BxLxV, targets_BxL[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits_BxLxV, axis=-1) - chosen


def norms(tree: Any, groups: list[str]) -> Array:
    """The L2 norm of each group of parameters, in the order of `groups`."""
    squares: dict[str, Array | float] = dict.fromkeys(groups, 0.0)
    for name, value in flatten(tree).items():
        squares[group_of(name)] += jnp.sum(jnp.square(value))
    return jnp.sqrt(jnp.stack([squares[group] for group in groups]))


def make_loss(
    model: Transformer, rates: Rates
) -> Callable[[Any, Array, Array, Array, int], tuple[Array, Array]]:
    """(parameters, tokens (B, L+1), rows (B,), key, total) -> (loss, squares).

    The loss is the sum of nats over the tokens, divided by `total`; the squares (layers,) are the
    mean squares of the residual stream after each block.
    """

    def loss(
        parameters: Any, tokens_BxL1: Array, rows_B: Array, key: Array, total: int
    ) -> tuple[Array, Array]:
        dropout = Dropout(key, rows_B, rates) if rates != (None, None) else None
        logits_BxLxV, seen = model.apply(
            {"params": parameters}, tokens_BxL1[:, :-1], dropout=dropout, mutable=["components"]
        )
        blocks = seen["components"]["blocks"]
        residual = [blocks[str(n)]["after_feedforward"][0] for n in range(model.model.n_layers)]
        squares = jnp.stack([jnp.mean(jnp.square(x.astype(jnp.float32))) for x in residual])
        return cross_entropy(logits_BxLxV, tokens_BxL1[:, 1:]).sum() / total, squares

    return loss


def accumulated(function: Callable[[Array, Array], Any], batch: Batch) -> Any:
    """The sum of function(tokens (B, L+1), rows (B,)) over the parts of a batch, in sequence."""
    if len(batch.tokens) == 1:
        return function(batch.tokens[0], batch.rows[0])
    shapes = jax.eval_shape(function, batch.tokens[0], batch.rows[0])
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def part(sums: Any, tokens_and_rows: tuple[Array, Array]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, sums, function(*tokens_and_rows)), None

    return lax.scan(part, zeros, (batch.tokens, batch.rows))[0]


def make_train_step(
    model: Transformer,
    config: OptimizerConfig,
    seed: int | Array,
    axis: str | None = None,
    rates: Rates | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]:
    """The step (state, batch) -> (state, metrics): forward, backward, clip, update.

    The seed, the dropout `rates` (None: the model's) and the numbers in `config`, except the betas,
    may be traced.

    The loss and gradient are means over the tokens of the whole batch, whatever the accumulation.
    `axis` names pmap's axis, over which they are averaged.
    """
    rule = optimizer.rule(config)
    groups, factors = parameter_groups(model.model), optimizer.lr_factors(model.model)
    loss = make_loss(model, Rates.of(model.model) if rates is None else rates)
    gradient = jax.value_and_grad(loss, has_aux=True)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        parts, rows, length = batch.tokens.shape
        key, total = jax.random.fold_in(random_key(seed), state.step), parts * rows * (length - 1)
        found = accumulated(
            lambda tokens_BxL1, rows_B: gradient(state.parameters, tokens_BxL1, rows_B, key, total),
            batch,
        )
        if axis is not None:
            found = lax.pmean(found, axis)
        (loss, squares), gradients = found

        gradient_norms = norms(gradients, groups)
        norm = jnp.sqrt(jnp.sum(jnp.square(gradient_norms)))
        clipped = optimizer.clip(gradients, norm, config.clip_norm)
        direction, moments = rule.update(clipped, state.moments, state.parameters)
        changes = optimizer.updates(
            state.parameters, direction, factors, batch.lr, config.weight_decay
        )
        parameters = jax.tree.map(jnp.add, state.parameters, changes)
        metrics = StepMetrics(
            loss=loss,
            gradient_norm=norm,
            gradient_norms=gradient_norms,
            weight_norms=norms(parameters, groups),
            update_norms=norms(changes, groups),
            activation_rms=jnp.sqrt(squares / parts),
        )
        return TrainState(parameters, moments, state.step + 1), metrics

    return train_step


def make_eval_step(model: Transformer) -> Callable[[Any, EvalBatch], dict[str, Array]]:
    """(parameters, batch) -> sums over each row, (B,): tokens, loss, loss squared, bytes, ...

    `correct` counts targets of rank 1 and `top5` those up to rank 5; ties go to the lower id. A
    target whose loss is not finite counts in neither: as no comparison with NaN is true, it would
    rank first. `confidence` sums the probability of the most likely token.
    """

    def eval_step(parameters: Any, batch: EvalBatch) -> dict[str, Array]:
        logits_BxLxV = cast(Array, model.apply({"params": parameters}, batch.inputs))
        loss_BxL = cross_entropy(logits_BxLxV, batch.targets)
        target_BxLx1 = batch.targets[..., None]
        chosen = jnp.take_along_axis(logits_BxLxV, target_BxLx1, axis=-1)
        ids_V = jnp.arange(logits_BxLxV.shape[-1])
        ahead = (logits_BxLxV > chosen) | ((logits_BxLxV == chosen) & (ids_V < target_BxLx1))
        rank_BxL = jnp.sum(ahead, axis=-1)
        known_BxL = jnp.isfinite(loss_BxL)
        likeliest = jnp.exp(logits_BxLxV.max(-1) - jax.nn.logsumexp(logits_BxLxV, axis=-1))
        values = {
            "tokens": jnp.ones_like(loss_BxL),
            "loss": loss_BxL,
            "correct": (rank_BxL < 1) & known_BxL,
            "top5": (rank_BxL < 5) & known_BxL,
            "confidence": likeliest,
            "bytes": batch.bytes,
        }
        return {name: jnp.sum(v * batch.weights, axis=-1) for name, v in values.items()}

    return eval_step
