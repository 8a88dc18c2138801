"""The configuration: precedence, identity and operation, and errors that name the fix."""

import pytest

from jaxlm.cli import main as cli
from jaxlm.cli.jobs import FUNCTIONS, differences
from jaxlm.config import compose
from jaxlm.config.checks import check_devices, check_vocabulary
from jaxlm.config.keys import keys_of
from jaxlm.config.schema import Config, ModelConfig, identity, operation
from jaxlm.host.errors import UserError


def composed(*overrides):
    return compose.compose(list(overrides))


# -- composing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("experiment", compose.groups()["experiment"])
def test_every_experiment_composes_and_survives_a_round_trip(experiment, tmp_path):
    config = composed(f"experiment={experiment}")
    assert config.run.name == experiment
    path = tmp_path / "config.yaml"
    path.write_text(compose.to_yaml(config))
    assert compose.from_file(path) == config


@pytest.mark.slow
@pytest.mark.parametrize("group", [g for g in compose.groups() if g not in ("experiment",)])
def test_every_option_of_every_group_composes(group):
    needs = {
        ("data", "hub"): ["data.hub=a/b"],
        ("data", "text"): ["data.path=x"],
        ("data", "tokens"): ["data.path=x", "data.vocab_size=9"],
        ("tokenizer", "none"): ["data=tokens", "data.path=x", "data.vocab_size=9"],
        ("tokenizer", "pretrained"): ["tokenizer.path=x"],
    }
    for option in compose.groups()[group]:
        assert composed(f"{group}={option}", *needs.get((group, option), []))


def test_every_key_is_documented():
    for name, item in compose.all_keys().items():
        assert len(item.metadata["help"]) > 3, name


def test_every_job_has_a_function():
    from omegaconf import OmegaConf

    files = (compose.config_folder() / "job").glob("*.yaml")
    assert set(FUNCTIONS) == {OmegaConf.load(file).name for file in files}
    assert set(FUNCTIONS) <= set(compose.groups()["job"])  # each also has its own file


# -- precedence ----------------------------------------------------------------------------------


def test_precedence_is_option_experiment_scale_debug_command_line():
    assert composed("experiment=shakespeare_gpt").model.d_model == 384
    assert composed("experiment=shakespeare_gpt").train.batch_size == 64
    assert composed("experiment=shakespeare_gpt", "scale=smoke").train.batch_size == 4
    both = composed("experiment=shakespeare_gpt", "scale=smoke", "debug=overfit")
    assert (both.train.duration, both.train.batch_size) == ("300", 4)
    last = composed(
        "train.duration=7", "experiment=shakespeare_gpt", "scale=smoke", "debug=overfit"
    )
    assert last.train.duration == "7"


def test_a_group_on_the_command_line_replaces_the_whole_option_of_the_experiment():
    config = composed("experiment=shakespeare_gpt", "model=quickstart")
    assert config.model.d_model == 96
    assert config.model.residual_dropout == 0.0
    assert composed("experiment=shakespeare_gpt", "data=text", "data.path=x").data.name == "text"


def test_a_value_overrides_a_group_regardless_of_their_order():
    for words in (["model.n_layers=2", "model=gpt2_124m"], ["model=gpt2_124m", "model.n_layers=2"]):
        model = composed(*words).model
        assert (model.n_layers, model.d_model) == (2, 768)


def test_run_dir_follows_the_name_and_the_name_the_experiment():
    assert composed().run.dir == "runs/quickstart"
    assert composed("run.name=mine").run.dir == "runs/mine"


