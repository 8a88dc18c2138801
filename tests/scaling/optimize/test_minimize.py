"""Optimizers: minima and effort like scipy's, an honest status, one problem or thousands."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from standard_problems import RESIDUALS, STANDARD, rosenbrock, standard

from scaling import ScalingError, curve_fit, least_squares, minimize, minimize_many

METHODS = {
    "bfgs": "BFGS",
    "l-bfgs": "L-BFGS-B",
    "newton": "trust-exact",
    "nelder-mead": "Nelder-Mead",
}
TIGHT = {
    "bfgs": {"gtol": 1e-8},
    "l-bfgs": {"gtol": 1e-8, "ftol": 0, "maxfun": 100_000},
    "newton": {"gtol": 1e-8},
    "nelder-mead": {"xatol": 1e-10, "fatol": 1e-10, "maxiter": 10_000, "maxfev": 10_000},
}


@pytest.fixture(autouse=True)
def setting_is_kept():
    """The caller's global setting is float32 before and after every call."""
    assert not jax.config.jax_enable_x64
    yield
    assert not jax.config.jax_enable_x64


def in_double(function):
    """A function of NumPy arrays for scipy, computed by JAX in float64."""
    compiled = jax.jit(function)

    def call(*args):
        with jax.enable_x64(True):
            return jax.tree.map(np.array, compiled(*args))

    return call


VALUE = in_double(standard)
SLOPED = in_double(jax.value_and_grad(standard))
HESSIAN = in_double(jax.hessian(standard))


@functools.cache
def by_scipy(method, name):
    branch, start, _ = STANDARD[name]
    given = {"args": (branch,), "method": METHODS[method], "options": TIGHT[method]}
    if method == "nelder-mead":
        return scipy.optimize.minimize(VALUE, start, **given)
    if method == "newton":
        given["hess"] = HESSIAN
    return scipy.optimize.minimize(SLOPED, start, jac=True, **given)


def problems(method):
    # The simplex suits few parameters; scipy's stops before the minimum of quadratics.
    return [
        name
        for name, (_, start, _) in STANDARD.items()
        if method != "nelder-mead" or (start.size <= 4 and name != "quadratic 4")
    ]


@functools.cache
def by_us(method, name):
    branch, start, _ = STANDARD[name]
    return minimize(standard, start, args=(branch,), method=method)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_standard_problems_reach_their_minima_with_no_more_effort_than_scipy(method):
    ratios = []
    for name in problems(method):
        branch, _, minimum = STANDARD[name]
        ours, witness = by_us(method, name), by_scipy(method, name)
        assert ours.success, (name, ours.message)
        lowest = VALUE(minimum, branch)
        assert float(ours.fun) <= min(lowest, witness.fun) + 1e-8, name
        # At Powell's minimum the Hessian is singular, so a small slope does not locate it. Without
        # slopes, a minimum is located only to the square root of the function's rounding.
        blurred = method == "nelder-mead" and name == "rosenbrock, lifted"
        near = 1e-3 if name == "powell" else 1e-6 if blurred else 1e-8
        np.testing.assert_allclose(ours.x, minimum, rtol=near, atol=near, err_msg=name)
        np.testing.assert_allclose(ours.fun, VALUE(np.array(ours.x), branch), rtol=1e-12, atol=0)
        ratios.append(int(ours.nfev) / witness.nfev)
    assert np.median(ratios) <= 1.5, dict(zip(problems(method), ratios, strict=True))


@pytest.mark.slow
def test_a_singular_minimum_is_located_with_a_tight_tolerance():
    branch, start, _ = STANDARD["powell"]
    found = minimize(standard, start, (branch,), method="newton", options={"gtol": 1e-24})
    assert found.success
    np.testing.assert_allclose(found.x, 0, atol=1e-8)


