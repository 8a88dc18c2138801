"""Optimal sizes directly from runs: IsoFLOP minima, their bias, and the envelope of curves."""

import json

import numpy as np
import pytest
import scipy.interpolate

from conftest import shared_file
from scaling.errors import ScalingError
from scaling.estimate import isoflop
from scaling.estimate.envelope import approach1
from scaling.estimate.isoflop import approach2, budgets, parabola_bias
from scaling.law.allocate import coefficients, optimal
from scaling.law.laws import CHINCHILLA
from scaling.records.records import Records, read_records

TRUTH = {"E": 2.69, "A": 1606.4, "B": 3210.7, "alpha": 0.34, "beta": 0.36}
THETA = CHINCHILLA.from_natural(TRUTH)
SKEWED = CHINCHILLA.from_natural(TRUTH | {"alpha": 0.5, "beta": 0.2})
A = coefficients(CHINCHILLA, THETA)["a"]
BUDGETS = np.array([1e18, 1e19, 1e20, 1e21])


def ladder(
    half_width, sizes=9, theta=THETA, shift=0.0, drift=0.0, noise=0.0, seed=0, compute=BUDGETS
):
    """Runs at `compute`: sizes around the optimum times e^shift, drifting by e^drift per budget."""
    N_opt = optimal(CHINCHILLA, theta, compute)[0]
    offsets = np.linspace(-half_width, half_width, sizes)
    centres = np.log(N_opt) + shift + drift * np.arange(len(compute))
    N = np.exp(centres[:, None] + offsets).ravel()
    D = np.repeat(compute, sizes) / 6 / N
    loss = CHINCHILLA.loss(theta, N=N, D=D)
    loss = loss * np.exp(noise * np.random.default_rng(seed).normal(size=len(N)))
    return Records.from_arrays(N, D, loss)


def curves(sizes=12, runs_at=40, noise=0.0):
    """Training curves of one run for each size under one law, from few to many tokens."""
    N, D = np.meshgrid(np.logspace(7, 10.5, sizes), np.logspace(8.5, 12, runs_at), indexing="ij")
    run = np.repeat([f"size {i}" for i in range(sizes)], runs_at)
    loss = CHINCHILLA.loss(THETA, N=N, D=D).ravel()
    loss = loss * np.exp(noise * np.random.default_rng(0).normal(size=len(loss)))
    return Records.from_arrays(N.ravel(), D.ravel(), loss, run=run)


def test_points_are_grouped_by_compute():
    compute = np.array(
        [1e18] * 5 + [1.04e18] * 2 + [1.12e18] * 2 + [1e20] * 3 + [1e21] * 4 + [3e19]
    )
    order = np.random.default_rng(0).permutation(len(compute))
    N = np.geomspace(1e7, 1e9, len(compute))
    records = Records.from_arrays(N, compute / 6 / N, np.ones(len(N))).where(order)
    found = budgets(records)
    assert [len(points) for _, points in found] == [7, 4]
    for C, points in found:
        assert C == pytest.approx(np.exp(np.log(records.C[points]).mean()))
        assert np.ptp(np.log(records.C[points])) <= 0.1
    assert [len(points) for _, points in budgets(records, tolerance=0.01)] == [5, 4]


def test_repeats_of_one_size_are_not_a_curve():
    N = np.array([1e7, 1e7, 1e8, 1e9] * 2)
    records = Records.from_arrays(N, np.repeat([1e19, 1e20], 4) / N, np.ones(8))
    assert budgets(records) == []


def test_all_three_agree_with_the_closed_form_on_narrow_symmetric_grids():
    found = approach2(ladder(0.5), resamples=50)
    true = optimal(CHINCHILLA, THETA, BUDGETS)
    ahead = optimal(CHINCHILLA, THETA, 1e24)
    for estimator in ("parabola", "argmin", "spline"):
        minima, law = found.minima[estimator], found.laws[estimator]
        np.testing.assert_allclose(minima.N_B, true[0], rtol=1e-2)
        np.testing.assert_allclose(minima.D_B, true[1], rtol=1e-2)
        np.testing.assert_allclose(minima.loss_B, true[2], rtol=1e-5)
        assert minima.inside_B.all()
        assert law["N"].exponent == pytest.approx(A, abs=1e-5)
        assert law["D"].exponent == pytest.approx(1 - A, abs=1e-5)
        assert law["N"].at(1e24)[0] == pytest.approx(ahead[0], rel=1e-2)
        assert law["D"].at(1e24)[0] == pytest.approx(ahead[1], rel=1e-2)
    assert found.notes == ()


