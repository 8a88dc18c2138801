"""What the figures of a fit share: axes in powers of ten, legends and labels; see `house`.

Lines are told apart by style and marker as well as by colour; sizes and budgets are shown by a map
whose lightness grows, so both survive a grey print.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, ticker
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from numpy.typing import ArrayLike

from scaling.errors import ScalingError
from scaling.report.house import BLACK, ROUND, settle

LIGHTNESS = ListedColormap(colormaps["viridis"](np.linspace(0, 0.82, 256)), "viridis_dark")
"""viridis without its pale end, which is lost on white paper."""

Look = dict[str, Any]
"""Keywords of matplotlib, whose types differ."""

COMPUTE, TOKENS = "training compute C (FLOPs)", "training data D (tokens)"
LOSS = "loss (nats per token)"
_COUNTED = {"non_embedding": "non-embedding parameters", "total": "parameters with embeddings"}

# Mantissas of ticks and how many ticks they must give; the first that do are taken.
_MANTISSAS = (((1,), 3), ((1, 3), 3), ((1, 2, 5), 3), ((1, 2, 3, 4, 6, 8), 4))
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# Where a label may stand from its point: offsets in points, alignment.
_PLACES = tuple(
    (dx, dy, {-1: "right", 0: "center", 1: "left"}[np.sign(dx)], "bottom" if dy > 0 else "top")
    for dy in (3, -3, 9, -9, 18, -18)
    for dx in (3, -3, 0)
)


# -- numbers -------------------------------------------------------------------------------------


def number(value: float, digits: int = 3) -> str:
    """20 -> '20', 3e21 -> '3×10²¹'; the minus sign is a minus sign.

    In plain text: every formula that TeX's way sets takes 20 ms.
    """
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "−∞"}.get(value, "undefined")
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.{max(digits, 4)}g}".replace("-", "−")
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    mantissa = f"{float(mantissa):g}".replace("-", "−")
    return power(int(exponent)) if mantissa == "1" else f"{mantissa}×{power(int(exponent))}"


def power(exponent: int) -> str:
    """A power of ten: 21 -> '10²¹'."""
    return "10" + str(exponent).translate(_RAISED)


def pair(interval: tuple[float, float], digits: int = 3) -> str:
    """An interval as [low, high]."""
    return f"[{number(interval[0], digits)}, {number(interval[1], digits)}]"


def shortened(text: str, most: int = 22) -> str:
    """The text, or its end where it is long: the end of a path tells runs apart."""
    return text if len(text) <= most else "…" + text[1 - most :]


def size_label(count: str) -> str:
    """The label of an axis of N, with what the records count."""
    return f"model size N ({_COUNTED.get(count, 'parameters')})"


def span(*values: ArrayLike, margin: float = 0.04) -> tuple[float, float]:
    """Limits of a log axis that shows all positive finite values, with a margin on each side."""
    known = np.concatenate([np.ravel(np.asarray(value, float)) for value in values])
    known = np.log(known[np.isfinite(known) & (known > 0)])
    if not len(known):
        return 0.1, 10.0
    low, high = known.min(), known.max()
    room = max(margin * (high - low), 0.01)
    return float(np.exp(low - room)), float(np.exp(high + room))


def inside(values: np.ndarray, around: np.ndarray, factor: float) -> np.ndarray:
    """The finite values (..., n) that lie at most `factor` below or above all of `around`.

    Limits follow an interval only so far: one that is endless would press all else together.
    """
    low, high = np.min(around[around > 0], initial=np.inf), np.max(around, initial=0)
    with np.errstate(invalid="ignore"):
        near = (values >= low / factor) & (values <= high * factor)
    return values[near]


# -- axes ----------------------------------------------------------------------------------------


def log_axis(
    axes: Axes, which: str, limits: tuple[float, float], label: str, most: int = 6
) -> None:
    """A logarithmic x or y axis with at most `most` or so plainly written ticks.

    Raises ScalingError where the limits are not two ascending positive numbers.
    """
    if not (0 < limits[0] < limits[1] < np.inf):
        raise ScalingError(f"its axis of {label} would go from {limits[0]:g} to {limits[1]:g}")
    getattr(axes, f"set_{which}scale")("log")
    getattr(axes, f"set_{which}lim")(*limits)
    getattr(axes, f"set_{which}label")(label)
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = limits
    powers = np.arange(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1.0)
    decades = math.log10(high / low)
    every = max(1, math.ceil(decades / most))
    for mantissas, least in _MANTISSAS:
        ticks = np.outer(10.0 ** powers[powers % every == 0], mantissas).ravel()
        ticks = ticks[(ticks >= low) & (ticks <= high)]
        if len(ticks) >= least or every > 1:
            axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: number(value)))
            break
    else:
        # Along y there is room for more labels than along x.
        bins = 8 if which == "y" else most
        ticks = ticker.MaxNLocator(bins, steps=ROUND).tick_values(low, high)
        axis.set_major_formatter(ticker.ScalarFormatter(useOffset=False))
    axis.set_major_locator(ticker.FixedLocator(list(ticks)))
    between = range(2, 10) if every == 1 else (1,)
    minor = np.outer(10.0**powers, between).ravel() if decades > 1 else np.empty(0)
    # matplotlib makes a mark, with its text, of those outside as well.
    axis.set_minor_locator(ticker.FixedLocator(list(minor[(minor >= low) & (minor <= high)])))
    axis.set_minor_formatter(ticker.NullFormatter())


def linear_axis(
    axes: Axes, which: str, limits: tuple[float, float], label: str, ticks: int = 5
) -> None:
    """A linear x or y axis with about `ticks` round ticks.

    Raises ScalingError where the limits are not two ascending numbers.
    """
    if not (-np.inf < limits[0] < limits[1] < np.inf):
        raise ScalingError(f"its axis of {label} would go from {limits[0]:g} to {limits[1]:g}")
    getattr(axes, f"set_{which}lim")(*limits)
    getattr(axes, f"set_{which}label")(label)
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(ticker.MaxNLocator(ticks, steps=ROUND))
    formatter = _Plain(useOffset=False)
    formatter.set_powerlimits((-3, 4))
    axis.set_major_formatter(formatter)


class _Plain(ticker.ScalarFormatter):
    """With its power of ten written as everywhere here."""

    def get_offset(self) -> str:
        mantissa, _, exponent = super().get_offset().replace("−", "-").partition("e")
        return f"{mantissa.removeprefix('1')}×{power(int(exponent))}" if exponent else mantissa


def lightness(values: np.ndarray) -> LogNorm:
    """The norm of a map from positive values, small ones dark, on a log scale."""
    low, high = float(np.min(values)), float(np.max(values))
    return LogNorm(low, high) if high > low else LogNorm(low / 2, high * 2)


def size_bar(figure: Figure, axes: Axes, norm: LogNorm, count: str) -> None:
    """A colour bar of model sizes beside the axes."""
    mappable = shades(norm)
    bar = figure.colorbar(mappable, ax=axes, pad=0.015, aspect=30)
    assert norm.vmin is not None and norm.vmax is not None
    log_axis(bar.ax, "y", (norm.vmin, norm.vmax), size_label(count))
    bar.outline.set_linewidth(0.5)


def shades(norm: LogNorm) -> ScalarMappable:
    """What gives the colour of a value: `.to_rgba(value)`."""
    return ScalarMappable(norm, LIGHTNESS)


def even_choice(count: int, most: int) -> np.ndarray:
    """At most `most` indices below `count`, evenly spread, with the first and the last."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def _renderer(figure: Figure) -> RendererBase:
    assert isinstance(figure.canvas, FigureCanvasAgg)
    return figure.canvas.get_renderer()


