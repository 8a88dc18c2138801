"""Tables of the shapes of all outputs and parameters, made without computing anything.

Legend: B batch, L length, D model width, H query heads, G key/value heads, K head width,
F feed-forward width, V vocabulary.
"""

import math
import re
import textwrap
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.config.schema import Config, ResolvedModel, resolve_model
from jaxlm.engine.model import Transformer
from jaxlm.engine.tree import flatten, nest
from jaxlm.host.checked import Json
from jaxlm.spec.flops import parameter_counts
from jaxlm.spec.parameters import parameter_shapes
from jaxlm.spec.parametrization import lr_factor, std_factor
from scaling.text_table import text_table

# The components that the model records, in the order of its forward pass.
_LETTERS = {
    "embedding": "B L D",
    "attention_input": "B L D",
    "q": "B L H K",
    "k": "B L G K",
    "v": "B L G K",
    "rotated_q": "B L H K",
    "rotated_k": "B L G K",
    "scores": "B H L L",
    "mixed": "B L H*K",
    "attention_output": "B L D",
    "after_attention": "B L D",
    "feedforward_input": "B L D",
    "hidden": "B L F",
    "feedforward_output": "B L D",
    "after_feedforward": "B L D",
    "normed": "B L D",
    "logits": "B L V",
}
Row = tuple[str, ...]


def shapes_text(model: ResolvedModel, dtype: Any, batch: int = 1) -> str:
    """Tables of a resolved model's parameters, and of its outputs for `batch` full contexts.

    `dtype` is the compute type. Blocks are identical, so blocks.0-11 stands for twelve.
    """
    sizes = {
        "B batch": batch,
        "L length": model.context_length,
        "D model width": model.d_model,
        "H query heads": model.n_heads,
        "G key/value heads": model.n_kv_heads,
        "K head width": model.head_dim,
        "F feed-forward width": model.d_ff,
        "V vocabulary": model.vocab_size,
    }
    counts = parameter_counts(model)
    totals = [
        ("all", f"{counts.total:,}"),
        ("token and position tables", f"{counts.embedding:,}"),
        ("untied head", f"{counts.head:,}"),
        ("all others (non-embedding)", f"{counts.non_embedding:,}"),
    ]
    outputs = [("component", "axes", "shape", "type"), *_output_rows(model, dtype, batch)]
    parameters = [("parameter", "shape", "count", "total"), *_parameter_rows(model)]
    if model.parametrization == "mup":
        factors = [("std x", "lr x"), *_factor_rows(model)]
        parameters = [row + more for row, more in zip(parameters, factors, strict=True)]
    return "\n\n".join(
        [
            textwrap.fill("; ".join(f"{name} {size:,}" for name, size in sizes.items()), 90),
            text_table(outputs[0], outputs[1:], left=range(4)),
            text_table(parameters[0], parameters[1:], left=range(2)),
            text_table(("parameters", "count"), totals),
        ]
    )


def component_shapes(model: ResolvedModel, dtype: Any, batch: int) -> Json:
    """Dotted name -> shape and type of every component's output, in forward order."""
    wide = jnp.dtype(dtype) == "float64"
    stored = "float64" if wide else "float32"
    parameters = {n: jax.ShapeDtypeStruct(s, stored) for n, s in parameter_shapes(model).items()}
    tokens_BxL = jax.ShapeDtypeStruct((batch, model.context_length), "int32")
    network = Transformer(model, jnp.dtype(dtype))
    with jax.enable_x64(wide):
        _, seen = jax.eval_shape(
            lambda p, tokens: network.apply({"params": p}, tokens, mutable=["components"]),
            nest(parameters),
            tokens_BxL,
        )
    order = list(_LETTERS)

    def position(name: str) -> tuple[int, int, int]:
        block = re.match(r"blocks\.(\d+)", name)
        leaf = order.index(name.rsplit(".", 1)[-1])
        return (1, int(block[1]), leaf) if block else (0 if leaf == 0 else 2, 0, leaf)

    found = {name: value for name, (value,) in flatten(seen["components"]).items()}
    return {name: found[name] for name in sorted(found, key=position)}


def _output_rows(model: ResolvedModel, dtype: Any, batch: int) -> list[Row]:
    shapes = component_shapes(model, dtype, batch)
    rows: list[Row] = []
    for name in _first_block(shapes):
        axes = _LETTERS[name.rsplit(".", 1)[-1]]
        rows.append(
            (_shown(name, model), axes, _shape(shapes[name].shape), str(shapes[name].dtype))
        )
    return rows


def _parameter_rows(model: ResolvedModel) -> list[Row]:
    shapes = parameter_shapes(model)
    rows: list[Row] = []
    for name in _first_block(shapes):
        count = math.prod(shapes[name])
        copies = model.n_layers if name.startswith("blocks.") else 1
        rows.append(
            (_shown(name, model), _shape(shapes[name]), f"{count:,}", f"{count * copies:,}")
        )
    return rows


def _factor_rows(model: ResolvedModel) -> list[Row]:
    """muP's factors for the initial std and the learning rate of each parameter."""
    names = _first_block(parameter_shapes(model))
    return [(f"{std_factor(model, n):.4g}", f"{lr_factor(model, n):.4g}") for n in names]


def _first_block(names: Any) -> list[str]:
    return [name for name in names if not re.match(r"blocks\.[1-9]", name)]


def _shown(name: str, model: ResolvedModel) -> str:
    last = model.n_layers - 1
    return name.replace("blocks.0.", f"blocks.0-{last}." if last else "blocks.0.")


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def shapes_job(config: Config, load_engine: object) -> int:
    """debug=shapes: print all shapes and parameters, and the estimated cost of training.

    Nothing is trained. If model.vocab_size is given, no data is needed.
    """
    from jaxlm.inference.open import prepare
    from jaxlm.predict.plan import estimate_lines

    vocab_size = config.model.vocab_size or prepare(config).vocab_size
    model = resolve_model(config.model, vocab_size)
    print(shapes_text(model, config.precision, config.train.batch_size))
    print("\n" + "\n".join(estimate_lines(config, model)))
    return 0
