"""Promises of a study: many runs, each in its own process, and none can stop the others."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxlm.cli import main as cli
from jaxlm.config.compose import compose
from jaxlm.config.schema import identity, operation
from jaxlm.host.errors import UserError
from jaxlm.predict.ladder import rungs
from jaxlm.store.directory import RunDirectory
from jaxlm.study.process import last_record, outcome
from jaxlm.study.runner import finished_runs, run_study
from jaxlm.study.time_left import Pace, cost, line
from jaxlm.study.variants import members_of, words_of

ROOT = Path(__file__).resolve().parents[2]
LONG = 400  # steps of a run that is long enough to be stopped twice


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def small(folder, cache, *words):
    given = ["scale=smoke", "run.samples=0", "run.figures=false", "train.duration=2"]
    given += ["train.eval_every=100%"]
    return compose([*given, f"run.dir={folder}", f"run.cache={cache}", *words])


def statuses(folder):
    study = json.loads((folder / "study.json").read_text())
    return study["status"], {row["variant"]: row["status"] for row in study["runs"]}


# -- real processes ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_failing_variant_is_recorded_and_the_others_continue(tmp_path, cache, capsys):
    config = small(tmp_path / "study", cache)
    variants = {
        "absent": ["data=text", f"data.path={tmp_path / 'absent.txt'}"],
        "wild": ["optimizer.lr=1e30", "optimizer.clip_norm=null", "train.duration=12"],
        "sound": [],
    }
    assert run_study(config, variants, [3]) == 1
    status, found = statuses(tmp_path / "study")
    assert (status, found) == (
        "failed",
        {"absent": "failed", "wild": "diverged", "sound": "finished"},
    )
    rows = json.loads((tmp_path / "study" / "study.json").read_text())["runs"]
    assert rows[0]["reason"].startswith("No such file: data.path=")
    assert "gradient norm" in rows[1]["reason"] and rows[2]["val_loss"] > 0
    assert finished_runs(tmp_path / "study") == [tmp_path / "study" / "sound" / "seed3"]
    summary = RunDirectory(tmp_path / "study" / "sound" / "seed3").read_summary()
    assert summary["step"] == 2
    shown = capsys.readouterr().out
    assert "[3/3] sound, seed 3: finished, validation loss" in shown

    # The same study again: only the failed run is retried, and it succeeds once its file exists.
    (tmp_path / "absent.txt").write_text("the cat sat on a mat and saw the dog run\n" * 400)
    assert run_study(config, variants, [3]) == 1
    assert statuses(tmp_path / "study")[1] == {
        "absent": "finished", "wild": "diverged", "sound": "finished",
    }  # fmt: skip
    assert "3 runs, 2 of them already done" in capsys.readouterr().out
    assert _starts(tmp_path / "study" / "sound" / "seed3") == 1


def _starts(run):
    return len(json.loads((run / "environment.json").read_text())["starts"])


@pytest.mark.slow
def test_a_killed_study_resumes_where_it_was(tmp_path, cache):
    """Stopped by SIGTERM, then killed with -9, both in its second run; then left to finish."""
    study = tmp_path / "study"
    first, second = study / "short" / "seed0", study / "long" / "seed0"
    process = _start_study(study, cache)
    _wait_for_step(second, 40, process)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 143, output
    assert "stopped (SIGTERM), 1 runs left" in output
    assert statuses(study)[1] == {"short": "finished", "long": "interrupted"}
    saved = RunDirectory(second).read_summary()
    assert saved["status"] == "interrupted" and saved["step"] >= 40

    process = _start_study(study, cache)
    _wait_for_step(second, saved["step"] + 40, process)
    process.kill()
    process.communicate(timeout=300)

    process = _start_study(study, cache)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert statuses(study) == ("finished", {"short": "finished", "long": "finished"})
    assert (_starts(first), _starts(second)) == (1, 3)
    steps = [record["step"] for record in RunDirectory(second).records("train")]
    assert steps == list(range(1, LONG + 1))  # no step twice, none missing
    summary = RunDirectory(second).read_summary()
    assert (summary["status"], summary["step"]) == ("finished", LONG)


_TWO_RUNS = """
import sys
from jaxlm.config.compose import compose
from jaxlm.study.runner import run_study
variants = {"short": ["train.duration=4"], "long": ["train.duration=LONG"]}
sys.exit(run_study(compose(sys.argv[1:]), variants, [0]))
"""


def _start_study(study, cache):
    command = [
        sys.executable, "-c", _TWO_RUNS.replace("LONG", str(LONG)), "scale=smoke",
        "model.n_layers=1", f"data.train_tokens={LONG * 128 + 1}", "train.eval_every=100%",
        "train.log_every=1", "run.samples=0", "run.figures=false", f"run.dir={study}",
        f"run.cache={cache}",
    ]  # fmt: skip
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, **pipes)


def _wait_for_step(run, step, process):
    stop = time.monotonic() + 300
    while last_record(run).get("step", 0) < step:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < stop, "the run never came so far"
        time.sleep(0.01)


# -- without processes ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["experiment=shakespeare_gpt", "scale=smoke", "optimizer.betas=[0.8,0.9]"],
        ["experiment=scaling_ladder", "optimizer.clip_norm=null", "parallel.remat=true"],
        ["data=text", "data.path=a, b='c' {é}.txt", "train.duration=3epochs", "run.cache=x y"],
        ["backend=torch", "torch.compile=false", "optimizer=lion", "seed=4"],
    ],
)
def test_the_words_of_a_run_give_the_studys_configuration(words):
    config = compose(words)
    again = compose(words_of(config))
    assert identity(again) == identity(config) and again.job.name == "train"
    place = {"run": None, "job": None}
    assert operation(again) | place == operation(config) | place
    assert again.run.cache == config.run.cache


def test_variants_change_the_base_and_keep_the_rest(tmp_path):
    config = small(tmp_path, tmp_path, "train.batch_size=8")
    members = members_of(config, {"lion": ["optimizer=lion"], "wide": ["model.d_model=64"]}, [0, 7])
    assert [(m.variant, m.seed) for m in members] == [
        ("lion", 0), ("lion", 7), ("wide", 0), ("wide", 7),
    ]  # fmt: skip
    assert members[1].config.optimizer.name == "lion" and members[1].config.seed == 7
    assert members[2].config.model.d_model == 64 and members[2].config.optimizer.name == "adamw"
    assert all(m.config.train.batch_size == 8 for m in members)
    assert members[3].run.path == tmp_path / "wide" / "seed7"


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "two words", "a\\b"])
def test_a_variants_name_must_be_a_folder_name(tmp_path, name):
    with pytest.raises(UserError, match="folder"):
        members_of(small(tmp_path, tmp_path), {name: []}, [0])


def test_a_studys_folder_with_other_runs_is_refused_before_any_training(tmp_path, capsys):
    from jaxlm.config.compose import to_yaml

    config = small(tmp_path, tmp_path)
    member = members_of(config, {"a": []}, [0])[0]
    RunDirectory(member.run.path).check_writable()
    RunDirectory(member.run.path).write_config(to_yaml(member.config))
    changed = small(tmp_path, tmp_path, "train.batch_size=8")
    with pytest.raises(UserError, match="train.batch_size: 8 here, 4 there"):
        run_study(changed, {"a": []}, [0])
    assert not (tmp_path / "study.json").exists()


def test_outcomes_tell_the_reason(tmp_path):
    run = RunDirectory(tmp_path)
    error = "Traceback ...\nerror: No such file: x\nGive another.\n"
    assert outcome(run, 2, error) == ("failed", "No such file: x Give another.")
    assert outcome(run, 1, "Traceback\n  x\nValueError: bad\n") == ("failed", "ValueError: bad")
    assert outcome(run, -9, "") == ("failed", "its process was killed by SIGKILL")
    assert outcome(run, 7, "") == ("failed", "its process ended with status 7")
    run.write_summary({"status": "diverged", "reason": "loss nan"})
    assert outcome(run, 1, "") == ("diverged", "loss nan")
    run.write_summary({"status": "finished", "reason": None})
    assert outcome(run, 0, "some warning") == ("finished", None)
    assert outcome(run, 1, "OSError: disk full")[0] == "failed"
    run.write_summary({"status": "interrupted", "reason": "SIGTERM"})
    assert outcome(run, 143, "") == ("interrupted", "SIGTERM")


def test_the_newest_record_is_read_without_the_half_written_one(tmp_path):
    assert last_record(tmp_path) == {}
    record = {"wall_seconds": 1.0, "text": "x" * 50_000}
    lines = [json.dumps(record | {"step": n}) + "\n" for n in range(4)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines) + '{"step": 9')
    assert last_record(tmp_path)["step"] == 3


def test_the_time_left_is_a_start_and_a_rate():
    points = [(1.0, 7.0), (2.0, 9.0), (10.0, 25.0)]
    assert line(points) == pytest.approx((5.0, 2.0), rel=1e-12)
    assert line([(1.0, 3.0), (2.0, 1.0)]) == (2.0, 0.0)  # never negative
    assert line([(1.0, 1.0), (3.0, 5.0)]) == pytest.approx((0.0, 1.6), rel=1e-12)
    pace = Pace([1.0, 2.0, 10.0, 4.0], [7.0, 9.0, None, None])
    assert pace.left({2: (5.0, 0.0)}, [3]) == pytest.approx(20.0 + 13.0, rel=1e-12)
    assert pace.left({2: (10.0, 0.5)}, []) == pytest.approx(10.0, rel=1e-12)
    assert Pace([1.0, 2.0], [None, None]).left({0: (5.0, 0.01)}, [1]) is None
    assert pace.share({2: (5.0, 0.5)}, [3]) == pytest.approx(8 / 17, rel=1e-12)
    # Two at once: half of the time left, but no less than the longest run needs.
    assert pace.left({2: (5.0, 0.0), 3: (1.0, 0.0)}, [], 2) == pytest.approx(20.0, rel=1e-12)
    assert pace.left({2: (5.0, 0.0)}, [3, 3, 3], 2) == pytest.approx((20 + 39) / 2, rel=1e-12)
    assert cost(compose(["train.duration=20"])) == 2 * cost(compose(["train.duration=10"]))


# -- the ladder ----------------------------------------------------------------------------------


def test_the_ladder_has_isoflop_budgets_and_keeps_the_head_width():
    ladder = rungs(compose(["experiment=scaling_ladder"]))
    flops = [rung.flops for rung in ladder]
    assert flops == sorted(flops) and flops[-1] / flops[0] > 9.9
    assert all(rung.model.n_heads == rung.model.d_model // 16 for rung in ladder)
    counts = {rung.non_embedding for rung in ladder}
    assert len(counts) == 7 and min(counts) < 13e3 and max(counts) > 600e3
    assert all(0.5e6 <= rung.tokens <= 8e6 for rung in ladder)
    for budget in ("3.8e11", "7.7e11", "1.5e12", "3.8e12"):
        curve = [rung for rung in ladder if rung.name.endswith(f"-{budget}")]
        assert len(curve) == 4
        assert [rung.flops for rung in curve] == pytest.approx(
            [float(budget)] * len(curve), rel=5e-3
        )
    rate = [rung.lr * rung.model.d_model * rung.tokens**0.25 for rung in ladder]
    assert rate == pytest.approx([8e-3 * 64 * 1_000_448**0.25] * len(rate), rel=1e-12)
    longer = rungs(compose(["experiment=scaling_ladder", "job.most_tokens=null"]))
    assert len(longer) > len(ladder)


def test_the_ladder_of_the_chain_can_predict_ten_times_its_compute():
    config = compose(["experiment=markov_ladder"])
    ladder = rungs(config)
    largest = max(rung.flops for rung in ladder)
    below = [rung for rung in ladder if rung.flops <= config.job.holdout * largest]
    above = [rung for rung in ladder if rung.flops > 0.95 * largest]
    assert len(below) > 10 and len(above) == 3
    assert max(rung.flops for rung in below) == pytest.approx(largest / 10, rel=2e-3)
    assert all(0.2e6 <= rung.tokens <= 6e6 for rung in ladder)


def test_the_ladder_takes_token_budgets_too():
    words = ["experiment=scaling_ladder", "job.sizes=32x2,48x3", "job.flops=3e11", "job.tokens=1M"]
    ladder = rungs(compose(words))
    assert {rung.name for rung in ladder} == {"32x2-3e11", "48x3-3e11", "32x2-1M", "48x3-1M"}
    whole = [rung.tokens for rung in ladder if rung.name.endswith("-1M")]
    assert whole == [1_000_448, 1_000_448]  # whole steps


def test_the_ladders_runs_count_what_the_model_has(tmp_path):
    from jaxlm.config.schema import resolve_model
    from jaxlm.spec.flops import parameter_counts

    config = compose(["experiment=scaling_ladder", f"run.dir={tmp_path}"])
    ladder = rungs(config)
    members = members_of(config, {rung.name: rung.words() for rung in ladder[::6]}, [0])
    for rung, member in zip(ladder[::6], members, strict=True):
        model = resolve_model(member.config.model, 1024)
        assert parameter_counts(model).non_embedding == rung.non_embedding
        assert (model.head_dim, member.config.train.eval_every) == (16, "100%")
        assert abs(member.config.optimizer.lr / rung.lr - 1) < 1e-3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["job.sizes=32x"], "width"),
        (["job.sizes=0x2"], "width"),
        (["job.tokens=1Mtokens"], "not a count"),
        (["job.tokens=, ,"], "empty"),
        (["job.most_tokens=1"], "no run with job.least_tokens"),
        (["job.flops=null"], "no budget"),
        (["job.flops=1e11tokens"], "not a count"),
        (["train.duration=1hours"], "in tokens or steps"),
    ],
)
def test_bad_ladders_are_refused(words, said, capsys, tmp_path):
    words = ["experiment=scaling_ladder", f"run.dir={tmp_path / 'study'}", *words]
    assert cli.main(words) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


def test_the_plan_of_a_ladder_is_shown_without_training(capsys, tmp_path):
    folder = tmp_path / "study"
    words = ["experiment=scaling_ladder", "debug=shapes", f"run.dir={folder}"]
    assert cli.main([*words, "job.sizes=32x2", "job.seeds=[0,1]"]) == 0
    shown = capsys.readouterr().out
    assert "32x2-7.7e11" in shown and "4 runs; compute spans 0.3 decades" in shown
    assert not folder.exists()
