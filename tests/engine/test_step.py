"""One step: its update is AdamW's or Lion's; accumulation, jit and devices do not change it."""

import dataclasses
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlm.config.optimizers import AdamW, Lion
from jaxlm.config.schema import ModelConfig, resolve_model
from jaxlm.engine import optimizer
from jaxlm.engine.model import Transformer
from jaxlm.engine.step import (
    Batch,
    TrainState,
    cross_entropy,
    make_eval_step,
    make_train_step,
    norms,
)
from jaxlm.engine.tree import flatten, nest
from jaxlm.spec.contract import EvalBatch
from jaxlm.spec.parameters import initial_parameters, parameter_groups

MODEL = ModelConfig(n_layers=2, d_model=32, n_heads=2, d_ff=48, context_length=12, init_std=0.1)
ADAMW = AdamW(lr=1e-2, clip_norm=0.5)


def setup(config=ADAMW, dtype="float32", **switches):
    model = resolve_model(dataclasses.replace(MODEL, **switches), 17)
    parameters = jax.tree.map(jnp.asarray, nest(initial_parameters(model, 0, dtype)))
    moments = optimizer.rule(config).init(parameters)
    return Transformer(model, jnp.dtype(dtype)), TrainState(parameters, moments, jnp.int32(0))


def batch(parts=1, rows=8, seed=0, lr=1e-2):
    tokens = np.random.default_rng(seed).integers(0, 17, (rows, 13)).astype(np.int32)
    places = np.arange(rows, dtype=np.int32).reshape(parts, -1)
    return Batch(tokens.reshape(parts, -1, 13), places, np.float64(lr))


def largest_difference(a, b):
    return max(
        float(np.abs(x - y).max()) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
    )


def run(step, state, count=3, **arguments):
    step, losses = jax.jit(step), []
    for n in range(count):
        state, metrics = step(state, batch(seed=n, **arguments))
        losses.append(float(metrics.loss))
    return state, losses


@pytest.mark.slow
@pytest.mark.parametrize("clip_norm", [0.05, 1e9, None])
def test_the_step_equals_optax_clipping_followed_by_optax_adamw(clip_norm):
    with jax.enable_x64(True):
        config = dataclasses.replace(ADAMW, clip_norm=clip_norm)
        network, state = setup(config, "float64")
        chain = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
        decays = jax.tree.map(lambda p: p.ndim == 2, state.parameters)
        adamw = optax.adamw(1e-2, 0.9, 0.95, 1e-8, weight_decay=0.1, mask=decays)
        theirs = optax.chain(*chain, adamw)
        parameters, moments = state.parameters, theirs.init(state.parameters)

        def loss(parameters, tokens):
            logits = network.apply({"params": parameters}, tokens[:, :-1])
            return cross_entropy(logits, tokens[:, 1:]).mean()

        gradient = jax.jit(jax.grad(loss))
        for n in range(5):
            gradients = gradient(parameters, batch(seed=n).tokens[0])
            updates, moments = theirs.update(gradients, moments, parameters)
            parameters = optax.apply_updates(parameters, updates)
        state, _ = run(make_train_step(network, config, seed=0), state, 5)
        assert largest_difference(state.parameters, parameters) < 1e-12


def test_norms_and_biases_never_decay():
    parameters = {"a.weight": jnp.ones((2, 2)), "norm.weight": jnp.ones(2), "b.bias": jnp.ones(2)}
    zeros = jax.tree.map(jnp.zeros_like, parameters)
    factors = dict.fromkeys(parameters, 1.0)
    changes = optimizer.updates(parameters, zeros, factors, jnp.float32(0.1), 0.5)
    np.testing.assert_allclose(changes["a.weight"], -0.05)
    assert not changes["norm.weight"].any() and not changes["b.bias"].any()


@pytest.mark.slow
def test_lion_takes_the_sign_of_the_interpolated_gradient():
    config = Lion(betas=[0.9, 0.99], weight_decay=0.0, clip_norm=None)
    network, state = setup(config)
    after, _ = run(make_train_step(network, config, seed=0), state, 1)
    change = flatten(jax.tree.map(jnp.subtract, after.parameters, state.parameters))
    used = np.abs(change["blocks.0.feedforward.up.weight"])
    np.testing.assert_allclose(used, 1e-2, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [2, 8])
def test_accumulation_gives_the_same_result_as_the_whole_batch(parts):
    with jax.enable_x64(True):
        network, state = setup(dtype="float64", attention_dropout=0.1, residual_dropout=0.1)
        step = make_train_step(network, ADAMW, seed=3)
        whole, losses = run(step, state)
        split, split_losses = run(step, state, parts=parts)
        np.testing.assert_allclose(losses, split_losses, rtol=1e-12)
        assert largest_difference(whole.parameters, split.parameters) < 1e-10


@pytest.mark.slow
def test_dropout_depends_only_on_seed_and_step():
    network, state = setup(residual_dropout=0.5)
    loss = [
        run(make_train_step(network, ADAMW, seed), state._replace(step=jnp.int32(at)), 1)[1]
        for seed, at in ((0, 0), (0, 0), (1, 0), (0, 1))
    ]
    assert loss[0] == loss[1]
    assert loss[0] != loss[2] and loss[0] != loss[3]


@pytest.mark.slow
def test_jit_and_eager_steps_agree():
    with jax.enable_x64(True):
        network, state = setup(dtype="float64")
        step = make_train_step(network, ADAMW, seed=0)
        compiled, _ = run(step, state, 1)
        with jax.disable_jit():
            eager, _ = step(state, batch())
        assert largest_difference(compiled.parameters, eager.parameters) < 1e-12