def test_parabola_equals_numpys():
    records = ladder(1.5, noise=0.01)
    found = approach2(records, resamples=0).minima["parabola"]
    for b, (_, points) in enumerate(budgets(records)):
        bend, slope, constant = np.polyfit(np.log(records.N[points]), records.loss[points], 2)
        assert np.log(found.N_B[b]) == pytest.approx(-slope / 2 / bend, rel=1e-9)
        assert found.loss_B[b] == pytest.approx(constant - slope**2 / 4 / bend, rel=1e-9)


def test_spline_is_between_interpolation_and_a_parabola(monkeypatch):
    records = ladder(1.5, noise=0.01)
    (_, points), *_ = budgets(records)
    x, y = np.log(records.N[points]), np.log(records.loss[points])
    for smoothing, expected in ((1e2, np.polyval(np.polyfit(x, y, 2), x)), (1e-12, y)):
        monkeypatch.setattr("scaling.estimate.isoflop.SMOOTHING", np.array([smoothing]))
        N, loss = approach2(records, resamples=0).curves["spline"][0]
        at = np.interp(x, np.log(N), np.log(loss))
        np.testing.assert_allclose(at, expected, atol=3e-4)


def test_smoothing_grows_with_the_noise():
    exact = approach2(ladder(2.0), resamples=0).smoothing
    noisy = approach2(ladder(2.0, noise=0.01), resamples=0).smoothing
    assert noisy > 100 * exact


def test_spline_has_less_bias_than_the_parabola_on_a_wide_grid():
    for shift in (0.0, 0.158, 0.49):  # on and between the places of the search
        found = approach2(ladder(2.0, theta=SKEWED, shift=shift), resamples=0).minima
        true = optimal(CHINCHILLA, SKEWED, BUDGETS)[0]
        parabola, spline = (np.log(found[e].N_B / true) for e in ("parabola", "spline"))
        assert np.all(np.abs(parabola) > 0.1) and np.all(np.abs(spline) < 0.003)


def test_shared_isoflops_are_recovered_within_measured_bounds():
    """Truth: a = 0.5142857, N(1e23) = 9.18925e10. The bounds are a little above the errors found:
    2.9e-4, 4.6e-2 and 1.2e-4 for the exponents; 0.8, 24 and 0.1 % for N(1e23)."""
    records = read_records(shared_file("scaling/isoflops_curves.json"))
    found = approach2(records, resamples=200)
    bounds = {"parabola": (5e-4, 0.012), "argmin": (0.06, 0.3), "spline": (2e-4, 0.002)}
    for estimator, (exponent, size) in bounds.items():
        law = found.laws[estimator]["N"]
        assert law.exponent == pytest.approx(A, abs=exponent)
        assert law.at(1e23)[0] == pytest.approx(9.18925e10, rel=size)
        assert law.exponent_interval[0] < A < law.exponent_interval[1]
        assert found.minima[estimator].inside_B.all()


def test_bias_is_the_error_of_parabolas_on_exact_losses():
    records = ladder(2.5, shift=0.5, drift=-0.2)
    bias, found = parabola_bias(records, CHINCHILLA, THETA), approach2(records, resamples=0)
    np.testing.assert_allclose(bias.N_parabola_B, found.minima["parabola"].N_B, rtol=1e-9)
    np.testing.assert_allclose(bias.N_true_B, optimal(CHINCHILLA, THETA, BUDGETS)[0], rtol=1e-9)
    law = found.laws["parabola"]["N"]
    assert bias.exponent_true == pytest.approx(A, abs=1e-9)
    assert bias.exponent_bias == pytest.approx(law.exponent - A, abs=1e-9)
    ahead = law.at(1e22)[0] / optimal(CHINCHILLA, THETA, 1e22)[0]
    assert bias.extrapolated == pytest.approx(ahead, rel=1e-9)


def test_bias_depends_on_the_law_and_not_on_the_noise():
    one, other = (
        parabola_bias(ladder(2.0, shift=0.5, noise=noise), CHINCHILLA, THETA)
        for noise in (0.0, 0.05)
    )
    np.testing.assert_array_equal(one.shift_B, other.shift_B)


