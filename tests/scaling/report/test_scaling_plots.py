"""Promises of a fit's figures: all that apply are drawn, and they show the values of the fit."""

import warnings
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib import image
from matplotlib.figure import Figure

from scaling.estimate.bootstrap import Profile
from scaling.estimate.envelope import approach1
from scaling.estimate.fit import Fit
from scaling.estimate.holdout import HoldOut
from scaling.estimate.isoflop import approach2
from scaling.law.allocate import optimal
from scaling.law.laws import CHINCHILLA, DATA_CONSTRAINED, TIED, own_law, power_law
from scaling.records.records import Records
from scaling.report import bands, house, plot_style, plots, plots_doubt

TRUTH = {"E": 0.5, "A": 12.0, "B": 60.0, "alpha": 0.35, "beta": 0.38}
MORE = {"R_D": 15.0, "R_N": 5.0}
FLOOR = 0.5
ALL = {
    *("isoflop", "allocation", "loss_against_compute", "frontier"),
    *("residuals", "holdout", "ellipses", "profiles"),
}


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def own(N, D, E, A, gamma):
    return E + A / N**gamma + 60.0 / D**0.38


OWN = own_law(own, [0.5, 12.0, 0.35])


def theta_of(law):
    values = TRUTH | MORE | {"gamma": 0.35}
    return law.from_natural({name: values[name] for name in law.parameters})


def ladder(sizes=5, budgets=4, law=CHINCHILLA, noise=0.01, **more):
    """Runs of a law on a grid of sizes around the optimum of each budget."""
    C = np.repeat(np.geomspace(1e11, 1e14, budgets), sizes)
    around = np.tile(np.linspace(-1.2, 1.3, sizes), budgets)
    N = optimal(CHINCHILLA, theta_of(CHINCHILLA), C)[0] * np.exp(around)
    D = C / 6 / N
    values = {"N": N, "D": D, "C": C, "U": D / 2}
    loss = law.loss(theta_of(law), **{name: values[name] for name in law.variables})
    loss = loss * np.exp(noise * np.random.default_rng(3).standard_normal(len(N)))
    more = {"unique": D / 2 if "U" in law.variables else None, "count": "non_embedding"} | more
    return Records.from_arrays(N, D, loss, **more)


