"""Figures of one run, as PNG: loss, perplexity, schedule, norms, speed; see `scaling.report.house`.

Legend: N records, E evaluations. Lines differ in style and marker as well as in colour, and
depth is shown by a colour map of increasing lightness, so both survive printing in grey.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlm.host.checked import Json
from scaling.report.house import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    ROUND,
    SKY,
    house_style,
    new_figure,
    save,
)  # fmt: skip

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Records = list[Json]
Units = tuple[tuple[float, float, str], ...]

# (smallest value, divisor, label); the last unit whose smallest value is reached is used.
STEPS: Units = ((0, 1, "step"), (2e4, 1e3, "step (thousands)"), (2e7, 1e6, "step (millions)"))
TOKENS: Units = (
    (0, 1, "training tokens"),
    (1e3, 1e3, "training tokens (thousands)"),
    (1e6, 1e6, "training tokens (millions)"),
    (1e9, 1e9, "training tokens (billions)"),
)
TIME: Units = (
    (0, 1, "wall-clock time (s)"),
    (180, 60, "wall-clock time (min)"),
    (3 * 3600, 3600, "wall-clock time (h)"),
)
SPEED: Units = (
    (0, 1, "speed (tokens/s)"),
    (1e3, 1e3, "speed (thousand tokens/s)"),
    (1e6, 1e6, "speed (million tokens/s)"),
)
MEMORY: Units = ((0, 2**20, "memory in use (MiB)"), (2**30, 2**30, "memory in use (GiB)"))
GROUP_LABELS = {
    "gradient_norms": "gradient norm (L2)",
    "weight_norms": "weight norm (L2)",
    "update_norms": "update norm (L2)",
    "update_ratio": "update norm / weight norm",
}
_X_AXES = (("step", STEPS), ("tokens", TOKENS), ("wall_seconds", TIME))

_PANELS = 3
_MAX_POINTS = 100
_MAX_LEGEND_BLOCKS = 12


def plot_run(records: Records, summary: Json, folder: Path) -> list[Path]:
    """Draw a run's records (metrics.jsonl) and summary (summary.json) into `folder`/*.png."""
    with house_style():
        figures = run_figures(records, summary).items()
        return [save(figure, folder / name, svg=False) for name, figure in figures]


def run_figures(records: Records, summary: Json) -> dict[str, "Figure"]:
    """File name -> figure, for every quantity in the records, in the order of the report."""
    train = [record for record in records if record["kind"] == "train"]
    evals = [record for record in records if record["kind"] == "eval"]
    figures = {}
    if train or evals:
        figures["loss"] = loss_figure(train, evals, summary)
        figures["perplexity"] = loss_figure(train, evals, summary, perplexity=True)
    if evals:
        figures["accuracy"] = accuracy_figure(evals)
    if train:
        figures["optimization"] = optimization_figure(train)
        for name in GROUP_LABELS:
            figures[name] = groups_figure(train, name)
        figures["activation_rms"] = activation_figure(train)
        figures["speed"] = speed_figure(train)
    return figures


# -- numbers -------------------------------------------------------------------------------------


def column(records: Records, name: str) -> np.ndarray:
    """float64 (N,) of a field; null and non-finite values become NaN, a gap in the line."""
    values_N = np.array([record.get(name) for record in records], np.float64)
    return np.where(np.isfinite(values_N), values_N, np.nan)


def scaled(values: np.ndarray, units: Units) -> tuple[np.ndarray, str]:
    """Values in the unit that suits the largest of them, and the axis label with that unit."""
    largest = np.nanmax(values, initial=0.0)
    _, divisor, label = [unit for unit in units if largest >= unit[0]][-1]
    return values / divisor, label


def smoothed(values_N: np.ndarray) -> np.ndarray:
    """Centred mean over `smoothing_width` records, fewer towards both ends; gaps are skipped."""
    n = len(values_N)
    i_N = np.arange(n)
    half_N = np.minimum(smoothing_width(n) // 2, np.minimum(i_N, n - 1 - i_N))
    known_N = np.isfinite(values_N)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known_N, values_N, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known_N)])
    low_N, high_N = i_N - half_N, i_N + half_N + 1
    with np.errstate(invalid="ignore"):
        return (sums[high_N] - sums[low_N]) / (counts[high_N] - counts[low_N])