def test_equal_grids_at_every_budget_shift_the_size_but_not_the_exponent():
    alike, drifting = (
        parabola_bias(ladder(2.0, theta=SKEWED, drift=drift), CHINCHILLA, SKEWED)
        for drift in (0.0, 0.2)
    )
    assert np.all(np.abs(alike.shift_B) > 0.1)
    assert np.ptp(alike.shift_B) < 1e-9 and abs(alike.exponent_bias) < 1e-9
    assert abs(drifting.exponent_bias) > 0.005


def test_equal_exponents_on_symmetric_grids_have_no_bias():
    theta = CHINCHILLA.from_natural(TRUTH | {"alpha": 0.35, "beta": 0.35})
    bias = parabola_bias(ladder(2.5, theta=theta), CHINCHILLA, theta)
    np.testing.assert_allclose(bias.shift_B, 0, atol=1e-9)


def test_bias_shrinks_with_the_width_of_the_grid():
    shifts = [
        np.abs(parabola_bias(ladder(w, shift=w / 4), CHINCHILLA, THETA).shift_B).max()
        for w in (3.0, 1.5, 0.75)
    ]
    assert shifts[0] > 3 * shifts[1] > 9 * shifts[2]


def test_bias_is_stated_in_numbers():
    bias = parabola_bias(ladder(2.5, shift=0.7, drift=-0.3), CHINCHILLA, THETA)
    said = bias.statement()
    assert f"{bias.exponent_parabola:.4f} instead of {bias.exponent_true:.4f}" in said
    assert f"{100 * abs(np.expm1(bias.shift_B[0])):.2g} % too" in said
    assert "1e+18" in said and "1e+21" in said and "148 times" in said and "ten times" in said


@pytest.mark.parametrize("shift", [-2.5, 2.5])
def test_minima_at_an_edge_are_excluded_from_the_power_law(shift):
    """At two of four budgets only sizes far below or above the optimum were tried."""
    good, far = ladder(1.0, compute=BUDGETS[:2]), ladder(0.7, shift=shift, compute=BUDGETS[2:])
    joined = [np.concatenate([getattr(r, k) for r in (good, far)]) for k in ("N", "D", "loss")]
    found = approach2(Records.from_arrays(*joined), resamples=20)
    for estimator, law in found.laws.items():
        assert found.minima[estimator].status_B.tolist() == ["inside"] * 2 + ["edge"] * 2
        assert law["N"].points == 2
        assert law["N"].exponent == pytest.approx(A, abs=1e-3)
    assert len(found.notes) == 3 and "1e+20 (edge), 1e+21 (edge)" in found.notes[0]


def test_a_parabola_that_opens_downward_is_flagged():
    records = ladder(1.0, compute=np.append(BUDGETS, 1e22))
    upside = np.where(records.C > 5e21, 2 * records.loss.max() - records.loss, records.loss)
    found = approach2(Records.from_arrays(records.N, records.D, upside), resamples=20)
    assert found.minima["parabola"].status_B.tolist() == ["inside"] * 4 + ["concave"]
    assert "1e+22 (concave)" in found.notes[0]


