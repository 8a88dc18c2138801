"""Both backends agree on steps, trajectories and dropout, and resume each other's runs."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
from sweeps import sweep

from jaxlm.cli import main as cli
from jaxlm.config.duration import Horizon
from jaxlm.config.optimizers import OPTIMIZERS, AdamW, Lion
from jaxlm.config.schedules import SCHEDULES, Cosine
from jaxlm.config.schema import ModelConfig, resolve_model
from jaxlm.spec.schedule import learning_rate
from jaxlm.verify import parity
from jaxlm.verify.parity import Pair, Row
from parity_tests.conftest import BACKENDS, assert_rows, make_config, tokens

pytest.importorskip("torch")


def batches(steps, config, rows=4, length=17):
    """Random batches with the configured learning rates."""
    plan = Horizon.of(str(steps), tokens_per_step=rows * (length - 1), steps_per_epoch=100.0)
    return [
        (
            tokens(rows, length, seed=step),
            learning_rate(config.schedule, config.optimizer.lr, plan, step),
        )
        for step in range(steps)
    ]


CLIPS, PARTS = (None, 1e-2, 1e3), (1, 4)  # without, active, inactive


@pytest.mark.slow
@pytest.mark.parametrize("precision, parts, clip", sweep(
    list(itertools.product(("float64", "float32"), PARTS, CLIPS)),
    quick=[*itertools.product(["float64"], PARTS, CLIPS), ("float32", 4, 1e-2)],
))  # fmt: skip
def test_parameters_and_moments_after_1_and_20_steps(pair, precision, parts, clip):
    """The steps include warm-up and decay; the model has biases and norms."""
    made = pair(
        precision,
        {"n_layers": 1, "bias": "all", "norm": "layernorm", "head_bias": True},
        optimizer=AdamW(lr=3e-3, clip_norm=clip),
        schedule=Cosine(warmup="5"),
        train={"grad_accumulation": parts},
    )
    assert_rows(parity.optimizer(made, batches(20, made.config)))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_lion_agrees(pair, precision):
    """Rounding can flip the sign of a tiny momentum, so float32 takes only one step."""
    made = pair(precision, optimizer=Lion(lr=1e-3, betas=[0.9, 0.99]))
    steps = 20 if precision == "float64" else 1
    assert_rows(parity.optimizer(made, batches(steps, made.config)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "name"),
    [("float64", "adamw"), ("float32", "adamw"), ("bfloat16", "adamw"), ("float64", "lion")],
)
def test_mup_scales_learning_rates_but_not_decay_in_both_backends(pair, precision, name):
    """The key norm gives key biases a gradient that exceeds rounding."""
    switches = {"parametrization": "mup", "n_layers": 1, "bias": "all", "norm": "layernorm"}
    switches |= {"position": "learned", "qk_norm": True}
    rule = OPTIMIZERS[name](lr=3e-3, weight_decay=0.3)
    made = pair(precision, switches, optimizer=rule)
    assert_rows(parity.optimizer(made, batches(20, made.config)))


@pytest.mark.parametrize("name", ["cosine", "wsd", "linear", "constant", "cyclic"])
def test_schedules_agree_bitwise_with_the_learning_rates_of_torch(name):
    """At each step the torch optimizer's learning rate is the schedule's Python float."""
    from torchref.model import Transformer
    from torchref.optimizer import make_optimizer, set_lr

    config = make_config(schedule=SCHEDULES[name](warmup="7"))
    plan = Horizon.of("100", tokens_per_step=64, steps_per_epoch=100.0)
    optimizer = make_optimizer(Transformer(resolve_model(config.model, 5)), config.optimizer)
    for step in range(100):
        rate = learning_rate(config.schedule, 3e-4, plan, step)
        set_lr(optimizer, rate)
        assert all(group["lr"].hex() == rate.hex() for group in optimizer.param_groups)


def test_the_cosine_schedule_agrees_with_torch(pair):
    """torch's own warm-up and cosine are an independent reference; they agree to rounding."""
    import torch
    from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

    warmup, steps, peak, final = 10, 100, 3e-3, 0.1
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    rise = LinearLR(optimizer, start_factor=1 / warmup, end_factor=1.0, total_iters=warmup - 1)
    fall = CosineAnnealingLR(optimizer, T_max=steps - warmup, eta_min=peak * final)
    both = SequentialLR(optimizer, [rise, fall], milestones=[warmup - 1])
    plan = Horizon.of(str(steps), tokens_per_step=64, steps_per_epoch=100.0)
    config = Cosine(warmup=str(warmup), final_lr=final)
    for step in range(steps):
        rate = optimizer.param_groups[0]["lr"]
        assert math.isclose(learning_rate(config, peak, plan, step), rate, rel_tol=1e-12), step
        optimizer.step()
        both.step()


