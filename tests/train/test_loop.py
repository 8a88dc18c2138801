"""Whole trainings in this process: how runs end, what they record, and what they refuse."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from experiments import SINGLE, TRAIN_ALWAYS
from sweeps import sweep

from jaxlm.cli import main as cli
from jaxlm.config.compose import compose
from jaxlm.engine.engine import Engine
from jaxlm.engine.step import Batch, make_train_step
from jaxlm.train import clocks, loop

WORDS = "the cat sat on a mat and saw the dog run over the hill to find a red ball".split()


@pytest.fixture
def text(tmp_path, monkeypatch):
    """A small text in an otherwise empty working folder."""
    monkeypatch.chdir(tmp_path)
    words = np.random.default_rng(0).choice(WORDS, 4000)
    (tmp_path / "text.txt").write_text(" ".join(words), "utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def train(text, cache, capsys):
    """train('key=value', ...) -> (exit status, standard output, standard error) of `run`."""

    def call(*words, scale=True):
        base = ["scale=smoke"] if scale else []
        base += ["data=text", "data.path=text.txt", "run.name=run", f"run.cache={cache}"]
        status = cli.main([*base, "run.samples=0", *words])
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return call


def summary(name="runs/run"):
    return json.loads((Path(name) / "summary.json").read_text("utf-8"))


def records(kind, name="runs/run"):
    lines = (Path(name) / "metrics.jsonl").read_text("utf-8").splitlines()
    return [r for r in map(json.loads, lines) if r["kind"] == kind]


@pytest.mark.slow
@pytest.mark.draws
def test_a_run_directory_holds_everything_that_design_lists(train):
    status, out, _ = train("run.samples=2", "train.duration=8", "train.eval_every=4")
    assert status == 0
    run = Path("runs/run")
    for name in ("config.yaml", "environment.json", "metrics.jsonl", "summary.json", "samples.txt",
                 "report.md", "tokenizer.json", "log.txt", "plots/loss.png"):  # fmt: skip
        assert (run / name).stat().st_size > 0, name
    found = summary()
    assert (found["status"], found["step"], found["tokens"]) == ("finished", 8, 8 * 4 * 32)
    assert found["flops"] == 6 * found["non_embedding_parameters"] * found["tokens"]
    assert found["flops_exact"] > found["flops"]
    assert found["seconds"] < found["wall_seconds"]
    assert [r["step"] for r in records("train")] == list(range(1, 9))
    assert [r["step"] for r in records("eval")] == [4, 8]
    assert found["val_loss"] == records("eval")[-1]["loss"]
    assert "validation loss" in out and "job=generate" in out
    starts = json.loads((run / "environment.json").read_text())["starts"]
    assert len(starts) == 1


@pytest.mark.slow
def test_records_have_every_norm_and_every_metric(train):
    train("train.duration=2")
    record = records("train")[-1]
    groups = {"embed", "blocks.0.attention", "blocks.0.feedforward", "blocks.1.attention",
              "blocks.1.feedforward", "norms", "head"}  # fmt: skip
    for name in ("gradient_norms", "weight_norms", "update_norms"):
        assert set(record[name]) == groups
        assert all(value > 0 for value in record[name].values())
    assert len(record["activation_rms"]) == 2
    assert record["memory_bytes"] > 1e7
    evaluation = records("eval")[-1]
    assert evaluation["perplexity"] == pytest.approx(math.exp(evaluation["loss"]))
    assert 0 < evaluation["standard_error"] < 1
    assert 0 <= evaluation["accuracy"] <= evaluation["top5_accuracy"] <= 1
    # Byte tokens: the bits of a token are those of a byte.
    assert evaluation["bits_per_byte"] == pytest.approx(evaluation["loss"] / math.log(2), rel=1e-6)


@pytest.mark.slow
@pytest.mark.optimized
def test_the_same_seed_gives_the_same_run_and_another_seed_another(train):
    losses = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(f"run.name={name}", f"seed={seed}", "model.residual_dropout=0.1")
        losses.append([r["loss"] for r in records("train", f"runs/{name}")])
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.slow
def test_overfit_drives_one_batch_to_nearly_zero(train):
    status, _, _ = train("debug=overfit", "run.dir=runs/run", "optimizer.lr=3e-3", "model.d_ff=128")
    assert status == 0
    # Adam at a constant learning rate jumps occasionally once gradients are nearly zero (with 1e-2,
    # on some processors, within the last 20 steps).
    assert np.median([r["loss"] for r in records("train")[-20:]]) < 0.05
    assert records("eval") == []


@pytest.mark.slow
def test_divergence_ends_the_run_names_the_window_and_saves_no_broken_state(train):
    words = ("optimizer.lr=1e30", "optimizer.clip_norm=null", "model.norm=none")
    status, out, _ = train(*words, "train.log_every=5", "train.checkpoint_every=1")
    assert status == 1
    found = summary()
    assert found["status"] == "diverged" and "window of steps" in found["reason"] in out
    bad = int(found["reason"].split(" at step ")[1].split(",")[0])
    assert f"to {bad}" in found["reason"]
    saved = sorted(int(p.name) for p in Path("runs/run/checkpoints").iterdir())
    assert all(step < bad for step in saved)
    status, out, _ = train(*words)
    assert status == 1 and "run.overwrite=true" in out
    status, _, _ = train("run.overwrite=true")
    assert status == 0 and summary()["status"] == "finished"


@pytest.mark.slow
def test_early_stopping_ends_after_patience_evaluations_without_a_better_loss(train):
    words = ("optimizer.lr=0", "train.duration=50", "train.eval_every=2", "train.early_stopping=3")
    status, _, _ = train(*words)
    found = summary()
    # With lr 0 the first evaluation is the best, and all later ones equal it.
    assert status == 0
    assert (found["status"], found["step"], found["best_step"]) == ("stopped_early", 8, 2)
    assert train(*words)[1].count("is finished") == 1


class Hands:
    """A clock that advances only by the fixed durations of certain calls."""

    def __init__(self, monkeypatch, step, evaluation, compilation):
        self.now = 1000.0
        for module in (clocks, loop):
            monkeypatch.setattr(module, "time", self)
        for owner, name, seconds in (
            (Engine, "train_step", step),
            (Engine, "compile", compilation),
            (loop.Evaluator, "__call__", evaluation),
        ):
            monkeypatch.setattr(owner, name, self._taking(seconds, getattr(owner, name)))

    def _taking(self, seconds, call):
        def taking(*arguments, **named):
            self.now += seconds
            return call(*arguments, **named)

        return taking

    def monotonic(self):
        return self.now


@pytest.mark.slow
def test_a_clocked_run_ends_in_time_with_its_schedule_complete(train, monkeypatch):
    limit, step, evaluation = 4.0, 0.125, 0.5
    Hands(monkeypatch, step, evaluation, compilation=0.75)
    words = (f"train.duration={limit / 3600}hours", "train.eval_every=50%", "schedule.warmup=10%")
    status, _, _ = train(*words, "train.checkpoint_every=50%", "train.log_every=1")
    found, lr = summary(), [r["lr"] for r in records("train")]
    assert status == 0 and found["status"] == "finished"
    # 4 s hold the compilation, two evaluations and 2.25 s of steps, but not one more step.
    assert found["step"] == len(lr) == 18
    assert [r["step"] for r in records("eval")] == [10, 18]
    assert records("train")[-1]["wall_seconds"] + evaluation <= limit
    assert found["wall_seconds"] == limit and found["seconds"] == 18 * step
    # After the warm-up the cosine falls to a tenth.
    assert lr.index(max(lr)) <= 3 and lr[3:] == sorted(lr[3:], reverse=True)
    assert lr[-1] < 0.12 * max(lr)


@pytest.mark.slow
def test_epochs_count_passes_over_the_training_tokens(train, text):
    words = ("train.duration=2epochs", "train.log_every=1", "train.eval_every=1epochs")
    train(*words, "train.checkpoint_every=1epochs")
    tokens = (text / "text.txt").stat().st_size
    windows = (int(0.9 * tokens) - 33) // 32 + 1
    assert abs(summary()["step"] - 2 * windows / 4) <= 1
    assert len(records("eval")) == 2
    saved = sorted(int(p.name) for p in Path("runs/run/checkpoints").iterdir())
    assert saved == [r["step"] for r in records("eval")]


@pytest.mark.slow
@pytest.mark.optimized
def test_bfloat16_accumulation_and_remat_train_like_float32(train):
    losses = {}
    for name, words in {
        "float32": [],
        "bfloat16": ["precision=bfloat16"],
        "parts": ["train.grad_accumulation=2"],
        "remat": ["parallel.remat=true"],
        "lion": ["optimizer=lion"],
    }.items():
        assert train(f"run.name={name}", "train.duration=20", *words)[0] == 0
        losses[name] = records("train", f"runs/{name}")[-1]["loss"]
    assert losses["parts"] == pytest.approx(losses["float32"], abs=1e-4)
    assert losses["remat"] == pytest.approx(losses["float32"], abs=1e-4)
    assert losses["bfloat16"] == pytest.approx(losses["float32"], abs=0.02)
    assert losses["bfloat16"] != losses["float32"]
    assert all(loss < math.log(257) for loss in losses.values())


@pytest.mark.slow
def test_evaluate_job_reports_what_training_recorded(train, cache):
    train("train.duration=8")
    assert cli.main(["job=evaluate", "run.dir=runs/run", f"run.cache={cache}"]) == 0
    found = json.loads(Path("runs/run/evaluation.json").read_text())
    assert found["loss"] == pytest.approx(summary()["val_loss"], rel=1e-6)
    words = ["job=evaluate", "run.dir=runs/run", f"run.cache={cache}", "job.split=train"]
    assert cli.main([*words, "job.max_batches=1", "job.checkpoint=best"]) == 0
    assert json.loads(Path("runs/run/evaluation.json").read_text())["split"] == "train"


@pytest.mark.slow
def test_a_run_on_stories_reports_its_distance_to_the_floor(text, cache, capsys):
    words = ["scale=smoke", "model.context_length=64", "run.samples=0", f"run.cache={cache}"]
    assert cli.main([*words, "run.name=run"]) == 0
    floor = summary()["entropy_floor"]
    assert 0.1 < floor < summary()["val_loss"]
    assert "above the floor" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("experiment", SINGLE)
def test_every_experiment_traces_at_full_size(experiment, cache):
    import jax

    config = compose([f"experiment={experiment}"])
    engine = Engine(config, 1024, Path(cache))
    state = engine.state_of(engine.template())
    shape = (1, config.train.batch_size, config.model.context_length + 1)
    tokens = jax.ShapeDtypeStruct(shape, np.int32)
    rows, lr = jax.ShapeDtypeStruct(shape[:2], np.int32), jax.ShapeDtypeStruct((), np.float32)
    step = make_train_step(engine.model, config.optimizer, config.seed)
    _, metrics = jax.eval_shape(step, state, Batch(tokens, rows, lr))
    assert metrics.loss.shape == ()


@pytest.mark.slow
@pytest.mark.parametrize("experiment", sweep(SINGLE, quick=TRAIN_ALWAYS))
def test_every_experiment_trains_at_smoke_scale(experiment, text, cache):
    words = [f"experiment={experiment}", "job=train", "scale=smoke", "data=stories"]
    assert cli.main([*words, "run.name=run", f"run.cache={cache}", "run.samples=0"]) == 0
    assert summary()["status"] == "finished"


def test_debug_shapes_prints_and_trains_nothing(train):
    status, out, _ = train("debug=shapes")
    assert status == 0 and "blocks" in out and not Path("runs").exists()


@pytest.mark.slow
def test_debug_eager_runs_without_jit(train):
    import jax

    try:
        status, _, _ = train("debug=eager", "run.dir=runs/run")
        assert status == 0 and summary()["step"] == 2
    finally:
        jax.config.update("jax_disable_jit", False)


@pytest.mark.slow
def test_debug_profile_writes_a_trace(train):
    status, out, _ = train("debug=profile", "run.dir=runs/run")
    assert status == 0 and "trace written" in out
    assert list(Path("runs/run/profile").rglob("*.xplane.pb"))


# -- bad input -----------------------------------------------------------------------------------


def refused(result, *said):
    status, out, err = result
    assert status == 2, out + err
    assert err.startswith("error: ") and "Traceback" not in err
    for word in said:
        assert word in err, err


def test_missing_empty_short_and_undecodable_text_is_refused(train, text):
    refused(train("data.path=nowhere.txt"), "nowhere.txt")
    (text / "empty.txt").write_text("")
    refused(train("data.path=empty.txt"), "empty")
    (text / "short.txt").write_text("too short")
    refused(train("data.path=short.txt"), "model.context_length=32")
    (text / "latin.txt").write_bytes("caf\u00e9 ".encode("latin-1") * 100)
    refused(train("data.path=latin.txt"), "latin.txt", "UTF-8")
    assert not Path("runs/run/metrics.jsonl").exists()


def test_a_token_beyond_the_vocabulary_is_refused(train, text):
    np.full(5000, 7, np.uint16).tofile(text / "ids.bin")
    words = ("data=tokens", "data.path=ids.bin", "data.vocab_size=7", "tokenizer=none")
    refused(train(*words), "7")


def test_a_folder_that_is_not_a_run_is_never_deleted(train, text):
    (text / "runs" / "run").mkdir(parents=True)
    (text / "runs" / "run" / "thesis.txt").write_text("years of work")
    refused(train("run.overwrite=true"), "is not a run")
    assert (text / "runs" / "run" / "thesis.txt").exists()


def test_an_unwritable_place_is_refused(train, text):
    (text / "runs").write_text("a file in the way")
    refused(train(), "runs")


@pytest.mark.slow
def test_a_different_configuration_is_refused_naming_each_key(train):
    train()
    refused(train("seed=1", "model.d_ff=96"), "seed: 1 here, 0 there", "model.d_ff: 96 here")


@pytest.mark.slow
def test_jobs_on_a_run_refuse_keys_that_contradict_it_and_accept_those_that_agree(train):
    train("train.duration=4")
    for words in (["model.d_model=64"], ["optimizer=lion"], ["seed=1"]):
        status, out, error = train("job=evaluate", *words)
        assert (status, out) == (2, ""), words
        assert words[0].split("=")[0] in error and "run.name" in error
    status, _, error = train("job=evaluate", "seed=0", "train.batch_size=4", "train.log_every=3")
    assert status == 0, error


@pytest.mark.slow
def test_jobs_without_a_run_or_a_checkpoint_say_so(train, text, capsys, cache):
    for job in ("generate", "evaluate"):
        assert cli.main([f"job={job}", "run.dir=runs/none", f"run.cache={cache}"]) == 2
        assert "runs/none" in capsys.readouterr().err
    train()
    shutil.rmtree("runs/run/checkpoints")
    for job in ("generate", "evaluate"):
        assert cli.main([f"job={job}", "run.dir=runs/run", f"run.cache={cache}"]) == 2
        assert "runs/run are gone" in capsys.readouterr().err
    Path("runs/run/checkpoints.json").unlink()  # now as if no checkpoint had ever been completed
    for job in ("generate", "evaluate"):
        assert cli.main([f"job={job}", "run.dir=runs/run", f"run.cache={cache}"]) == 2
        assert "no checkpoint" in capsys.readouterr().err
    assert cli.main(["job=generate", "run.dir=runs/run", "job.checkpoint=oldest"]) == 2
    assert "is not last, best, a step or a weights file" in capsys.readouterr().err


@pytest.mark.slow
def test_a_sweep_runs_every_value_and_reports_the_refused_one(text, cache):
    words = ["scale=smoke", "data=text", "data.path=text.txt", f"run.cache={cache}"]
    command = [sys.executable, "-m", "jaxlm", "-m", *words, "model.n_heads=1,2,3"]
    command += ["run.samples=0", "run.figures=false"]
    found = {"PYTHONPATH": str(Path(cli.__file__).parents[2])}
    done = subprocess.run(command, env=os.environ | found, capture_output=True, text=True)
    assert done.returncode == 2 and "3 runs, 1 of them failed" in done.stdout, done.stderr
    assert "model.n_heads=3 does not divide" in done.stderr
    done = [p for p in Path("runs").iterdir() if (p / "summary.json").exists()]
    assert len(done) == 2 and all("n_heads" in p.name for p in done)


def test_a_second_writer_of_a_run_is_refused(train, text):
    from jaxlm.store.directory import RunDirectory

    run = RunDirectory("runs/run")
    run.check_writable()
    with run.lock():
        refused(train(), str(os.getpid()))


@pytest.mark.slow
def test_a_different_optimizer_is_refused_without_listing_keys_that_only_one_kind_has(train):
    assert train("run.stop_at=1")[0] == 0
    status, _, error = train("optimizer=lion", "run.stop_at=1")
    assert status == 2 and "optimizer.name: lion here, adamw there" in error
    assert "optimizer.lr" in error and "optimizer.eps" not in error


@pytest.mark.slow
def test_a_training_writes_nothing_before_it_resumes(train, monkeypatch):
    assert train("run.stop_at=2")[0] == 0
    path, seen = Path("runs/run"), []
    with open(path / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"kind": "train", "step": 3}\n')  # beyond the checkpoint: resuming cuts it

    def contents():
        files = (file for file in path.rglob("*") if file.is_file() and file.name != "log.txt")
        return {file: file.read_bytes() for file in files if file.name != ".lock"}

    made, resume = loop.Training.__init__, loop.Training.resume
    monkeypatch.setattr(loop.Training, "__init__", lambda *a: seen.append(contents()) or made(*a))
    monkeypatch.setattr(
        loop.Training, "resume", lambda self: seen.append(contents()) or resume(self)
    )
    assert train()[0] == 0
    before, after = seen
    assert before == after and b'"step": 3}' in before[path / "metrics.jsonl"]
