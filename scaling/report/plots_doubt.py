"""Figures of the uncertainty of a fit: residuals, hold-out, ellipses of resamples, profiles.

Each function writes PATH.png and PATH.svg and returns the path of the PNG.
Shapes: n points, P coordinates, S resamples.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from scaling.errors import ScalingError
from scaling.estimate.bootstrap import Profile, ellipse
from scaling.law.laws import Law
from scaling.records.records import spread
from scaling.report import house
from scaling.report import plot_style as style
from scaling.report.house import BLACK, BLUE, GREY, ORANGE, SKY
from scaling.report.plot_style import COMPUTE, LOSS

if TYPE_CHECKING:
    from scaling.estimate.fit import Fit
    from scaling.estimate.holdout import HoldOut
    from scaling.records.records import Records

_GREEK = {"alpha": "α", "beta": "β", "R_D": "$R_D$", "R_N": "$R_N$"}
_PAIRS = (
    ("alpha", "beta"),
    ("log_E", "alpha"),
    ("log_E", "beta"),
    ("log_A", "alpha"),
    ("log_B", "beta"),
)
_CLOUD = 500  # resamples shown as points, at most
_LABELLED = 3  # runs named in the figure of residuals, at most


@house.styled
def residuals(fit: "Fit", records: "Records", path: str | Path) -> Path:
    """Residuals in percent of the law's loss, against C, N and D, and their histogram."""
    values = {"N": records.N, "D": records.D, "C": records.C, "U": records.unique}
    law_n = fit.law.loss(
        fit.theta, **{name: np.asarray(values[name]) for name in fit.law.variables}
    )
    percent_n = 100 * (records.loss / law_n - 1)
    if not np.all(np.isfinite(percent_n)):
        raise ScalingError("the law is not finite at every point")
    spread = float(np.std(percent_n))
    figure, panels = house.new_figure(1, 4, 9.6, 2.9, sharey=True, width_ratios=(3, 3, 3, 1.6))
    labels = {"C": COMPUTE, "N": style.size_label(records.count), "D": style.TOKENS}
    bound = 1.12 * max(float(np.max(np.abs(percent_n))), 2.2 * spread, 1e-12)
    for axes, name in zip(panels, labels, strict=False):
        dots: style.Look = {"markersize": 3, "markeredgewidth": 0, "alpha": 0.75, "label": "run"}
        axes.plot(np.asarray(values[name]), percent_n, "o", color=BLUE, zorder=3, **dots)
        style.log_axis(axes, "x", style.span(np.asarray(values[name])), labels[name], most=4)
    panels[3].hist(
        percent_n, bins=_bins(percent_n), orientation="horizontal", color=BLUE, alpha=0.7
    )
    style.linear_axis(panels[3], "x", panels[3].get_xlim(), "runs", ticks=4)
    for axes in panels:
        axes.axhline(0, color=BLACK, linewidth=0.9)
        text = f"± 2 standard deviations (± {style.number(2 * spread)} %)"
        for side in (-2, 2):
            axes.axhline(side * spread, color=ORANGE, linewidth=1, linestyle="--", label=text)
    style.linear_axis(panels[0], "y", (-bound, bound), "measured − fitted loss (%)")
    style.legend_above(figure)
    named = np.argsort(-np.abs(percent_n), kind="stable")[: min(_LABELLED, len(percent_n))]
    texts = [style.shortened(str(records.run[i])) for i in named]
    others = np.stack([records.C, percent_n], -1)
    style.label_points(panels[0], records.C[named], percent_n[named], texts, others)
    return house.save(figure, path)


def _bins(values: np.ndarray) -> int:
    return int(np.clip(2 * np.sqrt(len(values)), 5, 30))


