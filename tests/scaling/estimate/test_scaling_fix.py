"""Fixed parameters: equal to scipy, also in resamples and profiles; refused if wrong."""

import json

import numpy as np
import pytest
import scipy.optimize

from scaling import ScalingError, fit
from scaling.estimate.loading import load_fit
from scaling.law.fixed import read_fixed
from scaling.law.laws import CHINCHILLA, LAWS
from scaling.records.records import Records

TRUE = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}
N, D = np.meshgrid(np.geomspace(1e8, 3e9, 4), np.geomspace(2e9, 6e10, 4))
N, D = N.ravel(), D.ravel()
LOSS = CHINCHILLA.loss(CHINCHILLA.from_natural(TRUE), N=N, D=D)
LOSS = LOSS * np.exp(0.01 * np.random.default_rng(0).normal(size=16))
RECORDS = Records.from_arrays(N, D, LOSS)


def least_squares(fixed: dict[str, float]) -> float:
    """The least sum of squares that scipy finds with the others free, in the records' units."""
    names = [name for name in TRUE if name not in fixed]

    def residuals(free):
        values = fixed | {
            n: np.exp(x) if n in "EAB" else x for n, x in zip(names, free, strict=True)
        }
        E, A, B, alpha, beta = (values[name] for name in TRUE)
        return np.log(LOSS) - np.log(E + A / N**alpha + B / D**beta)

    start = [np.log(TRUE[n]) if n in "EAB" else TRUE[n] for n in names]
    options = {"x_scale": "jac", "xtol": 1e-14, "ftol": 1e-14, "gtol": 1e-14, "max_nfev": 20000}
    return scipy.optimize.least_squares(residuals, start, **options).cost


@pytest.mark.slow
@pytest.mark.parametrize(
    "fixed", [{"E": 1.69}, {"alpha": 0.3}, {"A": 300.0}, {"E": 1.7, "A": 400.0, "beta": 0.4}]
)
def test_a_fit_with_fixed_parameters_equals_scipys(fixed):
    found = fit(RECORDS, delta=None, resamples=16, fix=fixed)
    assert found.objective == pytest.approx(least_squares(fixed), rel=1e-8)
    for name, value in fixed.items():
        assert found.parameters[name] == value
        assert found.law.natural(found.theta)[name] == pytest.approx(value, rel=1e-9)
        np.testing.assert_allclose(found.law.natural(found.samples)[name], value, rtol=1e-9)
        assert name not in found.intervals and name not in found.profiles
    free = set(TRUE) - set(fixed)
    assert free <= set(found.intervals) and set(found.profiles) == free


@pytest.mark.slow
def test_profiles_with_a_fixed_parameter_are_minima_over_the_others():
    found = fit(RECORDS, delta=None, resamples=0, fix="A=300")
    profile = found.profiles["alpha"]
    at = len(profile.values) // 2 + 6
    held = least_squares({"A": 300.0, "alpha": profile.values[at]})
    noise = 2 * found.objective / (16 - 4)
    assert profile.drop[at] == pytest.approx(2 * (held - found.objective) / noise, rel=1e-5)


@pytest.mark.slow
def test_fixed_parameters_are_reported(tmp_path):
    found = fit(RECORDS, resamples=16, profiles=False, fix="E=1.69, alpha=0.34")
    row = next(line for line in found.table().splitlines() if line.startswith("E "))
    assert row.split() == ["E", "1.69", "fixed", "fixed"]
    content = json.loads(found.save(tmp_path).read_text())
    assert content["fixed"] == {"E": 1.69, "alpha": 0.34} and "E" not in content["intervals"]
    assert load_fit(tmp_path).fixed == found.fixed


@pytest.mark.slow
def test_with_a_fixed_floor_two_sizes_determine_the_rest():
    two = np.isin(np.arange(16) % 4, (0, 3))
    exact = CHINCHILLA.loss(CHINCHILLA.from_natural(TRUE), N=N[two], D=D[two])
    records = Records.from_arrays(N[two], D[two], exact)
    assert not fit(records, resamples=0, profiles=False).success
    found = fit(records, resamples=0, profiles=False, fix={"E": 1.8})
    assert found.success, found.message


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("Q=1", "has no parameter 'Q'. Choose from: E, A, B, alpha, beta"),
        ("E", "not NAME=VALUE"),
        ("E=x", "is not a number"),
        ("E=-1", "above 0"),
        ("alpha=0", "above 0"),
        ("E=inf", "finite"),
        ("E=True", "is not a number"),
        ({"E": True}, "E=True is not a number"),
        ({"alpha": np.bool_(True)}, "is not a number"),
        ({"E": None}, "is not a number"),
        ({"E": [1.69]}, "is not a number"),
        ("alpha=50", "alpha=50 is too large for the exponent of a loss"),
        ({"beta": 5.1}, "beta=5.1 is too large for the exponent"),
        ("E=1, E=2", "twice"),
        ("E=99", "is above all losses"),
        ("E=1,A=2,B=3,alpha=.4,beta=.5", "nothing is left"),
    ],
)
def test_a_wrong_fix_is_one_clear_error(wrong, said):
    with pytest.raises(ScalingError, match=said):
        fit(RECORDS, fix=wrong, resamples=0)


def test_fix_is_read_from_text_and_mappings():
    law = LAWS["chinchilla"]
    assert read_fixed(" E = 1.69 , alpha=0.34", law) == {"E": 1.69, "alpha": 0.34}
    assert read_fixed({"E": 1.69}, law) == read_fixed("E=1.69", law) == {"E": 1.69}
    assert read_fixed(None, law) == read_fixed("", law) == {}