@pytest.mark.parametrize(
    "text",
    ["a, b", "it's", 'say "hi"', "x=y", "${run.name}", "é (ü) [1] {2}", "a!b", "", " x ", "null,"],
)
def test_free_text_is_kept_as_typed(text):
    assert composed("job=generate", f"job.prompt={text}").job.prompt == text
    assert composed("data=text", f"data.path=/{text}").data.path == f"/{text}"


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["modle.n_layers=3"], "model.n_layers"),
        (["+model.n_layrs=3"], "model.n_layers"),
        (["++modl.n_layers=3"], "model.n_layers"),
        (["n_layers=3"], "model.n_layers"),
        (["lr=3"], "optimizer.lr"),
        (["experiment=shakespear_cpu"], "shakespeare_cpu"),
        (["job=trian"], "train"),
        (["model=gpt3"], "gpt2_124m"),
        (["model.n_layers=many"], "model.n_layers"),
        (["model.n_layers=2.5"], "model.n_layers"),
        (["optimizer.betas=0.9"], "optimizer.betas"),
        (["optimizer.betas=[0.9]"], "optimizer.betas"),
        (["model.norm=rms"], "rmsnorm"),
        (["precision=float16"], "bfloat16"),
        (["job.prompt=x"], "job.prompt"),
        (["job=generate", "job.promt=x"], "job.prompt"),
        (["train.duration=fast"], "train.duration"),
        (["~model.n_layers"], "key=value"),
        (["hello"], "key=value"),
        (["model.d_model=${nothing}"], "nothing"),
        (["optimizer.lr=-1"], "optimizer.lr"),
        (["model.n_layers=0"], "model.n_layers"),
        (["data=text"], "data.path"),
        (["data=tokens", "data.path=x"], "data.vocab_size"),
        (["tokenizer=none"], "tokenizer=none"),
        (["tokenizer=pretrained"], "tokenizer.path"),
        (["tokenizer.vocab_size=100"], "257"),
    ],
)
def test_a_wrong_word_is_refused_with_the_nearest_valid_one(words, said, capsys):
    assert cli.main(words) == 2
    message = capsys.readouterr().err
    assert said in message
    assert "Traceback" not in message
    assert len(message.splitlines()) <= 3


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["model.n_heads=5"], ["model.n_heads=5", "model.d_model=96", "model.n_heads=4"]),
        (["model.n_kv_heads=3"], ["model.n_kv_heads=3", "model.n_heads=4"]),
        (["model.head_dim=7"], ["model.position=rope", "7"]),
        (["model.head_bias=true", "model.tie_embeddings=true"], ["head_bias", "tie_embeddings"]),
        (["train.grad_accumulation=3"], ["train.grad_accumulation=3", "train.batch_size=8"]),
        (["data.stride=999"], ["data.stride=999", "model.context_length=256"]),
    ],
)
def test_conflicting_keys_are_all_named(words, names):
    with pytest.raises(UserError) as error:
        composed(*words)
    assert all(name in str(error.value) for name in names)


def test_a_batch_size_that_devices_cannot_divide_is_refused_with_one_that_they_can():
    config = composed("train.batch_size=12")
    assert check_devices(config, 4) == 4
    with pytest.raises(UserError, match=r"train.batch_size=12(.|\n)*train.batch_size=16"):
        check_devices(config, 8)
    with pytest.raises(UserError, match="fsdp=3"):
        check_devices(composed("parallel.fsdp=3", "train.batch_size=12"), 8)
    with pytest.raises(UserError, match="pmap"):
        check_devices(composed("parallel=pmap", "parallel.tensor=2"), 2)


def test_an_embedding_smaller_than_the_tokenizer_is_refused():
    with pytest.raises(UserError, match=r"model.vocab_size=50 (.|\n)*65"):
        check_vocabulary(ModelConfig(vocab_size=50), 65)


# -- identity and operation ----------------------------------------------------------------------


def leaves(tree, prefix=""):
    for name, value in tree.items():
        if isinstance(value, dict) and prefix + name not in keys_of(Config):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def test_every_key_is_either_identity_or_operation():
    config = composed()
    what, how = set(leaves(identity(config))), set(leaves(operation(config)))
    assert not what & how
    assert what | how == set(keys_of(config)) | {"job.name"}
    for name in ("model.n_layers", "seed", "train.duration", "train.eval_every", "precision"):
        assert name in what
    for name in ("run.stop_at", "backend", "train.log_every", "parallel.data", "tracker.name"):
        assert name in how


def test_data_seed_defaults_to_the_seed():
    assert identity(composed("seed=3")) == identity(composed("seed=3", "data_seed=3"))
    changed = differences(identity(composed("seed=3")), identity(composed("seed=3", "data_seed=4")))
    assert changed == {"data_seed": (3, 4)}


def test_help_names_every_job_experiment_and_group(capsys):
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for options in (compose.groups()["experiment"], compose.groups()["job"], compose.groups()):
        assert all(option in shown for option in options)
    assert cli.main(["--help", "model"]) == 0
    assert "model.n_layers = 4" in capsys.readouterr().out
    for topic, known in (("keys", "model.d_model = "), ("jobs", "job.count = null")):
        assert cli.main(["--help", topic]) == 0
        assert known in capsys.readouterr().out
    assert cli.main(["--help", "data"]) == 0
    assert "data.choices = null   (data=stories)" in capsys.readouterr().out
    assert cli.main(["--help", "nothing"]) == 2


def test_help_imports_neither_jax_nor_hydra():
    import subprocess
    import sys

    code = (
        "import sys; from jaxlm.cli.main import main; main(['--help']);"
        "assert not {'jax', 'hydra', 'torch', 'numpy', 'grain'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_experiments_set_no_values_of_groups():
    """Otherwise `optimizer=lion` on the command line would keep the experiment's AdamW values."""
    from omegaconf import OmegaConf

    for file in (compose.config_folder() / "experiment").glob("*.yaml"):
        kept = set(OmegaConf.load(file)) & set(compose.groups())
        assert not kept, f"{file.name}: {kept}"
    assert composed("experiment=shakespeare_cpu", "optimizer=lion").optimizer.lr == 1e-4
