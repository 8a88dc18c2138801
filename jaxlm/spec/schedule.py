"""Learning-rate schedules as pure functions in Python floats, the same bits for both backends."""

import math

from jaxlm.config.duration import Horizon
from jaxlm.config.schema import ScheduleConfig


def learning_rate(
    config: ScheduleConfig, peak: float, horizon: Horizon, step: int, seconds: float = 0.0
) -> float:
    """The learning rate of the update number `step` (0-based).

    Positions count from 1, so that the first update has peak / warmup and the last one exactly
    peak * final_lr: optax's `warmup_cosine_decay_schedule(0, peak, ...)` at step + 1.
    A run that the clock limits is scheduled by `seconds` of its length instead of steps.
    Cosine: Loshchilov and Hutter 2017, eq. 5 (with restarts: cyclic); wsd: Hu et al. 2024.
    """
    length = horizon.length
    warmup = horizon.span(config.warmup, "schedule.warmup")
    position = seconds if horizon.seconds is not None else step + 1
    if position < warmup:
        return peak * position / warmup
    final = peak * config.final_lr
    done = min(1.0, (position - warmup) / (length - warmup)) if length > warmup else 1.0
    if config.name == "constant":
        return peak
    if config.name == "linear":
        return peak + (final - peak) * done
    if config.name == "wsd":
        decay = horizon.span(config.decay, "schedule.decay")
        left = length - position
        return final + (peak - final) * min(1.0, left / decay) if decay > 0 else peak
    if config.name == "cyclic":
        cycle = horizon.span(config.cycle, "schedule.cycle")
        done = ((position - warmup) % cycle) / cycle
    return final + (peak - final) * 0.5 * (1.0 + math.cos(math.pi * done))