def test_intervals_contain_the_truth_and_narrow_with_less_noise():
    widths = []
    for noise in (0.01, 0.002):
        law = approach2(ladder(1.5, sizes=12, noise=noise), resamples=400).laws["parabola"]["N"]
        low, high = law.exponent_interval
        assert low < A < high and law.coefficient_interval[0] < law.coefficient_interval[1]
        ends = np.quantile(law.samples_Rx2, [0.025, 0.975], axis=0)
        np.testing.assert_allclose(law.exponent_interval, ends[:, 1])
        np.testing.assert_allclose(law.coefficient_interval, np.exp(ends[:, 0]))
        value, below, above = law.at([1e20, 1e24])
        assert np.all(below < value) and np.all(value < above)
        assert above[1] / below[1] > above[0] / below[0]
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_the_seed_determines_the_resamples():
    records = ladder(1.0, noise=0.01)
    one, same, other = (
        approach2(records, resamples=50, seed=s).laws["spline"]["N"] for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(one.samples_Rx2, same.samples_Rx2)
    assert one.exponent_interval != other.exponent_interval and one.exponent == other.exponent


def test_resamples_equal_those_of_a_loop():
    """Points drawn several times count several times, in parabola and mean."""
    records = ladder(1.5, noise=0.01, compute=BUDGETS[:2])
    found = approach2(records, resamples=3, seed=5).laws["parabola"]["N"]
    generator = np.random.default_rng(5)
    counts = [generator.multinomial(9, np.full(9, 1 / 9), size=3) for _ in range(2)]
    for r in range(3):
        vertices = []
        for (_, points), count in zip(budgets(records), counts, strict=True):
            drawn = np.repeat(points, count[r])
            bend, slope, _ = np.polyfit(np.log(records.N[drawn]), records.loss[drawn], 2)
            vertices.append(-slope / 2 / bend)
        exponent = (vertices[1] - vertices[0]) / np.log(10)
        assert found.samples_Rx2[r, 1] == pytest.approx(exponent, rel=1e-7)


def test_envelope_of_curves_finds_the_exponent():
    found = approach1(curves(sizes=25), resamples=200)
    assert found.kind == "curves" and found.middle
    law = found.laws["N"]
    assert law.exponent == pytest.approx(A, abs=0.02)
    assert law.exponent_interval[0] < A < law.exponent_interval[1]
    assert law.exponent + found.laws["D"].exponent == pytest.approx(1, abs=1e-3)
    N, D, loss = optimal(CHINCHILLA, THETA, found.C_G[found.used_G])
    np.testing.assert_allclose(found.N_G[found.used_G], N, rtol=0.25)
    np.testing.assert_allclose(found.loss_G[found.used_G], loss, rtol=2e-3)
    # Interpolation along a convex curve lies above it, never below the law's optimum.
    assert np.all(found.loss_G[found.used_G] > loss * (1 - 1e-9))


def test_the_smallest_and_largest_sizes_are_excluded_from_the_envelope():
    found = approach1(curves(), resamples=20)
    assert 10 < found.used_G.sum() < len(found.used_G)
    assert found.N_G[found.used_G].min() > found.N_G.min()
    assert found.N_G[found.used_G].max() < found.N_G.max()
    everything, _ = np.polyfit(np.log(found.C_G), np.log(found.N_G), 1)
    assert abs(found.laws["N"].exponent - A) < abs(everything - A) / 2


def test_single_points_give_their_pareto_front():
    records = ladder(1.5, noise=0.02)
    # Twice the compute for the very same loss is no gain.
    more = [np.append(getattr(records, k), getattr(records, k).min()) for k in ("N", "loss")]
    D = np.append(records.D, 2 * records.C[np.argmin(records.loss)] / 6 / more[0][-1])
    records = Records.from_arrays(more[0], D, more[1])
    found = approach1(records, resamples=100)
    expected = [
        i
        for i in range(len(records))
        if not np.any(
            (records.loss < records.loss[i]) & (records.C <= 1.01 * records.C[i])
            | (records.loss == records.loss[i]) & (records.C < records.C[i] / 1.01)
        )
    ]
    assert found.kind == "front" and not found.middle
    np.testing.assert_allclose(np.sort(found.N_G), np.sort(records.N[expected]))
    assert abs(found.laws["N"].exponent - A) < 0.3


def test_the_front_keeps_only_the_best_of_runs_at_one_compute():
    records = ladder(1.0)
    jitter = np.exp(np.random.default_rng(0).uniform(-0.01, 0.01, len(records)))
    found = approach1(Records.from_arrays(records.N, records.D * jitter, records.loss), resamples=9)
    budget = np.round(np.log(records.C), 6)
    best = [records.N[budget == b][np.argmin(records.loss[budget == b])] for b in np.unique(budget)]
    np.testing.assert_allclose(found.N_G, best)


def test_points_from_the_middle_of_training_are_flagged():
    records = ladder(1.0)
    middle = np.arange(len(records)) < 7
    N, D, loss = records.N, records.D, records.loss
    found = approach1(Records.from_arrays(N, D, loss, middle=middle), resamples=10)
    assert found.middle and "7 of 36 points lie before the end" in found.notes[-1]
    whole = approach1(curves(sizes=5, runs_at=10), resamples=10)
    assert whole.middle and "45 of 50 points" in whole.notes[-1]


@pytest.mark.parametrize("count", [1, 0])
def test_the_error_for_too_few_budgets_states_how_many_were_found(count):
    whole = ladder(1.0)
    records = whole.where(np.arange(9)) if count else whole.where([0, 10, 20])
    for call in (approach2, lambda r: parabola_bias(r, CHINCHILLA, THETA)):
        with pytest.raises(ScalingError, match=f"two or more compute budgets; found {count}") as at:
            call(records)
    assert ("(1e+18 FLOPs, 9 points)" in str(at.value)) == bool(count)
    assert "4 sizes" in str(at.value)


@pytest.mark.parametrize("approach", [approach1, approach2])
def test_one_size_everywhere_is_refused(approach):
    records = Records.from_arrays(np.full(9, 1e8), np.geomspace(1e9, 1e11, 9), np.linspace(4, 3, 9))
    with pytest.raises(ScalingError, match="all 9 points have N = 1e\\+08"):
        approach(records)


def test_no_minimum_inside_any_grid_is_refused():
    with pytest.raises(ScalingError, match="least loss inside"):
        approach2(ladder(0.7, shift=4.0), resamples=5)


def test_one_size_best_throughout_is_refused():
    N = np.repeat([1e7, 1e8, 1e9], 2)
    records = Records.from_arrays(N, np.tile([1e9, 1e10], 3), np.repeat([3.0, 4.0, 5.0], 2))
    with pytest.raises(ScalingError, match="one size is the best"):
        approach1(records)


def test_results_are_json():
    records = ladder(1.0, noise=0.01)
    bias = parabola_bias(records, CHINCHILLA, THETA)
    for result in (approach2(records, resamples=9), approach1(records, resamples=9), bias):
        again = json.loads(json.dumps(result.to_dict(), allow_nan=False))
        assert again == result.to_dict()
    assert bias.to_dict()["statement"] == bias.statement()
    law = approach2(records, resamples=9).to_dict()["laws"]["spline"]["N"]
    assert set(law) >= {"coefficient", "exponent", "exponent_interval", "level"}


def test_a_resample_of_sizes_that_hardly_differ_has_no_minimum():
    """Two of a budget's four sizes differ by 5e-7: resamples without a third give no parabola."""
    close = np.array([1.0, 1.0 + 5e-7, 3.0, 9.0]) * 1e8
    N = np.tile(close, 3)
    compute = np.repeat([1e18, 1e19, 1e20], 4)
    found = budgets(Records.from_arrays(N, compute / 6 / N, np.ones(12)))
    assert found == []  # three sizes, not four
    N = np.tile([*close, 2e8], 3)
    D = np.repeat([1e18, 1e19, 1e20], 5) / 6 / N
    records = Records.from_arrays(N, D, CHINCHILLA.loss(THETA, N=N, D=D))
    two = approach2(records, resamples=400)
    merged = np.where(N == close[1], 1e8, N)
    one = approach2(Records.from_arrays(merged, D, records.loss), resamples=400)
    for estimator, laws in one.laws.items():
        for variable, law in laws.items():
            found = two.laws[estimator][variable]
            assert found.exponent == pytest.approx(law.exponent, abs=1e-5)
            assert found.exponent_interval == pytest.approx(law.exponent_interval, abs=1e-4)


@pytest.mark.parametrize("width", [4e-3, 1e-2, 0.1])
def test_a_budget_with_a_narrow_grid_leaves_the_others_intact(width):
    """The common smoothing is that of the wide grids, and would flatten the narrow one."""
    wide, narrow = ladder(2.0, compute=BUDGETS[1:]), ladder(width / 2, compute=BUDGETS[:1])
    both = [np.concatenate([getattr(r, k) for r in (narrow, wide)]) for k in ("N", "D", "loss")]
    found = approach2(Records.from_arrays(*both), resamples=100)
    assert np.isfinite(found.laws["spline"]["N"].exponent)
    assert {"parabola", "argmin", "spline"} == set(found.laws)


def test_flat_losses_are_refused_for_lack_of_a_minimum():
    N = np.tile(np.geomspace(1e7, 1e9, 8), 3)
    records = Records.from_arrays(N, np.repeat([1e18, 1e19, 1e20], 8) / 6 / N, np.full(24, 2.5))
    with pytest.raises(ScalingError, match="no two budgets"):
        approach2(records, resamples=50)


def test_uniform_splines_equal_those_of_scipy():
    inside = np.random.default_rng(0).uniform(0, isoflop.SEGMENTS, 200)
    place = np.sort(np.concatenate([inside, np.arange(isoflop.SEGMENTS + 1.0)]))
    knots = np.arange(-3.0, isoflop.SEGMENTS + 4)
    expected = scipy.interpolate.BSpline.design_matrix(place, knots, 3).toarray()
    np.testing.assert_allclose(isoflop.uniform_splines(place), expected, atol=1e-14)
