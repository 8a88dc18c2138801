"""A number that was swept: loss against it, the best value, and where training diverges."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from jaxlm.comparison.metrics import Metric, amount
from jaxlm.comparison.reading import Run
from jaxlm.comparison.statistics import Mean, mean

LEARNING_RATE = "optimizer.lr"
_LEAST_POINTS = 3


@dataclass(frozen=True)
class Line:
    """One line of a sweep: all keys but the swept one are alike.

    `points` are (x, mean of the metric over the finished seeds), `lost` the x at which at least
    one run diverged, or ended above its first loss. `label` names the other keys that differ.
    """

    label: str
    points: tuple[tuple[float, Mean], ...]
    lost: tuple[float, ...]

    @property
    def settled(self) -> tuple[tuple[float, Mean], ...]:
        """The points where no run diverged."""
        return tuple(point for point in self.points if point[0] not in self.lost)

    def best(self, sign: int) -> tuple[float, Mean] | None:
        """The settled point with the best mean."""
        return max(self.settled, key=lambda point: sign * point[1].value, default=None)

    @property
    def edge(self) -> tuple[float, float] | None:
        """(largest x below which nothing diverged, smallest x that diverged)."""
        if not self.lost:
            return None
        first = min(self.lost)
        return max((x for x, _ in self.points if x < first), default=0.0), first


@dataclass(frozen=True)
class Sweep:
    """The lines of one key."""

    key: str
    metric: str
    lines: tuple[Line, ...]

    @property
    def stem(self) -> str:
        """The name of its figure's file."""
        if self.key == LEARNING_RATE:
            return "learning_rate_against_loss"
        return f"{self.key.rsplit('.', 1)[-1]}_against_loss"

    @property
    def title(self) -> str:
        words = self.key.rsplit(".", 1)[-1].replace("_", " ")
        return "learning rate" if self.key == LEARNING_RATE else words.replace("n ", "number of ")


def sweeps_of(runs: Sequence[Run], varied: Sequence[str], metric: Metric) -> list[Sweep]:
    """The swept numbers among the varied keys: at least three values with all else alike.

    For the learning rate two will do.
    """
    found = []
    for key in varied:
        values = [run.keys.get(key) for run in runs]
        if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
            continue
        least = 2 if key == LEARNING_RATE else _LEAST_POINTS
        lines = [line for line in _lines(runs, key, varied, metric) if _size(line) >= least]
        if lines:
            found.append(Sweep(key, metric.name, tuple(lines)))
    return found


def _size(line: Line) -> int:
    return len({x for x, _ in line.points} | set(line.lost))


def _lines(runs: Sequence[Run], key: str, varied: Sequence[str], metric: Metric) -> list[Line]:
    others = [name for name in varied if name != key]
    groups: dict[str, list[Run]] = {}
    for run in runs:
        said = [(name.rsplit(".", 1)[-1], run.keys.get(name)) for name in others]
        words = [f"{n}={v if isinstance(v, str) else json.dumps(v)}" for n, v in said]
        groups.setdefault(", ".join(words), []).append(run)
    lines = []
    for label, members in groups.items():
        points, lost = [], []
        for x in sorted({run.keys[key] for run in members}):
            here = [run for run in members if run.keys[key] == x]
            values = [r.metrics[metric.name] for r in here if r.complete]
            found = mean([value for value in values if value is not None])
            if found:
                points.append((x, found))
            if any(_lost(run) for run in here):
                lost.append(x)
        lines.append(Line(label, tuple(points), tuple(lost)))
    return lines


def _lost(run: Run) -> bool:
    """Diverged, or so unstable that the loss ended above the first one."""
    if run.status == "diverged":
        return True
    first, last = (run.train[i].get("loss") if run.train else None for i in (0, -1))
    return first is not None and last is not None and last > first


def words(sweep: Sweep, metric: Metric) -> list[str]:
    """The best value of each line and its relation to the edge of divergence, in sentences."""
    said = []
    for line in sweep.lines:
        where = f" ({line.label})" if line.label else ""
        best = line.best(metric.sign)
        if best is None:
            said.append(f"No value of {sweep.key} trained without divergence{where}.")
            continue
        x, found = best
        value = amount(metric, found.value, found.half)
        text = f"Best {sweep.title}{where}: **{x:g}**, {metric.title} {value}."
        said.append(f"{text} {_edge_words(sweep, line, x)}".strip())
    return said


def _edge_words(sweep: Sweep, line: Line, best: float) -> str:
    values = [x for x, _ in line.points]
    if sweep.key != LEARNING_RATE:
        return f"Diverged at {', '.join(f'{x:g}' for x in line.lost)}." if line.lost else ""
    if line.edge is None:
        at_end = " The best is the largest tried: larger ones may be better." * (
            best == max(values) and len(values) > 1
        )
        return f"Nothing diverged up to {max(values):g}, so the edge lies above.{at_end}"
    below, above = line.edge
    if not below:
        return f"The smallest value tried, {above:g}, diverged already."
    text = f"Training diverges between {below:g} and {above:g}"
    if best > above:
        return f"{text}, though the best value lies above: divergence is a matter of chance there."
    low, high = below / best, above / best
    if math.isclose(low, 1.0):
        return f"{text}: the best is the last stable one, at most {high:.3g} times below the edge."
    return f"{text}: the best value is {low:.3g} to {high:.3g} times below that edge."
