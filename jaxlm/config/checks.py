"""Checks a whole configuration: allowed values, and keys that must fit together."""

import dataclasses
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jaxlm.config import duration
from jaxlm.config.job_options import OPENING
from jaxlm.config.keys import keys_of
from jaxlm.config.model_kinds import POSITIONS
from jaxlm.config.run_names import check_path
from jaxlm.config.schema import Config, ModelConfig, resolve_model
from jaxlm.host.errors import UserError, nearest
from jaxlm.host.names import expanded, shortened


def check(config: Config) -> None:
    """Check everything that needs neither data nor devices. Raises UserError."""
    _check_choices(config)
    _check_numbers(config)
    _check_ranges(config)
    _check_places(config)
    _check_checkpoint(config)
    _check_model(config)
    _check_data(config)
    _check_durations(config)


_NOT_AXES = ("experiment", "scale", "debug", "job", "run", "hydra", "study", "data_seed")


def several_values(key: str, value: str, listed: bool = False) -> UserError:
    """The error for a sweep or a list where one value is expected; suggests what may be meant."""
    shown, inside = shortened(value), "[VALUE,VALUE]"
    if listed:
        inside = shortened(value.strip())
        said = (
            f"{key}={shown} is a list, but one value is expected: -m {key}={inside[1:-1]} starts "
        )
        said += "one run per value"
    else:
        said = f"{key}={shown} gives several values to one run: put -m first for one run per value"
        inside = f"[{shown}]" if re.fullmatch(r"[^()]*", shown) else inside
    if key == "seed":
        return UserError(
            f"{said}. For job=study, use study.seeds={inside}; study.axes takes other keys."
        )
    if re.split("[./]", key)[0] in _NOT_AXES:
        return UserError(f"{said} (it cannot be a key of study.axes).")
    return UserError(f"{said}; job=study study.axes.{key}={inside} compares them.")


def _check_choices(node: Any, prefix: str = "") -> None:
    for item in dataclasses.fields(node):
        value, name = getattr(node, item.name), prefix + item.name
        choices = item.metadata["choices"]
        if dataclasses.is_dataclass(value):
            _check_choices(value, f"{name}.")
        elif choices and value not in choices:
            guess = nearest(str(value), choices)
            raise UserError(
                f"{name}={shortened(str(value))} is not one of {', '.join(map(str, choices))}"
                f"{guess}.\n"
                f"{name}: {item.metadata['help']}"
            )


_POSITIVE = (
    "model.n_layers model.d_model model.n_heads model.n_kv_heads model.head_dim model.d_ff "
    "model.context_length model.vocab_size model.norm_eps model.rope_theta model.init_std "
    "model.base_width model.base_head_dim "
    "data.stride data.vocab_size data.validation_documents data.documents tokenizer.vocab_size "
    "study.workers optimizer.eps optimizer.clip_norm train.batch_size train.early_stopping "
    "train.grad_accumulation train.keep_checkpoints parallel.data parallel.fsdp parallel.tensor "
    "run.stop_at job.samples job.max_tokens job.top_k job.top_p job.repetition_penalty "
    "job.max_batches job.steps data.choices"
).split()
_NOT_NEGATIVE = (
    "seed data_seed data.seed study.seeds job.seeds optimizer.lr optimizer.weight_decay "
    "schedule.final_lr run.samples study.specimens job.temperature job.min_p job.seed"
).split()
_SEEDS = "seed data_seed data.seed study.seeds job.seeds".split()
_SIZES = [name for name in _POSITIVE if name.startswith(("model.n_", "model.d_", "model.context"))]
_SIZES += "model.head_dim model.vocab_size train.batch_size job.samples job.max_tokens".split()
_FRACTIONS = "model.attention_dropout model.residual_dropout data.validation_fraction".split()


def is_weights_file(which: str | int | os.PathLike[str]) -> bool:
    """Whether job.checkpoint names a file rather than a step."""
    if isinstance(which, os.PathLike):
        return True
    step = isinstance(which, str) and re.fullmatch("[0-9]{1,18}", which)
    return isinstance(which, str) and which not in ("last", "best") and not step