def fit_of(law, records, resamples=400, profiles=True, tails=False, **changes):
    """A fit as `scaling.estimate.fit` would return it, without waiting for one."""
    theta = theta_of(law)
    generator = np.random.default_rng(5)
    spread = generator.standard_normal((resamples, len(theta)))
    if tails:
        spread[: resamples // 20] = 100 * generator.standard_cauchy(spread.shape)[: resamples // 20]
        spread[:2] = np.nan
    made = {}
    for i, name in enumerate(law.parameters):
        steps = np.linspace(-5, 5, 41)
        values = theta[i] + 0.04 * steps
        ends = theta[i] + 0.08 * np.array([-1, 1])
        if law.coordinates[i].startswith("log_"):
            values, ends = np.exp(values), np.exp(ends)
        made[name] = Profile(name, values, steps**2, 4.0, *map(float, ends))
    fields = {
        "law": law,
        "theta": theta,
        "samples": theta + 0.04 * spread,
        "delta": 1e-3,
        "level": 0.95,
        "objective": 1e-3,
        "n_points": len(records),
        "n_runs": len(records),
        "success": True,
        "message": "converged",
        "starts": 9,
        "starts_converged": 9,
        "warnings": (),
        "profiles": made if profiles else {},
        "range": {v: (getattr(records, v).min(), getattr(records, v).max()) for v in "NDC"},
        "count": records.count,
        "source": "",
        "residual_std": 0.01,
        "floor": records.floor,
    }
    return Fit(**fields | changes)


def hold_out_of(fit, records, drift=True):
    cut = float(np.median(records.C))
    held = records.where(records.C > cut)
    values = {"N": held.N, "D": held.D, "C": held.C, "U": held.unique}
    found = fit.law.loss(fit.theta, **{name: values[name] for name in fit.law.variables})
    rows = [{"C": C, "N_below": 1.1, "N_all": 1.0, "ratio": 1.1} for C in (1e14, 1e15)]
    ends = (0.99 * found, 1.02 * found)
    return HoldOut(cut, fit, fit, held, found, *ends, found / held.loss - 1, rows if drift else [])


@pytest.fixture
def drawn(monkeypatch):
    """The figures saved during the test, by file name; no file is written."""
    found = {}

    def keep(figure, path):
        found[path.name] = figure
        return path.with_name(f"{path.name}.png")

    monkeypatch.setattr(house, "save", keep)
    return found


@pytest.fixture(scope="module")
def usual():
    """All figures of a ladder, by name."""
    found, patch = {}, pytest.MonkeyPatch()
    patch.setattr(house, "save", lambda figure, path: found.update({path.name: figure}))
    records = ladder(floor=FLOOR)
    everything(Path(), records, fit_of(CHINCHILLA, records))
    patch.undo()
    return found


def everything(tmp_path, records, fit):
    plain = ladder()  # a law of one variable has no minima between the sizes
    return plots.figures(
        fit,
        records,
        tmp_path,
        isoflop=approach2(plain, resamples=50),
        envelope=approach1(plain, resamples=50),
        holdout=hold_out_of(fit, records),
    )


def lines_of(axes, label):
    return [line for line in axes.lines if line.get_label() == label]


def labels_of(figure):
    legends = [*figure.legends, *(a.get_legend() for a in figure.axes if a.get_legend())]
    return {text.get_text() for legend in legends for text in legend.get_texts()}


@pytest.mark.slow
def test_every_figure_is_a_png_and_an_svg_and_settings_are_unchanged(tmp_path):
    records = ladder(floor=FLOOR)
    before = dict(matplotlib.rcParams)
    made = everything(tmp_path / "new", records, fit_of(CHINCHILLA, records))
    assert dict(matplotlib.rcParams) == before
    assert set(made) == ALL
    for name, path in made.items():
        assert path == tmp_path / "new" / f"{name}.png"
        pixels = image.imread(path)[..., :3]
        height, width = pixels.shape[:2]
        assert 900 <= width <= 1600 and 400 <= height <= 1000, name
        assert 0.005 < (pixels.min(-1) < 0.9).mean() < 0.6, name
        assert ElementTree.parse(path.with_suffix(".svg")).getroot().tag.endswith("svg")


@pytest.mark.slow
def test_a_figure_is_the_same_file_each_time(tmp_path):
    records = ladder()
    for name in ("one", "two"):
        plots_doubt.residuals(fit_of(CHINCHILLA, records), records, tmp_path / name)
    for kind in ("png", "svg"):
        assert (tmp_path / f"one.{kind}").read_bytes() == (tmp_path / f"two.{kind}").read_bytes()


@pytest.mark.slow
def test_axes_are_labelled_with_units_and_there_is_a_legend(usual):
    assert set(usual) == ALL
    compute, loss = "training compute C (FLOPs)", "loss (nats per token)"
    size, tokens = "model size N (non-embedding parameters)", "training data D (tokens)"
    expected = {
        "isoflop": [(size, loss)],
        "allocation": [(compute, size), (compute, tokens)],
        "loss_against_compute": [(compute, loss), ("", size)],
        "frontier": [(compute, loss), (compute, "L − E (nats per token)")],
        "residuals": [(compute, "measured − fitted loss (%)"), (size, ""), (tokens, "")],
        "holdout": [
            (f"measured {loss}", f"predicted {loss}"),
            (compute, "predicted − measured loss (%)"),
            (compute, "ratio of optimal sizes N"),
        ],
        "ellipses": [("α", "β"), ("E (nats per token)", "α"), ("E (nats per token)", "β")],
        "profiles": [("E (nats per token)", "likelihood-ratio statistic"), ("A", ""), ("B", "")],
    }
    for name, figure in usual.items():
        assert len(labels_of(figure)) >= 2, name
        axes = [(a.get_xlabel(), a.get_ylabel()) for a in figure.axes]
        assert axes[: len(expected[name])] == expected[name], name


@pytest.mark.slow
def test_no_text_leaves_the_page_or_covers_another(usual):
    for name, figure in usual.items():
        with house.house_style():
            figure.draw_without_rendering()
        renderer, page = figure.canvas.get_renderer(), figure.bbox
        shown = []
        for text in figure.findobj(matplotlib.text.Text):
            box = text.get_window_extent(renderer)
            if text.get_visible() and text.get_text() and box.width > 0 and _in_view(text):
                shown.append((text.get_text(), box))
        for words, box in shown:
            inside = box.xmin >= -1 and box.xmax <= page.xmax + 1 and box.ymin >= -1
            assert inside and box.ymax <= page.ymax + 1, (name, words)
        for i, (words, box) in enumerate(shown):
            for other, second in shown[:i]:
                assert not _overlap(box, second), (name, words, other)


def _in_view(text):
    """Whether a tick label belongs to a tick inside the limits; True for other texts."""
    for axes in text.figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            for tick in axis.get_major_ticks() + axis.get_minor_ticks():
                if text in (tick.label1, tick.label2):
                    low, high = sorted(axis.get_view_interval())
                    return low <= tick.get_loc() <= high
    return True


def _overlap(one, two):
    across = min(one.xmax, two.xmax) - max(one.xmin, two.xmin)
    return across > 1 and min(one.ymax, two.ymax) - max(one.ymin, two.ymin) > 1


def test_isoflop_shows_points_parabolas_minima_and_the_law(tmp_path, drawn):
    records = ladder(noise=0.003)
    fit, found = fit_of(CHINCHILLA, records), approach2(records, resamples=20)
    plots.isoflop_curves(records, found, fit, tmp_path / "isoflop")
    (axes,) = drawn["isoflop"].axes
    drawn_lines = [line for line in axes.lines if len(line.get_xdata())]
    points, parabola, law = drawn_lines[:3]
    first = found.points[0]
    np.testing.assert_array_equal(points.get_xdata(), records.N[first])
    np.testing.assert_array_equal(points.get_ydata(), records.loss[first])
    np.testing.assert_array_equal(parabola.get_ydata(), found.curves["parabola"][0][1])
    N = law.get_xdata()
    expected = CHINCHILLA.loss(fit.theta, N=N, D=found.C_B[0] / 6 / N)
    np.testing.assert_allclose(law.get_ydata(), expected, rtol=1e-9)
    minima, stars = found.minima["parabola"], drawn_lines[-1]
    np.testing.assert_array_equal(stars.get_xdata(), minima.N_B[minima.inside_B])
    texts = {"10¹¹", "10¹²", "10¹³", "10¹⁴", "its minimum"}
    assert texts <= labels_of(drawn["isoflop"])


def test_allocation_shows_the_law_with_its_band_and_both_other_approaches(tmp_path, drawn):
    records = ladder(sizes=7, noise=0.003)
    fit = fit_of(CHINCHILLA, records)
    two, one = approach2(records, resamples=20), approach1(records, resamples=20)
    plots.optimal_allocation(fit, records, tmp_path / "x", isoflop=two, envelope=one)
    for i, (axes, name) in enumerate(zip(drawn["x"].axes, "ND", strict=True)):
        (line,) = lines_of(axes, "approach 3: fitted law")
        expected = optimal(CHINCHILLA, fit.theta, line.get_xdata())[i]
        np.testing.assert_allclose(line.get_ydata(), expected)
        assert np.isclose(line.get_xdata()[-1], 10 * records.C.max())
        band = axes.collections[0].get_paths()[0].vertices[:, 1]
        last = fit.allocation(10 * records.C.max())[f"{name}_interval"]
        assert np.isclose(band, last[0]).any() and np.isclose(band, last[1]).any()
        (line,) = lines_of(axes, "approach 2: power law")
        np.testing.assert_allclose(
            line.get_ydata(), two.laws["parabola"][name].at(line.get_xdata())[0]
        )
        (line,) = lines_of(axes, "approach 1: power law")
        np.testing.assert_allclose(line.get_ydata(), one.laws[name].at(line.get_xdata())[0])
        assert lines_of(axes, "approach 2: minima") and lines_of(axes, "approach 1: best runs")
        exponent = f"{fit.parameters['ab'[i]]:.3f} (3)"
        assert exponent in axes.get_title(loc="left")


def test_loss_against_compute_shows_a_curve_per_size_the_frontier_and_floors(tmp_path, drawn):
    records = ladder(floor=FLOOR)
    fit = fit_of(CHINCHILLA, records)
    plots.loss_against_compute(fit, records, tmp_path / "x")
    axes = drawn["x"].axes[0]
    sizes = plots.shown_sizes(records.N)
    assert len(sizes) <= 8 and {sizes[0], sizes[-1]} == {records.N.min(), records.N.max()}
    for line, N in zip(axes.lines, sizes, strict=False):
        C = line.get_xdata()
        np.testing.assert_allclose(line.get_ydata(), CHINCHILLA.loss(fit.theta, N=N, D=C / 6 / N))
    (line,) = lines_of(axes, "optimal frontier of the law")
    np.testing.assert_allclose(
        line.get_ydata(), optimal(CHINCHILLA, fit.theta, line.get_xdata())[2]
    )
    (line,) = lines_of(axes, "exact entropy 0.5")
    assert line.get_ydata()[0] == FLOOR
    assert sum(label.startswith("E = 0.5 [") for label in labels_of(drawn["x"])) == 1


def test_the_published_law_is_shown_only_if_it_is_near(tmp_path, drawn):
    records = ladder()
    plots.loss_against_compute(fit_of(CHINCHILLA, records), records, tmp_path / "far", compare=True)
    theta = CHINCHILLA.from_natural(plots.HOFFMANN)
    N = np.tile(np.geomspace(1e8, 1e10, 5), 3)
    D = np.repeat([1e10, 1e11, 1e12], 5)
    near = Records.from_arrays(N, D, CHINCHILLA.loss(theta, N=N, D=D), count="total")
    fit = fit_of(CHINCHILLA, near, theta=theta, samples=np.empty((0, 5)))
    for name, compare in (("near", True), ("without", False)):
        plots.loss_against_compute(fit, near, tmp_path / name, compare=compare)
    label = "as published, Hoffmann et al. 2022"
    shown = {name: label in labels_of(figure) for name, figure in drawn.items()}
    assert shown == {"far": False, "near": True, "without": False}
    (line,) = lines_of(drawn["near"].axes[0], label)
    np.testing.assert_allclose(line.get_ydata(), optimal(CHINCHILLA, theta, line.get_xdata())[2])


def test_residuals_are_relative_to_the_law_and_the_largest_named(tmp_path, drawn):
    names = [f"study/width{i}/seed0" for i in range(20)]
    records = ladder(run=names)
    fit = fit_of(CHINCHILLA, records)
    plots_doubt.residuals(fit, records, tmp_path / "x")
    percent = 100 * (records.loss / CHINCHILLA.loss(fit.theta, N=records.N, D=records.D) - 1)
    for axes, name in zip(drawn["x"].axes, "CND", strict=False):
        (line,) = lines_of(axes, "run")
        np.testing.assert_allclose(line.get_ydata(), percent)
        np.testing.assert_array_equal(line.get_xdata(), getattr(records, name))
    largest = {names[i] for i in np.argsort(-np.abs(percent))[:3]}
    assert {text.get_text() for text in drawn["x"].axes[0].texts} == largest


def test_hold_out_shows_errors_intervals_and_the_cut(tmp_path, drawn):
    records = ladder()
    held = hold_out_of(fit_of(CHINCHILLA, records), records)
    plots_doubt.hold_out(held, tmp_path / "x", records)
    measured, error, drift = drawn["x"].axes
    bars = [axes.containers[0] for axes in (measured, error)]
    np.testing.assert_array_equal(bars[0].lines[0].get_xdata(), held.held.loss)
    np.testing.assert_array_equal(bars[0].lines[0].get_ydata(), held.predicted)
    np.testing.assert_allclose(bars[1].lines[0].get_ydata(), 100 * held.errors)
    ends = np.array(bars[0].lines[2][0].get_segments())[:, :, 1]
    np.testing.assert_allclose(ends, np.stack([held.low, held.high], -1))
    (below,) = lines_of(error, "below the cut, fitted")
    assert below.get_xdata().max() <= held.cut < held.held.C.min()
    assert len(below.get_xdata()) + len(held.held) == len(records)
    (line,) = lines_of(drift, "optimal N: below / all")
    np.testing.assert_array_equal(line.get_ydata(), [1.1, 1.1])
    assert any("cut at" in label for label in labels_of(drawn["x"]))


@pytest.mark.parametrize("tails", [False, True])
def test_ellipses_contain_the_share_that_they_state(tmp_path, drawn, tails):
    records = ladder(floor=FLOOR)
    fit = fit_of(CHINCHILLA, records, tails=tails)
    plots_doubt.ellipses(fit, tmp_path / "x")
    panels = drawn["x"].axes
    assert len(panels) == 5
    axes = panels[0]  # alpha, beta
    known = fit.samples[np.isfinite(fit.samples).all(1)][:, 3:5]
    for level in (0.5, 0.95):
        (line,) = lines_of(axes, f"{100 * level:g} % ellipse of the resamples")
        outline = matplotlib.path.Path(line.get_xydata())
        assert abs(outline.contains_points(known).mean() - level) < 0.01
        # The tails move nothing but the size: both exponents have the same spread.
        assert 0.8 < np.ptp(line.get_xdata()) / np.ptp(line.get_ydata()) < 1.25
    (line,) = lines_of(panels[1], "exact entropy 0.5 nats")
    assert line.get_xdata()[0] == FLOOR
    width = np.diff(axes.get_xlim())[0]
    assert 4 * 0.04 < width < 20 * 0.04
    x, y = axes.get_xlim(), axes.get_ylim()
    a, b = fit.samples[:, 3:5].T
    outside = 400 - np.sum((a >= x[0]) & (a <= x[1]) & (b >= y[0]) & (b <= y[1]))
    assert axes.get_title(loc="right") == (f"{outside} of 400 lie beyond" if outside else "")
    assert tails == (outside > 15)


def test_profiles_show_both_intervals(tmp_path, drawn):
    records = ladder()
    fit = fit_of(CHINCHILLA, records)
    fit.profiles["B"] = Profile("B", *_values(fit, "B"), 4.0, -np.inf, np.inf)
    plots_doubt.profiles(fit, tmp_path / "x")
    for axes, name in zip(drawn["x"].axes, fit.profiles, strict=True):
        profile = fit.profiles[name]
        (line,) = lines_of(axes, "profile likelihood")
        np.testing.assert_allclose(line.get_xdata(), profile.values)
        ends = [line.get_xdata()[0] for line in lines_of(axes, "profile 95 % interval")]
        assert ends == [end for end in (profile.low, profile.high) if np.isfinite(end)]
        box = axes.patches[0]
        shown = (box.get_x(), box.get_x() + box.get_width())
        np.testing.assert_allclose(shown, fit.intervals[name])


def _values(fit, name):
    return fit.profiles[name].values, fit.profiles[name].drop


LAWS = {
    "tied": (TIED, ALL),
    "power_N": (power_law("N"), ALL - {"allocation", "loss_against_compute"}),
    "power_C": (power_law("C"), ALL - {"allocation", "loss_against_compute"}),
    "data_constrained": (DATA_CONSTRAINED, ALL),
    "own": (OWN, ALL),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAWS)
def test_other_laws_get_the_figures_that_apply(tmp_path, drawn, name):
    law, expected = LAWS[name]
    records = ladder(law=law, floor=FLOOR)
    made = everything(tmp_path, records, fit_of(law, records, resamples=60))
    assert set(made) == set(drawn) == expected
    assert len(drawn["ellipses"].axes) == {"data_constrained": 5, "power_N": 2, "power_C": 2}.get(
        name, 3
    )


@pytest.mark.slow
def test_six_points_heavy_tails_and_missing_intervals_are_drawn(tmp_path, drawn):
    records = ladder(sizes=3, budgets=2)
    assert len(records) == 6
    tails = fit_of(CHINCHILLA, records, tails=True)
    bare = fit_of(CHINCHILLA, records, resamples=0, profiles=False)
    alike = fit_of(CHINCHILLA, records, samples=np.tile(theta_of(CHINCHILLA), (50, 1)))
    both = {"allocation", "loss_against_compute", "frontier", "residuals", "holdout"}
    for fit, expected in ((tails, both | {"ellipses", "profiles"}), (bare, both)):
        held = hold_out_of(fit, records, drift=False)
        assert set(plots.figures(fit, records, tmp_path, holdout=held)) == expected
    assert not any("interval" in label for label in labels_of(drawn["frontier"]))
    plots_doubt.ellipses(alike, tmp_path / "alike")
    for figure in drawn.values():
        figure.draw_without_rendering()


def test_bands_equal_the_predictions(tmp_path):
    records = ladder()
    fit, C = fit_of(CHINCHILLA, records), np.array([1e13, 1e15])
    found = bands.allocation_bands(fit, C)
    for g, budget in enumerate(C):
        whole = fit.allocation(budget)
        for key, name in (("N", "N"), ("D", "D"), ("L", "loss")):
            expected = [whole[name], *whole[f"{name}_interval"]]
            np.testing.assert_allclose(found[key][:, g], expected, rtol=1e-12)
    assert bands.law_values(DATA_CONSTRAINED, 2.0, 3.0) == {"N": 2.0, "D": 3.0, "U": 3.0}
    power = power_law("C")
    assert bands.law_values(power, 2.0, 3.0) == {"C": 36.0}
    fit = fit_of(power, records)
    found = bands.curve_bands(fit, C)
    np.testing.assert_allclose(found["L"][:, 1], fit.predict(C=1e15), rtol=1e-12)


def test_numbers_are_written_as_powers_of_ten():
    expected = {
        1e21: "10²¹",
        6e18: "6×10¹⁸",
        1.234e-7: "1.23×10⁻⁷",
        -1.234e-7: "−1.23×10⁻⁷",
        10000.0: "10⁴",
        2143.4: "2143",
        0.34: "0.34",
        -0.5: "−0.5",
        0.0: "0",
        np.inf: "∞",
    }
    assert {value: plot_style.number(value) for value in expected} == expected


def test_a_linear_axis_writes_its_power_of_ten_once():
    axes = Figure().subplots()
    for limits, expected in (((2e-6, 8e-6), "×10⁻⁶"), ((-3e7, 3e7), "×10⁷"), ((0.1, 0.4), "")):
        plot_style.linear_axis(axes, "x", limits, "x")
        axes.figure.draw_without_rendering()
        assert axes.xaxis.get_offset_text().get_text() == expected


@pytest.mark.parametrize(
    "limits", [(0.45, 0.6), (1.8, 3.4), (0.3, 20.0), (1e4, 1e6), (1e18, 1e23), (1e5, 1e26)]
)
@pytest.mark.parametrize("which", "xy")
def test_log_axes_have_a_few_even_ticks(limits, which):
    axes = Figure().subplots()
    plot_style.log_axis(axes, which, limits, "x")
    axis = getattr(axes, f"{which}axis")
    ticks = axis.get_majorticklocs()
    inside = ticks[(ticks >= limits[0]) & (ticks <= limits[1])]
    assert 2 <= len(inside) <= 10
    labels = axis.get_major_formatter().format_ticks(inside)
    assert len(set(labels)) == len(labels) and all(labels)