@house.styled
def hold_out(holdout: "HoldOut", path: str | Path, records: "Records | None" = None) -> Path:
    """Predicted against measured loss of held-out runs, their errors, and the allocation's drift.

    Args:
      holdout: from `scaling.estimate.holdout.hold_out`.
      path: without suffix.
      records: all records; those below the cut are shown for comparison.
    """
    drift, some = holdout.drift, spread(holdout.held.C)
    held = holdout.held.where(some)
    figure, panels = house.new_figure(1, 2 + bool(drift), 7.2 + 2.4 * bool(drift), 3.2)
    text = f"held out, {100 * holdout.fit.level:g} % interval of the law"
    bars: style.Look = {
        "fmt": "o",
        "color": ORANGE,
        "markersize": 3.4,
        "elinewidth": 0.9,
        "capsize": 2,
    }
    points: style.Look = {
        "linestyle": "",
        "marker": "s",
        "color": GREY,
        "markersize": 2.6,
        "alpha": 0.8,
    }
    ends = np.stack([holdout.predicted, holdout.low, holdout.high])[:, some]
    errors = [100 * _relative(end, held.loss) for end in ends]
    shown = [held.loss, style.inside(ends, held.loss, 1.5)]
    measured, error = panels[:2]
    if holdout.run_low is not None and holdout.run_high is not None:
        whole = np.stack([holdout.predicted, holdout.run_low, holdout.run_high])[:, some]
        wide: style.Look = {"fmt": "none", "ecolor": SKY, "elinewidth": 2.6, "alpha": 0.6}
        words = f"{100 * holdout.fit.level:g} % interval of a run"
        _error_bars(measured, held.loss, whole, wide, words, zorder=2)
        _error_bars(error, held.C, [100 * _relative(e, held.loss) for e in whole], wide, words, 2)
        shown.append(style.inside(whole, held.loss, 1.5))
    _error_bars(measured, held.loss, ends, bars, text)
    _error_bars(error, held.C, errors, bars, text)
    x = [held.C]
    if records is not None:
        below = records.where(records.C <= holdout.cut)
        values = {"N": below.N, "D": below.D, "C": below.C, "U": below.unique}
        fitted = holdout.fit.law.loss(
            holdout.fit.theta,
            **{name: np.asarray(values[name]) for name in holdout.fit.law.variables},
        )
        label = "below the cut, fitted"
        measured.plot(below.loss, fitted, label=label, zorder=1, **points)
        error.plot(below.C, 100 * _relative(fitted, below.loss), label=label, zorder=1, **points)
        shown += [below.loss, fitted]
        x.append(below.C)
    limits = style.span(*shown)
    measured.plot(limits, limits, color=BLACK, linewidth=0.9, label="prediction = measurement")
    style.log_axis(measured, "x", limits, f"measured {LOSS}", most=5)
    style.log_axis(measured, "y", limits, f"predicted {LOSS}", most=5)
    error.axhline(0, color=BLACK, linewidth=0.9)
    error.set_ylabel("predicted − measured loss (%)")
    if drift:
        C = np.array([row["C"] for row in drift])
        ratio = np.array([row["ratio"] for row in drift])
        panels[2].plot(C, ratio, color=BLUE, marker="D", label="optimal N: below / all")
        panels[2].axhline(1, color=BLACK, linewidth=0.9)
        style.log_axis(panels[2], "y", style.span(ratio, [0.9, 1.1]), "ratio of optimal sizes N")
        style.log_axis(panels[2], "x", style.span([holdout.cut], C), COMPUTE, most=4)
    style.log_axis(error, "x", style.span(*x), COMPUTE, most=4)
    for axes in panels[1:]:
        cut = f"cut at {style.number(holdout.cut)} FLOPs"
        axes.axvline(holdout.cut, color=BLACK, linewidth=0.9, linestyle=(0, (5, 3)), label=cut)
    style.legend_above(figure)
    return house.save(figure, path)


def _relative(value: np.ndarray, measured: np.ndarray) -> np.ndarray:
    return np.asarray(value) / measured - 1


