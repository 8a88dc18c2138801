"""Each variant as a point: results, cost, size, how early it converged."""

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlm.compare.analysis import Comparison
from jaxlm.compare.convergence import EARLY
from jaxlm.compare.figures import style
from jaxlm.compare.metrics import METRICS, heading
from jaxlm.compare.statistics import Mean
from jaxlm.inference.figures import STEPS, TIME, scaled
from scaling.report import house
from scaling.report.house import GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def performance_figure(comparison: Comparison) -> "Figure":
    """A dot plot of the primary metric and up to three others."""
    others = ("best_val_loss", "best_perplexity", "accuracy", "overfitting")
    if not comparison.comparable:
        others = ("best_bits_per_byte",)
    known = {metric.name for metric in comparison.metrics}
    names = [n for n in dict.fromkeys((comparison.primary.name, *others)) if n in known][:4]
    rows = len(style.drawn_looks(comparison))
    width = 2.1 + 2.3 * len(names)
    figure, panels = house.new_figure(1, len(names), width, 1.0 + 0.34 * rows, sharey=True)
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
    scale, by_name = METRICS[name].scale, style.drawn_looks(comparison)
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
    """Each variant's mean and interval in the primary metric against its mean in another."""
    metric = comparison.primary
    by_name = style.drawn_looks(comparison)
    for variant in comparison.ranking:
        x, y = comparison.mean(variant, x_name), comparison.mean_of_ranked(variant)
        if x is None:
            continue
        if variant not in by_name:
            axes.plot([x.value / scale], [y.value * metric.scale], ".", color=GREY, alpha=0.7)
            continue
        look = by_name[variant]
        bars: dict[str, Any] = {
            "xerr": x.half and x.half / scale,
            "yerr": y.half and y.half * metric.scale,
        }
        axes.errorbar(x.value / scale, y.value * metric.scale, color=look.color, capsize=2,
                      linewidth=0.9, **bars)  # fmt: skip
        axes.plot([x.value / scale], [y.value * metric.scale], **look.dots(markersize=5.5))


def efficiency_figure(comparison: Comparison) -> "Figure":
    """The primary metric against steps per second, training time and FLOPs."""
    figure, panels = house.new_figure(1, 3, 9.6, 3.0, sharey=True)
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
    style.legend_right(figure, style.ranked_looks(comparison), lines=False)
    return figure


def parameters_figure(comparison: Comparison) -> "Figure":
    """The primary metric against parameters without embeddings."""
    figure, (axes,) = house.new_figure(1, 1, 5.6, 3.1)
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
    style.legend_right(figure, style.ranked_looks(comparison), lines=False)
    return figure


def convergence_figure(comparison: Comparison) -> "Figure":
    """Share of the fall reached early, if known; steps and training time to the common loss."""
    by_name = style.drawn_looks(comparison)
    rows = len(by_name)
    height = max(2.7, 1.0 + 0.34 * rows)
    if comparison.shares:
        figure, panels = house.new_figure(1, 3, 10, height, width_ratios=(1.1, 1, 1))
        _early(comparison, panels[0])
    else:
        figure, panels = house.new_figure(1, 2, 7, height)
    steps, seconds = panels[-2:]
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


def _early(comparison: Comparison, early: "Axes") -> None:
    by_name = style.drawn_looks(comparison)
    for variant, shares in comparison.shares.items():
        if variant not in by_name:
            continue
        look = by_name[variant]
        y = [100 * shares[part].value for part in EARLY]
        early.plot([100 * part for part in EARLY], y, **look.line(marker=look.marker))
    early.set_xticks([100 * part for part in EARLY])
    early.set_xlabel("part of the run (%)")
    early.set_ylabel("share of the fall in training loss (%)")
    style.round_ticks(early, "y")
