"""A number that was swept: loss against it, the best value, and where training diverges."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from jaxlm.compare.metrics import Metric, amount
from jaxlm.compare.reading import Run
from jaxlm.compare.statistics import Mean, mean

LEARNING_RATE = "optimizer.lr"
_TITLES = {
    "lr": "learning rate",
    "d_model": "width",
    "d_ff": "feed-forward width",
    "n_layers": "number of layers",
    "n_heads": "number of heads",
    "vocab_size": "vocabulary size",
}
_LEAST_POINTS = 3
_MOST_PANELS = 3
_MOST_LINES_TOLD = 4
_RISE = 1.1  # clipped gradients and normed activations keep a divergence as small as this
_MEANING = "(diverged: no longer finite, or a training loss a tenth above its first value)"


@dataclass(frozen=True)
class Line:
    """One line of a sweep: all keys except the swept one are equal.

    `others` are the other keys that differ between lines, with their values here; `points` are (x,
    mean of the metric over the finished seeds), `lost` the x at which at least one run diverged
    (see `_lost`).
    """

    others: tuple[tuple[str, str], ...]
    points: tuple[tuple[float, Mean], ...]
    lost: tuple[float, ...]

    @property
    def label(self) -> str:
        """The other keys: 'd_model=64, norm=none'."""
        return self.labelled()

    def labelled(self, without: str | None = None) -> str:
        """The label without a key that is shown elsewhere."""
        return ", ".join(
            f"{key.rsplit('.', 1)[-1]}={value}" for key, value in self.others if key != without
        )

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
    def panel_key(self) -> str | None:
        """The key that divides many lines best: if two or more vary, the one with fewest values."""
        values: dict[str, set[str]] = {}
        for line in self.lines:
            for key, value in line.others:
                values.setdefault(key, set()).add(value)
        counts = {key: len(found) for key, found in values.items() if len(found) > 1}
        if len(counts) < 2:
            return None
        key = min(counts, key=counts.__getitem__)
        return key if counts[key] <= _MOST_PANELS else None

    @property
    def panels(self) -> dict[str, tuple[Line, ...]]:
        """'key=value' -> its lines; one panel without a name if there is no such key."""
        key = self.panel_key
        found: dict[str, tuple[Line, ...]] = {}
        for line in self.lines:
            name = f"{key.rsplit('.', 1)[-1]}={dict(line.others).get(key)}" if key else ""
            found[name] = (*found.get(name, ()), line)
        return found

    @property
    def title(self) -> str:
        last = self.key.rsplit(".", 1)[-1]
        return _TITLES.get(last, last.replace("_", " "))


def sweeps_of(runs: Sequence[Run], varied: Sequence[str], metric: Metric) -> list[Sweep]:
    """The swept numbers among the varied keys: at least three values with all other keys equal.

    For the learning rate, two are enough. A key that follows from the swept one, as the learning
    rate may from the batch size, counts as equal. If the learning rate and another key follow from
    each other, only the other is swept.
    """
    numbers = [key for key in varied if _numeric(runs, key)]
    found: list[Sweep] = []
    for key in sorted(numbers, key=lambda key: key == LEARNING_RATE):
        if any(_follows(runs, key, one.key) and _follows(runs, one.key, key) for one in found):
            continue
        least = 2 if key == LEARNING_RATE else _LEAST_POINTS
        lines = [line for line in _lines(runs, key, varied, metric) if _size(line) >= least]
        if lines:
            found.append(Sweep(key, metric.name, tuple(lines)))
    return sorted(found, key=lambda sweep: sweep.key != LEARNING_RATE)


def _numeric(runs: Sequence[Run], key: str) -> bool:
    values = [run.keys.get(key) for run in runs]
    return all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)


def _follows(runs: Sequence[Run], key: str, other: str) -> bool:
    """Whether the value of `other` determines that of `key`."""
    pairs = {(str(run.keys.get(other)), str(run.keys.get(key))) for run in runs}
    return len(pairs) == len({value for value, _ in pairs})


def _size(line: Line) -> int:
    return len({x for x, _ in line.points} | set(line.lost))


def _lines(runs: Sequence[Run], key: str, varied: Sequence[str], metric: Metric) -> list[Line]:
    others = [name for name in varied if name != key and not _follows(runs, name, key)]
    groups: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in runs:
        said = [(name, run.keys.get(name)) for name in others]
        words = tuple((n, v if isinstance(v, str) else json.dumps(v)) for n, v in said)
        groups.setdefault(words, []).append(run)
    lines = []
    for words, members in groups.items():
        points, lost = [], []
        for x in sorted({run.keys[key] for run in members}):
            here = [run for run in members if run.keys[key] == x]
            values = [r.metrics[metric.name] for r in here if r.complete]
            found = mean([value for value in values if value is not None])
            if found:
                points.append((x, found))
            if any(_lost(run) for run in here):
                lost.append(x)
        lines.append(Line(words, tuple(points), tuple(lost)))
    return lines


def _lost(run: Run) -> bool:
    """Diverged: no longer finite, or a training loss above `_RISE` times its first value."""
    if run.status == "diverged":
        return True
    losses = [loss for record in run.train if (loss := record.get("loss")) is not None]
    return bool(losses) and max(losses) > _RISE * losses[0]


def words(sweep: Sweep, metric: Metric) -> list[str]:
    """The best value of each line and its relation to the edge of divergence, in sentences."""
    said: list[str] = []
    lines = sweep.lines
    if sweep.key != LEARNING_RATE and len(lines) > _MOST_LINES_TOLD:
        known = [(line, best) for line in lines if (best := line.best(metric.sign))]
        known.sort(key=lambda pair: -metric.sign * pair[1][1].value)
        lines = tuple(line for line, _ in known[:1])
    for line in lines:
        where = f" ({line.label})" if line.label else ""
        best = line.best(metric.sign)
        if best is None:
            said.append(f"No value of {sweep.key} trained without divergence{where}.")
            continue
        x, found = best
        value = amount(metric, found.value, found.half)
        text = f"Best {sweep.title}{where}: **{x:g}**, {metric.title} {value}."
        if len(line.settled) == 1:
            text = (
                f"Only one {sweep.title}{where} did not diverge: **{x:g}**, {metric.title} {value}."
            )
        elif x == min(at for at, _ in line.points):
            text += " It is the smallest value tried; smaller ones may be better."
        said.append(f"{text} {_edge_words(sweep, line, x)}".strip())
    return said + _transfer_words(sweep, metric)


def _transfer_words(sweep: Sweep, metric: Metric) -> list[str]:
    """How far the best value moves from line to line, for each panel."""
    said: list[str] = []
    if sweep.key != LEARNING_RATE:
        return said
    for name, lines in sweep.panels.items():
        best = [found[0] for line in lines if (found := line.best(metric.sign))]
        if len(best) < 2 or min(best) <= 0:
            continue
        where = f" ({name})" if name else ""
        if min(best) == max(best):
            said.append(f"The best {sweep.title} is the same for all{where}: **{best[0]:g}**.")
        else:
            said.append(
                f"The best {sweep.title} moves{where} from {min(best):g} to {max(best):g}, a "
                f"factor of **{max(best) / min(best):.3g}**."
            )
    return said


def _edge_words(sweep: Sweep, line: Line, best: float) -> str:
    values = [x for x, _ in line.points]
    if sweep.key != LEARNING_RATE:
        return f"Diverged at {', '.join(f'{x:g}' for x in line.lost)}." if line.lost else ""
    if line.edge is None:
        at_end = " The best value is the largest tried; larger ones may be better." * (
            best == max(values) and len(values) > 1
        )
        return f"Nothing diverged up to {max(values):g}, so the edge lies above.{at_end}"
    below, above = line.edge
    if not below:
        return f"Even the smallest value tried, {above:g}, diverged."
    text = f"Training diverges between {below:g} and {above:g}"
    if best > above:
        return f"{text}, but the best value lies above, where divergence is a matter of chance."
    low, high = below / best, above / best
    if math.isclose(low, 1.0):
        where = f"the last stable one, at most {high:.3g} times below the edge"
    else:
        where = f"{low:.3g} to {high:.3g} times below that edge"
    return f"{text}: the best value is {where} {_MEANING}."
