"""The update rule: AdamW or Lion with decay on matrices only, and clipping by the global norm."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from jaxlm.config.schema import OptimizerConfig
from jaxlm.spec.parametrization import lr_factor
from torchref.model import Transformer


def make_optimizer(model: Transformer, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Matrices, embeddings and head included, decay; norms and biases do not.

    Under muP there is a group for each factor of the learning rate (`jaxlm.spec.parametrization`).
    The decay is divided by it, since PyTorch multiplies decay by the group's rate.
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
    betas = tuple(config.betas)
    if config.name == "lion":
        return Lion(groups, lr=config.lr, betas=betas)
    return torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=config.eps, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The learning rate of the next step, times each group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


def clip(gradients: Iterable[Tensor], norm: Tensor, limit: float | None) -> None:
    """g * min(1, limit / norm) in place, the global norm being given (Pascanu et al. 2013).

    torch.nn.utils.clip_grad_norm_ adds 1e-6 to the norm, which shows at the tenth digit.
    """
    if limit is not None:
        torch._foreach_mul_(list(gradients), (limit / norm).clamp(max=1.0))


class Lion(torch.optim.Optimizer):
    """The sign of an interpolated momentum (Chen et al. 2023, algorithm 2), decoupled decay."""

    def __init__(self, groups, lr: float, betas: tuple[float, float]) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self) -> None:
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


# Their names in a checkpoint (optax's), and here.
_MOMENTS = {"mu": "exp_avg", "nu": "exp_avg_sq"}


def moments_of(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int
) -> dict[str, dict[str, Tensor] | int]:
    """The optimizer's state as checkpoints hold it: count, mu.NAME and, for AdamW, nu.NAME."""
    found: dict[str, dict[str, Tensor] | int] = {"count": steps}
    for name, key in _MOMENTS.items():
        if name == "nu" and isinstance(optimizer, Lion):
            continue
        found[name] = {
            parameter: optimizer.state[p].get(key, torch.zeros_like(p))
            for parameter, p in model.named_parameters()
        }
    return found


def set_moments(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    saved: dict[str, dict[str, Tensor] | int],
) -> None:
    """The inverse of `moments_of`."""
    for parameter, p in model.named_parameters():
        state = {"step": torch.tensor(float(saved["count"]), device=_step_device(p))}
        for name, key in _MOMENTS.items():
            if name in saved:
                state[key] = saved[name][parameter].to(p.device, p.dtype)
        optimizer.state[p] = state


def _step_device(p: Tensor) -> torch.device:
    """Where AdamW's fused form keeps its step count."""
    return p.device