def _error_bars(
    axes: Axes,
    x: np.ndarray,
    ends: np.ndarray | Sequence[np.ndarray],
    bars: style.Look,
    label: str,
    zorder: int = 3,
) -> None:
    """Points with bars from low to high, if known; `ends` is (estimate, low, high)."""
    y, low, high = ends
    reach = np.maximum(np.stack([y - low, high - y]), 0)
    axes.errorbar(
        x, y, yerr=np.where(np.isfinite(reach), reach, 0), label=label, zorder=zorder, **bars
    )


@house.styled
def ellipses(fit: "Fit", path: str | Path) -> Path:
    """Pairs of parameters over the resamples, with ellipses that contain 50 and 95 % of them.

    The axes cover the bulk of the resamples, and each panel states how many lie beyond. The far
    tails do not affect the shape of the ellipses, which a few outliers would otherwise determine.
    """
    pairs = _pairs(fit.law)
    columns = min(3, len(pairs))
    rows = -(-len(pairs) // columns)
    figure, panels = house.new_figure(rows, columns, 2.6 * columns + 0.4, 2.4 * rows + 0.5)
    for axes, (first, second) in zip(panels, pairs, strict=False):
        _draw_pair(axes, fit, first, second)
    for axes in panels[len(pairs) :]:
        axes.remove()
    style.legend_above(figure)
    return house.save(figure, path)


def _pairs(law: Law) -> list[tuple[str, str]]:
    """Pairs of coordinates to show: exponents, E, and each coefficient with its exponent."""
    known = list(law.coordinates)
    if "alpha" in known and "beta" not in known:  # tied, or one variable
        alike = {"beta": "alpha"}
        swapped = [(alike.get(a, a), alike.get(b, b)) for a, b in _PAIRS]
        candidates = list(dict.fromkeys(pair for pair in swapped if pair[0] != pair[1]))
    else:
        candidates = list(_PAIRS)
    found = [pair for pair in candidates if set(pair) <= set(known)]
    return found or list(itertools.combinations(known, 2))[:6]


def _draw_pair(axes: Axes, fit: "Fit", first: str, second: str) -> None:
    x, y = _Shown(fit, first), _Shown(fit, second)
    defined = np.flatnonzero(np.isfinite(x.samples) & np.isfinite(y.samples))
    cloud = defined[:: max(1, len(defined) // _CLOUD)]
    dots: style.Look = {"markersize": 2.2, "alpha": 0.6, "markeredgewidth": 0, "label": "resample"}
    axes.plot(x.samples[cloud], y.samples[cloud], "o", color=SKY, zorder=1, **dots)
    bulk = (x.bulk(6) & y.bulk(6))[defined]
    outline = np.empty((2, 0))
    for level, dashes in ((0.5, "--"), (0.95, "-")):
        if np.sum(bulk) < 3:
            continue
        outline = _covering(x.samples[defined], y.samples[defined], bulk, level)
        text = f"{100 * level:g} % ellipse of the resamples"
        axes.plot(*outline, dashes, color=BLUE, linewidth=1.1, label=text)
    dot: style.Look = {"linestyle": "", "zorder": 4, "label": "estimate"}
    axes.plot(x.estimate, y.estimate, marker="X", color=BLACK, markersize=5, **dot)
    exact: list[float] = []
    if first == "log_E" and fit.floor is not None:
        exact = [float(x.shift(fit.floor))]
        text = f"exact entropy {style.number(fit.floor)} nats"
        line: style.Look = {
            "color": ORANGE,
            "linewidth": 1.1,
            "linestyle": (0, (5, 3)),
            "label": text,
        }
        axes.axvline(exact[0], **line)
    # An ellipse of extreme resamples is cut off as well.
    cut = [value[shown.near(value)] for shown, value in zip((x, y), outline, strict=True)]
    limits = x.limits(cut[0], exact), y.limits(cut[1])
    style.linear_axis(axes, "x", limits[0], x.label, ticks=4)
    style.linear_axis(axes, "y", limits[1], y.label, ticks=5)
    within = [
        (shown.samples >= low) & (shown.samples <= high)
        for shown, (low, high) in zip((x, y), limits, strict=True)
    ]
    beyond = len(fit.samples) - int(np.sum(within[0] & within[1]))
    if beyond:
        text = f"{beyond:,} of {len(fit.samples):,} lie beyond"
        axes.set_title(text, loc="right", fontsize=6.5, color=GREY)


class _Frame:
    """The label and scale of a parameter's axis; it shows differences if values are nearly equal.

    Args:
      text: the name of the parameter.
      estimate: its estimate.
      width: the range of the values shown.
    """

    def __init__(self, text: str, estimate: float, width: float):
        unit = "nats per token" if text == "E" else ""
        self.scale, self.origin = 1.0, 0.0
        if 0 < width < 1e-4 * abs(estimate):
            exponent = int(np.floor(np.log10(width)))
            self.scale, self.origin = 10.0**exponent, estimate
            text = f"{text} − {estimate:.5g}"
            unit = f"{style.power(exponent)} {unit}".strip()
        self.label = f"{text} ({unit})" if unit else text

    def shift(self, value: ArrayLike) -> np.ndarray:
        return (np.asarray(value) - self.origin) / self.scale


class _Shown(_Frame):
    """A coordinate over the resamples; E itself is shown, other coefficients as logs."""

    def __init__(self, fit: "Fit", coordinate: str):
        i = fit.law.at(coordinate)
        theta, samples = fit.theta[i], fit.samples[:, i]
        name = coordinate.removeprefix("log_")
        text = _GREEK.get(name, name)
        if coordinate == "log_E":
            with np.errstate(over="ignore"):
                theta, samples = np.exp(theta), np.exp(samples)
        elif coordinate != name:
            text = f"ln {text}"
        known = samples[np.isfinite(samples)]
        ends = np.quantile(known, [0.16, 0.5, 0.84]) if len(known) else np.zeros(3)
        super().__init__(text, float(theta), float(np.ptp(ends)))
        self.estimate, self.samples = self.shift(theta), self.shift(samples)
        self.middle, self.spread = self.shift(ends[1]), float(np.ptp(ends)) / 2 / self.scale

    def near(self, values: np.ndarray) -> np.ndarray:
        """Which values are close enough to the samples to be on their axis, (n,) bool."""
        return np.abs(values - self.middle) <= 8 * max(self.spread, 1e-300)

    def bulk(self, widths: float) -> np.ndarray:
        """Which samples are within `widths` robust standard deviations of their median, bool."""
        return np.abs(self.samples - self.middle) <= widths * max(self.spread, 1e-300)

    def limits(self, *shown: ArrayLike) -> tuple[float, float]:
        """Limits of the axis that include the bulk of the samples and all of `shown`."""
        near = self.samples[self.bulk(6)]
        ends = np.quantile(near, [0.003, 0.997]) if len(near) else []
        every = np.concatenate([ends, [self.estimate], *map(np.ravel, shown)])
        room = 0.06 * np.ptp(every) or 0.01 * (abs(every[0]) or 1)
        return float(every.min() - room), float(every.max() + room)


def _covering(x_S: np.ndarray, y_S: np.ndarray, bulk_S: np.ndarray, level: float) -> np.ndarray:
    """Outline (2, 200) of an ellipse shaped like the bulk that contains `level` of all samples.

    Resamples have heavier tails than a normal distribution, whose ellipse would contain fewer.
    """
    normal = ellipse(x_S[bulk_S], y_S[bulk_S], level)
    pairs = np.stack([x_S, y_S])
    centre = np.mean(pairs[:, bulk_S], axis=1, keepdims=True)
    root = np.linalg.pinv(np.linalg.cholesky(_positive(np.cov(pairs[:, bulk_S]))))
    distance = np.quantile(np.linalg.norm(root @ (pairs - centre), axis=0), level)
    return centre + (normal - centre) * distance / np.sqrt(-2 * np.log(1 - level))


def _positive(covariance: np.ndarray) -> np.ndarray:
    """The matrix with its diagonal increased slightly, so that it can be factored."""
    return covariance + np.diag(1e-12 * np.diag(covariance) + 1e-300)


@house.styled
def profiles(fit: "Fit", path: str | Path) -> Path:
    """The profile likelihood of each parameter, with its interval and that of the bootstrap."""
    names = [name for name, found in fit.profiles.items() if len(found.values)]
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure, panels = house.new_figure(
        rows, columns, 2.6 * columns + 0.4, 2.1 * rows + 0.5, sharey=True
    )
    for axes, name in zip(panels, names, strict=False):
        _draw_profile(axes, fit, fit.profiles[name])
    for axes in panels[len(names) :]:
        axes.remove()
    for row in range(rows):
        panels[row * columns].set_ylabel("likelihood-ratio statistic")
    style.legend_above(figure)
    return house.save(figure, path)


def _draw_profile(axes: Axes, fit: "Fit", profile: Profile) -> None:
    name, top = profile.name, 3 * profile.threshold
    estimate, share = fit.parameters[name], f"{100 * fit.level:g} %"
    near = profile.values[profile.drop <= top]
    ends = np.array([estimate, *near, *_finite(profile.low, profile.high)])
    bootstrap = fit.intervals.get(name)
    if bootstrap:
        # An end of the bootstrap interval may be infinite; the axis includes it only so far.
        reach = 3 * np.ptp(ends)
        ends = np.append(ends, np.clip(_finite(*bootstrap), ends[0] - reach, ends[0] + reach))
    exact = name == "E" and fit.floor is not None
    ends = np.append(ends, [fit.floor] if exact else [])
    frame = _Frame(_GREEK.get(name, name), estimate, float(np.ptp(ends)))
    if bootstrap:
        text = f"bootstrap {share} interval"
        axes.axvspan(*frame.shift(bootstrap), color=SKY, alpha=0.3, linewidth=0, label=text)
    axes.plot(frame.shift(profile.values), profile.drop, color=BLUE, label="profile likelihood")
    text = f"{share} threshold"
    axes.axhline(profile.threshold, color=BLACK, linewidth=0.9, linestyle="--", label=text)
    for end in frame.shift(_finite(profile.low, profile.high)):
        line: style.Look = {
            "linestyle": ":",
            "linewidth": 1.2,
            "label": f"profile {share} interval",
        }
        axes.plot([end, end], [0, profile.threshold], color=BLUE, **line)
    mark: style.Look = {
        "marker": "X",
        "markersize": 5,
        "linestyle": "",
        "clip_on": False,
        "zorder": 4,
    }
    axes.plot(frame.shift(estimate), 0, color=BLACK, label="estimate", **mark)
    if exact and fit.floor is not None:
        text = f"exact entropy {style.number(fit.floor)} nats"
        look: style.Look = {"linewidth": 1.1, "linestyle": (0, (5, 3)), "label": text}
        axes.axvline(float(frame.shift(fit.floor)), color=ORANGE, **look)
    shown = frame.shift(ends)
    if not frame.origin and shown.min() > 0 and shown.max() / shown.min() > 3:
        style.log_axis(axes, "x", style.span(shown), frame.label, most=4)
    else:
        room = 0.04 * np.ptp(shown) or 1e-12
        limits = float(shown.min() - room), float(shown.max() + room)
        style.linear_axis(axes, "x", limits, frame.label, ticks=4)
    axes.set_ylim(0, top)


def _finite(*values: float) -> np.ndarray:
    array = np.array(values)
    return array[np.isfinite(array)]