# -- legends and labels --------------------------------------------------------------------------


def legend_above(figure: Figure, axes: Sequence[Axes] | None = None) -> None:
    """One legend over the panels, of all their labels, each once, in as few rows as fit."""
    found: dict[str, Artist] = {}
    for panel in figure.axes if axes is None else axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    room = 0.96 * figure.bbox.width
    for columns in range(len(found), 0, -1):
        # No fewer columns than the number of rows asks for: the last one is not left empty.
        if columns != -(-len(found) // -(-len(found) // columns)):
            continue
        place: Look = {"loc": "outside upper center", "ncols": columns}
        legend = figure.legend(list(found.values()), list(found), **place)
        if columns == 1 or legend.get_window_extent(_renderer(figure)).width <= room:
            return
        legend.remove()


def label_points(
    axes: Axes, x: np.ndarray, y: np.ndarray, texts: Sequence[str], others: np.ndarray
) -> None:
    """Write a text beside each point, where it covers least.

    Args:
      others: (n, 2) points in data coordinates that a text should not cover.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    settle(figure)
    frame = axes.get_window_extent()
    taken: list[Bbox] = []
    dots = axes.transData.transform(others)
    for x_i, y_i, words in zip(x, y, texts, strict=True):
        paper = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.4}
        style: Look = {
            "textcoords": "offset points",
            "fontsize": 6.5,
            "color": BLACK,
            "bbox": paper,
        }
        # A run may be called anything; a dollar sign does not begin mathematics.
        text = axes.annotate(words, (x_i, y_i), xytext=(0, 0), parse_math=False, **style)
        text.set_in_layout(False)
        tried: list[tuple[float, int, Bbox]] = []
        for dx, dy, across, upright in _PLACES:
            text.set(position=(dx, dy), ha=across, va=upright)
            box = text.get_window_extent(_renderer(figure))
            covered = np.sum(np.all((dots > box.min) & (dots < box.max), axis=1))
            outside = np.any(box.min < frame.min) or np.any(box.max > frame.max)
            clash = sum(box.overlaps(other) for other in taken)
            tried.append((100 * (clash + outside) + covered, len(tried), box))
        _, chosen, box = min(tried, key=lambda attempt: attempt[:2])
        dx, dy, across, upright = _PLACES[chosen]
        text.set(position=(dx, dy), ha=across, va=upright)
        taken.append(box)
