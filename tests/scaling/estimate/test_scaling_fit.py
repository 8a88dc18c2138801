"""Fits: reference values, invariances, degenerate data, warnings, predictions and bad input."""

import dataclasses
import functools
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.optimize
from examples import few
from hypothesis import given
from hypothesis import strategies as st

import scaling
from conftest import shared_file
from scaling import ScalingError, fit, predict
from scaling.estimate.bootstrap import resample_weights
from scaling.estimate.holdout import cut_of, hold_out
from scaling.estimate.loading import load_fit
from scaling.law.allocate import optimal
from scaling.law.laws import CHINCHILLA, DATA_CONSTRAINED, LAWS, own_law, power_law
from scaling.law.objective import objective
from scaling.law.problem import Problem
from scaling.records.records import Records, read_records
from scaling.report.analysis import analyse

TRUE = {"E": 1.7, "A": 400.0, "B": 1500.0, "alpha": 0.34, "beta": 0.3}


def made(law=CHINCHILLA, true=TRUE, n=60, noise=0.0, seed=0, sizes=(1e6, 1e10), tokens=(1e8, 1e12)):
    """Records of a known law with log-normal noise."""
    generator = np.random.default_rng(seed)
    N, D = (np.exp(generator.uniform(*np.log(ends), n)) for ends in (sizes, tokens))
    loss = law.loss(law.from_natural(true), **{v: {"N": N, "D": D}[v] for v in law.variables})
    loss = loss * np.exp(noise * generator.normal(size=n))
    return Records.from_arrays(N, D, loss, count="non_embedding", natural_text=False)


@functools.cache
def noisy(resamples=256):
    return fit(made(noise=0.005), resamples=resamples)


def close(found, true, tolerance):
    for name, value in true.items():
        assert found.parameters[name] == pytest.approx(value, rel=tolerance), name


@pytest.mark.slow
def test_chinchilla_points_reach_the_reference_minimum():
    records = read_records(shared_file("scaling/chinchilla_points.csv"), where="in_fit=1")
    found = fit(records, resamples=0, profiles=False)
    assert found.success and found.n_points == 240
    assert found.objective <= 1.018274019e-3
    reference = dict(E=1.8172181, A=477.82587, B=2143.4174, alpha=0.3473105, beta=0.3671724)
    close(found, reference | {"a": 0.5138995}, 1e-5)
    assert found.starts_converged >= 0.95 * found.starts
    best = found.allocation(1e24)
    assert best["N"] == pytest.approx(9.71792e10, rel=1e-5)
    assert best["D"] == pytest.approx(1.71505e12, rel=1e-5)


@pytest.mark.slow
def test_noise_free_isoflops_give_the_true_law():
    records = read_records(shared_file("scaling/isoflops_curves.json"))
    found = fit(records, resamples=0, profiles=False)
    close(found, dict(E=2.69, A=1606.4, B=3210.7, alpha=0.34, beta=0.36), 1e-5)
    assert found.allocation(1e23)["N"] == pytest.approx(9.18925e10, rel=1e-5)