def smoothing_width(n: int) -> int:
    """How many of `n` records each smoothed value averages: about 2 %, at least 3."""
    return 2 * max(1, n // 100) + 1


def recent_speed(train: Records) -> np.ndarray:
    """(N,) tokens per second of training time over the last `smoothing_width` records.

    Single records are too noisy: a step's metrics are read after the next step is dispatched, or
    at once if an evaluation follows, so the time of a record may be one step late.
    """
    width = smoothing_width(len(train))
    both_2xN = np.stack([column(train, "tokens"), column(train, "seconds")])
    before_2xN = np.pad(both_2xN, ((0, 0), (width, 0)))[:, : len(train)]
    tokens_N, seconds_N = both_2xN - before_2xN
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(seconds_N > 0, tokens_N / seconds_N, np.nan)


def thinned(values_NxK: np.ndarray) -> np.ndarray:
    """At most 100 rows, each the mean of consecutive rows; gaps are skipped."""
    n = len(values_NxK)
    starts = np.unique(np.linspace(0, n, min(n, _MAX_POINTS), endpoint=False).astype(int))
    known = np.isfinite(values_NxK)
    sums = np.add.reduceat(np.where(known, values_NxK, 0.0), starts, axis=0)
    with np.errstate(invalid="ignore"):
        return sums / np.add.reduceat(known.astype(float), starts, axis=0)


# -- axes ----------------------------------------------------------------------------------------


def log_axis(axes: "Axes", *values: np.ndarray) -> None:
    """Make the y axis logarithmic, with plain labels; it stays linear if no value is positive."""
    from matplotlib import ticker

    known = np.concatenate([np.ravel(v) for v in values])
    known = known[np.isfinite(known) & (known > 0)]
    if not len(known):
        return
    axes.set_yscale("log")
    decades = math.log10(known.max() / known.min())
    choices = ((3, (1,)), (1.3, (1, 2, 5)), (0.8, (1, 2, 3, 5)), (-1, (1, 1.5, 2, 3, 4, 6, 8)))
    subs = next(subs for least, subs in choices if decades > least)
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=subs, numticks=12))
    if decades < 0.35:
        axes.set_ylim(known.min() / 1.1, known.max() * 1.1)
        axes.yaxis.set_major_locator(ticker.MaxNLocator(5, steps=ROUND))
        axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: _plain(value)))
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())


def _plain(value: float) -> str:
    """20 -> '20', 3e-5 -> 3 x 10^-5 in mathtext."""
    if value <= 0 or 1e-3 <= value < 1e5:
        return f"{value:.4g}"
    power = math.floor(math.log10(value) + 1e-9)
    factor = value / 10.0**power
    return f"${factor:.3g}\\times10^{{{power}}}$" if factor > 1.001 else f"$10^{{{power}}}$"


def _x_axis(axes: "Axes", label: str) -> None:
    from matplotlib import ticker

    axes.set_xlabel(label)
    whole = label == STEPS[0][2]
    axes.xaxis.set_major_locator(ticker.MaxNLocator(5, steps=ROUND, integer=whole))


def _line(axes: "Axes", x, y, **style: Any):
    """A line, with markers if it has fewer than three points: it would be invisible without."""
    marker = {"marker": "o"} if len(x) < 3 else {}
    return axes.plot(x, y, **(marker | style))[0]


def _noisy(axes: "Axes", x, y, smooth, color: str = BLUE, label: str | None = None) -> None:
    """All values as a thin pale line, with the smoothed values on top."""
    _line(axes, x, y, color=color, linewidth=0.7, alpha=0.45, label=label)
    _line(axes, x, smooth, color=color, label=label and f"{label}, smoothed")


# -- figures -------------------------------------------------------------------------------------


