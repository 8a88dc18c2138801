"""Counts of parameters and floating-point operations, and peaks of devices."""

import math
from dataclasses import dataclass

from jaxlm.config.schema import ResolvedModel
from jaxlm.spec.parameters import parameter_shapes


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters of a model. `non_embedding` excludes the tables and an untied head."""

    total: int
    embedding: int
    head: int
    non_embedding: int


def parameter_counts(model: ResolvedModel) -> ParameterCounts:
    """The sums over `parameters.parameter_shapes` of a resolved model."""
    counts = {"embedding": 0, "head": 0, "non_embedding": 0}
    parts = {"embed": "embedding", "position": "embedding", "head": "head"}
    for name, shape in parameter_shapes(model).items():
        counts[parts.get(name.split(".")[0], "non_embedding")] += math.prod(shape)
    return ParameterCounts(sum(counts.values()), **counts)


def flops_per_token(model: ResolvedModel) -> float:
    """6 N per training token, N without embeddings (Kaplan et al. 2020, section 2.1)."""
    return 6.0 * parameter_counts(model).non_embedding


def exact_flops_per_token(model: ResolvedModel, length: int | None = None) -> float:
    """6 N + the head + full attention, per training token (PaLM, Chowdhery et al. 2022, app. B)."""
    length = length or model.context_length
    head = 6.0 * model.vocab_size * model.d_model
    attention = 12.0 * model.n_layers * model.n_heads * model.head_dim * length
    return flops_per_token(model) + head + attention


def flops_words(flops: float, exact: float | None = None) -> str:
    """The FLOPs of a run in words, as shown everywhere: its `flops` and its `flops_exact`."""
    text = f"{flops:.3g} (6 N D)"
    return text if exact is None else f"{text}, {exact:.3g} with head and attention"


# Dense peaks in FLOP/s of the compute types, from the manufacturers' data sheets (SXM parts).
_PEAKS = {
    "H200": {"bfloat16": 989.4e12, "float32": 66.9e12, "float64": 66.9e12},
    "H100": {"bfloat16": 989.4e12, "float32": 66.9e12, "float64": 66.9e12},
    "A100": {"bfloat16": 312e12, "float32": 19.5e12, "float64": 19.5e12},
    "L40S": {"bfloat16": 362e12, "float32": 91.6e12, "float64": 1.4e12},
    "T4": {"bfloat16": 65e12, "float32": 8.1e12, "float64": 0.25e12},
}


def peak_flops(device_kind: str, precision: str) -> float | None:
    """Dense peak of a device in FLOP/s for a compute type, or None if unknown (CPUs)."""
    for name, peaks in _PEAKS.items():
        if name in device_kind:
            return peaks[precision]
    return None
