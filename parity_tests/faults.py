"""Deliberate faults in the PyTorch twin, one at a time, which the parity tests must detect.

    python -m parity_tests.faults        measures each and writes docs/parity_faults.md

Each fault consists of a patch of torchref, the parity test that must detect it, and the
configuration that makes it visible.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F

from jaxlm.config.optimizers import AdamW
from jaxlm.config.schedules import Cosine
from jaxlm.verify import parity
from torchref import attention, checkpoint, engine, layers, model, optimizer, step


class Fault(NamedTuple):
    """`test` names the parity test that must detect it; `switches` belong to the model."""

    what: str
    test: str
    patch: Callable[[], contextlib.AbstractContextManager]
    switches: dict[str, Any] = {}
    sections: dict[str, Any] = {}


def replaced(owner: Any, name: str, value: Any) -> Callable[[], contextlib.AbstractContextManager]:
    return lambda: mock.patch.object(owner, name, value)


# -- the network -----------------------------------------------------------------------------------


def wrong_theta(m, _tables=layers.rotation_tables):
    return _tables(dataclasses.replace(m, rope_theta=m.rope_theta * 1.01))


def interleaved_rotation(x, cos, sin):
    wide = layers.at_least_float32(x)
    x1, x2 = wide[..., 0::2], wide[..., 1::2]
    cos, sin = cos[:, None], sin[:, None]
    pairs = torch.stack([x1 * cos - x2 * sin, x2 * cos + x1 * sin], dim=-1)
    return pairs.flatten(-2).to(x.dtype)


def epsilon_outside(self, x):
    y = layers.at_least_float32(x)
    return (y / (y.square().mean(-1, keepdim=True).sqrt() + self.eps) * self.weight).to(x.dtype)


@contextlib.contextmanager
def other_epsilon() -> Iterator[None]:
    """Use 1e-6 instead of the configured 1e-5."""
    before = layers.RMSNorm.__init__

    def initialise(self, width, eps):
        before(self, width, eps / 10)

    with mock.patch.object(layers.RMSNorm, "__init__", initialise):
        yield


@contextlib.contextmanager
def norm_after() -> Iterator[None]:
    """Compute norm(x + f(x)) instead of the configured x + f(norm(x))."""
    before = model.Block.__init__

    def initialise(self, m, layer):
        before(self, dataclasses.replace(m, norm_placement="post"), layer)

    with mock.patch.object(model.Block, "__init__", initialise):
        yield


def unscaled_scores(q, k, divisor):
    return layers.at_least_float32(q) @ layers.at_least_float32(k).mT


def unscaled_fused(q, k, v, is_causal, scale, _fused=F.scaled_dot_product_attention):
    return _fused(q, k, v, is_causal=is_causal, scale=1.0)


def seeing_one_ahead(q, k, v, is_causal, scale, _fused=F.scaled_dot_product_attention):
    mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(1)
    return _fused(q, k, v, attn_mask=mask, scale=scale)


def heads_interleaved(x, heads):
    return x.repeat(1, 1, heads // x.shape[2], 1).transpose(1, 2)


def swapped(self, x):
    return self.down(self.activation(self.up(x)) * self.gate(x))


def scaled_embedding(self, indices):
    return F.embedding(indices, self.weight) * math.sqrt(self.weight.shape[1])


@contextlib.contextmanager
def transposed_output() -> Iterator[None]:
    """Use attention's output matrix, which is square, as (in, out)."""
    before = model.Attention.__init__

    class Transposed(layers.Linear):
        def forward(self, x):
            return F.linear(x, self.weight.T.to(x.dtype))

    def initialise(self, m, layer):
        before(self, m, layer)
        self.output.__class__ = Transposed

    with mock.patch.object(model.Attention, "__init__", initialise):
        yield


# -- the update ------------------------------------------------------------------------------------


def optimizer_made_by(make: Callable) -> Callable[[], contextlib.AbstractContextManager]:
    @contextlib.contextmanager
    def patch() -> Iterator[None]:
        with (
            mock.patch.object(engine, "make_optimizer", make),
            mock.patch.object(checkpoint, "make_optimizer", make),
        ):
            yield

    return patch


