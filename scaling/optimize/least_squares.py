"""Nonlinear least squares and curve fitting, with scipy's interface, in float64.

    result = least_squares(residuals, [1.0, 1.0], args=(t, y), loss="huber")
    parameters, covariance = curve_fit(model, x, y, p0=[1.0, 1.0])

Both may be called under `jit` and `vmap`. Shapes: P parameters, M residuals.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from scaling.errors import ScalingError
from scaling.optimize import levenberg_marquardt as levenberg
from scaling.optimize.method import RUNNING, Evaluation, Options, Outcome
from scaling.optimize.minimize import Function, Trees
from scaling.optimize.precision import Array, ArrayLike, in_float64, promote
from scaling.optimize.quasi_newton import EPS, projected


def _linear(square: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    return square, jnp.ones_like(square), jnp.zeros_like(square)


def _huber(square: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    inner = square <= 1
    root = jnp.sqrt(jnp.where(inner, 1.0, square))
    return (
        jnp.where(inner, square, 2 * root - 1),
        jnp.where(inner, 1.0, 1 / root),
        jnp.where(inner, 0.0, -0.5 / root**3),
    )


def _soft_l1(square: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    root = jnp.sqrt(1 + square)
    # 2 (root - 1), without cancellation.
    return 2 * square / (1 + root), 1 / root, -0.5 / root**3


# (lower, upper), each one number or one per parameter.
Box = Sequence[ArrayLike]

# (residual / f_scale)**2 -> the loss and its first two derivatives.
_LOSSES = {"linear": _linear, "huber": _huber, "soft_l1": _soft_l1}


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["x", "cost", "fun", "jac", "grad", "optimality", "nit", "nfev", "status"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class LeastSquares(Outcome):
    """The outcome of a least-squares fit, with the fields of scipy's least_squares.

    Attributes:
      x: (P,) the best point found.
      cost: () half the sum of loss(residuals**2) at x.
      fun: (M,) the residuals at x.
      jac: (M, P) their Jacobian, scaled so that jac.T @ jac approximates the Hessian of a robust
        cost.
      grad: (P,) the gradient of the cost.
      optimality: () the largest component of the gradient, excluding those that push against a
        bound.
      nit: () iterations.
      nfev: () evaluations of the residuals.
      status: () 0 means converged; `scaling.optimize.method` lists the other codes.
    """

    x: Array
    cost: Array
    fun: Array
    jac: Array
    grad: Array
    optimality: Array
    nit: Array
    nfev: Array
    status: Array


def _robust(residuals: jax.Array, jacobian: jax.Array, loss: str, f_scale: jax.Array) -> Evaluation:
    """The cost, and the residuals and Jacobian of the linear problem that approximates it.

    Triggs et al., "Bundle adjustment - a modern synthesis" (2000), section 4.3.
    """
    square = (residuals / f_scale) ** 2
    value, slope, bend = _LOSSES[loss](square)
    cost = 0.5 * f_scale**2 * jnp.sum(value)
    # A far outlier adds no curvature; a small one keeps its scaled residual finite.
    weight = jnp.sqrt(jnp.maximum(slope + 2 * bend * square, 1e-4 * slope))
    return Evaluation(
        cost, residuals=residuals * slope / weight, jacobian=jacobian * weight[:, None]
    )


@functools.partial(jax.jit, static_argnames=("fun", "jac", "loss", "options", "bounded"))
def _solve(
    fun: Function,
    jac: Function | None,
    loss: str,
    options: Options,
    bounded: bool,
    x0: jax.Array,
    lower: jax.Array,
    upper: jax.Array,
    args: Trees,
    f_scale: jax.Array,
) -> LeastSquares:
    def evaluate(x: jax.Array) -> Evaluation:
        residuals = fun(x, *args)
        slopes = jax.jacfwd(lambda x: fun(x, *args))(x) if jac is None else jac(x, *args)
        return _robust(residuals, slopes, loss, f_scale)

    def body(state: levenberg.State) -> levenberg.State:
        return levenberg.advance(state, evaluate(state.trial), options, bounded)

    shape = jax.eval_shape(lambda x: fun(x, *args), x0).shape
    if len(shape) != 1:
        raise ScalingError(f"fun must return a vector of residuals; its shape is {shape}.")
    state = levenberg.start(x0, shape[0], lower, upper)
    state = jax.lax.while_loop(lambda state: state.status == RUNNING, body, state)
    down = projected(state.x, state.jac, lower, upper)
    return LeastSquares(
        x=state.x,
        cost=state.fun,
        fun=fun(state.x, *args),
        jac=state.jacobian,
        grad=state.jac,
        optimality=jnp.max(jnp.abs(down)),
        nit=state.nit,
        nfev=state.nfev,
        status=state.status,
    )


def _as_box(bounds: Box | None, size: int) -> tuple[jax.Array, jax.Array]:
    """Two (P,) arrays from scipy's (lower, upper), each one number or one per parameter."""
    if bounds is None:
        bounds = (-jnp.inf, jnp.inf)
    if len(bounds) != 2:
        raise ScalingError(
            f"bounds must be (lower, upper), each one number or {size} numbers; "
            f"{len(bounds)} entries were given."
        )
    try:
        lower, upper = (jnp.broadcast_to(jnp.asarray(side, float), size) for side in bounds)
    except ValueError:
        raise ScalingError(
            f"bounds must be (lower, upper), each one number or {size} numbers."
        ) from None
    for index in range(size):
        if not isinstance(lower, jax.core.Tracer) and lower[index] > upper[index]:
            raise ScalingError(
                f"bounds of parameter {index}: the lower bound {lower[index]} is above the upper "
                f"bound {upper[index]}."
            )
    return lower, upper


