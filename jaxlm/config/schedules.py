"""The learning-rate schedules (schedule.name=...): one dataclass for each, with exactly its keys.

`jaxlm.spec.schedule` computes each.
"""

from dataclasses import dataclass

from jaxlm.config.keys import Kinds, key


@dataclass
class ScheduleConfig:
    """The keys that all schedules share."""

    name: str = key("", "shape of the learning rate after the warm-up")
    warmup: str = key("2%", "linear warm-up: steps, tokens, epochs or percent of the run")


@dataclass
class Constant(ScheduleConfig):
    """The peak rate to the end."""

    name: str = key("constant", "the peak rate to the end")


@dataclass
class Decaying(ScheduleConfig):
    """A schedule that ends below its peak."""

    final_lr: float = key(0.1, "final learning rate, as a fraction of the peak")


@dataclass
class Cosine(Decaying):
    """Loshchilov and Hutter 2017, eq. 5."""

    name: str = key("cosine", "half a cosine")


@dataclass
class Linear(Decaying):
    """A straight line."""

    name: str = key("linear", "a straight line")


@dataclass
class WSD(Decaying):
    """Warm-up, stable, decay (Hu et al. 2024)."""

    name: str = key("wsd", "constant, then a linear decay")
    decay: str = key("20%", "length of the final linear decay")


@dataclass
class Cyclic(Decaying):
    """Cosine with warm restarts (Loshchilov and Hutter 2017)."""

    name: str = key("cyclic", "cosine with warm restarts")
    cycle: str = key("20%", "length of one cosine cycle")


SCHEDULES = Kinds(Cosine, WSD, Linear, Constant, Cyclic)