def decay_everything(module, config):
    every = {"params": list(module.parameters()), "weight_decay": config.weight_decay}
    groups = [every | {"lr_factor": 1.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=tuple(config.betas), eps=config.eps)


class Uncorrected(torch.optim.AdamW):
    """AdamW without bias correction."""

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            first, second = group["betas"]
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["step"] = torch.tensor(0.0)
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
                state["exp_avg"].lerp_(p.grad, 1 - first)
                state["exp_avg_sq"].lerp_(p.grad.square(), 1 - second)
                direction = state["exp_avg"] / (state["exp_avg_sq"].sqrt() + group["eps"])
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * direction)


def uncorrected(module, config):
    with mock.patch.object(
        torch.optim, "AdamW", lambda groups, fused, **k: Uncorrected(groups, **k)
    ):
        return optimizer.make_optimizer(module, config)


def decay_times_own_rate(module, config):
    """muP with the decay of every matrix scaled by its learning rate factor."""
    made = optimizer.make_optimizer(module, config)
    for group in made.param_groups:
        group["weight_decay"] *= group["lr_factor"]
    return made


@contextlib.contextmanager
def mean_of_means() -> Iterator[None]:
    """The mean of the parts' means. Equal parts would hide the fault, so they are made unequal,
    which by itself changes nothing (`test_unequal_parts_of_an_accumulation_change_nothing`)."""

    def loss_of(module, tokens, dropout, total):
        residuals = module.residuals(tokens[:, :-1], dropout=dropout)
        losses = step.cross_entropy(module.logits_of(residuals[-1]), tokens[:, 1:])
        return losses.mean() / 2, torch.zeros(len(residuals) - 1)

    with unequal_parts(), mock.patch.object(engine, "loss_of", loss_of):
        yield


def unequal_parts() -> contextlib.AbstractContextManager:
    """Parts of three rows and one row, instead of the configured two of two rows."""
    return mock.patch.object(step, "split", lambda rows, parts: rows.split([3, 1]))


@contextlib.contextmanager
def one_step_late() -> Iterator[None]:
    """Every update uses the learning rate of the previous update."""
    last: list[float] = []

    def set_lr(made, lr):
        optimizer.set_lr(made, last[-1] if last else lr)
        last.append(lr)

    with mock.patch.object(step, "set_lr", set_lr):
        yield


FORWARD = "test_weights_logits_loss_and_gradients"
STEPS = "test_parameters_and_moments_after_1_and_20_steps"
UNEQUAL = "test_unequal_parts_of_an_accumulation_change_nothing"
GENERATION = "test_256_tokens_are_identical_in_float32"
FUSED = "scaled_dot_product_attention"
FAULTS = {
    "rope_theta": Fault(
        "rotation base 1 % too large", FORWARD, replaced(model, "rotation_tables", wrong_theta)
    ),
    "rope_layout": Fault(
        "interleaved instead of half-split rotation",
        FORWARD,
        replaced(model, "rotate", interleaved_rotation),
    ),
    "norm_epsilon": Fault("norm epsilon 1e-6 instead of 1e-5", FORWARD, other_epsilon),
    "norm_epsilon_place": Fault(
        "norm epsilon outside the root",
        FORWARD,
        replaced(layers.RMSNorm, "forward", epsilon_outside),
    ),
    "norm_placement": Fault("norms after the residual sum", FORWARD, norm_after),
    "gelu": Fault(
        "tanh form of GELU instead of the exact form",
        FORWARD,
        lambda: mock.patch.dict(
            layers.ACTIVATIONS, {"gelu": lambda x: F.gelu(x, approximate="tanh")}
        ),
        {"ffn": "gelu"},
    ),
    "scale": Fault("no 1/sqrt(head_dim)", FORWARD, replaced(F, FUSED, unscaled_fused)),
    "scale_cached": Fault(
        "no 1/sqrt(head_dim) with the cache",
        GENERATION,
        replaced(attention, "attention_scores", unscaled_scores),
    ),
    "mask": Fault("each query sees one key ahead", FORWARD, replaced(F, FUSED, seeing_one_ahead)),
    "grouping": Fault(
        "key/value heads interleaved over the query heads",
        FORWARD,
        replaced(attention, "share_heads", heads_interleaved),
        {"n_kv_heads": 2},
    ),
    "gate": Fault("gate and up swapped", FORWARD, replaced(model.FeedForward, "forward", swapped)),
    "output": Fault("output matrix transposed", FORWARD, transposed_output),
    "embedding": Fault(
        "embedding scaled by sqrt(d_model)",
        FORWARD,
        replaced(layers.Embedding, "forward", scaled_embedding),
    ),
    "decay": Fault(
        "norms and biases decay as well",
        STEPS,
        optimizer_made_by(decay_everything),
        {"bias": "all", "norm": "layernorm"},
    ),
    "bias_correction": Fault(
        "AdamW without bias correction", STEPS, optimizer_made_by(uncorrected)
    ),
    "clip": Fault(
        "clipping after the update",
        STEPS,
        replaced(step, "clip", lambda gradients, norm, limit: None),
        {},
        {"optimizer": AdamW(lr=3e-3, clip_norm=1e-2)},
    ),
    "mup_rate": Fault(
        "muP without its learning rates",
        STEPS,
        replaced(optimizer, "lr_factor", lambda m, name: 1.0),
        {"parametrization": "mup"},
    ),
    "mup_decay": Fault(
        "muP's decay scaled by each matrix's learning rate factor",
        STEPS,
        optimizer_made_by(decay_times_own_rate),
        {"parametrization": "mup"},
    ),
    "mup_scores": Fault(
        "muP with 1/sqrt(head_dim)",
        FORWARD,
        replaced(model, "score_divisor", lambda m: math.sqrt(m.head_dim)),
        {"parametrization": "mup"},
    ),
    "mup_readout": Fault(
        "muP without the readout's factor",
        FORWARD,
        replaced(model, "readout_factor", lambda m: 1.0),
        {"parametrization": "mup"},
    ),
    "mean_of_means": Fault(
        "mean of the parts' means in accumulation",
        UNEQUAL,
        mean_of_means,
        {},
        {"train": {"grad_accumulation": 2}},
    ),
    "schedule": Fault("learning rate one step late", STEPS, one_step_late),
}


