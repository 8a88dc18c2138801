"""Promises of a report: it is written even if figures fail, and names the skipped ones."""

import dataclasses
import json
import warnings

import numpy as np
import pytest

from scaling.estimate.bootstrap import Profile
from scaling.estimate.fit import Fit
from scaling.law.laws import CHINCHILLA
from scaling.records.records import Records
from scaling.report import drawing, plots
from scaling.report.analysis import Analysis

TRUTH = {"E": 0.5, "A": 12.0, "B": 60.0, "alpha": 0.35, "beta": 0.38}


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def runs(**changes) -> Records:
    generator = np.random.default_rng(0)
    N, D = 10 ** generator.uniform(5, 7, 12), 10 ** generator.uniform(6, 8, 12)
    loss = CHINCHILLA.loss(CHINCHILLA.from_natural(TRUTH), N=N, D=D)
    return dataclasses.replace(Records.from_arrays(N, D, loss), **changes)


def law(records: Records, **changes) -> Fit:
    """A fit as `scaling.estimate.fit` would return it, without waiting for one."""
    theta = CHINCHILLA.from_natural(TRUTH)
    samples = theta + 0.03 * np.random.default_rng(1).standard_normal((40, 5))
    steps = np.linspace(-1, 1, 9)
    fields = {
        "law": CHINCHILLA, "theta": theta, "samples": samples, "delta": 1e-3, "level": 0.95,
        "objective": 1e-3, "n_points": 12, "n_runs": 12, "success": True, "message": "converged",
        "starts": 9, "starts_converged": 9, "warnings": (), "count": "unstated", "source": "",
        "profiles": {"alpha": Profile("alpha", 0.35 + 0.1 * steps, 9 * steps**2, 4.0, 0.3, 0.4)},
        "range": {v: (getattr(records, v).min(), getattr(records, v).max()) for v in "NDC"},
        "residual_std": 0.01,
    }  # fmt: skip
    return Fit(**fields | changes)


def saved(folder, records, fit):
    """The report of an analysis, and the lines passed to `tell`."""
    told = []
    report = Analysis(records, fit, (), None, None, None, None, ()).save(folder, tell=told.append)
    json.loads((folder / "fit.json").read_text())
    return report.read_text(), told


HOSTILE = {
    "constant losses": ({"loss": np.full(12, 2.0)}, {}),
    "rising losses": ({"loss": np.geomspace(1, 1e4, 12)}, {}),
    "losses over 600 decades": ({"loss": np.geomspace(1e-300, 1e300, 12)}, {}),
    "endless compute": ({"C": np.geomspace(1e300, 1.7e308, 12)}, {}),
    "no law": ({}, {"theta": np.full(5, np.nan), "success": False, "message": "degenerate"}),
    "an infinite coefficient": ({}, {"theta": np.array([0.0, 1e4, 1.0, 0.3, 0.3])}),
    "an endless profile": (
        {}, {"profiles": {"A": Profile("A", np.full(9, np.inf), np.zeros(9), 4.0, 0.0, np.inf)}},
    ),
    "names that look like TeX": ({"run": np.array(["$a_{$b^ \\frac{", "x$y$z_", "a\nb"] * 4)}, {}),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_a_report_is_written_even_if_figures_cannot_be_drawn(tmp_path, monkeypatch, name):
    monkeypatch.setattr(plots.house, "save", lambda figure, path: plots.style.settle(figure))
    of_records, of_fit = HOSTILE[name]
    records = runs(**of_records)
    report, told = saved(tmp_path, records, law(records, **of_fit))
    assert "```text" in report
    for line in told:
        assert line.startswith("figure ") and " skipped: " in line and "\n" not in line
        assert line in report and len(line) < 220
        assert f"![{line.split()[1]}]" not in report
    assert report.count("![") + len(told) == 6


@pytest.mark.slow
def test_a_figure_that_fails_is_named_and_the_others_are_drawn(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no\nway")

    monkeypatch.setattr(plots, "frontier", broken)
    (tmp_path / "frontier.png").write_text("of an earlier fit")
    report, told = saved(tmp_path, runs(), law(runs()))
    assert (
        told == ["figure frontier skipped: it cannot be drawn (RuntimeError: no way)"]
        and told[0] in report
    )
    assert not (tmp_path / "frontier.png").exists() and (tmp_path / "residuals.png").exists()


def test_the_report_is_written_before_the_first_figure(tmp_path, monkeypatch):
    def interrupted(plans, folder):
        assert "converged" in (folder / "report.md").read_text()
        assert (folder / "fit.json").exists() and (folder / "approaches.json").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr("scaling.report.analysis.draw_all", interrupted)
    with pytest.raises(KeyboardInterrupt):
        saved(tmp_path, runs(), law(runs()))


@pytest.mark.slow
def test_a_second_process_draws_the_same_figures_and_may_die(tmp_path):
    plans = {n: p for n, p in plots.planned(law(runs()), runs()).items() if n != "ellipses"}
    drawing.prepare()
    (tmp_path / "two").mkdir()
    assert set(drawing.draw_all(plans, tmp_path / "two").values()) == {None}
    for process in drawing._assistant:
        process.kill()
    (tmp_path / "one").mkdir()
    assert set(drawing.draw_all(plans, tmp_path / "one").values()) == {None}
    for name in plans:
        both = [(tmp_path / place / f"{name}.svg").read_bytes() for place in ("one", "two")]
        assert both[0] == both[1]


def test_many_points_are_thinned_for_figures():
    records = runs()
    many = records.where(np.tile(np.arange(12), 1000))
    shown = plots.thinned(many)
    assert len(shown) == plots.MOST_POINTS
    assert shown.C.min() == records.C.min() and shown.C.max() == records.C.max()
