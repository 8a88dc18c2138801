"""Curves: loss against steps, tokens, FLOPs and wall-clock time.

Legend: E points of a curve, N training records, R runs.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxlm.compare.analysis import Comparison
from jaxlm.compare.convergence import curve
from jaxlm.compare.figures import style
from jaxlm.compare.reading import Run
from jaxlm.inference.figures import STEPS, TIME, TOKENS, column, smoothed, thinned
from scaling.report import house

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_POINTS = 200
_LATE = 0.12  # the part of a run with the first fall, which the axis of the loss leaves out
_AXES = (
    ("step", STEPS),
    ("tokens", TOKENS),
    ("flops", style.FLOPS),
    ("wall_seconds", TIME),
)


def _train_curve(run: Run, name: str) -> tuple[np.ndarray, np.ndarray]:
    loss_N, x_N = column(run.train, "loss"), column(run.train, name)
    if not len(loss_N):
        return x_N, loss_N
    both = thinned(np.stack([x_N, smoothed(loss_N)], axis=1))
    known = np.isfinite(both).all(axis=1)
    return both[known, 0], both[known, 1]


def _over_seeds(
    runs: Sequence[Run], points: Callable[[Run], tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, ...] | None:
    """(x, mean, lowest, highest) over the runs, in the range of all of them; None without points.

    Curves with the same number of points are averaged point by point, since times differ by seed.
    """
    curves = [both for both in map(points, runs) if len(both[0])]
    if not curves:
        return None
    if len(curves) == 1:
        x_E, y_E = curves[0]
        return x_E, y_E, y_E, y_E
    lengths = [len(x) for x, _ in curves]
    low, high = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    if min(lengths) == max(lengths) or low > high:
        few = min(lengths)
        y_RxE = np.stack([y[:few] for _, y in curves])
        x_E = np.mean([x[:few] for x, _ in curves], axis=0)
        return x_E, y_RxE.mean(0), y_RxE.min(0), y_RxE.max(0)
    grid = np.unique(np.concatenate([x for x, _ in curves]))
    grid = grid[(grid >= low) & (grid <= high)]
    if len(grid) > _POINTS:
        grid = grid[np.unique(np.linspace(0, len(grid) - 1, _POINTS).astype(int))]
    y_RxE = np.stack([np.interp(grid, x, y) for x, y in curves])
    return grid, y_RxE.mean(0), y_RxE.min(0), y_RxE.max(0)


def _draw_curves(
    comparison: Comparison, axes: "Axes", name: str, train: bool, divisor: float, lines: list
) -> None:
    """A panel: each variant's mean curve with its band; diverged runs are thin lines to a cross."""

    def points(run: Run) -> tuple[np.ndarray, np.ndarray]:
        x, y = _train_curve(run, name) if train else curve(run, name, comparison.loss)
        return x / divisor, y

    by_name = style.drawn_looks(comparison)
    for variant in by_name:
        look, runs = by_name[variant], comparison.study.of(variant)
        found = _over_seeds([run for run in runs if run.complete], points)
        if found:
            x, y, low, high = found
            marker = {} if train else {"marker": look.marker, "markevery": max(1, len(x) // 8)}
            axes.plot(x, y, **look.line(linewidth=1.3, **marker))
            if np.any(high > low):
                axes.fill_between(x, low, high, color=look.color, alpha=0.16, linewidth=0)
            lines += [(x, low), (x, high)]
        for run in runs:
            if run.status == "diverged" and train:
                x, y = points(run)
                axes.plot(x, y, **look.line(linewidth=0.8, alpha=0.8))
                if len(x):
                    axes.plot(x[-1:], y[-1:], **look.dots(marker="x", markersize=6, zorder=4))


def _limit_loss(panels: Sequence["Axes"], lines: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Limits the axis of the loss, so that the first fall does not take most of it."""
    late = [y[x >= _LATE * x[-1]] if len(x) > 5 else y for x, y in lines]
    late = [y for y in late if len(y)]
    if not late:
        return
    low, high = min(y.min() for y in late), max(y.max() for y in late)
    room = 0.06 * (high - low) or 0.05
    for axes in panels:
        axes.set_ylim(low - room, high + 2 * room)


def training_figure(comparison: Comparison) -> "Figure":
    """Training and validation loss against steps; only validation if tokenizers differ."""
    both = comparison.comparable
    figure, panels = house.new_figure(1, 2 if both else 1, 9 if both else 6, 3.1, sharey=True)
    largest = _largest(comparison, "step")
    _, divisor, label = [unit for unit in STEPS if largest >= unit[0]][-1]
    lines: list = []
    for axes, train in zip(panels, (True, False) if both else (False,), strict=True):
        _draw_curves(comparison, axes, "step", train, divisor, lines)
        axes.set_title("training, smoothed" if train else "validation")
        axes.set_xlabel(label)
        style.round_ticks(axes)
        axes.set_xlim(0, 1.02 * largest / divisor)
    panels[0].set_ylabel("loss (nats per token)" if both else comparison.loss_label)
    _limit_loss(panels, lines)
    style.legend_right(figure, list(style.drawn_looks(comparison).values()), lines=True)
    return figure


def _largest(comparison: Comparison, name: str) -> float:
    runs = comparison.counted or comparison.study.runs
    return max((record[name] for run in runs for record in [*run.train[-1:], *run.evals[-1:]]),
               default=1)  # fmt: skip


def curves_figure(comparison: Comparison) -> "Figure":
    """Validation loss against steps, tokens, FLOPs and wall-clock time."""
    figure, panels = house.new_figure(2, 2, 8.6, 5.2, sharey=True)
    lines: list = []
    for axes, (name, units) in zip(panels, _AXES, strict=True):
        largest = _largest(comparison, name)
        _, divisor, label = [unit for unit in units if largest >= unit[0]][-1]
        _draw_curves(comparison, axes, name, False, divisor, lines)
        axes.set_xlabel(label)
        axes.set_xlim(0, 1.02 * largest / divisor)
        style.round_ticks(axes)
    for axes in panels[::2]:
        axes.set_ylabel(comparison.loss_label)
    _limit_loss(panels, lines)
    style.legend_right(figure, list(style.drawn_looks(comparison).values()), lines=True)
    return figure
