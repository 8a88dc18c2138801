"""A swept number against the result, with the edge of divergence."""

from typing import TYPE_CHECKING, Any

from jaxlm.compare.figures import style
from jaxlm.compare.metrics import METRICS, Metric, heading
from jaxlm.compare.sweeps import LEARNING_RATE, Line, Sweep
from scaling.report import house
from scaling.report.house import BLACK, GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def sweep_figure(sweep: Sweep) -> "Figure":
    """The metric against a swept number; crosses for diverged runs, shading for their edge.

    Best values are ringed. If two other keys vary, one of them has a panel for each value.
    """
    from matplotlib.lines import Line2D

    panels, metric = sweep.panels, METRICS[sweep.metric]
    legend = len(sweep.lines) > 1
    width = 3.6 * len(panels) + (1.9 if legend else 1.2)
    figure, places = house.new_figure(1, len(panels), width, 3.2, sharey=True)
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
    """Shades the axis from the last stable value on; the edge lies in the darker part."""
    low, high = edge
    limits = axes.get_xlim()
    if low:
        axes.axvspan(low, high, color=GREY, alpha=0.25, linewidth=0)
        where: dict[str, Any] = {
            "transform": axes.get_xaxis_transform(),
            "ha": "center",
            "va": "top",
        }
        middle = (low * high) ** 0.5 if axes.get_xscale() == "log" else (low + high) / 2
        axes.text(middle, 0.9, "edge of\ndivergence", fontsize=7, **where)
    axes.axvspan(high, max(limits[1], last), color=GREY, alpha=0.12, linewidth=0)
    axes.set_xlim(*limits)
