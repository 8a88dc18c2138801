"""One optimizer step and one evaluation step.

Legend: A accumulation parts, B rows, L length, M = L + 1, V vocabulary.
"""

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from jaxlm.config.optimizers import OptimizerConfig
from jaxlm.config.schema import ResolvedModel
from jaxlm.spec.contract import EvalBatch, StepMetrics
from jaxlm.spec.parameters import group_of, parameter_groups, parameter_shapes
from torchref.dropout import Dropout
from torchref.model import Transformer
from torchref.optimizer import clip, set_lr
from torchref.threefry import fold_in, random_key


class TrainState(NamedTuple):
    """The module and its optimizer, which a step changes in place, and the number of steps."""

    model: Transformer
    optimizer: torch.optim.Optimizer
    step: int


def cross_entropy(logits_BxLxV: Tensor, targets_BxL: Tensor) -> Tensor:
    """-log softmax(logits)[target] in nats, (B, L), in the logits' type (at least float32)."""
    losses = F.cross_entropy(logits_BxLxV.flatten(0, 1), targets_BxL.flatten(), reduction="none")
    return losses.view(targets_BxL.shape)


def loss_of(
    model: Transformer, tokens_BxM: Tensor, dropout: Dropout | None, total: int
) -> tuple[Tensor, Tensor]:
    """(sum of the losses / total, mean square of the residual stream after each block)."""
    residuals = model.residuals(tokens_BxM[:, :-1], dropout=dropout)
    losses_BxL = cross_entropy(model.logits_of(residuals[-1]), tokens_BxM[:, 1:])
    squares = torch.stack([x.detach().float().square().mean() for x in residuals[1:]])
    return losses_BxL.sum() / total, squares


def split(rows: Tensor, parts: int) -> tuple[Tensor, ...]:
    """The rows of a batch, split into accumulation parts, which need not be equal."""
    return rows.chunk(parts)


def has_dropout(model: ResolvedModel) -> bool:
    return bool(model.attention_dropout or model.residual_dropout)


def norms(tensors: list[Tensor], group_T: Tensor, groups: int) -> Tensor:
    """The L2 norm of each group of tensors; `group_T` holds each tensor's group number."""
    squares_T = torch.stack(torch._foreach_norm(tensors)).square()
    return squares_T.new_zeros(groups).index_add_(0, group_T, squares_T).sqrt()


def make_train_step(
    model: ResolvedModel,
    config: OptimizerConfig,
    seed: int,
    parts: int = 1,
    loss_of: Callable = loss_of,
) -> Callable[[TrainState, Tensor, float], tuple[TrainState, StepMetrics]]:
    """The step (state, tokens (B, M), lr) -> (state, metrics): forward, backward, clip, update.

    The loss and gradient are means over the tokens of the whole batch, which is processed in
    `parts`, in sequence. `loss_of` is the function of that name or its compiled form.
    """
    names = parameter_groups(model)
    numbers = [names.index(group_of(name)) for name in parameter_shapes(model)]

    def train_step(state: TrainState, tokens_BxM: Tensor, lr: float):
        tensors: list[Tensor] = list(state.model.parameters())
        device = tokens_BxM.device
        group_T, key = torch.tensor(numbers, device=device), random_key(seed, device)
        batch, length = tokens_BxM.shape[0], tokens_BxM.shape[1] - 1
        step_key, rows_B = (
            fold_in(key, state.step),
            torch.arange(batch, dtype=torch.int32, device=device),
        )
        loss: Tensor | float = 0.0
        squares: Tensor | float = 0.0
        for tensor in tensors:
            tensor.grad = None
        for tokens, rows in zip(split(tokens_BxM, parts), split(rows_B, parts), strict=True):
            dropout = Dropout(step_key, rows) if has_dropout(model) else None
            loss_part, squares_part = loss_of(state.model, tokens, dropout, batch * length)
            loss_part.backward()
            loss, squares = loss + loss_part.detach(), squares + squares_part
        with torch.no_grad():
            gradients = [cast(Tensor, p.grad) for p in tensors]
            gradient_norms = norms(gradients, group_T, len(names))
            norm = gradient_norms.square().sum().sqrt()
            clip(gradients, norm, config.clip_norm)
            before = list(torch._foreach_add(tensors, 0.0))  # copies
            set_lr(state.optimizer, lr)
            state.optimizer.step()
            changes = list(torch._foreach_sub(tensors, before))
            metrics = StepMetrics(
                loss=loss,
                gradient_norm=norm,
                gradient_norms=gradient_norms,
                weight_norms=norms(tensors, group_T, len(names)),
                update_norms=norms(changes, group_T, len(names)),
                activation_rms=torch.as_tensor(squares / parts).sqrt(),
            )
        return state._replace(step=state.step + 1), metrics

    return train_step


@torch.no_grad()
def eval_step(model: Transformer, batch: EvalBatch) -> dict[str, Tensor]:
    """Sums over each row, (B,): tokens, loss, correct, top5, confidence, bytes.

    `correct` counts targets of rank 1 and `top5` those up to rank 5; ties go to the lower id. A
    target whose loss is not finite counts in neither: as no comparison with NaN is true, it would
    rank first. `confidence` sums the probability of the most likely token.
    """
    logits_BxLxV = model(batch.inputs)
    loss_BxL = cross_entropy(logits_BxLxV, batch.targets)
    target_BxLx1 = batch.targets[..., None]
    chosen = logits_BxLxV.gather(-1, target_BxLx1)
    ids_V = torch.arange(logits_BxLxV.shape[-1], device=logits_BxLxV.device)
    ahead = (logits_BxLxV > chosen) | ((logits_BxLxV == chosen) & (ids_V < target_BxLx1))
    rank_BxL = ahead.sum(-1)
    values = {
        "tokens": torch.ones_like(loss_BxL),
        "loss": loss_BxL,
        "correct": (rank_BxL < 1) & loss_BxL.isfinite(),
        "top5": (rank_BxL < 5) & loss_BxL.isfinite(),
        "confidence": (logits_BxLxV.amax(-1) - logits_BxLxV.logsumexp(-1)).exp(),
        "bytes": batch.bytes,
    }
    return {name: (v * batch.weights).sum(-1) for name, v in values.items()}
