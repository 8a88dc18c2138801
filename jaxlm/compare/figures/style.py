"""Shared parts of a comparison's figures: a style for each variant, ticks, legends, dot plots.

Every variant has a colour (Okabe and Ito 2008), a line style and a marker, so that no figure
depends on colour alone; beyond twelve variants, colours come from a map of increasing lightness.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlm.compare.analysis import Comparison
from jaxlm.compare.statistics import Mean
from jaxlm.host.checked import Json
from jaxlm.inference.figures import Units, depth_colors
from scaling.report.house import BLACK, BLUE, GREEN, GREY, MARKERS, ORANGE, PURPLE, ROUND, SKY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AMBER = "#B8860B"
COLORS = (BLUE, ORANGE, GREEN, PURPLE, SKY, BLACK, AMBER)
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
LONGEST_NAME = 34
MOST_DRAWN = 12
FLOPS: Units = ((0, 1, "FLOPs (6 N D)"),) + tuple(
    (10.0**power, 10.0**power, f"FLOPs (6 N D, $10^{{{power}}}$)") for power in range(3, 31, 3)
)


@dataclass(frozen=True)
class Look:
    """How a variant is drawn in all figures."""

    name: str
    color: Any
    linestyle: Any
    marker: str

    def line(self, **more: Any) -> Json:
        return {"color": self.color, "linestyle": self.linestyle} | more

    def dots(self, **more: Any) -> Json:
        return {"color": self.color, "marker": self.marker, "linestyle": ""} | more


def looks(names: Sequence[str]) -> dict[str, Look]:
    """A look for each name; the pair of colour and line style is unique for up to 49 names."""
    few = len(names) <= len(MARKERS)
    colors = COLORS if few else depth_colors(len(names))
    return {
        name: Look(
            shortened(name),
            colors[i % len(colors)],
            DASHES[(i + i // len(DASHES)) % len(DASHES)],
            MARKERS[i % len(MARKERS)],
        )
        for i, name in enumerate(names)
    }


def drawn_looks(comparison: Comparison) -> dict[str, Look]:
    """The look of each variant that is drawn: all or, of many, the best and the baseline."""
    drawn = comparison.variants
    if len(drawn) > MOST_DRAWN:
        best = comparison.ranking[: MOST_DRAWN - 1]
        drawn = [v for v in drawn if v in best or v == comparison.baseline]
    return looks(drawn)


def ranked_looks(comparison: Comparison) -> list[Look]:
    by_name = drawn_looks(comparison)
    return [by_name[variant] for variant in comparison.ranking if variant in by_name]


def shortened(name: str) -> str:
    """The name, or both its ends if it is long, since figures have little room."""
    if len(name) <= LONGEST_NAME:
        return name
    half = LONGEST_NAME // 2
    return f"{name[: half - 1]}…{name[-half:]}"


def legend_right(figure: "Figure", shown: Sequence[Look], lines: bool, **extra: Any) -> None:
    """One legend beside the panels: each look with its marker, and with its line if `lines`.

    `extra` maps more labels to handles.
    """
    from matplotlib.lines import Line2D

    handles = []
    for look in shown:
        style = look.line(marker=look.marker) if lines else look.dots()
        handles.append(Line2D([], [], label=look.name, **style))
    for handle in extra.values():
        handles.append(handle)
    figure.legend(handles=handles, loc="outside right upper", handlelength=3.2 if lines else 1.2)


def round_ticks(axes: "Axes", which: str = "x", most: int = 5) -> None:
    """A few round ticks, written without offset."""
    from matplotlib import ticker

    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(ticker.MaxNLocator(most, steps=ROUND))
    formatter = ticker.ScalarFormatter(useOffset=False, useMathText=True)
    formatter.set_powerlimits((-4, 5))
    axis.set_major_formatter(formatter)


def log_ticks(axes: "Axes", which: str, values: Sequence[float]) -> None:
    """A logarithmic axis with a tick at each value if these are few, else at round numbers."""
    from matplotlib import ticker

    getattr(axes, f"set_{which}scale")("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    ticks = sorted(set(values))
    decades = math.log10(ticks[-1] / ticks[0]) if len(ticks) > 1 else 0.0
    crowded = len(ticks) > 7 or any(b / a < 10 ** (decades / 9) for a, b in _steps(ticks))
    if crowded and decades > 1:
        axis.set_major_locator(ticker.LogLocator(subs=(1,) if decades > 3 else (1, 3)))
    else:
        axis.set_major_locator(ticker.FixedLocator(ticks))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: plain_number(value)))
    axis.set_minor_locator(ticker.NullLocator())


def _steps(ticks: Sequence[float]) -> list[tuple[float, float]]:
    return list(zip(ticks[:-1], ticks[1:], strict=True))


def plain_number(value: float) -> str:
    """0.0003 -> 3 x 10^-4 in mathtext, 512 -> 512, 4200000 -> 4.2M."""
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e4:
        return f"{value:.4g}"
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if size <= abs(value) < 1e12:
            return f"{value / size:.3g}{letter}"
    factor, power = f"{value:.2e}".split("e")
    factor = f"{float(factor):g}"
    return rf"$10^{{{int(power)}}}$" if factor == "1" else rf"${factor}\times10^{{{int(power)}}}$"


def dot_plot(
    axes: "Axes",
    names: Sequence[str],
    by_name: Mapping[str, Look],
    seeds: Mapping[str, Sequence[float]],
    means: Mapping[str, Mean | None],
    missing: Mapping[str, str],
    reported: Mapping[str, float] | None = None,
) -> None:
    """A row for each name: its seeds as open rings, their mean with the 95 % interval.

    `missing` has a word for a name without a value; `reported` figures are drawn as crosses.
    """
    reported = reported or {}
    limits = _limits([v for values in seeds.values() for v in values], means, reported)
    axes.set_xlim(*limits)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), [by_name[name].name for name in names])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    for row, name in enumerate(names):
        look, found = by_name[name], means.get(name)
        axes.axhline(row, color="#EEEEEE", linewidth=0.6, zorder=0)
        if found is None:
            word = missing.get(name, "")
            axes.text(0.02, row, word, transform=axes.get_yaxis_transform(), va="center",
                      fontsize=7, color=GREY)  # fmt: skip
        else:
            ring = look.dots(fillstyle="none", markersize=3.2, alpha=0.75, markeredgewidth=0.8)
            values = list(seeds.get(name, ()))
            if len(values) > 1:
                axes.plot(values, [row + 0.22] * len(values), **ring)
            if found.half is not None:
                axes.errorbar(found.value, row, xerr=found.half, color=look.color, capsize=2.5,
                              linewidth=1.2)  # fmt: skip
            axes.plot([found.value], [row], **look.dots(markersize=5))
        if name in reported:
            _reported_mark(axes, reported[name], row, limits)
    round_ticks(axes, "x", 4)


def _reported_mark(axes: "Axes", value: float, row: int, limits: tuple[float, float]) -> None:
    """A cross or, if the figure is outside the axis, a word at that side."""
    if limits[0] <= value <= limits[1]:
        axes.plot([value], [row - 0.22], color=BLACK, marker="x", markersize=5, linestyle="")
        return
    low = value < limits[0]
    text = f"← × {value:.4g}" if low else f"{value:.4g} × →"
    axes.text(0.01 if low else 0.99, row - 0.24, text, transform=axes.get_yaxis_transform(),
              ha="left" if low else "right", va="center", fontsize=6.5, color=BLACK)  # fmt: skip


def _limits(
    values: Sequence[float], means: Mapping[str, Mean | None], reported: Mapping[str, float]
) -> tuple[float, float]:
    """Limits for all seeds, and for intervals and reported figures that do not crowd the seeds."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    room = (high - low) or abs(high) * 0.02 or 1.0
    ends = [m.value + s * m.half for m in means.values() if m and m.half for s in (-1, 1)]
    near = [v for v in [*ends, *reported.values()] if low - room <= v <= high + room]
    beyond = [np.clip(v, low - room, high + room) for v in ends]
    low, high = min([low, *near, *beyond]), max([high, *near, *beyond])
    return float(low - 0.08 * (high - low or room)), float(high + 0.08 * (high - low or room))
