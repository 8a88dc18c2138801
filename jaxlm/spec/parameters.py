"""The canonical parameter tree and its initial values: pure functions of (model, seed, name).

The tree is a torch state_dict: flat names, weights as (out, in). Values come from a counter-based
generator in numpy, so that both backends start from the same bits and any slice can be drawn alone.
"""

import hashlib

import numpy as np

from jaxlm.config.model_kinds import FEED_FORWARDS, POSITIONS
from jaxlm.config.schema import ResolvedModel
from jaxlm.spec.parametrization import std_factor


def parameter_shapes(model: ResolvedModel) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter of a resolved model, in the order of the forward pass."""
    width, hidden, head = model.d_model, model.d_ff, model.head_dim
    queries, keys = model.n_heads * head, model.n_kv_heads * head
    shapes: dict[str, tuple[int, ...]] = {"embed.weight": (model.vocab_size, width)}

    def linear(name: str, out: int, into: int, bias: bool) -> None:
        shapes[f"{name}.weight"] = (out, into)
        if bias:
            shapes[f"{name}.bias"] = (out,)

    def norm(name: str) -> None:
        if model.norm != "none":
            shapes[f"{name}.weight"] = (width,)
        if model.norm == "layernorm" and model.bias == "all":
            shapes[f"{name}.bias"] = (width,)

    if POSITIONS[model.position].learned:
        shapes["position.weight"] = (model.context_length, width)
    every, qkv = model.bias == "all", model.bias in ("qkv", "all")
    for layer in range(model.n_layers):
        block = f"blocks.{layer}"
        norm(f"{block}.attention_norm")
        linear(f"{block}.attention.query", queries, width, qkv)
        linear(f"{block}.attention.key", keys, width, qkv)
        linear(f"{block}.attention.value", keys, width, qkv)
        if model.qk_norm:
            shapes[f"{block}.attention.query_norm.weight"] = (head,)
            shapes[f"{block}.attention.key_norm.weight"] = (head,)
        linear(f"{block}.attention.output", width, queries, every)
        norm(f"{block}.feedforward_norm")
        if FEED_FORWARDS[model.ffn].gated:
            linear(f"{block}.feedforward.gate", hidden, width, every)
        linear(f"{block}.feedforward.up", hidden, width, every)
        linear(f"{block}.feedforward.down", width, hidden, every)
    norm("final_norm")
    if not model.tie_embeddings:
        linear("head", model.vocab_size, width, model.head_bias)
    return shapes


def group_of(name: str) -> str:
    """The group a parameter's norms are reported under: blocks.0.attention, embed, head, ...

    The gains and shifts of all norms are one group, `norms`. Within the group of a block, their
    size, about the root of the width, would hide the matrices.
    """
    parts = name.split(".")
    if parts[-2].endswith("norm"):
        return "norms"
    return ".".join(parts[:3]) if parts[0] == "blocks" else parts[0]


def parameter_groups(model: ResolvedModel) -> list[str]:
    """The groups whose norms a step reports, each once, in the order of the forward pass."""
    return list(dict.fromkeys(group_of(name) for name in parameter_shapes(model)))


def initial_parameters(
    model: ResolvedModel, seed: int, dtype: str = "float32"
) -> dict[str, np.ndarray]:
    """Every parameter by name; see `initial_parameter`."""
    return {name: initial_parameter(model, seed, name, dtype) for name in parameter_shapes(model)}


def initial_parameter(
    model: ResolvedModel,
    seed: int,
    name: str,
    dtype: str = "float32",
    rows: slice = slice(None),
) -> np.ndarray:
    """The initial value of one parameter, or of some of its rows (its first axis).

    Norm weights are 1, biases 0, all others N(0, init_std); with `scaled_init` the output matrices
    of both sublayers have init_std / sqrt(2 n_layers) (GPT-2, Radford et al. 2019, section 2.3).
    Under muP the standard deviation falls with the width, as `parametrization` describes.
    """
    shape = parameter_shapes(model)[name]
    start, stop, _ = rows.indices(shape[0])
    shape = (stop - start, *shape[1:])
    if name.endswith(".bias"):
        return np.zeros(shape, dtype)
    if name.endswith("norm.weight"):
        return np.ones(shape, dtype)
    std = model.init_std * std_factor(model, name)
    if model.scaled_init and name.endswith(("attention.output.weight", "feedforward.down.weight")):
        std /= np.sqrt(2 * model.n_layers)
    row = int(np.prod(shape[1:], dtype=np.int64))
    return (std * normal(seed, name, start * row, stop * row)).astype(dtype).reshape(shape)


def normal(seed: int, name: str, start: int, stop: int) -> np.ndarray:
    """Elements start..stop of the float64 N(0, 1) sequence named by (seed, name).

    Philox4x64-10 (Salmon et al. 2011) gives four words per counter, and Box-Muller turns two of
    them into two normals, so element i depends only on counter i // 4.
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = np.random.Philox(key=np.frombuffer(digest[:16], "<u8"))
    first = start // 4
    generator.advance(first)
    words = generator.random_raw(4 * (-(-stop // 4) - first)).reshape(-1, 2)
    uniforms = (words >> np.uint64(11)) * 2.0**-53
    radius = np.sqrt(-2.0 * np.log(1.0 - uniforms[:, 0]))
    angle = 2.0 * np.pi * uniforms[:, 1]
    values = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)
    return values[start - 4 * first : stop - 4 * first]
