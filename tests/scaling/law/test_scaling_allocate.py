"""Allocation of compute, compared with closed forms and scipy's scalar minimizer."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from examples import few
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from scaling.errors import ScalingError
from scaling.law.allocate import cheapest, coefficients, optimal, optimal_tokens, tokens_for
from scaling.law.laws import CHINCHILLA, DATA_CONSTRAINED, LAWS, TIED, own_law

TRUTH = {"E": 2.69, "A": 1606.4, "B": 3210.7, "alpha": 0.34, "beta": 0.36}
THETA = CHINCHILLA.from_natural(TRUTH)
REPEATED = DATA_CONSTRAINED.from_natural(TRUTH | {"R_D": 15.4, "R_N": 5.3})
BUDGETS = np.array([1e18, 1e22, 1e26])


def samples(theta: np.ndarray, spread: float = 0.05, size: int = 60) -> np.ndarray:
    return theta + np.random.default_rng(0).normal(0, spread, (size, len(theta)))


def least(law, theta, C, inference=0.0, **more) -> float:
    """N of least loss by a dense grid and scipy's bounded scalar minimizer."""

    def loss(log_N):
        N = np.exp(log_N)
        values = {"N": N, "D": (C / N - 2 * inference) / 6} | more
        with jax.enable_x64(True):
            return float(law.loss(theta, **values))

    top = np.log(C / (2 * inference + 6))
    grid = np.linspace(5, top - 1e-6, 400)
    at = grid[np.argmin([loss(x) for x in grid])]
    step = grid[1] - grid[0]
    found = minimize_scalar(
        loss, bounds=(at - step, min(at + step, top)), method="bounded", options={"xatol": 1e-12}
    )
    return float(np.exp(found.x))


def test_reference_allocations_are_reproduced():
    """The numbers in the README of the shared data."""
    N, D, _ = optimal(CHINCHILLA, THETA, [1e23, 1e24])
    np.testing.assert_allclose(N, [9.18925e10, 3.00307e11], rtol=1e-6)
    np.testing.assert_allclose(D[0], 1.81371e11, rtol=1e-5)
    fitted = CHINCHILLA.from_natural(
        {"E": 1.8172181, "A": 477.82587, "B": 2143.4174, "alpha": 0.3473105, "beta": 0.3671724}
    )
    found = optimal(CHINCHILLA, fitted, 1e24)[:2]
    np.testing.assert_allclose(found, [9.71792e10, 1.71505e12], rtol=2e-6)
    assert coefficients(CHINCHILLA, fitted)["a"] == pytest.approx(0.5138995, abs=1e-7)


@few
@given(
    E=st.floats(0.1, 10),
    A=st.floats(1, 1e7),
    B=st.floats(1, 1e7),
    alpha=st.floats(0.1, 1),
    beta=st.floats(0.1, 1),
)
def test_closed_form_and_numeric_optimum_agree(E, A, B, alpha, beta):
    theta = CHINCHILLA.from_natural({"E": E, "A": A, "B": B, "alpha": alpha, "beta": beta})
    closed = optimal(CHINCHILLA, theta, BUDGETS)
    numeric = optimal(CHINCHILLA, theta, BUDGETS, numeric=True)
    np.testing.assert_allclose(numeric, closed, rtol=1e-8)
    np.testing.assert_allclose(6 * closed[0] * closed[1], BUDGETS, rtol=1e-12)
    law = coefficients(CHINCHILLA, theta)
    np.testing.assert_allclose(law["G"] * (BUDGETS / 6) ** law["a"], closed[0], rtol=1e-9)
    np.testing.assert_allclose((BUDGETS / 6) ** law["b"] / law["G"], closed[1], rtol=1e-9)


def test_tied_law_divides_compute_evenly():
    theta = samples(np.append(THETA[:3], 0.35))
    assert np.all(coefficients(TIED, theta)["a"] == 0.5)
    closed = optimal(TIED, theta, BUDGETS)
    np.testing.assert_allclose(optimal(TIED, theta, BUDGETS, numeric=True), closed, rtol=1e-8)


@pytest.mark.parametrize("inference", [1e9, 1e11, 1e13])
def test_inference_aware_optimum_equals_scipys(inference):
    C = 1e22
    N, D, loss = optimal(CHINCHILLA, THETA, C, inference_tokens=inference)
    assert N == pytest.approx(least(CHINCHILLA, THETA, C, inference), rel=1e-6)
    assert 6 * N * D + 2 * N * inference == pytest.approx(C, rel=1e-12)
    assert loss == pytest.approx(CHINCHILLA.loss(THETA, N=N, D=D), rel=1e-12)
    # Including inference makes the best model smaller than for training alone.
    assert N < optimal(CHINCHILLA, THETA, C)[0]


