"""Shared by all parity tests: pairs of engines, and small inputs."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

from jaxlm.config.schema import Config, ModelConfig, TorchConfig, TrainConfig
from jaxlm.inference.engines import engine_class
from jaxlm.spec.parameters import normal
from jaxlm.verify.parity import Pair, Row

BACKENDS = [partial(engine_class, name) for name in ("jax", "torch")]
VOCABULARY = 29
MODEL = ModelConfig(
    n_layers=2, d_model=24, n_heads=4, d_ff=40, context_length=16, init_std=0.1, scaled_init=True,
    base_width=8,
)  # fmt: skip


def make_config(precision="float64", model=MODEL, batch_size=4, **sections) -> Config:
    """A small configuration; PyTorch runs eagerly, so that nothing is compiled."""
    return Config(
        precision=precision,
        model=model,
        train=TrainConfig(batch_size=batch_size, **sections.pop("train", {})),
        torch=TorchConfig(device="cpu", compile=False),
        **sections,
    )


@pytest.fixture(autouse=True)
def compile_again():
    """An engine with debug.eager switches compilation off for the whole process."""
    yield
    jax.config.update("jax_disable_jit", False)


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def pair(cache):
    """pair(precision, switches, ...) -> a Pair in which every parameter is random.

    Norm weights of one and biases of zero would hide faults.
    """

    def make(precision="float64", switches=None, noise=True, **arguments) -> Pair:
        model = dataclasses.replace(MODEL, **(switches or {}))
        config = make_config(precision, model, **arguments)
        made = Pair(config, VOCABULARY, cache, *BACKENDS)
        if noise:
            values = made.trees()[1]["parameters"]
            made.set_parameters(
                {
                    name: x + (0.3 * normal(2, name, 0, x.size)).astype(x.dtype)
                    if x.ndim == 1
                    else x
                    for name, x in values.items()
                }
            )
        return made

    return make


def tokens(rows=4, length=17, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCABULARY, (rows, length)).astype(np.int32)


def assert_rows(rows: list[Row]) -> None:
    assert rows
    wrong = [row for row in rows if not row.holds]
    assert not wrong, "\n".join(map(str, wrong))