def measure(name: str, pair: Callable[..., parity.Pair], faulty: bool = True) -> parity.Row:
    """The row of the fault's test with the largest ratio of error to tolerance, with or without it.

    `pair` comes from conftest.
    """
    from parity_tests.conftest import tokens
    from parity_tests.test_generation import SHARP
    from parity_tests.test_training import batches

    fault = FAULTS[name]
    precision = "float32" if fault.test == GENERATION else "float64"
    switches = fault.switches | (SHARP if fault.test == GENERATION else {})
    sections = {"schedule": Cosine(warmup="5")} | fault.sections
    sound = unequal_parts if fault.test == UNEQUAL else contextlib.nullcontext
    with (fault.patch if faulty else sound)():
        made = pair(precision, switches, **sections)
        if fault.test == FORWARD:
            rows = parity.forward(made, tokens()) + parity.gradients(made, tokens())
        elif fault.test in (STEPS, UNEQUAL):
            rows = parity.optimizer(made, batches(20, made.config))
        else:
            rows = parity.generation(made, np.array([3, 1, 4], np.int32), 256)
    return max(rows, key=lambda row: row.error / (row.tolerance or 1e-12))


def main() -> None:
    """Measure every fault and write the table."""
    import tempfile

    from parity_tests import conftest

    with tempfile.TemporaryDirectory() as cache:
        pair = conftest.pair.__wrapped__(Path(cache))
        lines = [
            "# Faults that the parity tests catch",
            "",
            "Written by `python -m parity_tests.faults`. Each fault is put into the PyTorch twin.",
            "The error is that of the worst quantity in the named test, in the test's precision,",
            "relative to the size of the quantity (for tokens: the share that differs). The last",
            "column shows the same test without the fault.",
            "",
            "| fault | caught by | quantity | error | tolerance | without the fault |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for name, fault in FAULTS.items():
            row, sound = measure(name, pair), measure(name, pair, faulty=False)
            assert sound.holds and not row.holds, name
            quantity = f"{row.quantity} ({row.where})" if row.where else row.quantity
            lines.append(
                f"| {fault.what} | `{fault.test}` | {quantity} | {row.error:.1e} "
                f"| {row.tolerance:.0e} | {sound.error:.1e} |"
            )
            print(lines[-1], flush=True)
    path = Path(__file__).resolve().parent.parent / "docs" / "parity_faults.md"
    path.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
