"""The update rule: AdamW or Lion with decay on matrices only, and clipping by the global norm."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from jaxlm.config.optimizers import AdamW, OptimizerConfig
from jaxlm.config.optimizers import Lion as LionConfig
from jaxlm.spec.parametrization import lr_factor
from torchref.model import Transformer


def make_optimizer(model: Transformer, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The configured optimizer, with decay on matrices (also embeddings and head) only.

    Under muP there is a group for each factor of the learning rate (`jaxlm.spec.parametrization`).
    The decay is divided by this factor, because PyTorch multiplies it by the group's learning rate.
    """
    members: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        members.setdefault((lr_factor(model.model, name), p.ndim == 2), []).append(p)
    groups = [
        {
            "params": parameters,
            "lr_factor": factor,
            "weight_decay": config.weight_decay / factor if decays else 0.0,
        }
        for (factor, decays), parameters in members.items()
    ]
    return RULES[config.name].make(groups, config)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The learning rate of the next step, times each group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


def clip(gradients: Iterable[Tensor], norm: Tensor, limit: float | None) -> None:
    """g * min(1, limit / norm) in place, where `norm` is the global norm (Pascanu et al. 2013).

    torch.nn.utils.clip_grad_norm_ adds 1e-6 to the norm, which would show in the tenth digit.
    """
    if limit is not None:
        torch._foreach_mul_(list(gradients), (limit / norm).clamp(max=1.0))


class Lion(torch.optim.Optimizer):
    """The sign of an interpolated momentum (Chen et al. 2023, algorithm 2), decoupled decay."""

    def __init__(self, groups, lr: float, betas: tuple[float, float]) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # without a closure
        for group in self.param_groups:
            first, second = group["betas"]
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["step"] = torch.tensor(0.0)
                    state["exp_avg"] = torch.zeros_like(p)
                state["step"] += 1
                momentum = state["exp_avg"]
                direction = momentum.lerp(p.grad, 1 - first).sign()
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-group["lr"])
                momentum.lerp_(p.grad, 1 - second)


class Rule(NamedTuple):
    """An update rule: `make` builds its optimizer from groups of parameters; `moments` maps optax's
    names, which checkpoints use, to the entries of its state."""

    make: Callable[[list[dict[str, Any]], Any], torch.optim.Optimizer]
    moments: dict[str, str]


def _adamw(groups: list[dict[str, Any]], config: AdamW) -> torch.optim.Optimizer:
    first, second = config.betas
    return torch.optim.AdamW(
        groups, lr=config.lr, betas=(first, second), eps=config.eps, fused=True
    )


def _lion(groups: list[dict[str, Any]], config: LionConfig) -> torch.optim.Optimizer:
    first, second = config.betas
    return Lion(groups, lr=config.lr, betas=(first, second))


RULES = {
    "adamw": Rule(_adamw, {"count": "step", "mu": "exp_avg", "nu": "exp_avg_sq"}),
    "lion": Rule(_lion, {"count": "step", "mu": "exp_avg"}),
}


def moments_of(
    model: nn.Module, optimizer: torch.optim.Optimizer, config: OptimizerConfig, steps: int
) -> dict[str, dict[str, Tensor] | int]:
    """The optimizer's state as stored in checkpoints: count, mu.NAME and, for AdamW, nu.NAME."""
    return {
        name: steps
        if key == "step"
        else {
            parameter: optimizer.state[p].get(key, torch.zeros_like(p))
            for parameter, p in model.named_parameters()
        }
        for name, key in RULES[config.name].moments.items()
    }


def set_moments(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: OptimizerConfig,
    saved: dict[str, Any],  # from `moments_of`: counts, and dicts of tensors
) -> None:
    """The inverse of `moments_of`."""
    for parameter, p in model.named_parameters():
        state = {}
        for name, key in RULES[config.name].moments.items():
            if key == "step":
                state[key] = torch.tensor(float(saved[name]), device=_step_device(p))
            else:
                state[key] = saved[name][parameter].to(p.device, p.dtype)
        optimizer.state[p] = state


def _step_device(p: Tensor) -> torch.device:
    """The device on which fused AdamW keeps its step count."""
    return p.device
