"""Promises of study.pack: runs that train together equal runs that train alone."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxlm.cli import main as cli
from jaxlm.config.compose import compose
from jaxlm.inference.engines import engine_class
from jaxlm.study.pack import program_of, train_pack

TIMES = ("seconds", "wall_seconds", "tokens_per_second", "memory_bytes")
VARIED = {
    "rate": ["optimizer.lr=3e-3", "seed=1", "schedule=flat", "model.residual_dropout=0.2"],
    "rule": ["optimizer.weight_decay=0.5", "optimizer.clip_norm=null", "optimizer.eps=1e-4"],
    "start": ["model.attention_dropout=0.3", "model.init_std=0.05", "data_seed=7"],
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def words(tmp_path, monkeypatch, cache):
    """words(name, 'key=value', ...) of a small run in the folder `name`."""
    monkeypatch.chdir(tmp_path)
    base = ["scale=smoke", "model.n_layers=1", "run.samples=0", "run.figures=false"]
    base += ["train.duration=8", "train.eval_every=25%", "train.checkpoint_every=25%"]
    base += ["train.log_every=1", f"run.cache={cache}"]
    return lambda name, *more: [*base, *more, f"run.name={name}", f"run.dir={name}"]


def train(runs, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run.py"])
    return train_pack(runs, functools.partial(engine_class, "jax"))


def records(folder):
    lines = (Path(folder) / "metrics.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def summary(folder):
    return json.loads((Path(folder) / "summary.json").read_text("utf-8"))


def assert_same(packed, alone, tolerance):
    """The records of two runs agree in everything but time and memory."""
    packed, alone = records(packed), records(alone)
    assert [(r["kind"], r["step"]) for r in packed] == [(r["kind"], r["step"]) for r in alone]
    for one, other in zip(packed, alone, strict=True):
        for name in one.keys() - {*TIMES, "kind"}:
            values = [
                list(v.values()) if isinstance(v, dict) else v for v in (one[name], other[name])
            ]
            # Activations are measured in float32 whatever the precision.
            rtol = max(tolerance, 1e-6) if name == "activation_rms" else tolerance
            message = f"{name} at step {one['step']}"
            np.testing.assert_allclose(*values, rtol=rtol, atol=tolerance, err_msg=message)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("float64", 1e-12)])
def test_packed_runs_equal_runs_that_train_alone(precision, tolerance, words, monkeypatch):
    given = [f"precision={precision}", "train.grad_accumulation=2"]
    runs = [words(f"packed-{name}", *given, *changes) for name, changes in VARIED.items()]
    assert train(runs, monkeypatch) == [(0, "")] * len(VARIED)
    for name, changes in VARIED.items():
        assert cli.main(words(f"alone-{name}", *given, *changes)) == 0
        assert_same(f"packed-{name}", f"alone-{name}", tolerance)
        assert summary(f"packed-{name}")["packed"] == len(VARIED)
    losses = [summary(f"packed-{name}")["val_loss"] for name in VARIED]
    assert len(set(losses)) == len(losses)  # no run got the numbers of another


@pytest.mark.slow
def test_runs_that_end_early_leave_the_others_alone(words, monkeypatch, capsys):
    """One diverges, one stops early, one has a taken folder; two of five continue, repacked."""
    changes = {
        "wild": ["optimizer.lr=1e30", "optimizer.clip_norm=null"],
        "patient": ["train.early_stopping=1", "optimizer.lr=0.0"],
        "taken": [],
        "one": ["seed=1"],
        "other": ["seed=2"],
    }
    Path("taken").mkdir()
    assert cli.main(words("taken", "model.d_ff=128", "train.duration=1")) == 0
    runs = [words(name, *more) for name, more in changes.items()]
    outcomes = train(runs, monkeypatch)
    assert [status for status, _ in outcomes] == [1, 0, 2, 0, 0]
    assert "a different configuration" in outcomes[2][1]
    found = {name: summary(name)["status"] for name in changes}
    assert found == {
        "wild": "diverged", "patient": "stopped_early", "taken": "finished", "one": "finished",
        "other": "finished",
    }  # fmt: skip
    for name in ("one", "other"):
        assert cli.main(words(f"{name}-alone", *changes[name])) == 0
        assert_same(name, f"{name}-alone", 1e-5)


@pytest.mark.slow
def test_packed_runs_resume_from_where_each_was(words, monkeypatch):
    """Left at different steps, they resume together and end where an uninterrupted run does."""
    stopped = [words("a", "seed=1", "run.stop_at=3"), words("b", "seed=2", "run.stop_at=6")]
    assert train(stopped, monkeypatch) == [(0, "")] * 2
    assert [summary(name)["status"] for name in "ab"] == ["interrupted"] * 2
    assert [summary(name)["step"] for name in "ab"] == [3, 6]
    assert train([words("a", "seed=1"), words("b", "seed=2")], monkeypatch) == [(0, "")] * 2
    for name, seed in (("a", 1), ("b", 2)):
        assert cli.main(words(f"{name}-alone", f"seed={seed}")) == 0
        assert_same(name, f"{name}-alone", 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("at", ["compile", "step"])
def test_an_error_of_the_program_is_recorded_by_every_run(at, words, monkeypatch):
    from jaxlm.study.lanes import Lanes

    def short(self, steps=None):
        raise MemoryError("no room")

    monkeypatch.setattr(Lanes, at, short)
    with pytest.raises(MemoryError):
        train([words("a", "seed=1"), words("b", "seed=2")], monkeypatch)
    for name in "ab":
        assert summary(name)["status"] == "interrupted"
        assert summary(name)["reason"] == "MemoryError: no room"


@pytest.mark.slow
def test_programs_differ_in_shapes_and_rules_but_not_in_numbers(words):
    base = program_of(compose(words("a")))
    for changes in VARIED.values():
        assert program_of(compose(words("b", *changes))) == base
    for change in ("model.d_ff=128", "optimizer.betas=[0.9,0.99]", "train.batch_size=8",
                   "model.norm=layernorm", "precision=float64", "parallel.remat=true",
                   "train.duration=9", "optimizer=lion"):  # fmt: skip
        assert program_of(compose(words("b", change))) != base


@pytest.mark.slow
def test_a_study_trains_in_packs_and_says_so(tmp_path, cache):
    """In real processes, from the command line to the report."""
    given = ["experiment=quickstart", "job=study", "scale=smoke", "run.name=s", "run.samples=0"]
    given += ["study.axes.optimizer.lr=[1e-3,1e-2]", "study.pack=true", "study.specimens=0"]
    given += ["train.duration=4", "run.figures=false", f"run.cache={cache}"]
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, str(root / "run.py"), *given]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    study = tmp_path / "runs" / "s"
    rows = json.loads((study / "study.json").read_text())["runs"]
    assert [row["status"] for row in rows] == ["finished"] * 2
    assert {summary(study / row["path"])["packed"] for row in rows} == {2}
    assert not list(study.glob(".errors*"))
    assert "up to 2 runs in one program" in (study / "research_report.md").read_text()
    starts = json.loads((study / rows[0]["path"] / "environment.json").read_text())["starts"]
    assert "run.name=lr=0.001-seed0" in starts[0]["command"]


_ON_DEVICES = """
import functools, sys
from jaxlm.cli import main as cli
from jaxlm.inference.engines import engine_class
from jaxlm.study.pack import train_pack
words = sys.argv[1:]
run = lambda name, seed: [*words, f"seed={seed}", f"run.name={name}", f"run.dir={name}"]
ended = train_pack([run("a", 1), run("b", 2)], functools.partial(engine_class, "jax"))
assert ended == [(0, ""), (0, "")], ended
assert cli.main(run("a-alone", 1)) == 0
"""


@pytest.mark.slow
def test_packs_are_sharded_over_devices_as_runs_are(words, tmp_path):
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
    }
    command = [
        sys.executable,
        "-c",
        _ON_DEVICES,
        *words("x", "parallel.fsdp=2", "train.duration=4"),
    ]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "jax on 4 cpu device(s)" in done.stdout
    assert_same("a", "a-alone", 1e-5)