@pytest.mark.slow
def test_the_simplex_is_not_deceived_by_a_ravine():
    branch, start, minimum = STANDARD["quadratic 4"]
    found = minimize(standard, start, (branch,), method="nelder-mead")
    assert found.success
    np.testing.assert_allclose(found.x, minimum, atol=1e-7)


@pytest.mark.slow
def test_hess_inv_is_the_inverse_hessian_at_the_minimum():
    expected = np.linalg.inv(HESSIAN(np.ones(2), 0))
    np.testing.assert_allclose(by_us("newton", "rosenbrock 2").hess_inv, expected, rtol=1e-6)
    np.testing.assert_allclose(by_us("bfgs", "rosenbrock 2").hess_inv, expected, rtol=0.05)
    assert by_us("l-bfgs", "rosenbrock 2").hess_inv is None


BOXES = {
    "one at its bound": [(None, 0.5), (0.1, None)],
    "both in the interior": [(-2, 3), (-2, 3)],
    "start outside": [(0, 0.9), (-1, 2)],
    "one fixed": [(0.5, 0.5), (None, None)],
}


@pytest.mark.parametrize("method", ["l-bfgs", "nelder-mead"])
@pytest.mark.parametrize("box", BOXES)
def test_bounded_minima_equal_those_of_scipy(method, box):
    given = {"bounds": BOXES[box], "args": (0,)}
    found = minimize(standard, [-1.2, 1.0], method=method, **given)
    start = np.clip(
        [-1.2, 1.0],
        *[[np.nan if s is None else s for s in side] for side in zip(*BOXES[box], strict=True)],
    )
    start = np.where(np.isnan(start), [-1.2, 1.0], start)
    witness = scipy.optimize.minimize(
        SLOPED, start, jac=True, method="L-BFGS-B", options=TIGHT["l-bfgs"], **given
    )
    assert found.success
    np.testing.assert_allclose(found.x, witness.x, atol=1e-7)
    np.testing.assert_allclose(found.fun, witness.fun, atol=1e-8)


def bowl(x, hessian, slope):
    return 0.5 * x @ hessian @ x - slope @ x


@pytest.mark.slow
def test_bounded_quadratics_end_at_a_constrained_minimum():
    def random_bowl(seed):
        rng = np.random.default_rng(seed)
        turn, _ = np.linalg.qr(rng.normal(size=(6, 6)))
        hessian = turn @ np.diag(np.geomspace(1, 10 ** rng.uniform(0, 4), 6)) @ turn.T
        return hessian, hessian @ rng.normal(size=6)

    hessians, slopes = (np.stack(part) for part in zip(*map(random_bowl, range(200)), strict=True))
    lower, upper = np.full(6, -0.3), np.array([0.2, 0.2, 0.2, 0.2, np.inf, np.inf])
    found = minimize_many(
        bowl,
        np.zeros((200, 6)),
        lane_args=(hessians, slopes),
        method="l-bfgs",
        bounds=list(zip(lower, upper, strict=True)),
    )
    assert np.all(found.status == 0)
    x = np.array(found.x)
    gradient = np.einsum("kij,kj->ki", hessians, x) - slopes
    assert np.max(np.abs(np.clip(-gradient, lower - x, upper - x))) < 1e-6
    assert np.any(x == lower) and np.any(x == upper)


