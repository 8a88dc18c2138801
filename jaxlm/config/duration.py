"""Durations and intervals: one value with a unit, converted to steps or to seconds."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from jaxlm.config.corpora import Endless
from jaxlm.config.schema import Config
from jaxlm.host.errors import UserError

_MULTIPLIER = {"": 1, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12}
_UNITS = {"step": "steps", "token": "tokens", "epoch": "epochs", "hour": "hours", "%": "percent"}
_PATTERN = re.compile(
    r"\s*([0-9.]+(?:e[+-]?\d+)?)\s*([kKMGBT]?)\s*(steps?|tokens?|epochs?|hours?|%)?\s*"
)


def parse(text: str, key: str) -> tuple[float, str]:
    """'40Mtokens' -> (4e7, 'tokens'); a bare number is steps. `key` is named in the error."""
    match = _PATTERN.fullmatch(str(text))
    try:
        value = -1.0 if match is None else float(match[1]) * _MULTIPLIER[match[2]]
    except ValueError:
        value = -1.0
    if match is None or not (value >= 0 and math.isfinite(value)):
        raise UserError(
            f"{key}={text} is not a duration.\n"
            "Write 2000 (steps), 40Mtokens, 3epochs, 1.5hours or, for intervals, 10%."
        )
    return value, _UNITS[(match[3] or "step").rstrip("s")]


def parse_count(text: str, key: str) -> int:
    """'20M' -> 20_000_000, for counts that have no unit of their own."""
    value, unit = parse(text, key)
    if unit != "steps":
        raise UserError(f"{key}={text} is not a count.\nWrite a number such as 20M or 500000.")
    return round(value)


@dataclass(frozen=True)
class Horizon:
    """The length of a run: a number of steps, or a number of wall-clock seconds.

    `tokens_per_step` and `steps_per_epoch` convert units; the latter is None while the corpus
    has no epochs.
    """

    steps: int | None
    seconds: float | None
    tokens_per_step: int
    steps_per_epoch: float | None

    @classmethod
    def of(cls, duration: str, tokens_per_step: int, steps_per_epoch: float | None) -> "Horizon":
        """The horizon that `train.duration` asks for. Raises UserError."""
        value, unit = parse(duration, "train.duration")
        if unit == "percent" or value == 0:
            raise UserError(f"train.duration={duration} must be positive and not a percentage.")
        if unit == "hours":
            return cls(None, value * 3600.0, tokens_per_step, steps_per_epoch)
        unlimited = cls(None, None, tokens_per_step, steps_per_epoch)
        steps = unlimited._steps(value, unit, "train.duration", duration)
        return cls(max(1, math.ceil(steps - 1e-9)), None, tokens_per_step, steps_per_epoch)

    def _steps(self, value: float, unit: str, key: str, text: str) -> float:
        if unit == "tokens":
            return value / self.tokens_per_step
        if unit == "epochs":
            if self.steps_per_epoch is None:
                raise UserError(
                    f"{key}={text} is in epochs, but the size of the corpus is not known.\n"
                    "Set data.train_tokens (20M, for example), or write the duration in steps or "
                    "tokens."
                )
            return value * self.steps_per_epoch
        if unit == "percent":
            assert self.steps is not None  # a schedule's share of steps; `span` knows of seconds
            return value / 100 * self.steps
        if unit == "hours":
            raise UserError(
                f"{key}={text} is a time, but train.duration is not.\n"
                "Write it in steps, tokens, epochs or percent."
            )
        return value

    def position(self, step: int, seconds: float) -> float:
        """Progress of the run, in the unit of its length (steps or seconds)."""
        return seconds if self.seconds is not None else step

    @property
    def length(self) -> float:
        """The run's length in steps, or in seconds if its duration is a time."""
        if self.seconds is not None:
            return self.seconds
        assert self.steps is not None
        return self.steps

    def span(self, text: str, key: str) -> float:
        """An interval in the unit of the run's length, for schedules. Raises UserError."""
        value, unit = parse(text, key)
        if self.seconds is None:
            return self._steps(value, unit, key, text)
        if unit == "percent":
            return value / 100 * self.seconds
        if unit == "hours":
            return value * 3600.0
        raise UserError(
            f"{key}={text} is in {unit}, but train.duration is a time.\n"
            "Write it in percent or hours."
        )

    def counter(self, text: str, key: str) -> Callable[[int, float], int]:
        """A function that counts the whole intervals before (step, seconds).

        An event is due when the count grows. An interval of '0' means never.
        """
        value, unit = parse(text, key)
        if value == 0:
            return lambda step, seconds: 0
        if self.seconds is not None and unit in ("percent", "hours"):
            span = self.span(text, key)
            return lambda step, seconds: int(seconds / span)
        span = max(1, round(self._steps(value, unit, key, text)))
        return lambda step, seconds: step // span


def horizon(config: Config, train_tokens: int) -> Horizon:
    """The run's length, with epochs counted on `train_tokens` tokens (0: not known yet)."""
    length, rows = config.model.context_length, config.train.batch_size
    per_epoch = None
    if train_tokens:
        per_epoch = number_of_windows(train_tokens, length, config.data.stride) / rows
    return Horizon.of(config.train.duration, rows * length, per_epoch)


def tokens_needed(config: Config) -> int | None:
    """Training tokens that a run on an endless corpus consumes without repetition."""
    if not isinstance(config.data, Endless) or config.data.train_tokens is not None:
        return None
    ahead = horizon(config, 0)
    if ahead.steps is None:
        raise UserError(
            f"train.duration={config.train.duration} does not say how much of the endless "
            f"data={config.data.name} to generate.\nSet data.train_tokens, for example to 20M."
        )
    return ahead.steps * ahead.tokens_per_step + 1


def number_of_windows(n_tokens: int, context_length: int, stride: int | None = None) -> int:
    """Count windows of L + 1 tokens, `stride` (default L) apart. Raises UserError for none."""
    stride = stride or context_length
    if n_tokens < context_length + 1:
        raise UserError(
            f"The training split has {n_tokens:,} tokens; one window needs {context_length + 1:,} "
            f"(model.context_length={context_length} and the token after it).\n"
            "Use more text, a smaller model.context_length or a smaller data.validation_fraction."
        )
    return (n_tokens - context_length - 1) // stride + 1
