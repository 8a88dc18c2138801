"""Promises of debug=shapes: every component and parameter, with counts that add up."""

import re
from math import prod

import pytest

from jaxlm.config.schema import ModelConfig, resolve_model
from jaxlm.spec.flops import parameter_counts
from jaxlm.spec.parameters import parameter_shapes
from jaxlm.verify.shapes import component_shapes, shapes_text

SMALL = {"n_layers": 3, "d_model": 32, "n_heads": 4, "context_length": 16}
MODELS = [
    ModelConfig(**SMALL),
    ModelConfig(**SMALL, n_kv_heads=2, qk_norm=True, head_dim=6, tie_embeddings=True),
    ModelConfig(**SMALL, norm="layernorm", position="learned", ffn="gelu", bias="all"),
    ModelConfig(**(SMALL | {"n_layers": 1}), norm="none", position="sinusoidal", head_bias=True),
]


@pytest.mark.parametrize("model", MODELS)
def test_counts_add_up_to_the_models_parameters(model):
    model = resolve_model(model, 50)
    counts, text = parameter_counts(model), shapes_text(model, "float32", 2)
    _, _, table, totals = text.split("\n\n")
    rows = [line.split() for line in table.splitlines()[2:]]
    in_all = [int(row[-1].replace(",", "")) for row in rows]
    assert sum(in_all) == counts.total
    assert f"{counts.total:,}" in totals and f"{counts.non_embedding:,}" in totals
    named = set()
    for row in rows:
        span = re.match(r"blocks\.0(?:-(\d+))?\.", row[0])
        copies = range(int(span[1] or 0) + 1) if span else [None]
        named |= {re.sub(r"blocks\.[0-9-]+", f"blocks.{n}", row[0]) for n in copies}
    assert named == set(parameter_shapes(model))


@pytest.mark.parametrize("model", MODELS)
def test_shapes_agree_with_their_letters(model):
    model = resolve_model(model, 50)
    sizes = {"B": 2, "L": 16, "D": 32, "H": 4, "F": model.d_ff, "V": 50}
    sizes |= {"G": model.n_kv_heads, "K": model.head_dim}
    table = shapes_text(model, "float32", 2).split("\n\n")[1]
    rows = [re.split(r"\s{2,}", line) for line in table.splitlines()[2:]]
    assert len(rows) == 3 + 12 + 2 * (model.position == "rope")
    for name, axes, shape, _ in rows:
        expected = [prod(sizes[letter] for letter in axis.split("*")) for axis in axes.split()]
        assert [int(size) for size in shape.split(" x ")] == expected, name


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64"])
def test_types_are_those_of_the_precision(precision):
    shapes = component_shapes(resolve_model(MODELS[0], 50), precision, 2)
    assert shapes["blocks.1.feedforward.hidden"].dtype == precision
    assert shapes["logits"].dtype == ("float32" if precision == "bfloat16" else precision)
    assert list(shapes)[0] == "embedding" and list(shapes)[-1] == "logits"


def test_nothing_is_computed():
    huge = ModelConfig(n_layers=2, d_model=65536, n_heads=512, context_length=8192)
    assert "1000 x 8192 x 200000" in shapes_text(resolve_model(huge, 200_000), "bfloat16", 1000)
