"""Fits of very few data: as many points as parameters, few runs, odd questions."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scaling import fit, predict
from scaling.errors import ScalingError
from scaling.estimate.loading import load_fit
from scaling.records.records import Records

ROOT = Path(__file__).resolve().parents[3]
TRUTH = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}


def records(count, runs=None):
    """Points of a known law with 0.3 % noise."""
    rng = np.random.default_rng(count)
    N, D = (10 ** rng.uniform(*ends, count) for ends in ((8, 10), (9, 11)))
    loss = TRUTH["E"] + TRUTH["A"] / N ** TRUTH["alpha"] + TRUTH["B"] / D ** TRUTH["beta"]
    loss *= np.exp(rng.normal(0, 0.003, count))
    return Records.from_arrays(N, D, loss, **({} if runs is None else {"run": runs}))


@pytest.fixture(scope="module")
def sound():
    return fit(records(30), resamples=50)


@pytest.mark.slow
def test_as_many_points_as_parameters_are_not_a_success():
    found = fit(records(5), resamples=50)
    assert not found.success and "leave none to judge the fit by" in found.message
    assert all(np.isnan(found.intervals[name]).all() for name in TRUTH)


@pytest.mark.slow
def test_a_run_has_no_interval_if_the_law_is_not_determined():
    N = np.repeat([1e8, 1e9], 8)
    D = np.tile(np.geomspace(1e9, 1e11, 8), 2)
    found = fit(Records.from_arrays(N, D, 1.8 + 480 / N**0.35 + 2100 / D**0.37), resamples=50)
    assert not found.success
    assert np.isnan(found.predict_run(N=1e10, D=1e11)[1:]).all()


@pytest.mark.slow
def test_few_runs_of_many_points_give_a_warning():
    found = fit(records(30, ["a"] * 15 + ["b"] * 15), resamples=50)
    assert any("only 2 runs" in warning for warning in found.warnings)


@pytest.mark.slow
@pytest.mark.parametrize(
    "asked", [{"C": 10.0}, {"N": 124.0, "D": 2.5}, {"N": 124.0, "D": 1e10}], ids=str
)
def test_a_question_far_below_the_records_gives_a_warning(sound, asked):
    assert any("N" in w and "parameters" in w for w in predict(sound, **asked).warnings)
    assert not predict(sound, C=1e21).warnings


def test_a_truth_value_is_not_a_budget(sound):
    with pytest.raises(ScalingError, match="C=True"):
        predict(sound, C=True)


def test_losses_of_an_impossible_scale_are_one_error():
    good = records(12)
    with pytest.raises(ScalingError):
        fit(Records.from_arrays(good.N, good.D, good.loss * 1e-300), resamples=0)
    with pytest.raises(ScalingError):
        fit(Records.from_arrays([], [], []))


@pytest.mark.parametrize(
    "change",
    [
        {"fixed": {"E": 2.0}},
        {"success": True, "message": "degenerate: all"},
        {"success": False},
        {"undetermined": ["E"]},
        {"scatter": [-1e300, 1e300]},
    ],
    ids=str,
)
def test_a_fit_that_contradicts_itself_is_refused(sound, tmp_path, change):
    path = sound.save(tmp_path)
    assert load_fit(path).success
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | change), "utf-8")
    with pytest.raises(ScalingError):
        load_fit(path)


@pytest.mark.slow
def test_a_reader_that_closes_the_pipe_ends_the_command_quietly(tmp_path):
    records(12).to_csv(tmp_path / "runs.csv")
    command = f"'{sys.executable}' -m scaling.fit runs.csv --bootstrap 0 | head -n 1"
    done = subprocess.run(
        command, shell=True, cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert "Traceback" not in done.stderr and done.stdout.count("\n") == 1