@in_float64
def least_squares(
    fun: Function,
    x0: ArrayLike,
    args: Trees = (),
    jac: Function | None = None,
    bounds: Box | None = None,
    loss: str = "linear",
    f_scale: float = 1.0,
    ftol: float | None = None,
    xtol: float | None = None,
    gtol: float | None = None,
    max_nfev: int | None = None,
) -> LeastSquares:
    """Minimize half the sum of loss(residuals**2) in float64 by Levenberg-Marquardt (Moré 1978).

    Args:
      fun: `fun(x, *args)` -> (M,) residuals, written with jax.numpy.
      x0: (P,) starting point; clipped to the bounds.
      args: tuple of further arguments of `fun`, arrays or trees of arrays; integers and floats are
        converted to float64.
      jac: None (automatic differentiation), or a function that returns the (M, P) Jacobian.
      bounds: (lower, upper), each one number or (P,).
      loss: linear, huber or soft_l1, applied to (residual / f_scale)**2.
      f_scale: the residual, in the units of `fun`, beyond which a point counts as an outlier.
      ftol: converged when the linear model predicts no larger relative decrease (default 1e-16:
        the parameters move less than 1e-8 of their standard errors).
      xtol: converged when the Gauss-Newton step is relatively no longer (default 1e-10).
      gtol: converged when no column of the Jacobian has a larger cosine with the residuals
        (default 1e-10).
      max_nfev: limit of evaluations of `fun` and its Jacobian (default 200 (P + 1)).

    Returns:
      `LeastSquares`. Its status and message report a failure, which never raises an exception.

    Raises:
      ScalingError: unknown loss; wrong bounds or shapes; called inside a jit that was traced
        without 64-bit types.
    """
    if loss not in _LOSSES:
        raise ScalingError(f"loss={loss!r} does not exist. Choose from: {', '.join(_LOSSES)}.")
    x0, args = promote(jnp.asarray(x0)), promote(tuple(args))
    if x0.ndim != 1:
        raise ScalingError(f"x0 must be a vector; its shape is {x0.shape}.")
    lower, upper = _as_box(bounds, x0.shape[0])
    options = Options(gtol=gtol, ftol=ftol, xtol=xtol, maxfev=max_nfev)
    bounded = bounds is not None
    return _solve(fun, jac, loss, options, bounded, x0, lower, upper, args, promote(f_scale))


@functools.lru_cache(maxsize=64)
def _residuals(function: Function) -> Function:
    """The weighted residuals of a model; cached per model, so that each compiles only once."""

    def residuals(
        parameters: jax.Array, xdata: Any, ydata: jax.Array, sigma: jax.Array
    ) -> jax.Array:
        difference = jnp.ravel(function(xdata, *parameters) - ydata)
        if sigma.ndim == 2:
            return jax.scipy.linalg.solve_triangular(sigma, difference, lower=True)
        return difference / sigma

    return residuals


@in_float64
def curve_fit(
    f: Function,
    xdata: Any,  # whatever f takes
    ydata: ArrayLike,
    p0: ArrayLike,
    sigma: ArrayLike | None = None,
    absolute_sigma: bool = False,
    bounds: Box | None = None,
) -> tuple[Array, Array]:
    """Fit `f(xdata, *parameters)` to ydata by weighted least squares, like scipy's curve_fit.

    Args:
      f: the model, written with jax.numpy; returns (M,).
      xdata: anything that `f` takes, usually (M,).
      ydata: (M,) observations.
      p0: (P,) initial guess.
      sigma: None, (M,) standard deviations, or the (M, M) covariance of the observations, in the
        units of ydata.
      absolute_sigma: True if sigma is absolute; False if only its ratios matter, so that the
        covariance is scaled by the residuals.
      bounds: (lower, upper), each one number or (P,).

    Returns:
      The (P,) parameters and their (P, P) covariance. The covariance is infinite if the data do
      not determine all parameters; under jit or vmap, also if the fit failed.

    Raises:
      ScalingError: the fit failed (outside jit and vmap); wrong shapes or bounds.
    """
    ydata, xdata, p0 = jnp.ravel(promote(ydata)), promote(xdata), promote(jnp.asarray(p0))
    weight = jnp.ones_like(ydata) if sigma is None else promote(jnp.asarray(sigma))
    if weight.shape not in (ydata.shape, ydata.shape * 2):
        raise ScalingError(f"sigma has shape {weight.shape}, but ydata has shape {ydata.shape}.")
    if weight.ndim == 2:
        weight = jnp.linalg.cholesky(weight)
    found = least_squares(_residuals(f), p0, args=(xdata, ydata, weight), bounds=bounds)
    if not isinstance(found.status, jax.core.Tracer) and found.status != 0:
        raise ScalingError(f"curve_fit found no minimum: {found.message}.")

    _, sigma_S, right = jnp.linalg.svd(found.jac, full_matrices=False)
    threshold = EPS * max(found.jac.shape) * sigma_S[0]
    scaled = right.T / jnp.where(sigma_S > threshold, sigma_S, 1.0)
    covariance = scaled @ scaled.T
    spare = ydata.shape[0] - p0.shape[0]
    if not absolute_sigma:
        covariance = covariance * (2 * found.cost / spare if spare > 0 else jnp.inf)
    known = jnp.all(sigma_S > threshold) & (spare >= 0) & (found.status == 0)
    return found.x, jnp.where(known, covariance, jnp.inf)