def test_vanishing_inference_gives_the_closed_form():
    near = optimal(CHINCHILLA, THETA, BUDGETS, inference_tokens=1e-3)
    np.testing.assert_allclose(near, optimal(CHINCHILLA, THETA, BUDGETS), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("unique", [1e9, 3e10])
def test_data_constrained_optimum_equals_scipys(unique):
    N, D, _ = optimal(DATA_CONSTRAINED, REPEATED, 1e22, unique=unique)
    assert N == pytest.approx(least(DATA_CONSTRAINED, REPEATED, 1e22, U=unique), rel=1e-6)
    assert D > unique


def test_enough_unique_tokens_are_not_a_constraint():
    found = optimal(DATA_CONSTRAINED, REPEATED, BUDGETS, unique=1e20)
    np.testing.assert_allclose(found, optimal(CHINCHILLA, THETA, BUDGETS), rtol=1e-9)


def test_a_users_law_gets_its_numeric_optimum():
    def mixed(N, D, E, A, B, k):
        return E + A * N**-0.3 + B * D**-0.3 + k * (N * D) ** -0.1

    law = own_law(mixed, [2.0, 400.0, 800.0, 5.0])
    theta = np.array([2.0, 400.0, 800.0, 5.0])
    N, _, _ = optimal(law, theta, 1e20)
    assert N == pytest.approx(least(law, theta, 1e20), rel=1e-6)
    assert coefficients(law, theta) is None


@pytest.mark.slow
def test_the_lowest_of_several_minima_is_taken():
    def wavy(N, D, phase):
        return 5.0 + N**-0.1 + D**-0.1 + 0.02 * jnp.sin(0.6 * jnp.log(N) + phase)

    law, phases = own_law(wavy, [0.0]), np.linspace(0, 2 * np.pi, 7)[:-1]
    found, _, _ = optimal(law, phases[:, None], 1e21)
    expected = [least(law, phase, 1e21) for phase in phases[:, None]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("inference", [0, 1e11])
def test_cheapest_undoes_optimal(inference):
    theta = samples(THETA)
    N, D, loss = optimal(CHINCHILLA, theta, 1e21, inference_tokens=inference)
    for i in range(0, len(theta), 20):
        found = cheapest(CHINCHILLA, theta[i], loss[i], inference_tokens=inference)
        np.testing.assert_allclose(found, [1e21, N[i], D[i]], rtol=1e-7)


def test_cheapest_of_the_data_constrained_law_undoes_optimal():
    N, D, loss = optimal(DATA_CONSTRAINED, REPEATED, 1e22, unique=3e10)
    found = cheapest(DATA_CONSTRAINED, REPEATED, float(loss), unique=3e10)
    np.testing.assert_allclose(found, [1e22, N, D], rtol=1e-7)
    # Repeats become worthless, so some losses above E cannot be reached with few unique tokens.
    assert np.isinf(cheapest(DATA_CONSTRAINED, REPEATED, 3.0, unique=1e9)).all()


@pytest.mark.parametrize("inference", [0, 1e11])
def test_unreachable_targets_cost_infinitely_much(inference):
    theta = samples(THETA, size=5)
    found = cheapest(CHINCHILLA, theta, [2.0, 4.0], inference_tokens=inference)
    assert np.shape(found) == (3, 5, 2)
    assert np.isinf(np.stack(found)[..., 0]).all() and np.isfinite(np.stack(found)[..., 1]).all()


def test_tokens_for_undo_the_loss():
    theta, N, D = samples(THETA), np.array([1e8, 1e10, 1e12]), 3e11
    for law, more in ((CHINCHILLA, {}), (DATA_CONSTRAINED, {"unique": 1e11})):
        t = theta[0] if law is CHINCHILLA else REPEATED
        with jax.enable_x64(True):
            targets = law.loss(t, N=N, D=D, **({"U": 1e11} if more else {}))
        for size, target in zip(N, targets, strict=True):
            assert tokens_for(law, t, size, float(target), **more) == pytest.approx(D, rel=1e-7)
    assert np.isinf(tokens_for(CHINCHILLA, theta, 1e6, 3.0)).all()


def test_a_size_is_optimal_for_its_own_cost():
    N = np.array([1e8, 1e10])
    for more in ({}, {"inference_tokens": 1e11}):
        D = optimal_tokens(CHINCHILLA, THETA, N, **more)
        C = 6 * N * D + 2 * N * more.get("inference_tokens", 0)
        np.testing.assert_allclose(optimal(CHINCHILLA, THETA, C, **more)[0], N, rtol=1e-8)


def test_units_do_not_change_the_allocation():
    """N in billions and D in trillions give the same allocation."""
    moved = CHINCHILLA.absolute(THETA, {"N": -np.log(1e9), "D": -np.log(1e12)})
    for more in ({}, {"numeric": True}):
        N, D, loss = optimal(CHINCHILLA, moved, 1e23 / 1e21, **more)
        expected = optimal(CHINCHILLA, THETA, 1e23)
        np.testing.assert_allclose([N * 1e9, D * 1e12, loss], expected, rtol=1e-9)
    found = cheapest(CHINCHILLA, moved, 3.2, inference_tokens=1e11 / 1e12)
    expected = cheapest(CHINCHILLA, THETA, 3.2, inference_tokens=1e11)
    np.testing.assert_allclose(found, np.array(expected) / [1e21, 1e9, 1e12], rtol=1e-8)


def test_samples_together_equal_samples_one_by_one():
    theta, shapes = samples(THETA, size=4), ((), (3,))
    for shape in shapes:
        C = np.full(shape, 1e22)
        many = optimal(CHINCHILLA, theta, C, inference_tokens=1e11)
        assert all(x.shape == (4, *shape) for x in many)
        alone = optimal(CHINCHILLA, theta[2], C, inference_tokens=1e11)
        assert all(x.shape == shape for x in alone)
        np.testing.assert_allclose([x[2] for x in many], alone, rtol=1e-10)


@pytest.mark.slow
def test_extreme_samples_neither_raise_nor_warn():
    E, A, B, alpha, beta = THETA
    strange = np.array(
        [
            THETA,
            [-700, A, B, alpha, beta],
            [E, A, B, 1e-3, beta],
            [E, A, B, -0.1, beta],
            [E, A, B, -0.1, -0.2],
            [E, A, B, 0, beta],
            [E, 800, B, alpha, beta],
            [800, A, B, alpha, beta],
            [np.nan] * 5,
            [np.inf] * 5,
        ]
    )
    more = np.repeat(REPEATED[None, 5:], len(strange), 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for law, theta, given in (
            (CHINCHILLA, strange, {}),
            (DATA_CONSTRAINED, np.concatenate([strange, more], 1), {"unique": 1e10}),
        ):
            found = optimal(law, theta, 1e23, **given)
            served = optimal(law, theta, 1e23, inference_tokens=1e12, **given)
            numeric = optimal(law, theta, 1e23, numeric=True, **given)
            for result in (found, served, numeric):
                # Sound samples keep their results next to unsound ones.
                assert np.isfinite(np.stack(result)[:, :3]).all()
                assert np.isnan(np.stack(result)[:, [4, 5, 8, 9]]).all()
            cost = cheapest(law, theta, 4.5, **given)[0]
            assert np.isfinite(cost[:2]).all() and np.isnan(cost[8])
            assert np.isinf(cheapest(law, theta, 4.5, **given)[0][7])
            cheapest(law, theta, 4.5, inference_tokens=1e12, **given)
            tokens_for(law, theta, 1e10, 4.5, **given)
            optimal_tokens(law, theta, 1e10, **given)
        coefficients(CHINCHILLA, strange)


def test_the_global_precision_is_unchanged():
    before = jax.config.jax_enable_x64
    optimal(DATA_CONSTRAINED, REPEATED, 1e22, unique=1e10)
    assert jax.config.jax_enable_x64 == before


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: optimal(LAWS["power_C"], np.zeros(3), 1e20), "law=power_C depends only on C"),
        (lambda: cheapest(LAWS["power_N"], np.zeros(3), 3.0), "a law of both N and D"),
        (lambda: optimal(DATA_CONSTRAINED, REPEATED, 1e20), "set unique"),
        (lambda: optimal(CHINCHILLA, THETA, [1e20, -1]), "C=.*positive, finite"),
        (lambda: optimal(CHINCHILLA, THETA, 1e20, inference_tokens=-1), "inference_tokens=-1"),
        (lambda: optimal(CHINCHILLA, THETA[:4], 1e20), "log_E, log_A, log_B, alpha, beta"),
        (lambda: tokens_for(CHINCHILLA, THETA, 1e9, [3, 4]), "must be one number"),
        (lambda: cheapest(CHINCHILLA, THETA, np.inf), "the target loss=inf"),
    ],
)
def test_the_error_names_the_bad_argument(call, message):
    with pytest.raises(ScalingError, match=message):
        call()