# Difficult functions: the function, the start, and the status that gradient methods may report.
# All are branches of one function, so that each method is compiled once. Codes: 0 converged, 1 and
# 5 limits, 2 no progress, 3 not finite, 4 unbounded.
TROUBLES = {
    "linear": (lambda x: -x[0] + x[1] ** 2, [0, 1], {4}),
    "concave": (lambda x: -(x[0] ** 2) - x[1] ** 2, [1, 0.1], {4}),
    "falls exponentially": (lambda x: -jnp.exp(x[0]) + x[1] ** 2, [0, 0], {4}),
    "falls for ever": (lambda x: jnp.sum(jnp.exp(-x)), [0, 1], {1}),
    "not a number at the start": (lambda x: jnp.log(x[0]) + x[1], [-1, 0], {3}),
    "infinite at the start": (lambda x: 1 / x[0] + x[1], [0, 0], {3}),
    "kink": (lambda x: jnp.abs(x[0] - 0.3) + x[1] ** 2, [1, 1], {2}),
    "cliff": (lambda x: jnp.where(x[0] > 2, jnp.nan, -x[0]) + x[1] ** 2, [0, 1], {2}),
    "minimum beside a cliff": (
        lambda x: jnp.where(x[0] > 2, jnp.nan, 100 * (x[0] - 1.9) ** 2) + (x[1] - 1) ** 2,
        [-30, 5],
        {0},
    ),
    "barrier": (lambda x: x[0] - jnp.log(x[0]) + (x[1] - 1) ** 2, [5, 5], {0}),
    "overflow": (lambda x: jnp.exp(x[0] ** 2) + x[0] + x[1] ** 2, [6, 1], {0}),
    "constant": (lambda x: 3 + 0 * x[0], [1, 1], {0}),
    "flat direction": (lambda x: (x[0] + x[1] - 1) ** 2, [3, 1], {0}),
    "already there": (rosenbrock, [1, 1], {0}),
    "drowned in rounding": (lambda x: rosenbrock(x) + 1e10, [-1.2, 1], {0}),
    "large": (lambda x: 1e10 * rosenbrock(x), [-1.2, 1], {0}),
    "far": (lambda x: jnp.sum((x - 1e8) ** 2), [0, 0], {0}),
}


def trouble(x, branch):
    return jax.lax.switch(
        jnp.asarray(branch, int), [function for function, _, _ in TROUBLES.values()], x
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["bfgs", "l-bfgs", "newton"])
def test_troubles_end_with_an_honest_status(method):
    for branch, (name, (_, start, honest)) in enumerate(TROUBLES.items()):
        # A limit ends the pursuit of a minimum at infinity (L-BFGS allows itself much more).
        limit = {"maxiter": 400} if name == "falls for ever" else None
        found = minimize(trouble, np.array(start, float), (branch,), method=method, options=limit)
        assert int(found.status) in honest, (name, found.message, found.x)
        assert bool(found.success) == (int(found.status) == 0)
        assert found.nfev < 1000
        if 3 not in honest:
            assert np.isfinite(found.x).all() and not np.isnan(found.fun), name


