"""Promises of job=doctor: it reports the machine, whether training works, and what to do."""

import math
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxlm.config.compose import compose
from jaxlm.inference.engines import engine_class
from jaxlm.spec.contract import StepMetrics
from jaxlm.verify import doctor
from jaxlm.verify.doctor import GIB, Device, Machine, advice, judge

JAX = partial(engine_class, "jax")
HEALTHY = Machine(
    devices=[Device("cpu", "cpu")],
    versions={"torch": "2.13", "tensorboardX": "2.6"},
    cores=8,
    free_memory_bytes=16 * GIB,
    folders={Path("/tmp"): 100 * GIB},
)


@pytest.fixture
def config(tmp_path):
    before = jax.config.jax_compilation_cache_dir
    yield compose(["job=doctor", f"run.cache={tmp_path / 'cache'}", f"run.dir={tmp_path / 'run'}"])
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.slow
def test_a_working_machine_passes_and_is_described(config, capsys):
    assert doctor.doctor_job(config, JAX) == 0
    text = capsys.readouterr().out
    assert f"0: {jax.devices()[0].platform}" in text
    for word in (jax.__version__, "orbax", "cores", "free memory", "passed", "advice"):
        assert word in text
    assert config.run.dir in text and "not installed" not in text.split("torch")[0]


def test_a_step_that_does_not_learn_fails(config, capsys, monkeypatch):
    def make(*_):
        metrics = StepMetrics(jnp.float32(math.log(64)), *[jnp.float32(1)] * 5)
        return lambda state, batch: (state, metrics)

    monkeypatch.setattr("jaxlm.engine.engine.make_train_step", make)
    assert doctor.doctor_job(config, JAX) == 1
    assert "BAD loss after 20 steps" in capsys.readouterr().out


def test_a_step_that_raises_fails_without_a_traceback(config, capsys, monkeypatch):
    def broken(*_):
        raise RuntimeError("no kernel image\nis available")

    monkeypatch.setattr("jaxlm.engine.engine.make_train_step", broken)
    assert doctor.doctor_job(config, JAX) == 1
    text = capsys.readouterr().out
    assert "RuntimeError: no kernel image\n" in text and "FAILED" in text


def test_only_losses_that_start_at_ln_v_and_fall_pass():
    start = math.log(64)
    assert judge([start, 2.0, 1.0], 64)[1]
    assert not judge([start + 0.2, 2.0, 1.0], 64)[1]
    assert not judge([start, start, start], 64)[1]
    assert not judge([start, math.nan, 1.0], 64)[1]
    assert not judge([math.nan, 2.0, 1.0], 64)[1]


def changed(**fields):
    return Machine(**(vars(HEALTHY) | fields))


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (HEALTHY, "precision=float32"),
        (changed(nvidia_gpus=["NVIDIA H100"]), "pip install 'jaxlm[cuda]'"),
        (changed(devices=[Device("gpu", "NVIDIA H100", capability=9.0)]), "precision=bfloat16"),
        (changed(devices=[Device("gpu", "Tesla T4", capability=7.5)]), "stay with precision=float"),
        (changed(devices=[]), "JAX could not start"),
        (changed(folders={Path("/full"): GIB}), "Only 1.0 GiB free at /full"),
        (changed(folders={Path("/theirs"): None}), "/theirs cannot be written"),
        (changed(free_memory_bytes=GIB), "Only 1.0 GiB of memory"),
        (changed(versions={"torch": None, "tensorboardX": "2"}), "pip install 'jaxlm[torch]'"),
        (
            changed(versions={"torch": "2", "tensorboardX": None}),
            "pip install 'jaxlm[tensorboard]'",
        ),
    ],
)
def test_advice_names_the_fault_and_the_remedy(machine, expected, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    assert any(expected in line for line in advice(machine))
    if machine is not HEALTHY:
        assert not any(expected in line for line in advice(HEALTHY))


def test_a_gpu_hidden_by_the_environment_is_reported(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    lines = advice(changed(nvidia_gpus=["NVIDIA H100"]))
    assert "unset JAX_PLATFORMS" in lines[0]


def test_free_disk_space_is_known_for_a_folder_that_does_not_exist_yet(tmp_path):
    assert doctor._free(tmp_path / "a" / "b") > 0
    (tmp_path / "file").write_text("")
    assert doctor._free(tmp_path / "file" / "run") is None
