"""Promises of a run's figures: what is drawn is what was recorded, and it can be read."""

import warnings

import matplotlib
import numpy as np
import pytest
from matplotlib import image
from synthetic import FLOOR, synthetic_run

from jaxlm.inference.figures import column, plot_run, run_figures, smoothed, thinned
from scaling.report.house import house_style

NAMES = {
    *("loss", "perplexity", "accuracy", "optimization", "gradient_norms", "weight_norms"),
    *("update_norms", "update_ratio", "activation_rms", "speed"),
}


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def lines_of(axes, label=None):
    return [line for line in axes.lines if label in (None, line.get_label())]


@pytest.mark.slow
def test_every_figure_is_a_readable_png_and_settings_are_left_alone(tmp_path):
    records, summary = synthetic_run()
    before = dict(matplotlib.rcParams)
    paths = plot_run(records, summary, tmp_path / "plots")
    assert dict(matplotlib.rcParams) == before
    assert {path.stem for path in paths} == NAMES
    for path in paths:
        pixels = image.imread(path)
        height, width = pixels.shape[:2]
        assert 800 <= width <= 2200 and 400 <= height <= 1000, path.name
        ink = (pixels[..., :3].min(-1) < 0.9).mean()
        assert 0.005 < ink < 0.5, path.name


def test_axes_are_labelled_with_units():
    figures = run_figures(*synthetic_run())
    for name, figure in figures.items():
        assert all(axes.get_xlabel() for axes in figure.axes), name
        assert figure.axes[0].get_ylabel(), name
    assert figures["loss"].axes[0].get_ylabel() == "loss (nats per token)"
    labels = [axes.get_xlabel() for axes in figures["loss"].axes]
    assert labels == ["step", "training tokens (millions)", "wall-clock time (s)"]
    speed, memory = (axes.get_ylabel() for axes in figures["speed"].axes)
    assert (speed, memory) == ("speed (thousand tokens/s)", "memory in use (MiB)")


def test_curves_show_the_recorded_values():
    records, summary = synthetic_run(n=60, log_every=1000)
    train = [record for record in records if record["kind"] == "train"]
    evals = [record for record in records if record["kind"] == "eval"]
    figures = run_figures(records, summary)
    fields = (("step", 1e3), ("tokens", 1e6), ("wall_seconds", 60))
    for name, curve in (("loss", np.asarray), ("perplexity", np.exp)):
        for axes, (field, unit) in zip(figures[name].axes, fields, strict=True):
            for label, chosen in (("training", train), ("validation ± standard error", evals)):
                (line,) = lines_of(axes, label)
                np.testing.assert_allclose(line.get_xdata(), column(chosen, field) / unit)
                np.testing.assert_allclose(line.get_ydata(), curve(column(chosen, "loss")))
            band = axes.collections[0].get_paths()[0].vertices
            high = curve(evals[0]["loss"] + evals[0]["standard_error"])
            assert np.isclose(band[:, 1].max(), high)
    (line,) = lines_of(figures["update_ratio"].axes[2], "head")
    ratio = [r["update_norms"]["head"] / r["weight_norms"]["head"] for r in train]
    np.testing.assert_allclose(line.get_ydata(), ratio)


def test_the_floor_is_drawn_where_it_is_known():
    records, summary = synthetic_run()
    for floor in (FLOOR, None):
        figures = run_figures(records, summary | {"entropy_floor": floor})
        for name, height in (("loss", FLOOR), ("perplexity", np.exp(FLOOR))):
            for axes in figures[name].axes:
                dashed = [line for line in axes.lines if "floor" in str(line.get_label())]
                assert len(dashed) == (floor is not None)
                for line in dashed:
                    assert line.is_dashed()
                    assert np.allclose(line.get_ydata(), height)
                    low, high = axes.get_ylim()
                    assert low < height < high


def test_the_loss_axis_leaves_out_the_first_fall_and_says_so():
    records, summary = synthetic_run()
    figure = run_figures(records, summary)["loss"]
    for axes in figure.axes:
        assert axes.get_ylim()[1] < records[0]["loss"]
        assert [text.get_text() for text in axes.texts] == [f"↑ {records[0]['loss']:.2f} at step 1"]
        late = [r["loss"] for r in records if r["step"] > 60]
        assert axes.get_ylim()[0] < min(late) and max(late) < axes.get_ylim()[1]


