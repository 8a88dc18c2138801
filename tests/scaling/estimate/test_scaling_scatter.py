"""Promises of the interval of a single run, and of resamples of many points."""

import json

import numpy as np
import pytest

from scaling.estimate.bootstrap import interval, resample_weights
from scaling.estimate.fit import Fit
from scaling.estimate.holdout import HoldOut, spread
from scaling.estimate.one_step import one_step
from scaling.estimate.predict import Prediction, predict
from scaling.estimate.scatter import MOST, quantile, run_interval, scatter_of
from scaling.estimate.tables import holdout_table, prediction_table
from scaling.law.laws import CHINCHILLA
from scaling.law.problem import Problem
from scaling.records.records import Records

TRUTH = {"E": 1.7, "A": 400.0, "B": 410.0, "alpha": 0.34, "beta": 0.28}


def made(n, noise=0.01, seed=0) -> Records:
    generator = np.random.default_rng(seed)
    N, D = 10 ** generator.uniform(7, 10, n), 10 ** generator.uniform(9, 12, n)
    loss = CHINCHILLA.loss(CHINCHILLA.from_natural(TRUTH), N=N, D=D)
    return Records.from_arrays(N, D, loss * np.exp(noise * generator.standard_normal(n)))


def law(records, resamples=200, width=1e-4) -> Fit:
    theta = CHINCHILLA.from_natural(TRUTH)
    residual = np.log(records.loss / CHINCHILLA.loss(theta, N=records.N, D=records.D))
    samples = theta + width * np.random.default_rng(1).standard_normal((resamples, 5))
    n = len(records)
    ends = {v: (getattr(records, v).min(), getattr(records, v).max()) for v in "NDC"}
    return Fit(
        CHINCHILLA, theta, samples, 1e-3, 0.95, 1e-3, n, n, True, "converged", 9, 9, (), {}, ends,
        "unstated", "", float(np.std(residual)),
        scatter=scatter_of(residual, np.ones(n), 5),
    )  # fmt: skip


def held(records, fit) -> HoldOut:
    law_SxM = CHINCHILLA.loss(fit.samples[:, None], N=records.N, D=records.D)
    value = CHINCHILLA.loss(fit.theta, N=records.N, D=records.D)
    ends = np.transpose([interval(c, v, 0.95) for c, v in zip(law_SxM.T, value, strict=True)])
    runs = np.transpose([fit.run_interval(v, c) for c, v in zip(law_SxM.T, value, strict=True)])
    errors = value / records.loss - 1
    return HoldOut(1e15, fit, fit, records, value, *ends, errors, [], *runs)


@pytest.mark.parametrize("n", [9, 15, 60])
def test_a_new_draw_is_in_the_interval_as_often_as_its_level_states(n):
    generator = np.random.default_rng(n)
    inside = []
    for _ in range(400):
        x_n, new = generator.standard_normal(n), generator.standard_normal(50)
        scatter = scatter_of(x_n - x_n.mean(), np.ones(n), 1)
        low, high = quantile(scatter, n - 1, np.array([0.025, 0.975])) + x_n.mean()
        inside.append(np.mean((new > low) & (new < high)))
    assert 0.92 < np.mean(inside) < 0.985


def test_the_interval_of_a_run_adds_the_scatter_to_the_interval_of_the_law():
    records = made(60)
    fit = law(records)
    estimate, low, high = fit.predict_run(N=1e9, D=1e11)
    of_law = fit.predict(N=1e9, D=1e11)
    assert estimate == of_law[0] and low < of_law[1] < of_law[2] < high
    np.testing.assert_allclose(np.log([low, high]) - np.log(estimate), [-0.02, 0.02], atol=0.008)
    assert fit.predict_run(N=1e9, D=1e11) == (estimate, low, high)