@pytest.mark.slow
@few
@given(
    floor=st.floats(0.5, 8.0),
    shares=st.tuples(st.floats(0.02, 1.0), st.floats(0.02, 1.0)),
    alpha=st.floats(0.1, 1.0),
    beta=st.floats(0.1, 1.0),
    places=st.tuples(st.floats(3.0, 9.0), st.floats(5.0, 11.0)),
    seed=st.integers(0, 1000),
)
def test_random_laws_are_recovered(floor, shares, alpha, beta, places, seed):
    """Three decades anywhere; each term makes up at least 2 % of E in the middle."""
    middle_N, middle_D = (10.0**place for place in places)
    A = shares[0] * floor * middle_N**alpha
    B = shares[1] * floor * middle_D**beta
    true = {"E": floor, "A": A, "B": B, "alpha": alpha, "beta": beta}
    ends = ((m / 10**1.5, m * 10**1.5) for m in (middle_N, middle_D))
    records = made(true=true, seed=seed, **dict(zip(("sizes", "tokens"), ends, strict=True)))
    found = fit(records, resamples=0, profiles=False)
    assert found.success, found.message
    close(found, true, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("delta", [1e-3, None])
def test_a_change_of_units_changes_only_the_units(delta):
    records = made(noise=0.01)
    other = Records.from_arrays(records.N / 1e9, records.D * 3.7, records.loss)
    one, two = (fit(r, delta=delta, resamples=0, profiles=False) for r in (records, other))
    for name in ("E", "alpha", "beta"):
        assert two.parameters[name] == pytest.approx(one.parameters[name], rel=1e-6)
    assert two.objective == pytest.approx(one.objective, rel=1e-9)
    assert two.parameters["A"] * 1e9 ** one.parameters["alpha"] == pytest.approx(
        one.parameters["A"], rel=1e-5
    )


@pytest.mark.slow
def test_weights_count_points():
    records = made(noise=0.01, n=50)
    arrays = [np.concatenate([x, x[:10]]) for x in (records.N, records.D, records.loss)]
    weight = np.where(np.arange(50) < 10, 2.0, 1.0)
    weighted = Records.from_arrays(records.N, records.D, records.loss, weight=7 * weight)
    one = fit(Records.from_arrays(*arrays), resamples=0, profiles=False)
    two = fit(weighted, resamples=0, profiles=False)
    np.testing.assert_allclose(two.theta, one.theta, rtol=1e-6)


@pytest.mark.slow
def test_the_written_out_derivatives_are_those_of_the_objective():
    problem = Problem.of(made(noise=0.01), CHINCHILLA, 1e-2)
    theta = problem.starts()[20]
    with jax.enable_x64(True):
        data = (problem.weights, problem.log_loss, problem.logs, problem.delta, 3.0)
        function = objective(CHINCHILLA)
        value, gradient, hessian = function(jax.numpy.asarray(theta), *data)
        alone = lambda theta: function(theta, *data)[0]  # noqa: E731
        np.testing.assert_allclose(gradient, jax.grad(alone)(theta), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(hessian, jax.hessian(alone)(theta), rtol=1e-7, atol=1e-9)
    residual = problem.residuals(theta)
    assert value == pytest.approx(np.sum(scipy.special.huber(1e-2, residual)) / 3, rel=1e-12)


def test_scipy_finds_no_lower_objective():
    records = made(noise=0.01)
    problem = Problem.of(records, CHINCHILLA, 1e-3)
    found = fit(records, resamples=0, profiles=False)

    def cost(theta):
        return 1e3 * np.sum(scipy.special.huber(1e-3, problem.residuals(theta)))

    lowest = min(
        scipy.optimize.minimize(cost, start, method="Nelder-Mead", options={"maxiter": 4000}).fun
        for start in problem.solve(problem.starts()).theta[:3]
    )
    assert found.objective <= lowest / 1e3 * (1 + 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["N", "D"])
def test_a_dead_term_is_degenerate_and_never_a_success(variable):
    """Losses that do not depend on one variable at all."""
    law = power_law(variable)
    true = {"E": 2.0, "A": 300.0, "alpha": 0.3}
    records = made(law, true, noise=0.003)
    found = fit(records, resamples=0)
    # Noise may give the dead term a minimum of its own, at which any exponent fits.
    assert not found.success and found.message.startswith(("degenerate", "not identifiable"))
    assert fit(records, law, resamples=0).success


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tied", "power_N", "power_D", "power_C"])
def test_other_laws_recover_their_truth(name):
    law = LAWS[name]
    true = {"E": 1.5, "A": 500.0, "B": 900.0, "alpha": 0.31}
    true = {p: true[p] for p in law.parameters}
    generator = np.random.default_rng(3)
    N, D = np.exp(generator.uniform(12, 20, (2, 50)))
    values = {"N": N, "D": D, "C": 6 * N * D}
    loss = law.loss(law.from_natural(true), **{v: values[v] for v in law.variables})
    close(fit(Records.from_arrays(N, D, loss), name, resamples=0, profiles=False), true, 1e-5)


@pytest.mark.slow
def test_the_data_constrained_law_recovers_its_truth():
    law = DATA_CONSTRAINED
    true = dict(E=1.9, A=500.0, B=1900.0, alpha=0.35, beta=0.35, R_D=15.0, R_N=5.3)
    generator = np.random.default_rng(0)
    N = np.exp(generator.uniform(np.log(1e7), np.log(1e10), 150))
    U = np.exp(generator.uniform(np.log(1e8), np.log(1e10), 150))
    D = U * np.exp(generator.uniform(0, np.log(60), 150))
    loss = law.loss(law.from_natural(true), N=N, D=D, U=U)
    found = fit(Records.from_arrays(N, D, loss, unique=U), law, resamples=0, profiles=False)
    assert found.success
    close(found, true, 1e-3)


@pytest.mark.slow
def test_a_users_law_is_one_function():
    def saturating(N, D, E, A, alpha):
        return E + A / (N * D) ** alpha

    records = made()
    N, D = records.N, records.D
    mine = Records.from_arrays(N, D, saturating(N, D, 1.5, 40.0, 0.11))
    law = own_law(saturating, [[1.0, 10.0, 0.2], [2.0, 100.0, 0.1]])
    found = fit(mine, law, resamples=4, profiles=False)
    close(found, {"E": 1.5, "A": 40.0, "alpha": 0.11}, 1e-4)
    with pytest.raises(ScalingError, match="parameters are"):
        own_law(saturating, [1.0, 2.0])


@pytest.mark.slow
def test_intervals_contain_the_truth_and_repeat_with_the_seed():
    found, again = noisy(), fit(made(noise=0.005), resamples=256)
    for name, value in TRUE.items():
        low, high = found.intervals[name]
        assert low < value < high, name
        assert found.profiles[name].low < value < found.profiles[name].high, name
    np.testing.assert_array_equal(found.samples, again.samples)


def test_more_starting_points_for_resamples_change_no_interval():
    records = made(noise=0.005)
    one, many = (fit(records, resamples=64, bootstrap_starts=k, profiles=False) for k in (1, 16))
    for name, (low, high) in one.intervals.items():
        assert many.intervals[name] == pytest.approx((low, high), rel=1e-3), name


def test_whole_runs_are_drawn():
    weights = resample_weights(np.array(["a", "b", "a", "c"]), 50, 0)
    assert weights.shape == (50, 4)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    assert np.all(weights[:, 0] + weights[:, 1] + weights[:, 3] == 3)


def test_a_saved_fit_can_be_loaded(tmp_path):
    found = noisy()
    path = found.save(tmp_path, [1e24])
    back = load_fit(path)
    assert back.intervals == found.intervals and back.parameters == found.parameters
    content = json.loads(path.read_text())
    assert {"law", "delta", "n_points", "objective", "E", "A", "B", "alpha", "beta", "a", "b", "G",
            "intervals", "starts_converged", "warnings", "allocations"} <= set(content)  # fmt: skip
    (tmp_path / "bootstrap.npy").unlink()
    assert np.isnan(load_fit(path).predict(N=1e9, D=1e11)[1])
    np.save(tmp_path / "bootstrap.npy", np.zeros((3, 5)))
    with pytest.raises(ScalingError, match="do not belong together"):
        load_fit(path)
    path.write_text("{}")
    with pytest.raises(ScalingError, match="is not a fit.json"):
        load_fit(path)


def test_every_question_is_answered():
    found = noisy()
    loss = predict(found, N=7e9, D=1.4e11).values["loss"]
    assert loss[1] < loss[0] < loss[2]
    best = predict(found, C=1e22).values
    cheapest = predict(found, target_loss=best["loss"][0]).values
    assert cheapest["C"][0] == pytest.approx(1e22, rel=1e-6)
    assert cheapest["N"][0] == pytest.approx(best["N"][0], rel=1e-6)
    tokens = predict(found, N=best["N"][0], target_loss=best["loss"][0]).values["D"][0]
    assert tokens == pytest.approx(best["D"][0], rel=1e-6)
    assert predict(found, N=best["N"][0]).values["D"][0] == pytest.approx(best["D"][0], rel=1e-6)
    serving = predict(found, C=1e22, inference_tokens=1e13).values
    assert serving["N"][0] < best["N"][0]
    assert any("100 times" in w for w in predict(found, C=1e30).warnings)
    assert any("not above" in w for w in predict(found, target_loss=1.0).warnings)
    for wrong in ({}, {"D": 1e9}, {"N": -1.0, "D": 1e9}, {"C": float("nan")}, {"N": 1e9, "C": 1e9}):
        with pytest.raises(ScalingError):
            predict(found, **wrong)


@pytest.mark.slow
def test_a_hold_out_predicts_unseen_runs():
    records = made(noise=0.002)
    whole = fit(records, resamples=64, profiles=False)
    held = hold_out(records, whole, cut_of(records, "10x"), resamples=64, profiles=False)
    assert held.fit.n_points + len(held.held) == 60
    assert np.max(held.fit.range["C"]) <= held.cut < np.min(held.held.C)
    assert np.max(np.abs(held.errors)) < 0.01
    assert all(0.5 < row["ratio"] < 2 for row in held.drift)
    for cut in ("1", "1e40", "x", "0.5x"):
        with pytest.raises(ScalingError):
            hold_out(records, whole, cut_of(records, cut))


def test_bad_records_are_refused_with_a_reason():
    records = made(n=4)
    with pytest.raises(ScalingError, match="4 records cannot determine the 5 parameters"):
        fit(records)
    same = Records.from_arrays(np.full(20, 1e8), np.geomspace(1e9, 1e11, 20), np.linspace(3, 2, 20))
    with pytest.raises(ScalingError, match="N is the same in all 20.*\n.*power_D"):
        fit(same)
    for wrong in ({"law": "kaplan"}, {"delta": 0.0}, {"level": 95.0}, {"law": "data_constrained"}):
        with pytest.raises(ScalingError):
            fit(made(), **wrong)


def test_few_resamples_give_a_warning():
    assert any("too few" in w for w in fit(made(), resamples=20).warnings)
    assert not any("too few" in w for w in fit(made(), resamples=0).warnings)


def test_arrays_without_numbers_are_refused():
    with pytest.raises(ScalingError, match="no.* arrays of numbers"):
        Records.from_arrays(N=["a"], D=["b"], loss=[1.0])


@pytest.mark.slow
def test_warnings_name_what_is_doubtful():
    few = made(n=7, sizes=(1e7, 3e7))
    text = " ".join(fit(few, "power_N", resamples=0).warnings)
    assert "only 7 points" in text and "decades" in text
    natural = Records.from_arrays(*(getattr(made(), v) for v in ("N", "D", "loss")))
    text = " ".join(fit(natural, resamples=0).warnings)
    assert "below 50M" in text and "do not state whether N counts embeddings" in text


@pytest.mark.slow
def test_one_analysis_writes_everything(tmp_path):
    theta = CHINCHILLA.from_natural(TRUE)
    budgets = np.repeat(np.geomspace(1e18, 1e21, 6), 10)
    N = optimal(CHINCHILLA, theta, budgets)[0] * np.tile(np.geomspace(0.2, 5, 10), 6)
    loss = CHINCHILLA.loss(theta, N=N, D=budgets / 6 / N)
    loss = loss * np.exp(0.001 * np.random.default_rng(0).normal(size=60))
    records = Records.from_arrays(N, budgets / 6 / N, loss, count="non_embedding")
    found = analyse(records, holdout="5x", resamples=64)
    text = found.text()
    for words in ("2, parabola", "3, parametric", "measured", "Czech"):
        assert words in text
    report = found.save(tmp_path)
    for name in ("fit.json", "bootstrap.npy", "approaches.json", "records.csv", "isoflop.png"):
        assert (tmp_path / name).stat().st_size > 0
    assert "![isoflop](isoflop.png)" in report.read_text()
    json.loads((tmp_path / "approaches.json").read_text())


@pytest.mark.slow
def test_the_shell_fits_a_file(tmp_path):
    made(noise=0.003).to_csv(tmp_path / "runs.csv")
    command = [sys.executable, "-m", "scaling.fit"]
    done = subprocess.run(
        [*command, str(tmp_path / "runs.csv"), "--bootstrap", "64"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "converged" in done.stdout, done.stderr
    assert done.stderr == ""
    done = subprocess.run([*command, "missing.csv"], capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) <= 3


@pytest.mark.parametrize(
    "change",
    [
        {"theta": ["a"] * 5}, {"theta": [None] * 5}, {"theta": [1.0, 2.0]}, {"level": "0.95"},
        {"level": 7}, {"level": None}, {"range": {"N": [1, 2]}}, {"range": {"C": [1]}},
        {"range": {"N": "ab", "D": [1, 2], "C": ["a", "b"]}}, {"law": ["chinchilla"]},
    ],
)  # fmt: skip
def test_a_damaged_fit_is_one_error(tmp_path, change):
    path = noisy().save(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ScalingError, match="is not a fit.json"):
        load_fit(path)


def test_records_without_weight_do_not_count():
    records = made(n=20)
    for weighty in (0, 3):
        weight = np.arange(20) < weighty
        with pytest.raises(ScalingError, match=f"{weighty} records of weight above 0"):
            fit(dataclasses.replace(records, weight=weight))


def test_arguments_that_are_not_records_or_numbers_are_refused():
    with pytest.raises(ScalingError, match="read_records"):
        fit("runs.csv")
    for N in ("1e9", [1e9, 2e9], np.array([1e9])):
        with pytest.raises(ScalingError, match="N="):
            predict(noisy(), N=N, D=1e10)


def test_resamples_that_are_not_numbers_are_refused(tmp_path):
    path = noisy().save(tmp_path)
    np.save(tmp_path / "bootstrap.npy", np.full((256, 5), "a"))
    with pytest.raises(ScalingError, match="do not belong together"):
        load_fit(path)


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path, capsys):
    from jaxlm.cli.main import main

    (tmp_path / "file").write_text("")
    with pytest.raises(ScalingError, match="cannot write"):
        noisy().save(tmp_path / "file" / "below")
    noisy().save(tmp_path / "fit")
    words = ["job=predict", f"job.fit={tmp_path / 'fit'}", "job.N=1e9", "job.D=1e11"]
    assert main([*words, f"job.out={tmp_path / 'file' / 'below.json'}"]) == 2
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["job.device=H100"], ["job.device=H100", "job.mfu=0.2"], []])
def test_a_plan_for_some_hours_takes_that_long(tmp_path, capsys, words):
    from jaxlm.cli.main import main

    noisy().save(tmp_path)
    assert main(["job=predict", f"job.fit={tmp_path}", "job.hours=24", *words]) == 0
    shown = capsys.readouterr().out
    took = float(re.search(r"(?m)^time +([0-9.]+) h", shown)[1])
    assert 0.7 * 24 < took <= 24
    assert ("precision=bfloat16" in shown) == bool(words)
    asked = ["job=predict", f"job.fit={tmp_path}", "job.C=1e20", "job.device=H10"]
    assert main(asked) == 2


@pytest.mark.slow
def test_jobs_fit_and_predict(tmp_path, capsys):
    from jaxlm.cli.main import main

    made(noise=0.003).to_csv(tmp_path / "runs.csv")
    out = tmp_path / "fit"
    words = ["job=fit", f"job.records={tmp_path / 'runs.csv'}", "job.bootstrap=64"]
    assert main([*words, f"job.out={out}"]) == 0
    assert "report:" in capsys.readouterr().out
    answer = tmp_path / "answer.json"
    asked = ["job=predict", f"job.fit={out}", f"job.out={answer}"]
    assert main([*asked, "job.hours=24", "job.device=H100"]) == 0
    assert "heads" in capsys.readouterr().out
    assert json.loads(answer.read_text())["N"] > 0
    assert main([*asked, "job.N=1e9", "job.D=1e10"]) == 0
    assert main([*asked, "job.hours=24", "job.C=1e20"]) == 2
    capsys.readouterr()
    for idle in ("job.U=1e9", "job.inference_tokens=1e9", "job.device=H100"):
        assert main([*asked, "job.N=1e9", "job.D=1e10", idle]) == 2
        assert f"{idle.partition('=')[0][4:]}=" in (said := capsys.readouterr().err)
        assert "has no effect" in said
    assert main(["job=fit"]) == 2
    assert main(["job=predict", f"job.fit={tmp_path / 'none'}"]) == 2


def test_scaling_stands_alone():
    """No file of scaling/ imports the trainer or torch, and all names are available at the top."""
    for path in Path(scaling.__file__).parent.glob("*.py"):
        lines = [line.split() for line in path.read_text().splitlines()]
        modules = {w[1].split(".")[0] for w in lines if w[:1] in (["import"], ["from"])}
        assert not modules & {"jaxlm", "torchref", "torch"}, path.name
    for name in scaling.__all__:
        assert callable(getattr(scaling, name))