def loss_figure(
    train: Records, evals: Records, summary: Json, perplexity: bool = False
) -> "Figure":
    """Loss, or perplexity (log axis), of training and validation against step, tokens and time."""
    figure, panels = new_figure(1, len(_X_AXES), 10, 2.9, sharey=True)
    curve: Callable = np.exp if perplexity else np.asarray
    loss_N, loss_E = column(train, "loss"), column(evals, "loss")
    smooth_N, error_E = smoothed(loss_N), np.nan_to_num(column(evals, "standard_error"))
    floor, best = summary.get("entropy_floor"), summary.get("best_step")
    best_E = np.array([record["step"] == best for record in evals], bool)
    digits = 3 if perplexity else 4
    for axes, (name, units) in zip(panels, _X_AXES, strict=True):
        whole, label = scaled(np.concatenate([column(train, name), column(evals, name)]), units)
        x_N, x_E = whole[: len(train)], whole[len(train) :]
        if train:
            _noisy(axes, x_N, curve(loss_N), curve(smooth_N), label="training")
        if evals:
            axes.fill_between(
                x_E,
                curve(loss_E - error_E),
                curve(loss_E + error_E),
                color=ORANGE,
                alpha=0.25,
                linewidth=0,
            )
            every = max(1, len(evals) // 25)
            validation = "validation ± standard error"
            style: Json = {"color": ORANGE, "marker": "o", "markevery": every, "label": validation}
            axes.plot(x_E, curve(loss_E), **style)
        if best_E.any() and len(evals) > 1:
            text = f"best: {curve(loss_E[best_E])[0]:.{digits}f} at step {best:,}"
            style = {"color": BLACK, "marker": "D", "markersize": 5.5, "fillstyle": "none"}
            axes.plot(x_E[best_E], curve(loss_E[best_E]), linestyle="", label=text, **style)
        if floor is not None:
            text = f"entropy floor: {curve(floor):.{digits}f}"
            axes.axhline(curve(floor), color=BLACK, linestyle=(0, (5, 3)), linewidth=1, label=text)
        _x_axis(axes, label)
    panels[0].set_ylabel("perplexity per token" if perplexity else "loss (nats per token)")
    if perplexity:
        ends = [] if floor is None else [curve(floor)]
        log_axis(panels[0], curve(loss_N), curve(loss_E), np.array(ends))
    else:
        _leave_out_the_first_fall(panels, train, loss_N, smooth_N, loss_E, floor)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(handles))
    return figure


