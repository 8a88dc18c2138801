"""The state of any optax transformation is restored bitwise from a checkpoint, and sharded like its
parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlm.config.optimizers import OPTIMIZERS
from jaxlm.config.schema import Config, ModelConfig, resolve_model
from jaxlm.engine.optimizer import RULES, moments_of, to_checkpoint
from jaxlm.engine.parallel import Placement
from jaxlm.engine.step import TrainState
from jaxlm.engine.tree import flatten, nest
from jaxlm.spec.parameters import initial_parameters
from jaxlm.store.checkpoint import Checkpoints, restore

MODEL = resolve_model(ModelConfig(n_layers=1, d_model=8, n_heads=2, d_ff=8, context_length=4), 11)


def some_labels(parameters):
    return jax.tree.map(lambda p: "matrix" if p.ndim == 2 else "vector", parameters)


RULE = {
    "adam": optax.scale_by_adam(),
    "lion": optax.scale_by_lion(),
    "momentum": optax.trace(0.9),
    "without state": optax.sign_sgd(1.0),
    "chain": optax.chain(optax.clip(1.0), optax.trace(0.9), optax.scale_by_adam()),
    "adafactor": optax.scale_by_factored_rms(min_dim_size_to_factor=4),
    "schedule": optax.chain(optax.scale_by_schedule(lambda n: 0.1), optax.scale_by_rms()),
    "injected numbers": optax.inject_hyperparams(optax.adamw)(learning_rate=1e-3),
    "masked": optax.masked(optax.scale_by_adam(), lambda p: jax.tree.map(lambda x: x.ndim == 2, p)),
    "two rules": optax.multi_transform(
        {"matrix": optax.scale_by_adam(), "vector": optax.trace(0.9)}, some_labels
    ),
    "noise": optax.add_noise(0.1, 0.5, jax.random.key(3)),
    "accumulation": optax.MultiSteps(optax.adam(1e-3), 2).gradient_transformation(),
    "average": optax.ema(0.9),
    "second order": optax.lbfgs(1e-3, memory_size=2, linesearch=None),
}


@pytest.fixture(scope="module")
def parameters():
    return nest({n: jnp.asarray(x) for n, x in initial_parameters(MODEL, 0).items()})


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


@pytest.mark.slow
@pytest.mark.parametrize("name", RULE)
def test_the_state_is_restored_bitwise_from_a_checkpoint(name, parameters, tmp_path):
    rule = RULE[name]
    state = rule.init(parameters)
    for seed in range(3):
        key = jax.random.key(seed)
        gradients = jax.tree.map(lambda p, key=key: jax.random.normal(key, p.shape), parameters)
        _, state = rule.update(gradients, state, parameters)
    tree = {"parameters": flatten(parameters), "optimizer": to_checkpoint(state)}
    if not tree["optimizer"]:
        tree["optimizer"] = {"step": jnp.int32(3)}  # which the engine's states always have
    with Checkpoints(tmp_path, 1) as checkpoints:
        checkpoints.save(3, jax.tree.map(np.asarray, tree), {})
    template = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
    saved = restore(tmp_path, template=template)[1]["optimizer"]
    assert_same(moments_of(rule, parameters, saved), state)


def test_a_checkpoint_of_adamw_uses_the_names_known_to_both_backends(parameters):
    tree = to_checkpoint(RULE["adam"].init(parameters))
    assert set(tree) == {"count", "mu", "nu"} and set(tree["mu"]) == set(flatten(parameters))


@pytest.mark.parametrize("name", RULE)
def test_moments_are_sharded_like_their_parameters(name, parameters):
    placement = Placement(Config(model=MODEL), jax.devices())
    state = TrainState(parameters, RULE[name].init(parameters), jnp.int32(0))
    shardings = placement.state_shardings(state)
    assert jax.tree.structure(shardings) == jax.tree.structure(state)
    of = flatten(shardings.parameters)
    moments = zip(jax.tree_util.tree_leaves_with_path(state.moments),
                  jax.tree.leaves(shardings.moments), strict=True)  # fmt: skip
    for (path, leaf), sharding in moments:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        for parameter, value in flatten(parameters).items():
            if name.endswith(parameter) and value.shape == leaf.shape:
                assert sharding == of[parameter]


def test_every_registered_optimizer_has_a_rule_in_both_engines():
    torch = pytest.importorskip("torchref.optimizer")
    assert set(OPTIMIZERS) == set(RULES) == set(torch.RULES)
