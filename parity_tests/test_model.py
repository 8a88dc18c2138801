"""Both backends agree on weights, logits, loss and gradients, for every switch and mixtures."""

import dataclasses
import itertools
import math

import pytest
from examples import few
from hypothesis import given
from hypothesis import strategies as st
from sweeps import sweep

from jaxlm.config.schema import DebugConfig, ModelConfig
from jaxlm.spec.parameters import parameter_shapes
from jaxlm.verify import parity
from parity_tests.conftest import assert_rows, tokens

pytest.importorskip("torch")

CHOICES = {
    item.name: item.metadata["choices"]
    for item in dataclasses.fields(ModelConfig)
    if item.metadata["choices"]
}
BOOLEANS = ["qk_norm", "tie_embeddings", "residual", "scaled_init"]
NUMBERS = {
    "n_kv_heads": (1, 2),
    "head_dim": (8,),
    "rope_theta": (300.0,),
    "norm_eps": (0.1,),
    "d_ff": (None,),
    "n_layers": (1, 3),
    "init_std": (0.3,),
}
VARIANTS = {
    **{f"{k}={v}": {k: v} for k, values in (CHOICES | NUMBERS).items() for v in values},
    **{f"{name}={value}": {name: value} for name in BOOLEANS for value in (False, True)},
    "head_bias": {"head_bias": True},
    "layernorm, all biases": {"norm": "layernorm", "bias": "all", "head_bias": True},
    "layernorm after, all biases": {"norm": "layernorm", "bias": "all", "norm_placement": "post"},
    "grouped, qk_norm, wide heads": {"n_kv_heads": 2, "qk_norm": True, "head_dim": 10},
    "decoder of 2017": {
        "norm": "layernorm", "norm_placement": "post", "position": "sinusoidal", "ffn": "relu",
        "bias": "all", "head_bias": True,
    },
    "mup, tied, other base": {
        "parametrization": "mup", "tie_embeddings": True, "base_width": 10, "base_head_dim": 4,
    },
}  # fmt: skip


def test_every_switch_is_covered():
    """A switch added to the schema must be added here."""
    tested = set(CHOICES) | set(NUMBERS) | set(BOOLEANS)
    tested |= {"head_bias", "base_width", "base_head_dim"}
    elsewhere = {"attention_dropout", "residual_dropout"}  # test_training.py
    sizes = {"d_model", "n_heads", "context_length", "vocab_size"}
    assert tested | elsewhere | sizes == {item.name for item in dataclasses.fields(ModelConfig)}


# float64 proves every formula. The other precisions add casts, all of which these variants contain.
CASTS = ("head_bias", "layernorm, all biases", "grouped, qk_norm, wide heads", "decoder of 2017",
         "mup, tied, other base")  # fmt: skip


PRECISIONS = ("float64", "float32", "bfloat16")
KINDS = [name for name in VARIANTS if name.startswith(("ffn=", "position="))]  # each has casts
ALWAYS = [
    *itertools.product(VARIANTS, ["float64"]),
    *itertools.product([*CASTS, *KINDS], PRECISIONS[1:]),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant, precision", sweep(list(itertools.product(VARIANTS, PRECISIONS)), quick=ALWAYS)
)
def test_weights_logits_loss_and_gradients(pair, variant, precision, request):
    """CASTS and the mixtures below are compiled. The other variants run operation by operation, in
    a tenth of the time, unless all cases are asked for."""
    eager = variant not in CASTS and not request.config.getoption("thorough")
    made = pair(precision, VARIANTS[variant], debug=DebugConfig(eager=eager))
    assert list(made.trees()[1]["parameters"]) == list(
        parameter_shapes(made.engines[0].model_config)
    )
    assert_rows(parity.weights(made) + parity.forward(made, tokens()))
    assert_rows(parity.gradients(made, tokens()))


@pytest.mark.slow
def test_every_component_agrees(pair):
    """This includes names, shapes and order."""
    made = pair(switches={"n_kv_heads": 2, "qk_norm": True, "norm": "layernorm", "bias": "all"})
    rows = parity.components(made, tokens()[:, :-1])
    assert_rows(rows)
    names = [row.quantity for row in rows]
    assert names[0] == "embedding" and names[-2:] == ["normed", "logits"]
    inside = "attention_input attention.q attention.k attention.v attention.rotated_q"
    inside += " attention.rotated_k attention.scores attention.mixed attention_output"
    inside += " after_attention feedforward_input feedforward.hidden feedforward_output"
    expected = [f"blocks.0.{part}" for part in (*inside.split(), "after_feedforward")]
    assert names[1 : 1 + len(expected)] == expected


@st.composite
def models(draw):
    """Any valid mixture of switches; hypothesis shrinks it to the simplest one that fails."""
    switches = {name: draw(st.sampled_from(values)) for name, values in CHOICES.items()}
    switches |= {name: draw(st.booleans()) for name in BOOLEANS}
    heads = draw(st.sampled_from([1, 2, 3, 4, 6]))
    groups = [g for g in range(1, heads + 1) if heads % g == 0]
    return switches | {
        "n_layers": draw(st.integers(1, 3)),
        "d_model": 2 * heads * draw(st.integers(1, 4)),
        "n_heads": heads,
        "n_kv_heads": draw(st.sampled_from(groups)),
        "head_dim": 2 * draw(st.integers(1, 5)),
        "d_ff": draw(st.integers(1, 50)),
        "context_length": draw(st.integers(16, 20)),
        "norm_eps": draw(st.sampled_from([1e-5, 1e-2])),
        "head_bias": not switches["tie_embeddings"] and draw(st.booleans()),
        "base_width": draw(st.sampled_from([4, 12, 70])),
        "base_head_dim": draw(st.sampled_from([None, 1, 5])),
    }


@pytest.mark.slow
@few
@given(switches=models())
def test_random_mixtures_of_switches_agree(pair_of_module, switches):
    """Key biases are left to the test above: without norms and residuals that sustain the signal,
    the terms of their gradient exceed its sum by 10^16, and rounding alone reached 1.6e-10."""
    made = pair_of_module("float64", switches)
    assert_rows(parity.weights(made) + parity.forward(made, tokens()))
    assert_rows(parity.gradients(made, tokens(), key_biases=False))


@pytest.fixture(scope="module")
def pair_of_module(cache):
    """Like `pair`, for hypothesis, which requires a fixture that outlives one example."""
    from parity_tests import conftest

    return conftest.pair.__wrapped__(cache)


def test_a_nan_never_holds():
    assert not parity.Row("x", 1e-5, math.nan).holds
