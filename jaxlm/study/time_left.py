"""Estimates how long a study will take, from its runs' FLOPs and the pace of finished runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxlm.config.duration import Horizon, horizon
from jaxlm.config.schema import Config, resolve_model
from jaxlm.config.tokenizers import BPE
from jaxlm.host.checked import Json
from jaxlm.host.errors import UserError
from jaxlm.spec.flops import exact_flops_per_token, flops_per_token


def cost(config: Config) -> float:
    """The work of a run for time estimates: `flops_exact`.

    The vocabulary size is guessed if only the data determine it. A run whose duration is in hours
    or epochs costs 1.
    """
    tokens = _tokens(config)
    if tokens is None:
        return 1.0
    sizes = [getattr(part, "vocab_size", None) for part in (config.data, config.tokenizer)]
    vocab_size = sizes[0] or sizes[1] or BPE.vocab_size
    return exact_flops_per_token(resolve_model(config.model, vocab_size)) * tokens


def training_flops(config: Config) -> float | None:
    """`flops` of a run, 6 N D; None if its duration is in hours or epochs."""
    tokens = _tokens(config)
    return None if tokens is None else flops_per_token(resolve_model(config.model, 1)) * tokens


def _tokens(config: Config) -> int | None:
    ahead = _ahead(config)
    if ahead is None or ahead.steps is None:
        return None
    return ahead.steps * ahead.tokens_per_step


def fraction_done(config: Config, record: Json) -> float:
    """The share of a run that is done at its newest record; 0 if its duration is in epochs."""
    ahead = _ahead(config)
    if ahead is None or not record:
        return 0.0
    return min(1.0, ahead.position(record["step"], record["wall_seconds"]) / ahead.length)


def _ahead(config: Config) -> Horizon | None:
    try:
        return horizon(config, 0)
    except UserError:  # a duration in epochs; the corpus is not read here
        return None


@dataclass(frozen=True)
class Pace:
    """The costs of the runs of a study, and the seconds of each finished run (None: unfinished)."""

    costs: Sequence[float]
    seconds: Sequence[float | None]

    def left(
        self,
        running: Mapping[int, tuple[float, float]],
        waiting: Sequence[int],
        workers: int = 1,
    ) -> float | None:
        """Seconds until all runs are done, `workers` at a time; None while too little is known.

        `running` holds the (seconds, share done) of each run in training. The model: every run has
        the same start-up time, plus a time in proportion to its cost.
        """
        known = [(c, s) for c, s in zip(self.costs, self.seconds, strict=True) if s is not None]
        known += [(self.costs[i], s / done) for i, (s, done) in running.items() if done > 0.05]
        if len(known) < (2 if waiting else 1):
            return None
        start, rate = line(known)
        rest = [0.0]
        for i, (seconds, done) in running.items():
            whole = seconds / done if done > 0.05 else start + rate * self.costs[i]
            rest.append(max(whole - seconds, 0.0))
        ahead = sum(rest) + sum(start + rate * self.costs[i] for i in waiting)
        return max(*rest, ahead / workers)

    def share(self, running: Mapping[int, tuple[float, float]], waiting: Sequence[int]) -> float:
        """The share of the whole study that is done, by cost."""
        ahead = sum((1.0 - done) * self.costs[i] for i, (_, done) in running.items())
        return 1.0 - (ahead + sum(self.costs[i] for i in waiting)) / sum(self.costs)


def line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(a, b) of y = a + b x, fitted to points (x, y) by least squares with a, b >= 0."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
    if slope <= 0.0:
        return mean_y, 0.0
    start = mean_y - slope * mean_x
    if start >= 0.0:
        return start, slope
    return 0.0, sum(x * y for x, y in points) / sum(x * x for x, _ in points)