# -- whole trajectories on real text ---------------------------------------------------------------

TEXT_MODEL = ModelConfig(n_layers=3, d_model=48, n_heads=4, context_length=48, init_std=0.05)


@pytest.fixture(scope="module")
def text():
    """The bytes of Tiny Shakespeare if available, otherwise of this repository's documentation."""
    from pathlib import Path

    root = Path(__file__).resolve().parent.parent
    shared = root.parent / "shared" / "data" / "tinyshakespeare.txt"
    prose = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    files = [shared] if shared.exists() else prose
    return np.frombuffer(b"".join(file.read_bytes() for file in files)[:500_000], np.uint8)


def curve(precision, text, cache, steps=200, **sections) -> Row:
    from jaxlm.data.batches import batch

    config = make_config(precision, TEXT_MODEL, batch_size=8, **sections)
    config = dataclasses.replace(config, optimizer=AdamW(lr=3e-3))
    plan = Horizon.of(str(steps), tokens_per_step=8 * 48, steps_per_epoch=100.0)
    made = Pair(config, 256, cache, *BACKENDS)
    fed = [
        (
            batch(text, seed=0, step=step, batch_size=8, context_length=48),
            learning_rate(config.schedule, config.optimizer.lr, plan, step),
        )
        for step in range(steps)
    ]
    [row] = parity.trajectory(made, fed)
    return row


@pytest.mark.slow
def test_200_steps_on_real_text_differ_only_by_rounding(text, cache):
    """float64 agrees to 1e-8 throughout. float32 agrees within its tolerance, but 10^5 times worse;
    if the formulas differed, the error would be the same in both precisions."""
    double, single = curve("float64", text, cache), curve("float32", text, cache)
    assert_rows([double, single])
    assert double.error < 1e-5 * single.error


# -- dropout ---------------------------------------------------------------------------------------


def test_threefry_agrees_bitwise_with_jax():
    import jax
    import torch

    from torchref.threefry import fold_in, random_bits, random_key

    for seed, number in [(0, 0), (7, 1), (2**32 - 1, 2**31 + 5)]:
        key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), np.uint32(number))
        ours = fold_in(random_key(seed), number)
        assert [int(k) % 2**32 for k in ours] == jax.random.key_data(key).tolist()
        expected = np.asarray(jax.random.bits(key, (1000,), "uint32"))
        assert np.array_equal(random_bits(ours, 1000).numpy().view(np.uint32), expected)
    rows = torch.arange(3, dtype=torch.int32)
    many = random_bits(fold_in(random_key(5), rows), 10)
    for row in range(3):
        assert torch.equal(many[row], random_bits(fold_in(random_key(5), row), 10))


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dropout_masks_agree_bitwise_and_have_the_right_mean_and_variance(rate, dtype):
    import jax
    import jax.numpy as jnp
    import torch

    from jaxlm.engine import dropout as engine
    from torchref import dropout as twin
    from torchref.threefry import fold_in, random_key

    shape, rows = (8, 50, 64), np.arange(3, 11)
    key = jax.random.fold_in(engine.random_key(3), 12)
    rates = engine.Rates(attention=None, residual=engine.Rate.of(rate))
    dropout = engine.Dropout(key, jnp.asarray(rows), rates)
    a = engine.drop(jnp.ones(shape, dtype), dropout, "residual", site=4)
    dropout = twin.Dropout(fold_in(random_key(3), 12), torch.tensor(rows, dtype=torch.int32))
    b = twin.drop(torch.ones(shape, dtype=getattr(torch, dtype)), rate, dropout, site=4)
    a, b = np.asarray(a, np.float64), b.double().numpy()
    assert np.array_equal(a, b)
    n, kept = a.size, (a > 0).mean()
    assert abs(kept - (1 - rate)) < 4 * math.sqrt(rate * (1 - rate) / n)
    if dtype == "float32":
        assert abs(a.mean() - 1) < 4 * math.sqrt(rate / (1 - rate) / n)
        assert abs(a.var() - rate / (1 - rate)) < 0.05 * rate / (1 - rate)