def _check_checkpoint(config: Config) -> None:
    wanted = getattr(config.job, "checkpoint", "last")
    if is_weights_file(wanted) and not _is_file(wanted):
        raise UserError(
            f"job.checkpoint={shortened(str(wanted))} is not last, best, a step or a weights "
            "file.\n"
            "The run's folder checkpoints/ lists its steps."
        )


def _is_file(path: str | os.PathLike[str]) -> bool:
    try:
        return expanded(os.fspath(path)).is_file()
    except OSError:  # for example, the name is too long
        return False


def _get(config: Config, name: str) -> Any:
    node: Any = config
    for part in name.split("."):
        node = getattr(node, part, None)
    return node


def _check_numbers(config: Config) -> None:
    """Every number must be finite, and every integer must fit in 64 bits."""
    for schema, prefix in ((config, ""), (config.job, "job.")):
        for name, item in keys_of(schema, prefix).items():
            items = _get(config, name) if "list[" in str(item.type) else None
            if any(isinstance(one, list | dict) for one in items or []):
                raise UserError(f"{name}={shortened(str(items))} must be a flat list.")
            for value in _numbers(_get(config, name)):
                if isinstance(value, float) and not math.isfinite(value):
                    raise UserError(f"{name}: {value} is not a finite number.")
                if isinstance(value, int) and abs(value) >= 2**63:
                    raise UserError(f"{name}: {shortened(str(value))} does not fit in 64 bits.")


