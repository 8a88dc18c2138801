"""The figures of a comparison, as PNG and SVG.

Legend: E points of a curve.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxlm.comparison import figure_style as style
from jaxlm.comparison.analysis import Comparison
from jaxlm.comparison.convergence import EARLY, curve
from jaxlm.comparison.metrics import METRICS, Metric, heading
from jaxlm.comparison.reading import Run
from jaxlm.comparison.statistics import Mean
from jaxlm.comparison.sweeps import LEARNING_RATE, Line, Sweep
from jaxlm.plots import (
    BLACK,
    GREY,
    STEPS,
    TIME,
    TOKENS,
    column,
    house_style,
    scaled,
    smoothed,
    thinned,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_POINTS = 200
_MOST_DRAWN = 12
_LATE = 0.12  # the first fall, to be left out of the axis of the loss
_AXES = (
    ("step", STEPS),
    ("tokens", TOKENS),
    ("flops", style.FLOPS),
    ("wall_seconds", TIME),
)


def draw(comparison: Comparison, folder: Path) -> dict[str, str]:
    """Draw all figures that the runs allow into `folder`; file name without ending -> caption."""
    captions = {}
    with house_style():
        for name, (caption, figure) in _figures(comparison).items():
            style.save(figure, folder / name)
            captions[name] = caption
    return captions


def _figures(comparison: Comparison) -> dict[str, tuple[str, "Figure"]]:
    """name -> (caption, figure), in the order of a report."""
    if not comparison.ranking:
        return {}
    kind = "lines are means over seeds, bands reach from the lowest to the highest seed"
    many = len(_looks(comparison)) < len(comparison.variants)
    some = f" Of {len(comparison.variants)} variants, the best and the baseline." if many else ""
    grey = " Grey dots are the variants that the other figures leave out." if many else ""
    unit = "nats per token" if comparison.comparable else "bits per byte"
    found = {
        "final_performance_comparison": (
            "Each variant's result: its seeds (rings), their mean and its 95 % interval"
            + (", and the authors' figure (×)." if comparison.reported else ".")
            + some,
            performance_figure(comparison),
        ),
        "training_loss_comparison": (
            f"Loss against steps, {unit}; {kind}. × ends a run that diverged.{some}",
            training_figure(comparison),
        ),
        "loss_curves": (
            "Validation loss against steps, tokens, FLOPs (6 N D) and wall-clock time; "
            f"{kind}.{some}",
            curves_figure(comparison),
        ),
        "efficiency_analysis": (
            "What the loss costs: speed, training time and FLOPs against it, with the 95 % "
            f"interval over seeds.{grey}",
            efficiency_figure(comparison),
        ),
    }  # fmt: skip
    if comparison.shares or comparison.reaching:
        found["convergence_analysis"] = (
            "Early against late: the share of the training loss's fall reached after a tenth, a "
            "quarter and half of the steps; and what each variant needed to reach the loss that "
            "all reach.",
            convergence_figure(comparison),
        )
    sizes = {value for v in comparison.variants
             for value in comparison.values(v, "non_embedding_parameters").values()}  # fmt: skip
    if len(sizes) > 1:
        found["parameters_against_loss"] = (
            f"Parameters, embeddings and head left out, against the loss.{grey}",
            parameters_figure(comparison),
        )
    for sweep in comparison.sweeps:
        caption = f"{sweep.title.capitalize()} against the loss"
        if any(line.lost for line in sweep.lines):
            caption += "; crosses at the top mark values at which training diverged"
        found[sweep.stem] = (f"{caption}.", sweep_figure(comparison, sweep))
    return found


def _looks(comparison: Comparison) -> dict[str, style.Look]:
    """The look of each variant that is drawn: all, or of many the best and the baseline."""
    drawn = comparison.variants
    if len(drawn) > _MOST_DRAWN:
        best = comparison.ranking[: _MOST_DRAWN - 1]
        drawn = [v for v in drawn if v in best or v == comparison.baseline]
    return style.looks(drawn)


def _ranked(comparison: Comparison) -> list[style.Look]:
    looks = _looks(comparison)
    return [looks[variant] for variant in comparison.ranking if variant in looks]


# -- curves --------------------------------------------------------------------------------------


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
    """(x, mean, lowest, highest) over the runs, as far as all of them go; None without points."""
    curves = [both for both in map(points, runs) if len(both[0])]
    if not curves:
        return None
    if len(curves) == 1:
        x_E, y_E = curves[0]
        return x_E, y_E, y_E, y_E
    low, high = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    grid = np.unique(np.concatenate([x for x, _ in curves]))
    grid = grid[(grid >= low) & (grid <= high)]
    if len(grid) > _POINTS:
        grid = grid[np.unique(np.linspace(0, len(grid) - 1, _POINTS).astype(int))]
    if not len(grid):
        return None
    y_RxE = np.stack([np.interp(grid, x, y) for x, y in curves])
    return grid, y_RxE.mean(0), y_RxE.min(0), y_RxE.max(0)


def _draw_curves(
    comparison: Comparison, axes: "Axes", name: str, train: bool, divisor: float, lines: list
) -> None:
    """A panel: each variant's mean curve with its band; diverged runs as thin lines to a cross."""

    def points(run: Run) -> tuple[np.ndarray, np.ndarray]:
        x, y = _train_curve(run, name) if train else curve(run, name, comparison.loss)
        return x / divisor, y

    by_name = _looks(comparison)
    for variant in by_name:
        look, runs = by_name[variant], comparison.study.of(variant)
        found = _over_seeds([run for run in runs if run.complete], points)
        if found:
            x, y, low, high = found
            marker = {} if train else {"marker": look.marker, "markevery": max(1, len(x) // 8)}
            axes.plot(x, y, **look.line(linewidth=1.3, **marker))
            if np.any(high > low):
                axes.fill_between(x, low, high, color=look.color, alpha=0.16, linewidth=0)
            lines.append((x, y))
        for run in runs:
            if run.status == "diverged" and train:
                x, y = points(run)
                axes.plot(x, y, **look.line(linewidth=0.8, alpha=0.8))
                if len(x):
                    axes.plot(x[-1:], y[-1:], **look.dots(marker="x", markersize=6, zorder=4))


def _limit_loss(panels: Sequence["Axes"], lines: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """The axis without the first fall, where that would take most of it."""
    late = [y[x >= _LATE * x[-1]] if len(x) > 5 else y for x, y in lines]
    late = [y for y in late if len(y)]
    if not late:
        return
    low, high = min(y.min() for y in late), max(y.max() for y in late)
    room = 0.06 * (high - low) or 0.05
    for axes in panels:
        axes.set_ylim(low - room, high + 2 * room)


def training_figure(comparison: Comparison) -> "Figure":
    """Training and validation loss against steps; bits per byte only where tokenizers differ."""
    both = comparison.comparable
    figure, panels = style.grid(1, 2 if both else 1, 9 if both else 6, 3.1, sharey=True)
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
    style.legend_right(figure, list(_looks(comparison).values()), lines=True)
    return figure


def _largest(comparison: Comparison, name: str) -> float:
    runs = comparison.counted or comparison.study.runs
    return max((record[name] for run in runs for record in [*run.train[-1:], *run.evals[-1:]]),
               default=1)  # fmt: skip


def curves_figure(comparison: Comparison) -> "Figure":
    """Validation loss against steps, tokens, FLOPs and wall-clock time."""
    figure, panels = style.grid(2, 2, 8.6, 5.2, sharey=True)
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
    style.legend_right(figure, list(_looks(comparison).values()), lines=True)
    return figure


# -- points --------------------------------------------------------------------------------------


def performance_figure(comparison: Comparison) -> "Figure":
    """A dot plot of the primary metric and up to three others."""
    others = ("best_val_loss", "best_perplexity", "accuracy", "overfitting")
    if not comparison.comparable:
        others = ("best_bits_per_byte",)
    known = {metric.name for metric in comparison.metrics}
    names = [n for n in dict.fromkeys((comparison.primary.name, *others)) if n in known][:4]
    rows = len(_looks(comparison))
    width = 2.1 + 2.3 * len(names)
    figure, panels = style.grid(1, len(names), width, 1.0 + 0.34 * rows, sharey=True)
    drawn_reported = False
    for axes, name in zip(panels, names, strict=True):
        reported = {
            row["variant"]: row["reported"] * METRICS[name].scale
            for row in comparison.reported
            if row["metric"] == name
        }
        drawn_reported |= bool(reported)
        _dots(comparison, axes, name, reported)
        axes.set_xlabel(heading(METRICS[name]))
    return figure


def _dots(comparison: Comparison, axes: "Axes", name: str, reported=None) -> None:
    scale, by_name = METRICS[name].scale, _looks(comparison)
    seeds = {
        variant: [value * scale for value in comparison.values(variant, name).values()]
        for variant in by_name
    }
    means = {v: _scaled(comparison.mean(v, name), scale) for v in by_name}
    missing = {v: "diverged" if n else "not measured" for v, n in comparison.diverged.items()}
    style.dot_plot(axes, list(by_name), by_name, seeds, means, missing, reported)


def _scaled(found: Mean | None, scale: float) -> Mean | None:
    if found is None:
        return None
    return Mean(found.value * scale, None if found.half is None else found.half * scale, found.n)


def _scatter(comparison: Comparison, axes: "Axes", x_name: str, scale: float = 1.0) -> None:
    """Each variant's mean and interval in the primary metric over its mean in another."""
    metric = comparison.primary
    by_name = _looks(comparison)
    for variant in comparison.ranking:
        x, y = comparison.mean(variant, x_name), comparison.mean(variant, metric.name)
        if x is None:
            continue
        if variant not in by_name:
            axes.plot([x.value / scale], [y.value * metric.scale], ".", color=GREY, alpha=0.7)
            continue
        look = by_name[variant]
        bars = {"xerr": x.half and x.half / scale, "yerr": y.half and y.half * metric.scale}
        axes.errorbar(x.value / scale, y.value * metric.scale, color=look.color, capsize=2,
                      linewidth=0.9, **bars)  # fmt: skip
        axes.plot([x.value / scale], [y.value * metric.scale], **look.dots(markersize=5.5))


def efficiency_figure(comparison: Comparison) -> "Figure":
    """Steps per second, training time and FLOPs against the primary metric."""
    figure, panels = style.grid(1, 3, 9.6, 3.0, sharey=True)
    time = tuple((least, by, label.replace("wall-clock", "training")) for least, by, label in TIME)
    speed = ((0, 1, "speed (steps/s)"),)
    shown = (("steps_per_second", speed), ("seconds", time), ("flops", style.FLOPS))
    for axes, (name, units) in zip(panels, shown, strict=True):
        values = [v for one in comparison.ranking for v in comparison.values(one, name).values()]
        _, label = scaled(np.array(values or [0.0]), units)
        divisor = next(by for _, by, words in units if words == label)
        _scatter(comparison, axes, name, divisor)
        axes.set_xlabel(label)
        axes.margins(x=0.12, y=0.1)
        style.round_ticks(axes, "x", 4)
    style.round_ticks(panels[0], "y")
    panels[0].set_ylabel(heading(comparison.primary))
    style.legend_right(figure, _ranked(comparison), lines=False)
    return figure


def parameters_figure(comparison: Comparison) -> "Figure":
    """Parameters without embeddings against the primary metric."""
    figure, (axes,) = style.grid(1, 1, 5.6, 3.1)
    _scatter(comparison, axes, "non_embedding_parameters")
    values = [
        value
        for variant in comparison.ranking
        for value in comparison.values(variant, "non_embedding_parameters").values()
    ]
    style.log_ticks(axes, "x", values)
    axes.margins(x=0.1, y=0.1)
    axes.set_xlabel("parameters without embeddings and head")
    axes.set_ylabel(heading(comparison.primary))
    style.round_ticks(axes, "y")
    style.legend_right(figure, _ranked(comparison), lines=False)
    return figure


def convergence_figure(comparison: Comparison) -> "Figure":
    """Share of the fall reached early; steps and training time to the loss that all reach."""
    by_name = _looks(comparison)
    rows = len(by_name)
    height = max(2.7, 1.0 + 0.34 * rows)
    figure, (early, steps, seconds) = style.grid(1, 3, 10, height, width_ratios=(1.1, 1, 1))
    for variant, shares in comparison.shares.items():
        if variant not in by_name:
            continue
        look = by_name[variant]
        y = [100 * shares[part].value for part in EARLY]
        early.plot([100 * part for part in EARLY], y, **look.line(marker=look.marker))
    early.set_xticks([100 * part for part in EARLY])
    early.set_xlabel("part of the run (%)")
    early.set_ylabel("share of the fall of the training loss (%)")
    style.round_ticks(early, "y")
    for axes, name, units in ((steps, "step", STEPS), (seconds, "seconds", TIME)):
        means = {v: found[name] for v, found in comparison.reaching.items() if v in by_name}
        largest = np.array([found.value for found in means.values()] or [0.0])
        _, label = scaled(largest, units)
        divisor = next(by for _, by, words in units if words == label)
        drawn = {v: _scaled(found, 1 / divisor) for v, found in means.items()}
        missing = {v: "diverged" if n else "not reached" for v, n in comparison.diverged.items()}
        points = {v: [one[name] / divisor for one in comparison.reached_by_run(v)] for v in drawn}
        style.dot_plot(axes, list(by_name), by_name, points, drawn, missing)
        label = label.replace("wall-clock", "training").replace("step", "steps")
        target = f"{comparison.common_loss:.3f}" if comparison.common_loss is not None else "–"
        axes.set_xlabel(f"{label} to loss {target}")
    seconds.set_yticklabels([])
    return figure


# -- sweeps --------------------------------------------------------------------------------------


def sweep_figure(comparison: Comparison, sweep: Sweep) -> "Figure":
    """The metric over a swept number; the edge of divergence is shaded, its runs crossed.

    Best values are ringed. Where two other keys vary, one of them has a panel for each value.
    """
    from matplotlib.lines import Line2D

    panels, metric = sweep.panels, METRICS[sweep.metric]
    legend = len(sweep.lines) > 1
    width = 3.6 * len(panels) + (1.9 if legend else 1.2)
    figure, places = style.grid(1, len(panels), width, 3.2, sharey=True)
    labels = dict.fromkeys(line.labelled(sweep.panel_key) for line in sweep.lines)
    by_name = style.looks(list(labels))
    values = [x for line in sweep.lines for x in (*(at for at, _ in line.points), *line.lost)]
    for axes, (name, lines) in zip(places, panels.items(), strict=True):
        for row, line in enumerate(lines):
            _sweep_line(axes, line, by_name[line.labelled(sweep.panel_key)], row, metric)
        if min(values) > 0 and max(values) / min(values) >= 4:
            style.log_ticks(axes, "x", values)
        else:
            style.round_ticks(axes)
        axes.margins(x=0.07, y=0.08)
        axes.set_title(name)
        axes.set_xlabel(sweep.title if sweep.key == LEARNING_RATE else sweep.key)
    lost = any(line.lost for line in sweep.lines)
    if lost:  # room for the crosses above all points
        low, high = places[0].get_ylim()
        rows = max(map(len, panels.values()))
        places[0].set_ylim(low, high + (0.08 + 0.05 * rows) * (high - low))
    style.round_ticks(places[0], "y")
    places[0].set_ylabel(heading(metric))
    if sweep.key == LEARNING_RATE and not legend and sweep.lines[0].edge:
        _shade_edge(places[0], sweep.lines[0].edge, max(values))
    cross = Line2D([], [], color=BLACK, marker="x", linestyle="", label="diverged")
    if legend or lost:
        shown = list(by_name.values()) if legend else []
        style.legend_right(figure, shown, lines=True, **({"lost": cross} if lost else {}))
    return figure


def _sweep_line(axes: "Axes", line: Line, look: style.Look, row: int, metric: Metric) -> None:
    x = [at for at, _ in line.points]
    y = [found.value * metric.scale for _, found in line.points]
    half = [(found.half or 0) * metric.scale for _, found in line.points]
    bars = {"yerr": half} if any(half) else {}
    axes.errorbar(x, y, capsize=2, **look.line(marker=look.marker, **bars))
    best = line.best(metric.sign)
    if best and len(line.points) > 1:
        ring = {"markersize": 9, "fillstyle": "none", "markeredgewidth": 1.2}
        axes.plot([best[0]], [best[1].value * metric.scale], **look.dots(marker="o", **ring))
    if line.lost:
        height = [0.96 - 0.04 * row] * len(line.lost)
        mark = look.dots(marker="x", markersize=6, clip_on=False)
        axes.plot(line.lost, height, transform=axes.get_xaxis_transform(), **mark)


def _shade_edge(axes: "Axes", edge: tuple[float, float], last: float) -> None:
    """Grey from the last stable value on: the edge lies in the darker part."""
    low, high = edge
    limits = axes.get_xlim()
    if low:
        axes.axvspan(low, high, color=GREY, alpha=0.25, linewidth=0)
        where = {"transform": axes.get_xaxis_transform(), "ha": "center", "va": "top"}
        middle = (low * high) ** 0.5 if axes.get_xscale() == "log" else (low + high) / 2
        axes.text(middle, 0.9, "edge of\ndivergence", fontsize=7, **where)
    axes.axvspan(high, max(limits[1], last), color=GREY, alpha=0.12, linewidth=0)
    axes.set_xlim(*limits)