@pytest.mark.slow
def test_the_simplex_ends_with_an_honest_status():
    codes = {}
    for branch, (name, (_, start, _)) in enumerate(TROUBLES.items()):
        found = minimize(trouble, np.array(start, float), (branch,), method="nelder-mead")
        codes[name] = int(found.status)
    assert codes["not a number at the start"] == codes["infinite at the start"] == 3
    assert codes["linear"] == codes["concave"] == codes["falls exponentially"] == 4
    assert codes["kink"] == codes["cliff"] == codes["constant"] == codes["barrier"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_limits_end_a_search_that_has_not_converged(method):
    for option, code in (("maxiter", 1), ("maxfev", 5)):
        found = minimize(standard, [-1.2, 1], (0,), method=method, options={option: 6})
        assert found.status == code and not found.success
        assert "limit" in found.message
        assert float(found.fun) <= VALUE(np.array([-1.2, 1]), 0)
        np.testing.assert_allclose(VALUE(np.array(found.x), 0), found.fun, rtol=1e-12)


@pytest.mark.slow
def test_a_wrong_gradient_is_not_a_success():
    found = minimize(rosenbrock, [-1.2, 1.0], jac=lambda x: -jax.grad(rosenbrock)(x))
    assert found.status == 2 and "gradient is not small" in found.message


@pytest.mark.slow
def test_jac_may_be_given_as_function_or_with_the_value():
    expected = by_us("bfgs", "rosenbrock 2")
    apart = minimize(rosenbrock, [-1.2, 1.0], jac=jax.grad(rosenbrock))
    together = minimize(jax.value_and_grad(rosenbrock), [-1.2, 1.0], jac=True)
    for found in (apart, together):
        assert found.nfev == expected.nfev
        np.testing.assert_allclose(found.x, expected.x, rtol=1e-12)


def valley(x, steepness):
    return steepness * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_many_lanes_and_vmap_equal_single_calls(method):
    rng = np.random.default_rng(1)
    starts, steepness = rng.uniform(-1, 2, (3000, 2)), rng.uniform(1, 30, 3000)
    many = minimize_many(valley, starts, lane_args=(steepness,), method=method, width=256)
    assert np.all(many.status == 0)
    np.testing.assert_allclose(many.x, 1, atol=1e-7)
    mapped = jax.vmap(lambda x, s: minimize(valley, x, (s,), method=method))(
        starts[:20], steepness[:20]
    )
    for lane in range(20):
        single = minimize(valley, starts[lane], (steepness[lane],), method=method)
        for found in (many, mapped):
            assert found.status[lane] == single.status
            # Rounding differs between the programs, so a descent may differ by a step or two.
            assert abs(int(found.nfev[lane]) - int(single.nfev)) <= max(3, 0.1 * int(single.nfev))
            np.testing.assert_allclose(found.x[lane], single.x, atol=1e-7)


@pytest.mark.slow
def test_a_jit_with_64_bit_types_equals_the_single_call():
    with jax.enable_x64(True):
        solve = jax.jit(lambda x: minimize(valley, x, (5.0,), method="bfgs"))
        inside = solve(jnp.array([-1.2, 1.0]))
    outside = minimize(valley, [-1.2, 1.0], (5.0,), method="bfgs")
    assert inside.nfev == outside.nfev
    np.testing.assert_allclose(inside.x, outside.x, rtol=1e-12)


@pytest.mark.slow
def test_one_argument_needs_no_tuple():
    for args in (3.0, np.array([3.0, 4.0]), (3.0,)):
        found = minimize(lambda x, centre: jnp.sum((x - centre) ** 2), [0.0, 0.0], args=args)
        assert np.allclose(found.x, args[0] if isinstance(args, tuple) else args)


def test_float32_is_promoted():
    found = minimize(valley, np.array([-1.2, 1], np.float32), (np.float32(5),))
    assert found.x.dtype == found.fun.dtype == np.float64
    np.testing.assert_allclose(found.x, 1, atol=1e-8)


def test_a_float32_jit_is_refused():
    for call in (
        lambda x: minimize(rosenbrock, x).x,
        lambda x: minimize_many(rosenbrock, x[None]).x,
        lambda x: least_squares(lambda x: x - 1, x).x,
    ):
        with pytest.raises(ScalingError, match="float32"):
            jax.jit(call)(jnp.ones(2))


@pytest.mark.parametrize(
    "given, message",
    [
        ({"method": "simplex"}, "bfgs, l-bfgs, nelder-mead, newton"),
        ({"options": {"gtoll": 1}}, "gtoll"),
        ({"method": "bfgs", "bounds": [(0, 1), (0, 1)]}, "l-bfgs"),
        ({"method": "l-bfgs", "bounds": [(0, 1)]}, "2 parameters"),
        ({"method": "l-bfgs", "bounds": [(0, 1), (2, 1)]}, "parameter 1"),
        ({"method": "l-bfgs", "bounds": [1, 2]}, "a list with"),
        ({"method": None}, "Choose from: bfgs"),
        ({"x0": [[1.0, 1.0]]}, "vector"),
        ({"x0": []}, "vector"),
    ],
)
def test_the_error_names_the_wrong_argument(given, message):
    with pytest.raises(ScalingError, match=message):
        minimize(rosenbrock, **({"x0": [1.0, 1.0]} | given))


@functools.cache
def fitted(name):
    function, start, _ = RESIDUALS[name]
    return least_squares(function, start)


def scipy_residuals(function):
    return in_double(function), in_double(jax.jacfwd(function))


@pytest.mark.slow
def test_least_squares_reaches_the_published_minima_with_the_effort_of_scipy():
    ratios = {}
    for name, (function, start, least) in RESIDUALS.items():
        ours = fitted(name)
        residuals, jacobian = scipy_residuals(function)
        witness = scipy.optimize.least_squares(
            residuals, start, jacobian, method="lm", ftol=1e-15, xtol=1e-12, gtol=1e-12
        )
        assert ours.success, (name, ours.message)
        np.testing.assert_allclose(2 * ours.cost, least, rtol=1e-9, atol=1e-16, err_msg=name)
        assert float(ours.cost) <= witness.cost * (1 + 1e-8) + 1e-16, name
        # scipy itself stops early in the last problem, because its residuals are large.
        near = 1e-6 if name == "brown-dennis" else 2e-8
        np.testing.assert_allclose(ours.x, witness.x, rtol=near, atol=near, err_msg=name)
        ratios[name] = int(ours.nfev) / witness.nfev
    assert np.median(list(ratios.values())) <= 1.5, ratios


@pytest.mark.slow
def test_least_squares_fields_agree_with_each_other():
    function, _, _ = RESIDUALS["bard"]
    found = fitted("bard")
    residuals, jacobian = scipy_residuals(function)
    x = np.array(found.x)
    np.testing.assert_allclose(found.fun, residuals(x), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(found.jac, jacobian(x), rtol=1e-10)
    np.testing.assert_allclose(found.cost, 0.5 * np.sum(residuals(x) ** 2), rtol=1e-12)
    np.testing.assert_allclose(found.grad, jacobian(x).T @ residuals(x), atol=1e-14)
    assert found.optimality == np.max(np.abs(found.grad))


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["huber", "soft_l1"])
def test_robust_losses_equal_those_of_scipy(loss):
    function, start, _ = RESIDUALS["bard"]
    residuals, jacobian = scipy_residuals(function)
    found = least_squares(function, start, loss=loss, f_scale=0.01)
    witness = scipy.optimize.least_squares(
        residuals, start, jacobian, loss=loss, f_scale=0.01, ftol=1e-15, xtol=1e-13, gtol=1e-13
    )
    assert found.success
    np.testing.assert_allclose(found.cost, witness.cost, rtol=1e-10)
    np.testing.assert_allclose(found.x, witness.x, atol=2e-8)
    np.testing.assert_allclose(found.grad, witness.grad, atol=1e-9)


@pytest.mark.slow
def test_bounded_least_squares_equal_those_of_scipy():
    for name, lower, upper in (
        ("beale", [0.5, -1], [2.0, 2.0]),
        ("bard", [0.1, 0.5, -np.inf], [0.3, 1.0, np.inf]),
        ("kowalik-osborne", [0, 0, 0, 0.2], [0.3, 0.5, 0.5, 0.5]),
    ):
        function, start, _ = RESIDUALS[name]
        residuals, jacobian = scipy_residuals(function)
        found = least_squares(function, start, bounds=(lower, upper))
        witness = scipy.optimize.least_squares(
            residuals,
            np.clip(start, lower, upper),
            jacobian,
            bounds=(lower, upper),
            ftol=1e-15,
            xtol=1e-15,
            gtol=1e-15,
            x_scale="jac",
        )
        assert found.success, name
        assert np.all(found.x >= lower) and np.all(found.x <= upper)
        np.testing.assert_allclose(found.cost, witness.cost, rtol=1e-8, err_msg=name)
        np.testing.assert_allclose(found.x, witness.x, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_least_squares_ends_with_an_honest_status():
    assert least_squares(lambda x: jnp.log(x), [-1.0]).status == 3
    limited = least_squares(RESIDUALS["meyer"][0], RESIDUALS["meyer"][1], max_nfev=10)
    assert limited.status == 5 and not limited.success
    wrong = least_squares(lambda x: x - 3, [1.0], jac=lambda x: -jnp.eye(1))
    assert wrong.status == 2
    # A step into a region without values is rejected; the second minimum is inside that region.
    walled = least_squares(lambda x: jnp.where(x > 2, jnp.nan, x - 1.9), [-30.0])
    assert walled.success and abs(walled.x[0] - 1.9) < 1e-8
    cliff = least_squares(lambda x: jnp.where(x > 2, jnp.nan, x - 5), [0.0])
    assert cliff.status == 2
    assert not least_squares(lambda x: jnp.exp(-x), [0.0], max_nfev=100).success
    # Only the sum of the two parameters matters, so there are many minima; any of them will do.
    assert least_squares(lambda x: jnp.stack([x[0] + x[1] - 1]), [3.0, 1.0]).success


def decay(x, a, b, c):
    return a * jnp.exp(-b * x) + c


def observations():
    rng = np.random.default_rng(0)
    x = np.linspace(0, 4, 40)
    y = 2.5 * np.exp(-1.3 * x) + 0.5 + 0.2 * rng.normal(size=40)
    return x, y, rng.uniform(0.1, 0.3, 40)


@pytest.mark.slow
@pytest.mark.parametrize("given", ["nothing", "sigma", "absolute", "covariance", "bounds"])
def test_curve_fit_gives_the_parameters_and_covariance_of_scipy(given):
    x, y, sigma = observations()
    options = {
        "nothing": {},
        "sigma": {"sigma": sigma},
        "absolute": {"sigma": sigma, "absolute_sigma": True},
        "covariance": {"sigma": np.diag(sigma**2) + 0.01},
        "bounds": {"bounds": ([0, 0, 0], [2.4, 3, 1])},
    }[given]
    found = curve_fit(decay, x, y, [1, 1, 1], **options)
    witness = scipy.optimize.curve_fit(
        lambda x, a, b, c: a * np.exp(-b * x) + c,
        x,
        y,
        [1, 1, 1],
        ftol=1e-15,
        xtol=1e-15,
        gtol=1e-15,
        **options,
    )
    np.testing.assert_allclose(found[0], witness[0], rtol=1e-6)
    np.testing.assert_allclose(found[1], witness[1], rtol=1e-4)


@pytest.mark.slow
def test_curve_fit_reports_undetermined_parameters():
    x, y, _ = observations()
    _, covariance = curve_fit(lambda x, a, b: (a + b) * x, x, y, [1, 1])
    assert np.all(np.isinf(covariance))
    with pytest.raises(ScalingError, match="not finite at the start"):
        curve_fit(lambda x, a: jnp.log(a) * x, x, y, [-1])


@pytest.mark.slow
def test_curve_fit_under_vmap_equals_single_calls():
    x, y, _ = observations()
    data = y + np.random.default_rng(2).normal(scale=0.1, size=(50, 40))
    parameters, covariance = jax.vmap(lambda y: curve_fit(decay, x, y, [1, 1, 1]))(data)
    for lane in (0, 17, 49):
        single = curve_fit(decay, x, data[lane], [1, 1, 1])
        np.testing.assert_allclose(parameters[lane], single[0], rtol=1e-7)
        np.testing.assert_allclose(covariance[lane], single[1], rtol=1e-5)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"loss": "cauchy"}, "linear, huber, soft_l1"),
        ({"bounds": (0, 1, 2)}, "3 entries"),
        ({"bounds": ([0, 0, 0], 1)}, "one number or 2 numbers"),
        ({"bounds": (1, 0)}, "parameter 0"),
        ({"fun": lambda x: x @ x}, "vector of residuals"),
    ],
)
def test_the_error_names_the_wrong_argument_of_least_squares(given, message):
    with pytest.raises(ScalingError, match=message):
        least_squares(**({"fun": lambda x: x - 1, "x0": [1.0, 1.0]} | given))