@pytest.mark.slow
def test_reported_norms_are_those_of_the_groups():
    network, state = setup()
    _, metrics = jax.jit(make_train_step(network, ADAMW, seed=0))(state, batch())
    groups = parameter_groups(network.model)
    assert groups == [
        "embed", "norms", "blocks.0.attention", "blocks.0.feedforward",
        "blocks.1.attention", "blocks.1.feedforward", "head",
    ]  # fmt: skip
    total = np.sqrt(np.square(metrics.gradient_norms).sum())
    assert total == pytest.approx(float(metrics.gradient_norm), rel=1e-6)
    flat = flatten(state.parameters)
    parts = [v for n, v in flat.items() if n.startswith("blocks.1.attention.")]
    expected = np.sqrt(sum(np.square(p).sum() for p in parts))
    assert norms(state.parameters, groups)[4] == pytest.approx(expected, rel=1e-6)
    assert metrics.activation_rms.shape == (2,)
    assert (metrics.update_norms > 0).all() and (metrics.activation_rms > 0).all()


@pytest.mark.slow
def test_evaluation_sums_agree_with_a_plain_loop():
    network, state = setup()
    rng = np.random.default_rng(1)
    inputs, targets = rng.integers(0, 17, (2, 3, 12)).astype(np.int32)
    weights = rng.integers(0, 2, (3, 12)).astype(np.float32)
    sizes = rng.integers(1, 4, (3, 12)).astype(np.float32)
    step = jax.jit(make_eval_step(network))
    sums = step(state.parameters, EvalBatch(inputs, targets, weights, sizes))
    logits = np.asarray(network.apply({"params": state.parameters}, inputs), np.float64)
    for row in range(3):
        expected = dict.fromkeys(sums, 0.0)
        for place in np.flatnonzero(weights[row]):
            p = np.exp(logits[row, place]) / np.exp(logits[row, place]).sum()
            order = np.argsort(-p, kind="stable").tolist()
            target = int(targets[row, place])
            expected["tokens"] += 1
            expected["loss"] -= np.log(p[target])
            expected["correct"] += order[0] == target
            expected["top5"] += target in order[:5]
            expected["confidence"] += p.max()
            expected["bytes"] += sizes[row, place]
        for name, value in expected.items():
            assert float(sums[name][row]) == pytest.approx(value, rel=1e-5), name


@pytest.mark.slow
def test_equal_logits_rank_the_lower_id_first():
    class Flat:
        def apply(self, _, tokens):
            return jnp.zeros((*tokens.shape, 9))

    targets = jnp.array([[0, 1, 4, 5]])
    ones = jnp.ones((1, 4))
    sums = make_eval_step(Flat())({}, EvalBatch(targets, targets, ones, ones))
    assert (int(sums["correct"][0]), int(sums["top5"][0])) == (1, 3)


DEVICES = """
import jax, numpy as np
from jaxlm.config.compose import compose
from jaxlm.engine.engine import Engine
from jaxlm.engine.parallel import Placement
from jaxlm.engine.step import Batch, make_train_step
import pathlib, tempfile
out = {}
for name, words in {
    "one": ["parallel.data=1"], "jit": [], "pmap": ["parallel=pmap"],
    "accumulated": ["train.grad_accumulation=2"], "pmap accumulated":
    ["parallel=pmap", "train.grad_accumulation=2"], "fsdp": ["parallel.fsdp=4"],
    "tensor": ["parallel.tensor=2", "parallel.fsdp=2"],
}.items():
    config = compose(["scale=smoke", "model.n_layers=1", "train.batch_size=16", "precision=float64",
        "model.attention_dropout=0.1", "model.residual_dropout=0.1", "optimizer.lr=0.01", *words])
    engine = Engine(config, 64, pathlib.Path(tempfile.gettempdir()) / "unused")
    state, losses = engine.initial_state(), []
    place = engine.placement
    function = make_train_step(engine.model, config.optimizer, 0, place.axis)
    step = None
    for n in range(4):
        tokens = np.random.default_rng(0).integers(0, 64, (16, 33)).astype(np.int32)
        parts = config.train.grad_accumulation
        rows = np.arange(16, dtype=np.int32).reshape(parts, -1)
        made = place.put_batch(Batch(tokens.reshape(parts, -1, 33), rows, np.float64(0.01)))
        step = step or place.compile(function, state, made)
        state, metrics = step(state, made)
        losses.append(float(place.first_copy(metrics).loss))
    print(name, len(place.devices), *map(repr, losses), sep=";")
"""


@pytest.mark.slow
def test_jit_pmap_fsdp_and_tensor_train_the_same_losses_on_eight_devices():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    flags |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "True"}
    done = subprocess.run(
        [sys.executable, "-c", DEVICES], env=os.environ | flags, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = {line.split(";")[0]: line.split(";")[1:] for line in done.stdout.splitlines()}
    assert len(rows) == 7
    reference = [float(x) for x in rows["one"][1:]]
    assert reference[-1] < reference[0]
    for name, (devices, *losses) in rows.items():
        assert int(devices) == (1 if name == "one" else 8), name
        np.testing.assert_allclose([float(x) for x in losses], reference, rtol=1e-10, err_msg=name)


@pytest.mark.slow
def test_a_batch_that_was_not_placed_raises_an_error(tmp_path):
    from jaxlm.config.compose import compose
    from jaxlm.engine.engine import Engine

    config = compose(["scale=smoke"])
    engine = Engine(config, 64, tmp_path)
    state = engine.initial_state()
    host = Batch(np.zeros((1, 4, 33), np.int32), np.zeros((1, 4), np.int32), np.float32(0.1))
    placed = engine.placement.put_batch(host)
    step = engine.placement.compile(make_train_step(engine.model, ADAMW, 0), state, placed)
    state, _ = step(state, placed)
    with pytest.raises(Exception, match="[Dd]isallowed"):
        step(state, host)
