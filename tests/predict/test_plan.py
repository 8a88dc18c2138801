"""Promises of the plan: its advice for any size, its command, its hours, and the presets' cost."""

import math
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxlm.cli import main as cli
from jaxlm.config.compose import compose, groups
from jaxlm.config.schema import resolve_model
from jaxlm.host.errors import UserError
from jaxlm.predict import plan
from jaxlm.spec.flops import exact_flops_per_token, parameter_counts, peak_flops

PARAMETERS = st.floats(4, 12).map(lambda exponent: 10**exponent)
TOKENS = st.floats(4, 15).map(lambda exponent: 10**exponent)
DEVICES = st.sampled_from([None, *plan.DEVICES])
PRECISIONS = st.sampled_from(["bfloat16", "float32", "float64"])
SIZES = {"70m": 42e6, "130m": 113e6, "300m": 255e6}


@given(PARAMETERS, TOKENS, DEVICES, PRECISIONS, st.sampled_from([64, 256, 2048]))
def test_every_size_gets_a_plan_that_keeps_the_rules(parameters, tokens, device, precision, length):
    found = plan.plan(parameters, tokens, device=device, precision=precision, context_length=length)
    model = found.model
    coarse = 0.5 if parameters < 1e5 else 0.27 if parameters < 1e7 else 0.1  # whole layers
    assert abs(math.log(found.non_embedding / parameters)) < coarse
    assert model.n_heads * model.head_dim == model.d_model and model.d_ff == 4 * model.d_model
    assert 16 <= model.head_dim <= 128 and (model.d_model < 128 or model.head_dim >= 32)
    assert 8 <= model.n_heads <= 16 or not 256 <= model.d_model < 2048
    if parameters > 1e7:
        assert 40 < model.d_model / model.n_layers < 200
    assert found.batch_size % found.grad_accumulation == 0
    steps = tokens / (found.batch_size * length)
    assert steps >= 200 or any("200 steps" in text for text in found.warnings)
    assert (found.hours is None) == (device is None)
    assert ("50M" in " ".join(found.warnings)) == (found.non_embedding < 50e6)
    assert not any(word in "\n".join(found.lines()) for word in ("nan", "inf", "None"))


@pytest.mark.parametrize(
    ("parameters", "tokens"), [(1e4, 1e5), (42e6, 1e9), (7e9, 1.4e11), (1e12, 1e15)]
)
def test_the_command_trains_what_was_planned(parameters, tokens):
    found = plan.plan(parameters, tokens, device="H100")
    words = shlex.split(found.command)
    assert words[:2] == ["python", "run.py"]
    config = compose(words[2:])
    assert resolve_model(config.model, 32_000) == found.model
    assert config.train.batch_size == found.batch_size
    assert config.train.grad_accumulation == found.grad_accumulation
    assert config.tokenizer.vocab_size == 32_000
    assert tokens <= plan._tokens(config) < 1.02 * tokens + found.batch_size * 2048


def test_the_batch_grows_with_the_run_and_memory_splits_it():
    runs = [plan.plan(n, 20 * n) for n in (1e7, 1e8, 1e9, 1e10, 1e11)]
    batches = [run.batch_size for run in runs]
    assert batches == sorted(batches) and batches[0] >= 16 and batches[-1] >= 8192
    rates = [run.lr for run in runs]
    assert rates == sorted(rates, reverse=True)
    parts = [plan.plan(1e9, 2e10, device=d).grad_accumulation for d in ("H200", "H100", "L40S")]
    assert parts == sorted(parts) and parts[0] < parts[-1]
    assert plan.plan(1e9, 2e10, memory_bytes=80e9).grad_accumulation == parts[1]
    assert "fsdp" in " ".join(plan.plan(7e9, 1.4e11, device="H100").warnings)


def test_hours_are_flops_divided_by_the_speed_of_the_device():
    assert plan.hours(0.4 * 312e12 * 7200, "A100") == pytest.approx(2.0, rel=1e-12)
    slow = plan.hours(1e20, "H100", mfu=0.2, precision="float32")
    assert slow == pytest.approx(1e20 / (0.2 * 66.9e12) / 3600, rel=1e-12)
    found = plan.plan(1e9, 2e10, device="H100")
    exact = exact_flops_per_token(found.model) * 2e10
    assert found.hours == pytest.approx(exact / (0.4 * 989.4e12) / 3600, rel=1e-12)


def test_every_named_device_has_a_peak_and_a_memory():
    assert all(
        peak_flops(device, "bfloat16") and plan._MEMORY_BYTES[device] for device in plan.DEVICES
    )


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_cpus_speed_is_measured(precision):
    assert 1e8 < plan.measured_flops(precision) < 1e14


def test_bad_numbers_and_devices_are_refused():
    for parameters, tokens in ((0, 1e9), (1e13, 1e9), (math.nan, 1e9), (1e8, -1), (1e8, math.inf)):
        with pytest.raises(UserError, match="cannot be made"):
            plan.plan(parameters, tokens)
    with pytest.raises(UserError, match="H100"):
        plan.plan(1e8, 1e9, device="H10")
    with pytest.raises(UserError, match="A100"):
        plan.hours(1e18, "A10")


# -- the presets ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_presets_are_those_of_the_published_table(size):
    config = compose([f"experiment=scaling_{size}"])
    model = resolve_model(config.model)
    table = {"70m": (384, 24, 6), "130m": (512, 36, 8), "300m": (768, 36, 12)}
    assert (model.d_model, model.n_layers, model.n_heads) == table[size]
    assert parameter_counts(model).non_embedding == pytest.approx(SIZES[size], rel=0.015)
    assert (model.context_length, model.vocab_size, model.d_ff) == (2048, 32_000, 4 * model.d_model)
    assert model.attention_dropout == model.residual_dropout == 0.1
    train = config.train
    assert (train.batch_size, train.duration, train.checkpoint_every) == (16, "8epochs", "1epoch")
    assert (config.schedule.name, config.optimizer.clip_norm) == ("cosine", 1.0)
    assert (config.tokenizer.name, config.tokenizer.vocab_size) == ("bpe", 32_000)
    tokens = ["data=tokens", "data.path=ids.bin", "data.dtype=int32", "data.vocab_size=32000"]
    assert compose([f"experiment=scaling_{size}", *tokens]).data.dtype == "int32"


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_presets_show_their_cost_without_any_data(size, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main([f"experiment=scaling_{size}", "debug=shapes"]) == 0
    shown = capsys.readouterr().out
    model = resolve_model(compose([f"experiment=scaling_{size}"]).model)
    tokens = 20 * parameter_counts(model).total
    assert f"{exact_flops_per_token(model) * tokens:.3g} with head and attention" in shown
    assert all(device in shown for device in plan.DEVICES)
    assert not list(tmp_path.iterdir())


def test_the_estimate_follows_the_duration(capsys):
    assert cli.main(["debug=shapes", "model.vocab_size=1024", "train.duration=2Mtokens"]) == 0
    assert "training on 2M tokens" in capsys.readouterr().out
    assert "scaling_ladder" in groups()["experiment"]
