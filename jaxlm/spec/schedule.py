"""Learning-rate schedules as pure functions in Python floats, the same bits for both backends."""

import math
from collections.abc import Callable
from typing import NamedTuple

from jaxlm.config.duration import Horizon
from jaxlm.config.schedules import WSD, Constant, Cosine, Cyclic, Linear, ScheduleConfig


class Place(NamedTuple):
    """The place of an update in a run; `position` and `warmup` in the unit of its length."""

    position: float
    warmup: float
    horizon: Horizon

    @property
    def done(self) -> float:
        """The completed share of the run after its warm-up."""
        length = self.horizon.length
        if length <= self.warmup:
            return 1.0
        return min(1.0, (self.position - self.warmup) / (length - self.warmup))


def learning_rate(
    config: ScheduleConfig, peak: float, horizon: Horizon, step: int, seconds: float = 0.0
) -> float:
    """The learning rate of update number `step` (0-based).

    Positions count from 1, so the first update has peak / warmup and the last one exactly
    peak * final_lr, as in optax's `warmup_cosine_decay_schedule(0, peak, ...)` at step + 1.
    A run limited by wall-clock time is scheduled by `seconds` instead of steps.
    """
    warmup = horizon.span(config.warmup, "schedule.warmup")
    position = seconds if horizon.seconds is not None else step + 1
    if position < warmup:
        return peak * position / warmup
    return SHAPES[config.name](config, peak, Place(position, warmup, horizon))


def _constant(config: Constant, peak: float, place: Place) -> float:
    return peak


def _linear(config: Linear, peak: float, place: Place) -> float:
    return peak + (peak * config.final_lr - peak) * place.done


def _wsd(config: WSD, peak: float, place: Place) -> float:
    """Hu et al. 2024: the peak until the final `decay`, then a linear fall."""
    final = peak * config.final_lr
    decay = place.horizon.span(config.decay, "schedule.decay")
    left = place.horizon.length - place.position
    return final + (peak - final) * min(1.0, left / decay) if decay > 0 else peak


def _half_cosine(peak: float, final: float, done: float) -> float:
    return final + (peak - final) * 0.5 * (1.0 + math.cos(math.pi * done))


def _cosine(config: Cosine, peak: float, place: Place) -> float:
    """Loshchilov and Hutter 2017, eq. 5."""
    return _half_cosine(peak, peak * config.final_lr, place.done)


def _cyclic(config: Cyclic, peak: float, place: Place) -> float:
    """Cosine with warm restarts (Loshchilov and Hutter 2017)."""
    cycle = place.horizon.span(config.cycle, "schedule.cycle")
    done = ((place.position - place.warmup) % cycle) / cycle
    return _half_cosine(peak, peak * config.final_lr, done)


SHAPES: dict[str, Callable[..., float]] = {
    "constant": _constant,
    "linear": _linear,
    "wsd": _wsd,
    "cosine": _cosine,
    "cyclic": _cyclic,
}
"""After the warm-up: schedule.name -> (its keys, the peak, the place) -> learning rate."""