def _numbers(value: Any) -> Iterator[int | float]:
    """Yield the numbers in a value, however nested."""
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, Mapping):
        yield from _numbers(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif dataclasses.is_dataclass(value):
        yield from _numbers(vars(value))


_PATHS = (
    "run.cache data.path data.validation_path tokenizer.path job.checkpoint job.prompt_file "
    "job.tokens job.out job.records job.fit job.runs"
).split()


def _check_places(config: Config) -> None:
    """Check that the file system accepts all paths."""
    for name in _PATHS:
        if (value := _get(config, name)) is not None:
            check_path(value, name)
    for name in ("run.cache", "job.out"):
        if _get(config, name) == "":
            raise UserError(f"{name} is empty.\nGive a path, or omit the key.")


def _check_ranges(config: Config) -> None:
    rules: tuple[tuple[list[str], Callable[[float], bool], str], ...] = (
        (_POSITIVE, lambda x: x > 0, "must be greater than 0"),
        (_NOT_NEGATIVE, lambda x: x >= 0, "must not be negative"),
        (_FRACTIONS, lambda x: 0 <= x < 1, "must lie in [0, 1)"),
        (["job.top_p", "job.min_p"], lambda x: x <= 1, "must not exceed 1"),
        (_SEEDS, lambda x: x < 2**32, "must be below 2^32"),
        (_SIZES, lambda x: x < 2**31, "must be below 2^31"),
    )
    for names, holds, rule in rules:
        for name in names:
            values = _get(config, name)
            for value in values if isinstance(values, list) else [values]:
                if value is not None and not holds(value):
                    raise UserError(f"{name}={values} {rule}.")
    betas = getattr(config.optimizer, "betas", [0.9, 0.95])
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise UserError(
            f"optimizer.betas={betas} must be two numbers in [0, 1), such as [0.9,0.95]."
        )


def _check_model(config: Config) -> None:
    model = config.model
    if model.head_dim is None and model.d_model % model.n_heads:
        fits = [n for n in range(model.n_heads, 0, -1) if model.d_model % n == 0][0]
        raise UserError(
            f"model.n_heads={model.n_heads} does not divide model.d_model={model.d_model}.\n"
            f"Set model.n_heads={fits}, or set model.head_dim."
        )
    if model.parametrization == "mup":
        _check_mup(model)
    full = resolve_model(model)
    if full.n_heads % full.n_kv_heads:
        raise UserError(
            f"model.n_kv_heads={full.n_kv_heads} does not divide model.n_heads={full.n_heads}.\n"
            "Each key/value head serves the same number of query heads."
        )
    if POSITIONS[model.position].pairs and full.head_dim % 2:
        raise UserError(
            f"model.position={model.position} rotates pairs of dimensions, but the head width is "
            "odd: "
            f"{full.head_dim}.\n"
            f"Change model.n_heads={model.n_heads}, model.d_model={model.d_model} or head_dim."
        )
    if model.head_bias and model.tie_embeddings:
        raise UserError(
            "model.head_bias=true needs an untied head, but model.tie_embeddings=true.\n"
            "Set one of them to false."
        )


def _check_mup(model: ModelConfig) -> None:
    if model.base_width is None:
        raise UserError(
            "model.parametrization=mup needs model.base_width, the width at which it equals "
            "standard.\n"
            "Set it to the d_model the learning rate was tuned at, such as model.base_width=128."
        )
    known = model.head_dim or model.base_head_dim
    if known is None and model.base_width % model.n_heads:
        raise UserError(
            f"model.base_width={model.base_width} does not divide into model.n_heads="
            f"{model.n_heads}: muP does not know the base model's head width.\n"
            "Set model.base_head_dim, or model.head_dim if it is the same at every width."
        )


def _check_data(config: Config) -> None:
    if getattr(config.job, "name", None) not in OPENING:
        config.data.check(config.tokenizer.name)
        config.tokenizer.check()
    if config.data.stride is not None and config.data.stride > config.model.context_length:
        raise UserError(
            f"data.stride={config.data.stride} exceeds model.context_length="
            f"{config.model.context_length}: tokens would be skipped.\nLower data.stride."
        )


_LENGTHS = (
    "train.duration train.eval_every train.checkpoint_every train.log_every schedule.warmup "
    "schedule.decay schedule.cycle data.train_tokens tokenizer.training_bytes"
).split()


def _check_durations(config: Config) -> None:
    train, schedule = config.train, config.schedule
    if train.batch_size % train.grad_accumulation:
        raise UserError(
            f"train.grad_accumulation={train.grad_accumulation} does not divide "
            f"train.batch_size={train.batch_size}.\nChange one of them."
        )
    for name in _LENGTHS:
        value = (_get(config, name) or "").strip()
        if "," in value:
            raise several_values(name, value, re.fullmatch(r"\[.*\]", value) is not None)
    tokens = train.batch_size * config.model.context_length
    duration.Horizon.of(train.duration, tokens, steps_per_epoch=1.0)
    for name in ("train.eval_every", "train.checkpoint_every", "train.log_every"):
        duration.parse(_get(config, name), name)
    for name in ("warmup", "decay", "cycle"):
        if hasattr(schedule, name):
            duration.parse(getattr(schedule, name), f"schedule.{name}")
    for name in ("data.train_tokens", "tokenizer.training_bytes"):
        if _get(config, name) is not None:
            duration.parse_count(_get(config, name), name)


def check_devices(config: Config, devices: int) -> int:
    """Return the number of devices along the batch. Raises UserError if the numbers do not fit."""
    parallel, train = config.parallel, config.train
    other = parallel.fsdp * parallel.tensor
    data = parallel.data or max(1, devices // other)
    if data * other > devices or (parallel.data is None and devices % other):
        raise UserError(
            f"parallel.data={data} x fsdp={parallel.fsdp} x tensor={parallel.tensor} does not fit "
            f"{devices} devices.\nLower one of them."
        )
    if parallel.strategy == "pmap" and other > 1:
        raise UserError(
            f"parallel.strategy=pmap shards only the batch, but fsdp={parallel.fsdp} and "
            f"tensor={parallel.tensor}.\nUse parallel.strategy=jit."
        )
    shares = data * parallel.fsdp * train.grad_accumulation
    if train.batch_size % shares:
        raise UserError(
            f"train.batch_size={train.batch_size} is not divisible by {data * parallel.fsdp} "
            f"devices x train.grad_accumulation={train.grad_accumulation}.\n"
            f"Set train.batch_size={-(-train.batch_size // shares) * shares}, or change "
            "parallel.data."
        )
    return data


def check_vocabulary(model: ModelConfig, tokenizer_size: int) -> None:
    """Check that the embedding has a row for every id. Raises UserError."""
    if model.vocab_size is not None and model.vocab_size < tokenizer_size:
        raise UserError(
            f"model.vocab_size={model.vocab_size} is smaller than the tokenizer's "
            f"{tokenizer_size} entries.\nIncrease it, or set it to null."
        )