def _leave_out_the_first_fall(panels, train, loss_N, smooth_N, loss_E, floor) -> None:
    """Cut the first 4 % of training off the y axis, and note the first value there.

    The axis stays whole if this would cut off less than a sixth of it.
    """
    if len(train) < 25 or not np.isfinite(loss_N[0]):
        return
    late = slice(len(train) // 25, None)
    seen = np.concatenate([smooth_N[late], loss_E, [] if floor is None else [floor]])
    lowest = np.nanmin(np.concatenate([seen, loss_N]))
    top = np.nanmax(seen) + 0.08 * (np.nanmax(seen) - lowest)
    if loss_N[0] < top + 0.2 * (top - lowest):
        return
    panels[0].set_ylim(lowest - 0.05 * (top - lowest), top)
    for axes in panels:
        style = {"transform": axes.transAxes, "va": "top", "fontsize": 7, "color": BLUE}
        axes.text(0.09, 1.0, f"↑ {loss_N[0]:.2f} at step {train[0]['step']}", **style)


def accuracy_figure(evals: Records) -> "Figure":
    """Validation accuracy, top-5 accuracy, mean confidence and, if known, bits per byte."""
    bits_E = column(evals, "bits_per_byte")
    has_bits = np.isfinite(bits_E).any()
    figure, panels = new_figure(1, 2 if has_bits else 1, 7 if has_bits else 4.2, 2.5)
    x_E, label = scaled(column(evals, "step"), STEPS)
    every = max(1, len(evals) // 25)
    shown = (
        ("top5_accuracy", "top-5 accuracy", GREEN, "^", "--"),
        ("accuracy", "accuracy", ORANGE, "o", "-"),
        ("confidence", "mean confidence", BLACK, "s", ":"),
    )
    for name, text, color, marker, style in shown:
        y_E = 100 * column(evals, name)
        panels[0].plot(x_E, y_E, style, color=color, marker=marker, markevery=every, label=text)
    panels[0].set_ylabel("validation tokens (%)")
    if has_bits:
        panels[1].plot(x_E, bits_E, color=ORANGE, marker="o", markevery=every)
        panels[1].set_ylabel("validation bits per byte")
    for axes in panels:
        _x_axis(axes, label)
    figure.legend(loc="outside upper center", ncols=len(shown))
    return figure


def optimization_figure(train: Records) -> "Figure":
    """The learning rate and the global gradient norm (before clipping, log axis)."""
    figure, (left, right) = new_figure(1, 2, 7, 2.5)
    x_N, label = scaled(column(train, "step"), STEPS)
    _line(left, x_N, column(train, "lr"), color=BLUE)
    left.set_ylim(bottom=0)
    left.ticklabel_format(axis="y", scilimits=(-2, 3), useMathText=True)
    left.set_ylabel("learning rate")
    norm_N = column(train, "gradient_norm")
    _noisy(right, x_N, norm_N, smoothed(norm_N))
    log_axis(right, norm_N)
    right.set_ylabel("global gradient norm")
    for axes in (left, right):
        _x_axis(axes, label)
    return figure


def group_values(train: Records, name: str, groups: Sequence[str]) -> np.ndarray:
    """(N, K) of a field's K groups; `update_ratio` is update norm over weight norm."""
    if name != "update_ratio":
        return np.stack([column([record[name] for record in train], g) for g in groups], axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return group_values(train, "update_norms", groups) / group_values(
            train, "weight_norms", groups
        )


def depth_colors(n: int) -> list[Any]:
    """n colours from dark to light, one for each block."""
    from matplotlib import colormaps

    return [colormaps["viridis"](0.88 * i / max(1, n - 1)) for i in range(n)]


def groups_figure(train: Records, name: str) -> "Figure":
    """One quantity of every parameter group: attention, feed-forward, and outside the blocks.

    Blocks are coloured by depth. With many records each point is the mean of several.
    """
    groups = list(train[0]["weight_norms"])
    kinds = ("attention", "feedforward")
    inner = [[g for g in groups if g.startswith("blocks.") and g.endswith(k)] for k in kinds]
    outer = [g for g in groups if not g.startswith("blocks.")]
    x_N, x_label = scaled(thinned(column(train, "step")[:, None])[:, 0], STEPS)
    figure, panels = new_figure(1, _PANELS, 10, 2.6, sharey=True)
    handles, drawn = [], []
    styles = [(BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), (PURPLE, ":"), (SKY, (0, (1, 1)))]
    titles = ("attention", "feed-forward", "outside the blocks")
    for axes, members, title in zip(panels, [*inner, outer], titles, strict=True):
        axes.set_title(title)
        _x_axis(axes, x_label)
        if not members:
            continue
        y_NxK = thinned(group_values(train, name, members))
        drawn.append(y_NxK)
        if members is outer:
            colors = [styles[i % len(styles)] for i in range(len(members))]
        else:
            colors = [(color, "-") for color in depth_colors(len(members))]
        lines = [
            _line(axes, x_N, y_N, color=color, linestyle=style, linewidth=1.1, label=group)
            for y_N, (color, style), group in zip(y_NxK.T, colors, members, strict=True)
        ]
        if members is outer:
            handles += lines
        elif not handles:
            handles = _depth_handles(lines)
    panels[0].set_ylabel(GROUP_LABELS[name])
    log_axis(panels[0], *drawn)
    labels = [".".join(h.get_label().split(".")[:2]) for h in handles]
    labels = [label.replace("blocks.", "block ").replace("_", " ") for label in labels]
    figure.legend(handles, labels, loc="outside right upper")
    return figure


def _depth_handles(lines: list[Any]) -> list[Any]:
    """All lines or, if there are many, evenly spaced ones that include the first and the last."""
    few = np.linspace(0, len(lines) - 1, min(len(lines), _MAX_LEGEND_BLOCKS)).round().astype(int)
    return [lines[i] for i in few]


def activation_figure(train: Records) -> "Figure":
    """Root mean square of the residual stream after each block."""
    figure, (axes,) = new_figure(1, 1, 5, 2.6)
    x_N, label = scaled(thinned(column(train, "step")[:, None])[:, 0], STEPS)
    rows = [record["activation_rms"] for record in train]
    y_NxK = thinned(np.array(rows, np.float64))
    lines = [
        _line(axes, x_N, y_N, color=color, linewidth=1.1, label=f"block {layer}")
        for layer, (y_N, color) in enumerate(zip(y_NxK.T, depth_colors(len(rows[0])), strict=True))
    ]
    axes.set_ylabel("activation RMS after the block")
    _x_axis(axes, label)
    log_axis(axes, y_NxK)
    handles = _depth_handles(lines)
    figure.legend(handles=handles, loc="outside right upper")
    return figure


def speed_figure(train: Records) -> "Figure":
    """Recent speed and memory in use, against wall-clock time."""
    figure, panels = new_figure(1, 2, 7, 2.5)
    x_N, x_label = scaled(column(train, "wall_seconds"), TIME)
    shown = ((recent_speed(train), SPEED), (column(train, "memory_bytes"), MEMORY))
    for axes, (values_N, units) in zip(panels, shown, strict=True):
        y_N, label = scaled(values_N, units)
        _line(axes, x_N, y_N, color=BLUE)
        axes.set_ylabel(label)
        _x_axis(axes, x_label)
        if np.isfinite(y_N).any():
            axes.set_ylim(0, 1.08 * np.nanmax(y_N))
    return figure
