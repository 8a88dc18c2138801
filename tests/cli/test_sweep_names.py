"""Promises of `-m`: run directories are named after the swept values, and failures end no sweep."""

import json
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxlm.cli import jobs
from jaxlm.cli.sweep import sweep
from jaxlm.cli.sweep_names import sweep_label
from jaxlm.host.errors import UserError


@pytest.mark.parametrize(
    "swept, label",
    [
        ({"optimizer.lr": 0.001}, "lr=0.001"),
        ({"optimizer.lr": 1e-05, "seed": 2}, "lr=1e-05_seed=2"),
        ({"data.seed": 1, "seed": 2}, "data.seed=1_seed=2"),
        ({"tokenizer.vocab_size": 300, "data.vocab_size": 5},
         "tokenizer.vocab_size=300_data.vocab_size=5"),
        ({"model": "gpt2_124m"}, "model=gpt2_124m"),
        ({"optimizer.betas": [0.9, 0.95]}, "betas=0.9-0.95"),
        ({"optimizer.clip_norm": None, "model.qk_norm": True}, "clip_norm=null_qk_norm=true"),
        ({"train.duration": "40Mtokens"}, "duration=40Mtokens"),
        ({"schedule.warmup": "10%"}, "warmup=10%"),
        ({}, ""),
    ],
)  # fmt: skip
def test_a_label_uses_short_keys_if_they_are_unique(swept, label):
    assert sweep_label(swept) == label


numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers()
values = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=80), st.lists(numbers))


@given(values, values)
def test_labels_are_valid_in_a_path_and_differ_if_values_do(one, other):
    names = [sweep_label({"data.path": value}) for value in (one, other)]
    for name in names:
        assert re.fullmatch(r"data\.path=[A-Za-z0-9._%+=-]*", name) and len(name) <= 120
        assert not name.endswith("=.") and ".." not in name.removeprefix("data.path=")[:2]
    texts = [value if isinstance(value, str) else json.dumps(value) for value in (one, other)]
    assert (names[0] == names[1]) == (texts[0] == texts[1]) or {*texts} & {"null", "true", "false"}


def test_a_label_of_many_keys_is_shortened_but_stays_unique():
    keys = [f"model.{name}" for name in ("n_layers", "d_model", "n_heads", "d_ff", "head_dim")]
    many = {key: 10**30 + i for i, key in enumerate(keys)}
    labels = {sweep_label(many | {keys[-1]: n}) for n in range(50)}
    assert len(labels) == 50 and all(len(label) <= 120 for label in labels)


