"""What a run of N parameters on D tokens should look like, and what it costs on a device.

N counts parameters without embeddings and head, D training tokens, C = 6 N D floating-point
operations. A share of peak (mfu) refers to exact FLOPs, which count the head and attention too.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from jaxlm.config.duration import horizon, parse
from jaxlm.config.schema import Config, ResolvedModel, resolve_model
from jaxlm.host.checked import Json
from jaxlm.host.errors import UserError, nearest
from jaxlm.host.names import command_line
from jaxlm.spec.flops import (
    exact_flops_per_token,
    flops_per_token,
    flops_words,
    parameter_counts,
    peak_flops,
)

MFU = 0.4  # of peak: what good trainers of dense models reach
TOKENS_PER_PARAMETER = 20.0  # Hoffmann et al. 2022, table 3
# Bytes of the parts whose peaks flops.py knows, from the manufacturers' data sheets.
_MEMORY_BYTES = {"H200": 141e9, "H100": 80e9, "A100": 80e9, "L40S": 48e9, "T4": 16e9}
DEVICES = tuple(_MEMORY_BYTES)
_LEAST, _MOST = 1e4, 1e12  # limits of parameters; the lower one holds for tokens, too
_LEAST_STEPS = 200
# Widths are multiples of the first number below the second.
_GRAINS = ((16, 128), (32, 256), (64, 1024), (128, 2048), (256, 8192), (1024, math.inf))


def device_flops(device: str, precision: str = "bfloat16", mfu: float = MFU) -> float:
    """FLOP/s that one named device reaches. Raises UserError for an unknown device."""
    peak = peak_flops(device, precision)
    if peak is None:
        raise UserError(
            f"The peak of the device {device!r} is unknown{nearest(device, DEVICES)}.\n"
            f"Choose from: {', '.join(DEVICES)}."
        )
    return peak * mfu


def hours(flops: float, device: str, mfu: float = MFU, precision: str = "bfloat16") -> float:
    """Hours that `flops` take on one named device at a share of its dense peak."""
    return flops / device_flops(device, precision, mfu) / 3600.0


def measured_flops(precision: str = "bfloat16") -> float:
    """FLOP/s that training reaches on this machine's first device.

    0.4 of the peak if that is known; else half the speed of a 2048 x 2048 matrix product in the
    compute type, the best in a quarter of a second. (Models of 25 to 600 thousand parameters
    reached 0.35 to 0.53 of that speed on two EPYC cores, in exact FLOPs.)
    """
    import jax
    import jax.numpy as jnp

    peak = peak_flops(jax.devices()[0].device_kind, precision)
    if peak is not None:
        return MFU * peak
    size, best = 2048, math.inf
    with jax.enable_x64(precision == "float64"):
        matrix = jnp.full((size, size), 0.5, precision)
        product = jax.jit(jnp.matmul)
        product(matrix, matrix).block_until_ready()
        stop = time.monotonic() + 0.25
        while time.monotonic() < stop:
            started = time.perf_counter()
            product(matrix, matrix).block_until_ready()
            best = min(best, time.perf_counter() - started)
    return 0.5 * 2.0 * size**3 / best


# -- the cost of a configuration -------------------------------------------------------------------


def estimate_lines(config: Config, model: ResolvedModel) -> list[str]:
    """FLOPs of training a resolved model, and the time on each known device at 0.4 of its peak.

    If the length of the run depends on data that are not read here (epochs), or on the clock, the
    estimate is for 20 tokens per parameter, including embeddings and head.
    """
    counts = parameter_counts(model)
    tokens = _tokens(config)
    if tokens is None:
        tokens = TOKENS_PER_PARAMETER * counts.total
        limit = "the clock" if parse(config.train.duration, "")[1] == "hours" else "the data"
        length = f"{_short(tokens)} tokens (20 per parameter; "
        length += f"train.duration={config.train.duration} depends on {limit})"
    else:
        length = f"{_short(tokens)} tokens ({tokens / counts.non_embedding:.3g} per parameter "
        length += "without embeddings)"
    exact = exact_flops_per_token(model) * tokens
    lines = [
        f"training on {length}",
        f"  FLOPs {flops_words(flops_per_token(model) * tokens, exact)}",
        f"  time on one device at {MFU:.0%} of its {config.precision} peak",
    ]
    for device in DEVICES:
        needed = hours(exact, device, precision=config.precision)
        lines.append(f"    {device:<5} {_hours(needed):>10}")
    return lines


def _tokens(config: Config) -> float | None:
    try:
        ahead = horizon(config, 0)
    except UserError:
        return None
    return None if ahead.steps is None else float(ahead.steps * ahead.tokens_per_step)


# -- the advice ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """A run of about `non_embedding` parameters on `tokens` tokens; `lines()` describes it."""

    model: ResolvedModel
    tokens: float
    batch_size: int
    grad_accumulation: int
    lr: float
    device: str | None
    hours: float | None
    mfu: float
    warnings: tuple[str, ...]
    command: str

    @property
    def non_embedding(self) -> int:
        return parameter_counts(self.model).non_embedding

    @property
    def flops(self) -> float:
        """6 N D of the model as planned."""
        return flops_per_token(self.model) * self.tokens

    def lines(self) -> list[str]:
        """The plan in words: one aspect per line, warnings, and the command that trains it."""
        model, counts = self.model, parameter_counts(self.model)
        step = self.batch_size * model.context_length
        parts = self.grad_accumulation
        rows = [
            ("size", f"{_short(counts.non_embedding)} parameters, {_short(counts.total)} with "
             "embeddings and head"),
            ("shape", f"{model.n_layers} layers x {model.d_model} wide (width / depth "
             f"{model.d_model / model.n_layers:.0f}), feed-forward {model.d_ff}"),
            ("heads", f"{model.n_heads} of width {model.head_dim}; keep their number when "
             "comparing sizes (8 to 16; head_dim 32 to 128)"),
            ("tokens", f"{_short(self.tokens)}, {self.tokens / counts.non_embedding:.3g} per "
             "parameter (20: compute-optimal for natural text; more: cheaper to use)"),
            ("batch", f"{self.batch_size:,} sequences of {model.context_length} = {_short(step)} "
             f"tokens, in {parts} part{'s' * (parts > 1)}; {_short(self.tokens / step)} steps"),
            ("learning rate", f"about {self.lr:.2g}; better tuned on a narrow model and carried "
             "over by muP: the rate of hidden matrices falls as 1 / width (Yang et al. 2022)"),
            ("compute", f"FLOPs {flops_words(self.flops)}"),
        ]  # fmt: skip
        if self.hours is not None:
            where = (
                f"one {self.device} at {self.mfu:.0%} of peak" if self.device else "this machine"
            )
            rows.append(("time", f"{_hours(self.hours)} on {where}"))
        lines = [f"{name:<14} {text}" for name, text in rows]
        return [*lines, *(f"warning: {text}" for text in self.warnings), "", self.command]


def plan(
    parameters: float,
    tokens: float,
    *,
    device: str | None = None,
    mfu: float = MFU,
    flops_per_second: float | None = None,
    memory_bytes: float | None = None,
    context_length: int = 2048,
    vocab_size: int = 32_000,
    precision: str = "bfloat16",
    data: Sequence[str] = ("data=text", "data.path=FILE", "tokenizer=bpe_32k"),
) -> Plan:
    """The advice for a run of `parameters` (without embeddings) on `tokens` tokens.

    `device` names one of DEVICES, and training reaches the share `mfu` of its peak;
    `flops_per_second` is the speed of a machine without a name, and `memory_bytes` its memory.
    `data` are the command's words for the corpus, whose vocabulary size is `vocab_size`. Raises
    UserError for numbers out of range (parameters 1e4 to 1e12, tokens from 1e4) and for unknown
    devices.

    The batch grows with compute, and the learning rate falls: 0.292 C^0.3271 tokens and
    0.3118 C^-0.125 (DeepSeek-AI 2024, arXiv 2401.02954, section 3.1, fitted from 1e17 to 2e19
    FLOPs). Memory: 16 bytes per parameter, and activations as in `_micro_batch`.
    """
    _check(parameters, tokens)
    model = shape(parameters, context_length, vocab_size)
    compute = flops_per_token(model) * tokens
    batch = _batch(compute, tokens, context_length)
    if memory_bytes is None and device is not None:
        device_flops(device)  # refuses an unknown device
        memory_bytes = next(size for name, size in _MEMORY_BYTES.items() if name in device)
    micro = batch if memory_bytes is None else _micro_batch(model, memory_bytes, precision)
    parts = max(1, batch // max(1, micro))
    lr = 0.3118 * compute**-0.125
    exact = exact_flops_per_token(model) * tokens
    if device is not None:
        flops_per_second = device_flops(device, precision, mfu)
    needed = None if flops_per_second is None else exact / flops_per_second / 3600.0
    warnings = _warnings(model, tokens, batch, micro, memory_bytes, device)
    command = _command(model, tokens, batch, parts, lr, precision, data)
    return Plan(model, tokens, batch, parts, lr, device, needed, mfu, warnings, command)


def shape(parameters: float, context_length: int, vocab_size: int) -> ResolvedModel:
    """A resolved model of about `parameters` without embeddings: 12 layers x width^2.

    Width over depth is 64 up to a billion parameters and grows with the cube root from there to
    128, as in GPT-3's family (Brown et al. 2020, table 2.1); loss depends on it weakly between
    about 10 and 200 (Kaplan et al. 2020, section 3.1). Heads: 8 from a width of 256, 16 from 1024,
    so that head_dim lies between 32 and 128; wider models have as many heads of 128 as fit, and
    narrower ones heads of 32 or 16.
    """
    aspect = 64.0 * min(2.0, max(1.0, (parameters / 1e9) ** (1 / 3)))
    ideal = (parameters * aspect / 12.0) ** (1 / 3)
    grain = next(g for g, below in _GRAINS if ideal < below)
    best, best_cost = (grain, 1), math.inf
    centre = round(ideal / grain)
    for width in (grain * n for n in range(max(1, centre - 3), centre + 4)):
        for layers in {max(1, math.floor(f := parameters / (12 * width**2))), math.ceil(f)}:
            size = abs(math.log(12 * layers * width**2 / parameters))
            cost = size + 0.3 * abs(math.log(width / layers / aspect))
            if cost < best_cost:
                best, best_cost = (width, layers), cost
    width, layers = best
    model = ResolvedModel(
        n_layers=layers,
        d_model=width,
        n_heads=_heads(width),
        d_ff=4 * width,
        ffn="gelu_tanh",
        qk_norm=True,  # keeps large learning rates stable (Wortsman et al. 2023)
        context_length=context_length,
    )
    return resolve_model(model, vocab_size)


def _heads(width: int) -> int:
    if width >= 2048:
        return width // 128
    if width >= 1024:
        return 16
    if width >= 256 and width % 64 == 0:
        return 8
    return max(1, width // (32 if width >= 64 and width % 32 == 0 else 16))


def _batch(compute: float, tokens: float, context_length: int) -> int:
    """Sequences in a step, a power of two that leaves at least 200 steps."""
    wanted = 0.292 * compute**0.3271 / context_length
    most = tokens / context_length / _LEAST_STEPS
    return 2 ** max(0, math.floor(math.log2(max(1.0, min(wanted * math.sqrt(2), most)))))


def _micro_batch(model: ResolvedModel, memory_bytes: float, precision: str) -> int:
    """Sequences that fit at once, a power of two; 0 if not even one does.

    A tenth of the memory stays free. A sequence keeps 34 L D values of 16 bits per layer
    (Korthikanti et al. 2022, eq. 1, without the scores, which fused attention never stores) and two
    float32 copies of its logits.
    """
    wide = {"bfloat16": 1.0, "float32": 2.0, "float64": 4.0}[precision]
    length = model.context_length
    row = 34.0 * wide * length * model.d_model * model.n_layers
    row += 8.0 * max(1.0, wide / 2) * length * model.vocab_size
    bytes_each = 32.0 if precision == "float64" else 16.0
    free = 0.9 * memory_bytes - bytes_each * parameter_counts(model).total
    return 2 ** math.floor(math.log2(free / row)) if free >= row else 0


def _warnings(
    model: ResolvedModel,
    tokens: float,
    batch: int,
    micro: int,
    memory_bytes: float | None,
    device: str | None,
) -> tuple[str, ...]:
    counts, found = parameter_counts(model), []
    ratio = tokens / counts.non_embedding
    if counts.non_embedding < 50e6:
        found.append("below about 50M parameters a law of natural text may not hold")
    if ratio < 0.95 * TOKENS_PER_PARAMETER:
        found.append(
            f"{ratio:.3g} tokens per parameter; the usual advice is 20 or more, but the fitted "
            "law gives fewer here"
        )
    if micro == 0 and memory_bytes is not None:
        needed = math.ceil(16.0 * counts.total / (0.7 * memory_bytes))
        name = device or "this device"
        found.append(
            f"one {name} cannot hold the training state and a sequence: set "
            f"parallel.fsdp={needed} or more and parallel.remat=true"
        )
    if tokens / (batch * model.context_length) < _LEAST_STEPS:
        found.append("fewer than 200 steps: shorten model.context_length")
    return tuple(found)


def _command(
    model: ResolvedModel,
    tokens: float,
    batch: int,
    parts: int,
    lr: float,
    precision: str,
    data: Sequence[str],
) -> str:
    keys: Json = {
        "model.n_layers": model.n_layers,
        "model.d_model": model.d_model,
        "model.n_heads": model.n_heads,
        "model.d_ff": model.d_ff,
        "model.ffn": model.ffn,
        "model.qk_norm": str(model.qk_norm).lower(),
        "model.init_std": model.init_std,
        "model.context_length": model.context_length,
        "train.batch_size": batch,
        "train.grad_accumulation": parts,
        "train.duration": f"{math.ceil(tokens / 1e3)}ktokens" if tokens < 1e9 else
        f"{math.ceil(tokens / 1e6)}Mtokens",
        "optimizer.lr": f"{lr:.2g}",
        "precision": precision,
        "run.name": f"plan-{_short(parameter_counts(model).non_embedding)}",
    }  # fmt: skip
    words = ["python", "run.py", *data, *(f"{name}={value}" for name, value in keys.items())]
    return command_line(words)


def _check(parameters: float, tokens: float) -> None:
    if not (math.isfinite(parameters) and _LEAST <= parameters <= _MOST):
        raise UserError(
            f"A plan for {parameters:g} parameters cannot be made.\n"
            f"Give between {_LEAST:g} and {_MOST:g}, without embeddings."
        )
    if not (math.isfinite(tokens) and tokens >= _LEAST):
        raise UserError(f"A plan for {tokens:g} tokens cannot be made.\nGive {_LEAST:g} or more.")


def _short(value: float) -> str:
    """1234567 -> '1.23M'."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _hours(value: float) -> str:
    if value < 1 / 60:
        return f"{3600 * value:.2g} s"
    if value < 1.0:
        return f"{60 * value:.2g} min"
    if value < 48.0:
        return f"{value:.1f} h"
    return f"{value / 24:.1f} days" if value < 24 * 730 else f"{value / 24 / 365.25:,.3g} years"