@pytest.mark.slow
def test_legends_hide_no_data():
    with house_style():
        figures = run_figures(*synthetic_run(n=12, layers=40))
        for name in ("loss", "accuracy", "update_norms", "activation_rms"):
            figure = figures[name]
            figure.draw_without_rendering()
            assert figure.legends, name
            assert all(axes.get_legend() is None for axes in figure.axes), name
            whole = figure.bbox
            for legend in figure.legends:
                box = legend.get_window_extent()
                assert not any(box.overlaps(axes.get_window_extent()) for axes in figure.axes), name
                assert box.x0 >= -1 and box.x1 <= whole.x1 + 1, name
                assert box.y0 >= -1 and box.y1 <= whole.y1 + 1, name


@pytest.mark.slow
def test_a_deep_models_legend_keeps_its_first_and_last_block():
    figure = run_figures(*synthetic_run(n=5, layers=40))["gradient_norms"]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(figure.axes[0].lines) == 40
    assert labels[0] == "block 0" and "block 39" in labels and len(labels) == 15


@pytest.mark.parametrize("n", [1, 2])
def test_a_run_of_one_or_two_records_is_drawn(n):
    figures = run_figures(*synthetic_run(n))
    assert set(figures) == NAMES
    assert lines_of(figures["loss"].axes[0], "training")[0].get_marker() == "o"
    for name in ("perplexity", "optimization", "speed"):
        figures[name].draw_without_rendering()


@pytest.mark.slow
def test_values_that_are_not_finite_are_gaps():
    records, summary = synthetic_run(n=30)
    for record in records[3:6]:
        record |= {"loss": None, "standard_error": None, "gradient_norm": None}
        if record["kind"] == "train":
            record["gradient_norms"] = dict.fromkeys(record["gradient_norms"])
            record["activation_rms"] = [None] * 3
            record["tokens_per_second"] = None
    figures = run_figures(records, summary)
    for name in ("loss", "gradient_norms", "activation_rms", "speed"):
        figures[name].draw_without_rendering()
    (line,) = lines_of(figures["loss"].axes[0], "training")
    assert np.isnan(line.get_ydata()).any() and np.isfinite(line.get_ydata()[-1])


def test_a_run_without_a_single_finite_value_is_drawn():
    records, summary = synthetic_run(n=30)
    for record in records:
        for name, value in record.items():
            if isinstance(value, float):
                record[name] = None
            elif isinstance(value, dict):
                record[name] = dict.fromkeys(value)
            elif isinstance(value, list):
                record[name] = [None] * len(value)
    figures = run_figures(records, summary)
    assert set(figures) == NAMES
    for name in ("loss", "perplexity", "optimization", "speed"):
        figures[name].draw_without_rendering()


def test_figures_need_only_the_records_there_are():
    records, summary = synthetic_run()
    assert run_figures([], summary) == {}
    evals = [record for record in records if record["kind"] == "eval"]
    assert set(run_figures(evals, summary)) == {"loss", "perplexity", "accuracy"}
    train = [record for record in records if record["kind"] == "train"]
    assert set(run_figures(train, summary)) == NAMES - {"accuracy"}


@pytest.mark.slow
def test_many_records_are_thinned_to_their_means():
    figures = run_figures(*synthetic_run(n=3000, layers=12))
    for name in ("gradient_norms", "activation_rms"):
        for axes in figures[name].axes:
            assert all(len(line.get_xdata()) == 100 for line in axes.lines)
    values_NxK = np.random.default_rng(0).normal(size=(1000, 2))
    np.testing.assert_allclose(thinned(values_NxK).mean(0), values_NxK.mean(0))
    np.testing.assert_array_equal(thinned(values_NxK[:100]), values_NxK[:100])


def test_smoothing_is_centred_and_leaves_out_gaps():
    line_N = np.linspace(5.0, 1.0, 501)
    np.testing.assert_allclose(smoothed(line_N), line_N)
    gap_N = line_N.copy()
    gap_N[100] = np.nan
    assert np.isfinite(smoothed(gap_N)).all()
    noise_N = np.random.default_rng(0).normal(size=2000)
    assert smoothed(noise_N)[50:-50].std() < 0.25