DROPPED = {"attention_dropout": 0.2, "residual_dropout": 0.1}


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 2])
def test_training_with_dropout_agrees_step_by_step(pair, parts):
    made = pair(
        switches=DROPPED,
        train={"grad_accumulation": parts},
    )
    fed = batches(20, made.config)
    without = pair().train(fed[:1])[1]
    assert_rows(parity.trajectory(made, fed[:1]))
    for loss in pair(switches=DROPPED).train(fed[:1]):
        assert abs(loss - without).max() > 1e-4  # both did drop something
    assert_rows(parity.trajectory(made, fed[1:]))


# -- runs that change hands ------------------------------------------------------------------------


@pytest.fixture
def train(tmp_path, monkeypatch, cache):
    """train(name, 'key=value', ...) -> nothing; runs of 100 steps in float64."""
    monkeypatch.chdir(tmp_path)
    words = np.random.default_rng(0).choice("the cat sat on a mat and saw it run".split(), 6000)
    (tmp_path / "text.txt").write_text(" ".join(words), "utf-8")

    def call(name, *more):
        base = ["scale=smoke", "data=text", "data.path=text.txt", f"run.name={name}"]
        base += ["precision=float64", "train.duration=100", "train.eval_every=25", "run.samples=0"]
        base += [f"run.cache={cache}", "torch.compile=false", "model.residual_dropout=0.1"]
        assert cli.main([*base, *more]) == 0
        return tmp_path / "runs" / name

    return call


def last_tree(run):
    from jaxlm.store.checkpoint import restore

    return restore(run / "checkpoints", "last")[1]


def values(run, kind, field):
    lines = (run / "metrics.jsonl").read_text("utf-8").splitlines()
    return {r["step"]: r[field] for r in map(json.loads, lines) if r["kind"] == kind}


@pytest.mark.slow
@pytest.mark.parametrize("first, second", [("jax", "torch"), ("torch", "jax")])
def test_50_steps_in_each_backend_equal_100_steps_in_one(train, first, second):
    """Parameters, moments and records agree; so does the data position, or the losses would
    differ."""
    whole = train("whole", "backend=jax")
    train("shared", f"backend={first}", "run.stop_at=50")
    shared = train("shared", f"backend={second}")
    a, b = last_tree(shared), last_tree(whole)
    for name in b["parameters"]:
        np.testing.assert_allclose(a["parameters"][name], b["parameters"][name], atol=1e-9)
        for moment in ("mu", "nu"):
            x, y = (tree["optimizer"][moment][name] for tree in (a, b))
            np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-12)
    assert a["optimizer"]["step"] == b["optimizer"]["step"] == 100
    for kind in ("train", "eval"):
        x, y = values(shared, kind, "loss"), values(whole, kind, "loss")
        assert list(x) == list(y)
        np.testing.assert_allclose(list(x.values()), list(y.values()), rtol=1e-8)


@pytest.mark.slow
def test_each_backend_evaluates_and_generates_from_the_others_runs(train, capsys):
    for writer in ("jax", "torch"):
        run = train(writer, f"backend={writer}", "train.duration=10")
        found = {}
        for reader in ("jax", "torch"):
            words = ["job=evaluate", f"backend={reader}", "train.duration=10"]
            train(writer, *words)
            found[reader] = json.loads((run / "evaluation.json").read_text("utf-8"))
            capsys.readouterr()
            train(
                writer, "job=generate", f"backend={reader}", "job.prompt=the ", "train.duration=10"
            )
            found[reader]["text"] = capsys.readouterr().out
        assert found["jax"].pop("text") == found["torch"].pop("text")
        for name, value in found["jax"].items():
            if isinstance(value, float):
                assert math.isclose(value, found["torch"][name], rel_tol=1e-6), name
