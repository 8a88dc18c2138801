"""Checkpoints: the only file of this package that uses Orbax, and through it JAX.

Checkpoints hold the canonical tree (`jaxlm.store.checkpoint`), so either backend resumes the runs
of the other. JAX only moves numpy arrays here, and is kept from reserving most of a GPU's memory.
"""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

if "jax" not in sys.modules:
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

from jaxlm.config.optimizers import OptimizerConfig  # noqa: E402
from jaxlm.store.checkpoint import Checkpoints, restore  # noqa: E402
from jaxlm.store.manifest import Restored  # noqa: E402
from torchref.model import Transformer  # noqa: E402
from torchref.optimizer import RULES, make_optimizer, moments_of, set_moments  # noqa: E402
from torchref.step import TrainState  # noqa: E402

__all__ = ["Checkpoints", "read", "read_parameters", "state_of", "tree_of"]


def tree_of(state: TrainState, config: OptimizerConfig) -> dict[str, Any]:
    """A state as the canonical tree of numpy arrays, which share the state's memory on a CPU."""
    model, optimizer, step = state
    moments = moments_of(model, optimizer, config, step)
    return {
        "parameters": _arrays(dict(model.named_parameters())),
        "optimizer": {
            "step": np.int32(step),
            **{k: np.int32(v) if isinstance(v, int) else _arrays(v) for k, v in moments.items()},
        },
    }


def state_of(tree: dict[str, Any], model: Transformer, config: OptimizerConfig) -> TrainState:
    """The inverse of `tree_of`; the parameters are loaded into `model`."""
    model.load_state_dict({name: _tensor(array) for name, array in tree["parameters"].items()})
    optimizer = make_optimizer(model, config)
    saved = {
        name: {parameter: _tensor(array) for parameter, array in value.items()}
        if isinstance(value, dict)
        else int(value)
        for name, value in tree["optimizer"].items()
    }
    set_moments(model, optimizer, config, saved)
    return TrainState(model, optimizer, int(tree["optimizer"]["step"]))


def read(folder: Path, which: str | int, model: Transformer, config: OptimizerConfig) -> Restored:
    """The result of `store.checkpoint.restore`, checked against the model."""
    return restore(folder, which, template=_shapes(model, config))


def read_parameters(folder: Path, which: str | int, model: Transformer) -> Restored:
    """Like `read`, without the optimizer."""
    template = {"parameters": _empty(dict(model.named_parameters()))}
    return restore(folder, which, template=template, parameters_only=True)


def _shapes(model: Transformer, config: OptimizerConfig) -> dict[str, Any]:
    """A tree like that of `tree_of`, without allocating its memory."""
    parameters = _empty(dict(model.named_parameters()))
    moments = {
        name: np.int32(0) if key == "step" else parameters
        for name, key in RULES[config.name].moments.items()
    }
    return {"parameters": parameters, "optimizer": {"step": np.int32(0), **moments}}


def _empty(tensors: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Arrays with the shapes and types of the tensors, which use no memory."""
    return {
        name: np.broadcast_to(np.zeros((), str(t.dtype).removeprefix("torch.")), t.shape)
        for name, t in tensors.items()
    }


def _arrays(tensors: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: t.detach().cpu().numpy() for name, t in tensors.items()}


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array))
