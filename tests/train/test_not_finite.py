"""A state that is not finite is never saved, rated as good, or ranked."""

import functools
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from jaxlm.cli import main as cli
from jaxlm.config.optimizers import AdamW
from jaxlm.config.schema import Config, ModelConfig, resolve_model
from jaxlm.inference.engines import engine_class
from jaxlm.inference.evaluate import Evaluator
from jaxlm.spec.contract import EvalBatch
from jaxlm.train.ledger import Position

pytestmark = pytest.mark.optimized
TINY = [
    "scale=smoke", "data=text", "data.path=text.txt", "tokenizer=byte", "run.name=run",
    "run.samples=0", "torch.compile=false", "model.n_layers=1", "model.d_model=32",
    "model.n_heads=2", "model.context_length=32", "train.batch_size=4", "run.cache=cache",
    "schedule=constant", "schedule.warmup=0",
]  # fmt: skip
RUN = Path("runs/run")
BACKENDS = ["jax", "torch"]


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("the cat sat on a mat and saw the dog " * 60, "utf-8")

    def call(*words):
        status = cli.main([*TINY, *words])
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return call


def summary():
    return json.loads((RUN / "summary.json").read_text("utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_after_which_weights_are_not_finite_has_diverged(train, backend):
    """The loss and the gradient of that step are finite: they precede its update."""
    if backend == "torch":
        pytest.importorskip("torch")
    words = ("train.duration=1", "optimizer.lr=1e39", f"backend={backend}")
    every = ("train.eval_every=1", "train.checkpoint_every=1")
    for more in ((), every):
        status, out, _ = train(*words, *more, "run.overwrite=true")
        assert status == 1
        assert "weights not finite after it" in out and "accuracy" not in out
        found = summary()
        assert found["status"] == "diverged"
        assert not re.search(r"\d{6}|\.\d{5}", found["reason"])  # numbers are rounded
        assert (found["val_loss"], found["best_step"]) == (None, None)
        assert not list((RUN / "checkpoints").iterdir())
    status, _, error = train("job=evaluate", "job.checkpoint=best")
    assert status == 2 and "no checkpoint" in error


@pytest.mark.slow
def test_a_validation_loss_that_is_not_finite_is_divergence(train, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(Evaluator, "__call__", lambda *_: {"loss": math.inf})
    status, out, _ = train("train.duration=2", "train.eval_every=1", "backend=torch")
    assert status == 1 and "diverged: validation loss inf at step 1" in out
    assert summary()["best_step"] is None


def engine(backend):
    model = ModelConfig(n_layers=1, d_model=8, n_heads=2, context_length=4, vocab_size=3)
    config = Config(model=resolve_model(model), optimizer=AdamW())
    return functools.partial(engine_class(backend), config, 3, Path(".cache"))


@pytest.mark.slow
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("backend", BACKENDS)
def test_targets_with_logits_that_are_not_finite_count_as_wrong(backend, broken, tmp_path):
    """This includes top5 with three ids, where every rank is within the best five."""
    if backend == "torch":
        pytest.importorskip("torch")
    made = engine(backend)()
    values = made.canonical(made.parameters_of(made.initial_state()))
    values = {name: np.array(value) for name, value in values.items()}
    values["head.weight"][1] = broken
    tokens_BxL = np.array([[0, 1, 2, 0]], np.int32)
    batch = EvalBatch(tokens_BxL, tokens_BxL, np.ones((1, 4), np.float32), np.ones((1, 4)))
    sums = made.read(made.eval_step(made.parameters_from(values), batch))
    assert not np.isfinite(sums["loss"]).any()
    assert float(sums["correct"][0]) == float(sums["top5"][0]) == 0.0


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_never_the_best(loss):
    position = Position(step=1)
    assert not position.note_evaluation(loss)
    assert (position.best_val_loss, position.best_step) == (None, None)
    position.step = 2
    assert position.note_evaluation(3.0) and position.best_step == 2
