"""Any command line gives a configuration or one clear error, never a traceback."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxlm.cli import main as cli
from jaxlm.config.checks import check
from jaxlm.config.compose import all_keys, compose, free_text_keys, from_file, groups, to_yaml
from jaxlm.config.job_options import JOBS
from jaxlm.config.keys import keys_of
from jaxlm.config.schema import Config
from jaxlm.host.errors import UserError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refused(capsys, *words):
    """The error message of a command line; without an error the configuration is only printed."""
    assert cli.main(["--cfg", "job", *words]) == 2, words
    error = capsys.readouterr().err
    assert error.startswith("error: ") and len(error) < 1500
    assert 1 <= len(error.splitlines()) <= 4
    return error


# -- several values where one is expected ----------------------------------------------------------


@pytest.mark.parametrize(
    "word",
    ["optimizer.lr=1e-3,3e-3", "optimizer.lr=choice(1,2)", "optimizer.lr=range(1,4)",
     "optimizer.lr=interval(0,1)", "model=quickstart,gpt2_124m", "model=glob(*)",
     "model=choice(quickstart,mup)", "model.norm=rmsnorm,layernorm", "model.qk_norm=true,false",
     "optimizer.betas=[0.9,0.95],[0.9,0.99]", "optimizer.lr=shuffle(1,2)", "seed=0,1,2",
     "+optimizer.lr=1,2", "++optimizer.lr=1,2", "experiment=quickstart,baseline", "scale=smoke,cpu",
     "train.duration=100,200", "schedule.warmup=1%,2%", "study.workers=1,2", "job=train,study",
     "backend=jax,torch", "data_seed=range(3)", "data=stories,shakespeare",
     "optimizer.lr=[1e-3,3e-3]", "model.d_model=[64, 128]", "seed=[0,1]", "model=[quickstart,mup]",
     "model.qk_norm=[true,false]", "model.norm=[rmsnorm,layernorm]", "train.duration=[100,200]",
     "optimizer.betas=[[0.9,0.95],[0.9,0.99]]", "study.workers=[1,2]", "model.n_kv_heads=[1,2]"],
)  # fmt: skip
def test_a_forgotten_m_is_one_line_that_suggests_it_and_study_axes(word, capsys):
    error = refused(capsys, word)
    assert len(error.splitlines()) == 1
    assert "-m" in error and "study.axes" in error
    assert word.lstrip("+").split("=")[0] in error


def test_a_list_is_refused_for_a_single_value_and_accepted_for_a_list(capsys):
    for value in ("[1e-3]", "[]"):
        assert "is a list, but one value is expected" in refused(capsys, f"optimizer.lr={value}")
    assert compose(["optimizer.betas=[0.8,0.9]"]).optimizer.betas == [0.8, 0.9]
    assert compose(["job=ladder", "job.seeds=[1,2]"]).job.seeds == [1, 2]
    assert compose(["job=study", "study.claims=[{text:a},{text:b}]"]).study.claims[1].text == "b"


@pytest.mark.parametrize(
    "word", ["optimizer.lr=[1e-3,3e-3]", "optimizer.betas=[[0.9,0.95],[0.9,0.99]]"]
)
def test_both_commands_suggested_for_a_list_work(word, capsys, monkeypatch):
    from jaxlm.cli import jobs

    error, ran = refused(capsys, word), []
    monkeypatch.setattr(jobs, "run", lambda config, given: ran.append(config.optimizer) or 0)
    assert cli.main(re.search(r": (-m \S+) starts", error)[1].split()) == 0
    assert len(ran) == 2 and ran[0] != ran[1]
    assert compose(["job=study", re.search(r"study\.axes\S+", error)[0]]).study.axes


def test_the_suggested_study_has_the_listed_values():
    config = compose(["job=study", "study.axes.optimizer.lr=[1e-3,3e-3]"])
    assert config.study.axes == {"optimizer": {"lr": [1e-3, 3e-3]}}


@pytest.mark.parametrize("text", ["a,b", "choice(1,2)", "range(1)", "one, two, and three"])
def test_commas_are_text_in_free_text_keys(text):
    assert compose(["job=generate", f"job.prompt={text}"]).job.prompt == text
    assert compose(["data=text", f"data.path={text}"]).data.path == text


# -- numbers ---------------------------------------------------------------------------------------

FLOATS = [
    (name, job)
    for job, schema in JOBS.items()
    for name, item in (keys_of(Config) if job == "train" else keys_of(schema, "job.")).items()
    if item.type in (float, float | None)
]


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_numbers_that_are_not_finite_are_refused(value):
    for name, job in FLOATS:
        with pytest.raises(UserError, match=name):
            compose([f"job={job}", f"{name}={value}"], strict=True)  # as the command line does


@pytest.mark.parametrize(
    "words",
    [["optimizer.betas=[nan,0.9]"], ["optimizer.betas=[0.9,inf]"], ["job=fit", "job.budgets=[nan]"],
     ["job=study", "study.axes.optimizer.lr=[1e-3,nan]"], ["job=study", "study.reported.a.x=inf"],
     ["job=study", "study.claims=[{factor:nan}]"], ["study.seeds=[-1]"], ["study.seeds=[1e99]"],
     ["model.n_layers=99999999999999999999"], ["model.d_model=4294967296"], ["seed=4294967296"],
     ["train.batch_size=99999999999"], ["job=generate", "job.samples=99999999999"],
     ["study.specimens=-1"], ["data.choices=0"]],
)  # fmt: skip
def test_bad_numbers_in_lists_and_mappings_or_out_of_range_are_refused(words):
    with pytest.raises(UserError, match=r"\.".join(words[-1].split("=")[0].split(".")[:2])):
        compose(words)


# -- lines that once ended in a traceback ----------------------------------------------------------


@pytest.mark.parametrize(
    "word",
    ["job.name=x", "job.name=", "hydra/launcher=1.5", "hydra.mode=0o7", "hydra=x",
     "+++tracker=[nan,inf]", "model=[quickstart]", "model={a:1}", "model.d_model=" + "[" * 300,
     "model.d_model=" + "[" * 300 + "]" * 300, "model.base_width=" + "{a:" * 90 + "1" + "}" * 90,
     "seed=" + "1" * 5000, "model.n_layers=" + "x" * 5000, "x" * 5000, "~model.n_layers", "=v",
     "model.n_layers", "model.n_layers=", "--flag", "@file", "model.n_layers.sub=1", "model=???",
     "model.n_layers=???", "model.n_layers=${x}", "model.n_layers=${model}", 
     "train.duration=1e99steps,", "train.duration=0epochs", "train.duration=-1epochs", "+=1",
     "job.checkpoint=x", "study.axes.=1", "study.variants..=1", "optimizer.betas={a:1}",
     "optimizer.betas=[[1],[2]]", "study.claims=[1]", "study.seeds={a:1}",
     "run.name=${run.name}", "run.cache=\x00", "seed=\ud800", "config.yaml", "hydra.x=y=z"],
)  # fmt: skip
def test_known_bad_lines_give_a_clear_error(word, capsys):
    refused(capsys, word)


@pytest.mark.parametrize("job", ["evaluate", "generate"])
def test_a_path_too_long_for_a_checkpoint_is_refused(job, capsys):
    refused(capsys, f"job={job}", "job.checkpoint=" + "x" * 5000)


# -- any other line --------------------------------------------------------------------------------

VALUES = [
    "nan", "-1", "0", "1e400", "9" * 30, "true", "null", "", "''", "abc", "é", "\udcff", "a b",
    "\n", "\x00", "[]", "[1]", "[a,b]", "[[1],[2]]", "[null]", "{}", "{a:1}", "{a:{b:1}}", "{1:2}",
    "${x}", "${run.name}", "${oc.env:NOPE}", "${", "???", "1,2", "choice(1,2)", "glob(*)", "(", "[",
    "{", "'", '"', "a'b", "=", "a=b", "\\", "/", "..", "!", "@", "#", "1e99steps", "10%", "-5%",
    "x" * 300, "doubling to 8", "3x3", "!!python/object:os.system", "&a [*a]", "1_000", "１２",
]  # fmt: skip
ODD_KEYS = [
    "", "hydra.x", "hydra/launcher", "hydra", "--flag", "@file", "model", "study.axes.x",
    "job.name",
"study.variants.wide", "study.variants.a b", "study.reported.a", "run.options.x", "model.",
    "model@x", ".model", "é", "a.b.c",
]  # fmt: skip
KEYS = st.one_of(
    st.sampled_from(sorted(all_keys())),
    st.sampled_from(sorted(groups())),
    st.sampled_from(ODD_KEYS),
)
WORDS = st.one_of(
    st.builds(
        lambda sign, key, end, value: f"{sign}{key}{end}={value}",
        st.sampled_from(["", "", "", "+", "++", "~"]),
        KEYS,
        st.sampled_from(["", "", "", ".sub", "[0]", "."]),
        st.one_of(st.sampled_from(VALUES), st.text(max_size=8)),
    ),
    st.text(max_size=12),
)


@pytest.mark.slow
@given(job=st.sampled_from(sorted(JOBS)), words=st.lists(WORDS, min_size=1, max_size=2))
def test_any_line_is_a_configuration_or_one_error(job, words):
    try:
        config = compose([f"job={job}", *words])
    except UserError as error:
        assert str(error).strip() and len(str(error)) < 1500 and len(str(error).splitlines()) <= 5
    else:
        check(config)
        assert math.isfinite(config.optimizer.lr)


def test_free_text_keys_accept_any_text():
    for key in ("run.experiment", "study.question", "data.text_field"):
        assert key in free_text_keys()
        assert compose([f"{key}=a,b(c)"])


@pytest.mark.parametrize("text", ["${run.name}", "${x", "a\\${b}", "\\\\${", "$", "${a:b,c}", "{}"])
def test_texts_that_look_like_interpolations_survive_a_round_trip(text, tmp_path):
    config = compose(["job=generate", f"job.prompt={text}", f"data.path=/{text}"])
    assert config.job.prompt == text
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert from_file(tmp_path / "config.yaml") == config


def test_the_name_and_folder_in_a_stored_configuration_are_not_checked(tmp_path):
    config = compose(["run.name=x"])
    config.run.name, config.run.dir = "a/b", "."
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert from_file(tmp_path / "config.yaml").run.name == "a/b"
