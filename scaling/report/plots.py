"""Figures of a fit: IsoFLOP curves, the allocation of compute, and loss against compute.

Each function writes PATH.png and PATH.svg and returns the path of the PNG. `planned` lists the
figures that apply; `scaling.report.drawing` draws them independently for a report.
Shapes: n points, B budgets, G places of a curve, S resamples.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine

from scaling.law import allocate
from scaling.law.laws import CHINCHILLA
from scaling.report import house
from scaling.report import plot_style as style
from scaling.report.bands import allocation_bands, curve_bands, divides_compute, law_values, places
from scaling.report.house import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE
from scaling.report.plot_style import COMPUTE, LOSS

if TYPE_CHECKING:
    from scaling.estimate.envelope import Envelope
    from scaling.estimate.fit import Fit
    from scaling.estimate.holdout import HoldOut
    from scaling.estimate.isoflop import IsoFlop
    from scaling.estimate.power_law import PowerLaw
    from scaling.records.records import Records

HOFFMANN = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
"""The law as published by Hoffmann et al. 2022, for comparison."""
MOST_POINTS = 4000  # runs shown in a figure
_PLACES = 80  # of an IsoFLOP curve
_MOST_SIZES = 8
_MOST_BUDGETS = 20


class Plan(NamedTuple):
    """A figure to draw: `function(*arguments, path=..., **options)`."""

    function: Callable[..., Path]
    arguments: tuple[object, ...]
    options: dict[str, Any]

    def draw(self, path: Path) -> Path:
        return self.function(*self.arguments, path=path, **self.options)


def planned(
    fit: "Fit",
    records: "Records",
    isoflop: "IsoFlop | None" = None,
    envelope: "Envelope | None" = None,
    holdout: "HoldOut | None" = None,
) -> dict[str, Plan]:
    """All figures that the law and the results allow, by name, in the order of a report.

    At most MOST_POINTS records are shown, evenly spread over their compute.
    """
    from scaling.report.plots_doubt import ellipses, hold_out, profiles, residuals

    shown = thinned(records)
    plans: dict[str, Plan] = {}
    if isoflop is not None:
        plans["isoflop"] = Plan(isoflop_curves, (records, isoflop, fit), {})
    if divides_compute(fit.law):
        approaches = {"isoflop": isoflop, "envelope": envelope}
        plans["allocation"] = Plan(optimal_allocation, (fit, shown), approaches)
        compare = {"compare": records.natural_text}
        plans["loss_against_compute"] = Plan(loss_against_compute, (fit, shown), compare)
    if divides_compute(fit.law) or len(fit.law.variables) == 1:
        plans["frontier"] = Plan(frontier, (fit, shown), {})
    plans["residuals"] = Plan(residuals, (fit, shown), {})
    if holdout is not None:
        plans["holdout"] = Plan(hold_out, (holdout,), {"records": shown})
    if len(fit.samples) >= 3 and len(fit.law.coordinates) > 1:
        plans["ellipses"] = Plan(ellipses, (fit,), {})
    if any(len(profile.values) for profile in fit.profiles.values()):
        plans["profiles"] = Plan(profiles, (fit,), {})
    return plans


def figures(fit: "Fit", records: "Records", folder: str | Path, **results: Any) -> dict[str, Path]:
    """Draw all `planned` figures in sequence. Returns their paths by name."""
    plans = planned(fit, records, **results)
    return {name: plan.draw(Path(folder) / name) for name, plan in plans.items()}


def thinned(records: "Records", most: int = MOST_POINTS) -> "Records":
    """At most `most` records, evenly spread over their compute, including both ends."""
    if len(records) <= most:
        return records
    return records.where(
        np.argsort(records.C, kind="stable")[style.even_choice(len(records), most)]
    )


# -- elements ------------------------------------------------------------------------------------


def _draw_band(
    axes: Axes, x_G: np.ndarray, band_3xG: np.ndarray, color: str, label: str, level: float
) -> None:
    """A line with its interval as a shaded band, visible in grey prints too."""
    line, low, high = band_3xG
    axes.plot(x_G, line, color=color, label=label, zorder=3)
    if np.isfinite(low).any():
        edges = np.clip(np.stack([low, high]), 1e-300, 1e300)
        text = f"{100 * level:g} % interval of the law"
        axes.fill_between(x_G, *edges, color=color, alpha=0.2, linewidth=0, label=text, zorder=2)


def _mark_range(axes: Axes, largest: float) -> None:
    text = "largest compute of the records"
    axes.axvline(largest, color=GREY, linewidth=0.9, linestyle=(0, (1, 2)), label=text)


def _mark_floors(axes: Axes, fit: "Fit", limits: tuple[float, float]) -> None:
    """E and the exact entropy as horizontal lines, if they are within the limits."""
    E, floor = fit.parameters.get("E"), fit.floor
    if E is not None and limits[0] < E:
        sure = f" {style.pair(fit.intervals['E'])}" if "E" in fit.intervals else ""
        text = f"E = {style.number(E)}{sure}"
        axes.axhline(E, color=BLUE, linewidth=1, linestyle=":", label=text)
    if floor is not None and limits[0] < floor:
        text = f"exact entropy {style.number(floor)}"
        axes.axhline(floor, color=BLACK, linewidth=1, linestyle=(0, (5, 3)), label=text)


def _loss_limits(fit: "Fit", *losses: np.ndarray) -> tuple[float, float]:
    """Limits of a loss axis: all points, and E and the exact entropy if not far below them."""
    lowest = min(np.min(loss, initial=np.inf) for loss in losses)
    floors = [fit.parameters.get("E"), fit.floor]
    near = [floor for floor in floors if floor is not None and floor > 0.4 * lowest]
    return style.span(*losses, near)


# -- figures -------------------------------------------------------------------------------------


@house.styled
def isoflop_curves(
    records: "Records", isoflop: "IsoFlop", fit: "Fit | None", path: str | Path
) -> Path:
    """Loss against N for each budget: points, parabolas with their minima, and the law's curves."""
    figure, (axes,) = house.new_figure(1, 1, 7, 4.2)
    norm = style.lightness(isoflop.C_B)
    minima = isoflop.minima["parabola"]
    listed = set(style.even_choice(len(isoflop.C_B), _MOST_BUDGETS))
    with_law = fit is not None and divides_compute(fit.law)
    budgets = []
    for i, (C, points) in enumerate(zip(isoflop.C_B, isoflop.points, strict=True)):
        color, marker = style.shades(norm).to_rgba(C), house.MARKERS[i % len(house.MARKERS)]
        N_m, loss_m = records.N[points], records.loss[points]
        some = style.even_choice(len(points), max(MOST_POINTS // len(isoflop.C_B), 10))
        (dots,) = axes.plot(
            N_m[some], loss_m[some], marker, color=color, alpha=0.85, markeredgewidth=0
        )
        axes.plot(*isoflop.curves["parabola"][i], color=color, linewidth=1.1)
        if i in listed:
            dots.set_label(style.number(C))
            budgets.append(dots)
        if with_law and fit is not None:
            N_G = np.geomspace(N_m.min(), N_m.max(), _PLACES)
            compute = np.exp(np.mean(np.log(6 * N_m * records.D[points])))
            loss_G = fit.law.loss(fit.theta, **law_values(fit.law, N_G, compute / 6 / N_G))
            axes.plot(N_G, loss_G, color=color, linewidth=0.9, linestyle=(0, (4, 2)))
    inside = minima.inside_B
    found: style.Look = {"markersize": 8, "color": BLACK, "zorder": 4, "linestyle": ""}
    found |= {"markeredgewidth": 0}
    axes.plot(minima.N_B[inside], minima.loss_B[inside], marker="*", **found)
    style.log_axis(axes, "x", style.span(records.N[_all(isoflop)]), style.size_label(records.count))
    style.log_axis(axes, "y", style.span(records.loss[_all(isoflop)]), LOSS)
    keys = [
        axes.plot([], [], "o", color=GREY, label="run")[0],
        axes.plot([], [], color=GREY, linewidth=1.1, label="parabola in ln N")[0],
        axes.plot([], [], marker="*", **found, label="its minimum")[0],
    ]
    if with_law:
        dashes: style.Look = {"color": GREY, "linewidth": 0.9, "linestyle": (0, (4, 2))}
        keys.append(axes.plot([], [], **dashes, label="fitted law (approach 3)")[0])
    figure.legend(handles=keys, loc="outside upper center", ncols=len(keys))
    title = "compute (FLOPs)"
    if len(budgets) < len(isoflop.C_B):
        title += f",\n{len(budgets)} of {len(isoflop.C_B)}"
    place: style.Look = {
        "loc": "upper left",
        "bbox_to_anchor": (1.01, 1.0),
        "borderaxespad": 0.0,
        "labelspacing": 0.2,
    }
    axes.legend(handles=budgets[::-1], title=title, title_fontsize=7.5, **place)
    return house.save(figure, path)


def _all(isoflop: "IsoFlop") -> np.ndarray:
    return np.concatenate(isoflop.points)


@house.styled
def optimal_allocation(
    fit: "Fit",
    records: "Records",
    path: str | Path,
    isoflop: "IsoFlop | None" = None,
    envelope: "Envelope | None" = None,
) -> Path:
    """Optimal N and D against C: by the law, with its interval, and by approaches 1 and 2."""
    figure, panels = house.new_figure(1, 2, 7.2, 3.7)
    C_G = places(fit, records.C)
    bands = allocation_bands(fit, C_G)
    labels = {"N": style.size_label(records.count), "D": style.TOKENS}
    for axes, name in zip(panels, "ND", strict=True):
        shown = [getattr(records, name)]
        axes.plot(records.C, shown[0], ".", color="#C4C4C4", markersize=3, label="run", zorder=1)
        _draw_band(axes, C_G, bands[name], BLUE, "approach 3: fitted law", fit.level)
        exponents = [("3", fit.parameters.get({"N": "a", "D": "b"}[name]))]
        if isoflop is not None and "parabola" in isoflop.laws:
            minima, law = isoflop.minima["parabola"], isoflop.laws["parabola"][name]
            inside = minima.inside_B
            found = isoflop.C_B[inside], getattr(minima, f"{name}_B")[inside]
            words = "approach 2: minima", "approach 2: power law"
            _draw_approach(axes, found, law, C_G, ("o", ORANGE, (0, (5, 2))), words)
            exponents.append(("2", law.exponent))
        if envelope is not None:
            law, used = envelope.laws[name], envelope.used_G
            found = envelope.C_G[used], getattr(envelope, f"{name}_G")[used]
            words = "approach 1: best runs", "approach 1: power law"
            _draw_approach(axes, found, law, C_G, ("^", GREEN, "-."), words)
            exponents.append(("1", law.exponent))
        _mark_range(axes, records.C.max())
        style.log_axis(axes, "x", style.span(C_G), COMPUTE, most=5)
        ends = style.inside(bands[name], shown[0], 10)
        style.log_axis(axes, "y", style.span(*shown, *ends), labels[name])
        known = [f"{e:.3f} ({which})" for which, e in exponents if e is not None]
        if known:
            axes.set_title(f"exponent of C: {', '.join(known)}", fontsize=7.5)
    style.legend_above(figure)
    return house.save(figure, path)


def _draw_approach(
    axes: Axes,
    found: tuple[np.ndarray, np.ndarray],
    law: "PowerLaw",
    C_G: np.ndarray,
    look: tuple[str, str, object],
    words: tuple[str, str],
) -> None:
    """The optima found by an approach (C, and N or D), and its power law."""
    marker, color, dashes = look
    dots: style.Look = {
        "linestyle": "",
        "fillstyle": "none",
        "markersize": 4.5,
        "markeredgewidth": 0.9,
    }
    axes.plot(*found, marker=marker, color=color, label=words[0], zorder=4, **dots)
    axes.plot(C_G, law.at(C_G)[0], color=color, linestyle=dashes, label=words[1], zorder=3)


@house.styled
def loss_against_compute(
    fit: "Fit", records: "Records", path: str | Path, compare: bool = False
) -> Path:
    """Loss against FLOPs: curves at fixed N, the optimal frontier with its interval, the floors.

    Args:
      compare: also draw the frontier of the law published by Hoffmann et al. 2022.
    """
    figure, (axes,) = house.new_figure(1, 1, 7, 4.2)
    C_G = places(fit, records.C)
    band = allocation_bands(fit, C_G)["L"]
    limits = _loss_limits(fit, records.loss, style.inside(band, records.loss, 2))
    norm = style.lightness(records.N)
    for i, N in enumerate(shown_sizes(records.N)):
        D_G = C_G / (6 * N)
        loss_G = fit.law.loss(fit.theta, **law_values(fit.law, N, D_G))
        text = "law at fixed N" if i == 0 else None
        line: style.Look = {"color": style.shades(norm).to_rgba(N), "linewidth": 0.9, "label": text}
        axes.plot(C_G, loss_G, linestyle=(0, (4, 2)), **line)
    colors = style.shades(norm).to_rgba(records.N)
    dots: style.Look = {"s": 11, "linewidths": 0, "zorder": 4, "label": "run"}
    axes.scatter(records.C, records.loss, color=colors, **dots)
    _draw_band(axes, C_G, band, BLACK, "optimal frontier of the law", fit.level)
    if compare:
        _draw_published(axes, C_G, limits)
    _mark_floors(axes, fit, limits)
    _mark_range(axes, records.C.max())
    style.log_axis(axes, "x", style.span(C_G), COMPUTE)
    style.log_axis(axes, "y", limits, LOSS)
    style.size_bar(figure, axes, norm, records.count)
    style.legend_above(figure, [axes])
    return house.save(figure, path)


def _draw_published(axes: Axes, C_G: np.ndarray, limits: tuple[float, float]) -> None:
    loss_G = allocate.optimal(CHINCHILLA, CHINCHILLA.from_natural(HOFFMANN), C_G)[2]
    # A curve outside the axis belongs to another corpus or tokenizer and would only confuse.
    if np.mean((loss_G > limits[0]) & (loss_G < limits[1])) > 0.9:
        line: style.Look = {
            "color": PURPLE,
            "linestyle": "-.",
            "label": "as published, Hoffmann et al. 2022",
        }
        axes.plot(C_G, loss_G, **line)


def shown_sizes(N: np.ndarray) -> np.ndarray:
    """At most 8 of the sizes, evenly spread in ln N, including the smallest and the largest."""
    sizes = np.unique(N)
    if len(sizes) <= _MOST_SIZES:
        return sizes
    wanted = np.linspace(np.log(sizes[0]), np.log(sizes[-1]), _MOST_SIZES)
    return sizes[np.unique(np.abs(np.log(sizes) - wanted[:, None]).argmin(1))]


@house.styled
def frontier(fit: "Fit", records: "Records", path: str | Path) -> Path:
    """The least loss at each compute, and its part above E on a log axis.

    For a law of one variable, its curve against that variable is drawn instead.
    """
    one = fit.law.variables[0] if len(fit.law.variables) == 1 else None
    labels = {None: COMPUTE, "C": COMPUTE, "D": style.TOKENS, "N": style.size_label(records.count)}
    x = getattr(records, one or "C")
    x_G = places(fit, x)
    bands = curve_bands(fit, x_G) if one else allocation_bands(fit, x_G)
    figure, panels = house.new_figure(1, 1 + ("reducible" in bands), 7.2, 3.3)
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(wspace=0.05)
    what = "fitted law" if one else "optimal frontier of the law"
    dots: style.Look = {"linestyle": "", "marker": "o", "color": GREY, "zorder": 1}
    dots |= {"markersize": 2.6, "alpha": 0.8, "markeredgewidth": 0, "label": "run"}
    panels[0].plot(x, records.loss, **dots)
    _draw_band(panels[0], x_G, bands["L"], BLUE, what, fit.level)
    limits = _loss_limits(fit, records.loss, style.inside(bands["L"], records.loss, 2))
    _mark_floors(panels[0], fit, limits)
    style.log_axis(panels[0], "y", limits, LOSS)
    if "reducible" in bands:
        above = records.loss - fit.parameters["E"]
        panels[1].plot(x[above > 0], above[above > 0], **dots)
        _draw_band(panels[1], x_G, bands["reducible"], BLUE, what, fit.level)
        near = style.inside(bands["reducible"], above, 4)
        style.log_axis(panels[1], "y", style.span(above, near), "L − E (nats per token)")
        _title_slope(panels[1], fit, x_G, bands["reducible"][0], one or "C")
    for axes in panels:
        text = f"largest {'compute' if labels[one] == COMPUTE else one} of the records"
        axes.axvline(x.max(), color=GREY, linewidth=0.9, linestyle=(0, (1, 2)), label=text)
        style.log_axis(axes, "x", style.span(x_G), labels[one], most=5)
    style.legend_above(figure)
    return house.save(figure, path)


def _title_slope(
    axes: Axes, fit: "Fit", x_G: np.ndarray, above_G: np.ndarray, variable: str
) -> None:
    """Write the exponent of the curve in the title, if the curve is a power law."""
    straight = len(fit.law.variables) == 1 or allocate.coefficients(fit.law, fit.theta)
    slope = np.log(above_G[-1] / above_G[0]) / np.log(x_G[-1] / x_G[0])
    if straight and np.isfinite(slope):
        power = f"{slope:.3f}".replace("-", "−")
        axes.set_title(f"L − E ∝ {variable}^({power})", parse_math=False)
