"""A program can be compiled for an absent device, because the platform is an argument."""

import ast
import re
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from jaxlm.config.optimizers import AdamW
from jaxlm.config.schema import Config, ModelConfig, resolve_model
from jaxlm.engine import engine, optimizer
from jaxlm.engine.kernels import Kernels, choose_kernels
from jaxlm.engine.model import Transformer
from jaxlm.engine.step import Batch, TrainState, make_train_step
from jaxlm.engine.tree import nest
from jaxlm.spec.parameters import parameter_shapes

ENGINE = Path(__file__).resolve().parents[2] / "jaxlm" / "engine"
DECIDES = "engine.py"
MODEL = resolve_model(
    ModelConfig(n_layers=1, d_model=64, n_heads=4, d_ff=96, context_length=64), 17
)


def lowered(kernels, platform):
    """The training step in bfloat16, as the compiler for a platform receives it."""
    array = jax.ShapeDtypeStruct
    parameters = nest({n: array(s, "float32") for n, s in parameter_shapes(MODEL).items()})
    moments = jax.eval_shape(optimizer.rule(AdamW()).init, parameters)
    state = TrainState(parameters, moments, array((), "int32"))
    batch = Batch(array((1, 2, 65), "int32"), array((1, 2), "int32"), array((), "float32"))
    step = make_train_step(Transformer(MODEL, jnp.bfloat16, kernels), AdamW(), seed=0)
    return jax.jit(step).trace(state, batch).lower(lowering_platforms=(platform,)).as_text()


def products(text):
    """The operands' types of each matrix product."""
    lines = [line for line in text.splitlines() if "dot_general" in line]
    return [re.findall(r"x(f32|bf16)>", line.rsplit(" : ", 1)[1])[:2] for line in lines]


@pytest.fixture
def cudnn(monkeypatch):
    """Simulates cuDNN, whose version JAX checks before lowering."""
    from jax._src.cudnn import fused_attention_stablehlo

    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)


def test_the_training_step_lowers_for_a_gpu_with_its_kernels(cudnn):
    assert jax.default_backend() == "cpu"
    kernels, _ = choose_kernels(Config(precision="bfloat16"), MODEL, "gpu")
    assert kernels == Kernels("gpu", "cudnn")
    text = lowered(kernels, "cuda")
    assert "__cudnn$fmhaSoftmax" in text and "__cudnn$fmhaSoftmaxBackward" in text
    assert products(text) and all(types == ["bf16", "bf16"] for types in products(text))


def test_the_plain_form_lowers_for_a_gpu_too():
    kernels, _ = choose_kernels(Config(precision="float32"), MODEL, "gpu")
    assert kernels == Kernels("gpu", "plain")
    text = lowered(kernels, "cuda")
    assert "fmha" not in text
    # A softmax in float32 has a gradient in float32: the two products with the scores' gradient.
    assert products(text).count(["f32", "f32"]) == 2


def test_a_program_for_a_cpu_widens_the_products_that_the_cpu_lacks():
    kernels, _ = choose_kernels(Config(precision="bfloat16"), MODEL, "cpu")
    assert kernels == Kernels("cpu", "blocks")
    assert products(lowered(kernels, "cpu")).count(["f32", "f32"]) > 2


@pytest.mark.parametrize("file", sorted(ENGINE.glob("*.py")), ids=lambda file: file.name)
def test_only_one_file_asks_jax_for_devices(file):
    asked = {
        ast.unparse(node)
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Attribute)
    } & {f"jax.{name}" for name in ("default_backend", "devices", "local_devices", "device_count")}
    assert file.name == DECIDES or not asked, asked


def test_the_platform_is_that_of_the_given_devices_and_not_of_this_machine(tmp_path, monkeypatch):

    def placement(config, devices):
        return SimpleNamespace(devices=devices, batch_devices=len(devices))

    monkeypatch.setattr(engine, "Placement", placement)
    gpus = [SimpleNamespace(platform="gpu", device_kind="NVIDIA H100 80GB HBM3")] * 8
    model = ModelConfig(n_layers=1, d_model=32, n_heads=2)
    made = engine.Engine(Config(precision="bfloat16", model=model), 29, tmp_path, devices=gpus)
    assert made.kernels == made.model.kernels == Kernels("gpu", "cudnn")
    assert made.peak_flops == 8 * 989.4e12