# -- whole sweeps, of jobs that train nothing -----------------------------------------------------


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """ran('key=a,b', ...) -> (exit status, the configurations that were run)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])

    def start(*words, answer=lambda config: 0):
        found = []

        def job(config, given):
            found.append((config, list(given), list(sys.argv)))
            status = answer(config)
            if isinstance(status, BaseException):
                raise status
            folder = Path(config.run.dir)
            folder.mkdir(parents=True, exist_ok=True)
            summary = {"status": "finished", "step": 9, "val_loss": 2.5, "best_val_loss": 2.25}
            (folder / "summary.json").write_text(json.dumps(summary | {"best_step": 6}))
            return status

        monkeypatch.setattr(jobs, "run", job)
        return sweep(list(words)), found

    return start


def folders(found):
    return [config.run.dir for config, *_ in found]


@pytest.mark.slow
def test_a_run_is_named_only_after_the_swept_values(ran):
    words = ["scale=smoke", "train.duration=4", "run.cache=here"]
    status, found = ran(*words, "optimizer.lr=1e-3,3e-3", "model.n_heads=1,2")
    assert status == 0
    assert folders(found) == [
        f"runs/quickstart_lr={lr}_n_heads={n}" for lr in (0.001, 0.003) for n in (1, 2)
    ]
    assert [(c.optimizer.lr, c.model.n_heads) for c, *_ in found] == [
        (0.001, 1), (0.001, 2), (0.003, 1), (0.003, 2),
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "words, dirs",
    [
        (["run.name=mine", "seed=1,2"], ["runs/mine_seed=1", "runs/mine_seed=2"]),
        (["run.name=a,b"], ["runs/a", "runs/b"]),
        (["run.dir=out/x", "seed=1,2"], ["out/x_seed=1", "out/x_seed=2"]),
        (["run.dir=out/${run.name}", "seed=1,2"],
         ["out/quickstart_seed=1", "out/quickstart_seed=2"]),
        (["run.dir=out/x", "run.name=a,b"], ["out/x_run.name=a", "out/x_run.name=b"]),
        (["run.name=x", "experiment=quickstart,shakespeare_cpu"],
         ["runs/x_experiment=quickstart", "runs/x_experiment=shakespeare_cpu"]),
        (["schedule=cosine,wsd", "backend=torch"],
         ["runs/quickstart_schedule=cosine", "runs/quickstart_schedule=wsd"]),
        (["seed=3"], ["runs/quickstart"]),
    ],
)  # fmt: skip
def test_every_run_of_a_sweep_has_its_own_folder(words, dirs, ran):
    status, found = ran(*words)
    assert status == 0 and folders(found) == dirs


@pytest.mark.slow
def test_swept_free_text_gives_distinct_names(ran):
    paths = ["books/one.txt", "books:one.txt"]
    _, found = ran("data=text", "data.path=" + ",".join(f"'{path}'" for path in paths))
    assert [config.data.path for config, *_ in found] == paths
    names = [config.run.name for config, *_ in found]
    assert len(set(names)) == 2 and all("/" not in name and "one.txt" in name for name in names)
    _, found = ran("data=text", "data.path=it's (a) book.txt", "seed=1,2")
    assert {config.data.path for config, *_ in found} == {"it's (a) book.txt"}


@pytest.mark.slow
def test_jobs_that_open_a_run_find_those_that_a_sweep_made(ran):
    _, made = ran("run.name=s", "optimizer.lr=1e-3,3e-3")
    _, seen = ran("job=evaluate", "run.name=s", "optimizer.lr=1e-3,3e-3")
    assert folders(seen) == folders(made)
    _, seen = ran("job=evaluate", "run.name=s", "job.split=train,validation", "backend=torch")
    assert folders(seen) == ["runs/s", "runs/s"]


@pytest.mark.slow
def test_a_run_of_a_sweep_records_the_command_that_makes_it_alone(ran):
    from jaxlm.config.compose import compose
    from jaxlm.config.schema import identity

    _, found = ran("scale=smoke", "run.name=s", "optimizer.betas=[0.9,0.95],[0.8,0.9]")
    for config, _, argv in found:
        alone = compose(argv[1:])
        assert identity(alone) == identity(config) and alone.run.dir == config.run.dir


@pytest.mark.slow
@pytest.mark.parametrize(
    "error", [UserError("no.\nGive another."), ValueError("ours"), SystemExit(1)]
)
def test_a_failed_run_does_not_end_the_sweep(error, ran, capsys):
    status, found = ran("seed=1,2,3", answer=lambda config: error if config.seed == 2 else 0)
    assert len(found) == 3 and status == (2 if isinstance(error, UserError) else 1)
    out = capsys.readouterr().out
    assert "3 runs, 1 of them failed" in out
    lines = [line for line in out.splitlines() if line.startswith("  [")]
    assert "seed=2  failed: " in lines[1]
    good = "finished at step 9, validation loss 2.5000 (best 2.2500 at step 6)"
    assert all(good in line and "runs/quickstart_seed=" in line for line in (lines[0], lines[2]))


@pytest.mark.slow
def test_a_diverged_run_sets_the_exit_status_and_a_signal_ends_the_sweep(ran, capsys):
    answers = {1: 1, 2: 143, 3: 0}
    status, found = ran("seed=1,2,3", answer=lambda config: answers[config.seed])
    assert (status, len(found)) == (143, 2)
    status, found = ran("seed=1,2", answer=lambda config: KeyboardInterrupt())
    assert (status, len(found)) == (130, 1)


@pytest.mark.parametrize(
    "word, said",
    [
        ("schedule=cosine,wdd", "wsd"),
        ("optimizer.lr=interval(0,1)", "finite list"),
        ("optimizer.lr=1,[2", "optimizer.lr"),
        ("optimiser.lr=1,2", "optimizer.lr"),
        ("optimizer.lr=[1e-3,3e-3]", "-m optimizer.lr=1e-3,3e-3 starts one run per value"),
        ("model=[quickstart,mup]", "-m model=quickstart,mup"),
        ("model.d_model=64,[128]", "a list, but one value is expected"),
        ("optimizer.lr=1e-3,,3e-3", "optimizer.lr=1e-3,,3e-3 cannot be read"),
        ("seed=???,1", "missing"),
        ("seed=1,'", "seed=1,'"),
        ("seed=choice()", "empty"),
        ("seed=range(1,3,0)", "zero"),
        ("seed=range(0,1e9)", "1,000,000,000 runs"),
        ("seed=" + "[" * 300, "seed"),
        ("model=glob(zz*)", "Choose from: "),
        ("seed=glob(*)", "group"),
        ("hydra/launcher=nope", "nope"),
        ("hydra.sweeper.params=5", "hydra.sweeper.params"),
    ],
)
def test_an_invalid_sweep_is_refused_before_it_begins(word, said, ran, capsys):
    with pytest.raises(UserError) as refused:
        ran(word)
    assert said in str(refused.value) and len(str(refused.value).splitlines()) <= 3
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_a_glob_sweeps_the_matching_options(ran):
    status, found = ran("model=glob(scaling_*)", "scale=smoke")
    assert status == 0 and [config.run.options["model"] for config, *_ in found] == [
        "scaling_130m", "scaling_300m", "scaling_70m",
    ]  # fmt: skip


def test_points_of_a_study_never_share_a_folder():
    from jaxlm.config.compose import compose
    from jaxlm.study.job import axes_of, variants_of

    def names(*values):
        config = compose(["job=study"])
        config.study.axes = {"optimizer.lr": list(values)}
        return list(variants_of(config, axes_of(config.study)))

    assert names(1e-3, 3e-3) == ["lr=0.001", "lr=0.003"]
    assert len(set(names(0.00123456, 0.001234561))) == 2
    with pytest.raises(UserError, match="share the folder"):
        names(1e-3, 0.001)