def test_without_noise_a_run_is_as_certain_as_the_law_and_without_resamples_nothing_is():
    fit = law(made(30, noise=0.0), resamples=4000, width=1e-3)
    np.testing.assert_allclose(
        fit.predict_run(N=1e9, D=1e11), fit.predict(N=1e9, D=1e11), rtol=3e-4
    )
    nothing = law(made(30), resamples=0)
    assert np.isnan(nothing.predict_run(N=1e9, D=1e11)[1:]).all()
    assert not len(scatter_of(np.ones(5), np.ones(5), 5))
    assert np.isnan(run_interval(np.ones(9), 1.0, np.empty(0), 1, 0.95)).all()


def test_the_scatter_of_many_points_is_kept_as_quantiles_and_weights_count():
    x = np.random.default_rng(0).standard_normal(50_000)
    scatter = scatter_of(x, np.ones(len(x)), 5)
    assert len(scatter) == MOST and abs(scatter[MOST // 2]) < 0.02 and 2.4 < scatter[-1] < 3.2
    twice = scatter_of(np.append(x[:50], 9.0), np.append(np.ones(50), 0.0), 5)
    np.testing.assert_array_equal(twice, scatter_of(x[:50], np.ones(50), 5))


def test_a_hold_out_reports_how_many_losses_are_in_each_interval():
    found = held(made(40, seed=3), law(made(60)))
    inside, count = found.within["law"]
    runs, _ = found.within["run"]
    assert count == 40 and inside < 20 < 33 <= runs
    text = holdout_table(found)
    assert f"{inside} of 40 measured losses are in the 95 % interval of the law" in text
    assert f"{runs} of 40 are in the interval of a single run" in text
    content = json.loads(json.dumps(found.to_dict()))
    assert content["within_interval_of"]["run"] == {"inside": runs, "of": 40}
    assert content["held"][0]["run_low"] < content["held"][0]["low"]


def test_a_table_of_many_held_out_runs_is_short():
    records = made(3000)
    nothing = np.full(3000, np.nan)
    many = HoldOut(1e15, law(records), None, records, records.loss, *[nothing] * 2, nothing * 0, [])
    assert len(holdout_table(many).splitlines()) < 60
    assert "50 of 3000 points are listed" in holdout_table(many)
    assert len(many.to_dict()["held"]) == 1000
    np.testing.assert_array_equal(spread(np.arange(5.0)), np.arange(5))


def test_a_prediction_gives_both_intervals_with_their_names():
    fit = law(made(60))
    found = predict(fit, N=1e9, D=1e11)
    assert found.runs["loss"] == fit.predict_run(N=1e9, D=1e11)[1:]
    text = prediction_table(found, 0.95)
    assert "law, 95 %" in text and "single run, 95 %" in text
    assert found.to_dict()["loss_interval_of_a_run"] == list(found.runs["loss"])
    assert set(predict(fit, C=1e20).runs) == {"loss"}
    assert not predict(fit, target_loss=2.5).runs
    assert "95 % interval" in prediction_table(Prediction("q", {"x": (1, 0, 2)}, ()), 0.95)


@pytest.mark.slow
def test_one_step_resamples_agree_with_full_refits():
    records = made(4000)
    problem = Problem.of(records, CHINCHILLA, 0.02)
    found = problem.solve(problem.starts())
    theta = found.theta[int(np.argmin(found.objective))]
    one = one_step(problem, theta, records.run, 400, 0)
    whole = problem.refit(theta[None], resample_weights(records.run, 400, 1) * problem.weights)
    np.testing.assert_allclose(one.std(0), whole.std(0), rtol=0.15)
    np.testing.assert_allclose(one.mean(0), whole.mean(0), atol=0.2 * whole.std(0).max())
    again = one_step(problem, theta, records.run, 400, 0)
    np.testing.assert_array_equal(one, again)


@pytest.mark.slow
def test_one_step_draws_whole_runs():
    records = made(600)
    runs = np.repeat([f"r{i}" for i in range(100)], 6)
    problem = Problem.of(records, CHINCHILLA, None)
    theta = CHINCHILLA.from_natural(TRUTH)
    centred = theta - (CHINCHILLA.absolute(theta, problem.centre) - theta)
    few, many = (one_step(problem, centred, r, 300, 0) for r in (runs, records.run))
    assert few.shape == many.shape == (300, 5) and np.all(np.isfinite(few))
