"""Elements shared by the figures of a fit: axes in powers of ten, legends and labels; see `house`.

Lines differ in style and marker as well as in colour, and a colour map of increasing lightness
shows sizes and budgets, so both can be read in a grey print.
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
"""viridis without its pale end, which is hard to see on white."""

Look = dict[str, Any]
"""Keyword arguments of matplotlib, of various types."""

COMPUTE, TOKENS = "training compute C (FLOPs)", "training data D (tokens)"
LOSS = "loss (nats per token)"
_COUNTED = {"non_embedding": "non-embedding parameters", "total": "parameters with embeddings"}

# Mantissas of ticks, and how many ticks they must give; the first ones that do are used.
_MANTISSAS = (((1,), 3), ((1, 3), 3), ((1, 2, 5), 3), ((1, 2, 3, 4, 6, 8), 4))
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# Possible places of a label relative to its point: offsets in points, and alignment.
_PLACES = tuple(
    (dx, dy, {-1: "right", 0: "center", 1: "left"}[np.sign(dx)], "bottom" if dy > 0 else "top")
    for dy in (3, -3, 9, -9, 18, -18)
    for dx in (3, -3, 0)
)


# -- numbers -------------------------------------------------------------------------------------


def number(value: float, digits: int = 3) -> str:
    """A number as text: 20 -> '20', 3e21 -> '3×10²¹', with a real minus sign.

    Plain text, because each formula in TeX notation takes matplotlib 20 ms.
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
    """The text, or its end if it is long: the end of a path distinguishes runs."""
    return text if len(text) <= most else "…" + text[1 - most :]


def size_label(count: str) -> str:
    """The label of an axis of N; it states which parameters the records count."""
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
    """The finite values (..., n) within `factor` of the range of `around`.

    Axis limits include an interval only to this extent: an infinite one would compress the rest.
    """
    low, high = np.min(around[around > 0], initial=np.inf), np.max(around, initial=0)
    with np.errstate(invalid="ignore"):
        near = (values >= low / factor) & (values <= high * factor)
    return values[near]


# -- axes ----------------------------------------------------------------------------------------


def log_axis(
    axes: Axes, which: str, limits: tuple[float, float], label: str, most: int = 6
) -> None:
    """Make the x or y axis (`which`) logarithmic, with about `most` plainly written ticks.

    Raises ScalingError if the limits are not two ascending positive numbers.
    """
    if not (0 < limits[0] < limits[1] < np.inf):
        raise ScalingError(f"its {label} axis would range from {limits[0]:g} to {limits[1]:g}")
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
        # There is room for more labels along y than along x.
        bins = 8 if which == "y" else most
        ticks = ticker.MaxNLocator(bins, steps=ROUND).tick_values(low, high)
        axis.set_major_formatter(ticker.ScalarFormatter(useOffset=False))
    axis.set_major_locator(ticker.FixedLocator(list(ticks)))
    between = range(2, 10) if every == 1 else (1,)
    minor = np.outer(10.0**powers, between).ravel() if decades > 1 else np.empty(0)
    # Only ticks inside the limits: matplotlib creates marks and texts for those outside too.
    axis.set_minor_locator(ticker.FixedLocator(list(minor[(minor >= low) & (minor <= high)])))
    axis.set_minor_formatter(ticker.NullFormatter())


def linear_axis(
    axes: Axes, which: str, limits: tuple[float, float], label: str, ticks: int = 5
) -> None:
    """Make the x or y axis (`which`) linear, with about `ticks` round ticks.

    Raises ScalingError if the limits are not two ascending finite numbers.
    """
    if not (-np.inf < limits[0] < limits[1] < np.inf):
        raise ScalingError(f"its {label} axis would range from {limits[0]:g} to {limits[1]:g}")
    getattr(axes, f"set_{which}lim")(*limits)
    getattr(axes, f"set_{which}label")(label)
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(ticker.MaxNLocator(ticks, steps=ROUND))
    formatter = _Plain(useOffset=False)
    formatter.set_powerlimits((-3, 4))
    axis.set_major_formatter(formatter)


class _Plain(ticker.ScalarFormatter):
    """A formatter that writes its power of ten as `power` does."""

    def get_offset(self) -> str:
        mantissa, _, exponent = super().get_offset().replace("−", "-").partition("e")
        return f"{mantissa.removeprefix('1')}×{power(int(exponent))}" if exponent else mantissa


def lightness(values: np.ndarray) -> LogNorm:
    """A logarithmic norm of positive values for a colour map: small values are dark."""
    low, high = float(np.min(values)), float(np.max(values))
    return LogNorm(low, high) if high > low else LogNorm(low / 2, high * 2)


def size_bar(figure: Figure, axes: Axes, norm: LogNorm, count: str) -> None:
    """Add a colour bar of model sizes next to the axes."""
    mappable = shades(norm)
    bar = figure.colorbar(mappable, ax=axes, pad=0.015, aspect=30)
    assert norm.vmin is not None and norm.vmax is not None
    log_axis(bar.ax, "y", (norm.vmin, norm.vmax), size_label(count))
    bar.outline.set_linewidth(0.5)


def shades(norm: LogNorm) -> ScalarMappable:
    """A colour map of values: `.to_rgba(value)` gives the colour."""
    return ScalarMappable(norm, LIGHTNESS)


def even_choice(count: int, most: int) -> np.ndarray:
    """At most `most` indices below `count`, evenly spread, including the first and the last."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def _renderer(figure: Figure) -> RendererBase:
    assert isinstance(figure.canvas, FigureCanvasAgg)
    return figure.canvas.get_renderer()


# -- legends and labels --------------------------------------------------------------------------


def legend_above(figure: Figure, axes: Sequence[Axes] | None = None) -> None:
    """Add one legend above the panels, with each label once, in as few rows as possible."""
    found: dict[str, Artist] = {}
    for panel in figure.axes if axes is None else axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    room = 0.96 * figure.bbox.width
    for columns in range(len(found), 0, -1):
        # Skip numbers of columns that leave a column empty with this number of rows.
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
    """Write a text next to each point, where it covers the least.

    Args:
      x, y: points in data coordinates.
      texts: one for each point.
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
        # A run may have any name, so a dollar sign must not start a formula.
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
