"""`minimize`: scipy's interface to optimizers that can be jitted and batched.

    result = minimize(rosenbrock, [-1.2, 1.0], method="bfgs")
    result.x, result.fun, result.success

`minimize` solves one problem and may itself be called under `jit` and `vmap`. `minimize_many`
solves thousands, from many starting points or for many data sets, in one compiled loop: a problem
that has converged makes room for the next.
Shapes: P parameters, K problems, W lanes (problems being solved at the same time).
"""

import dataclasses
import functools
import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from scaling.errors import ScalingError
from scaling.optimize.method import RUNNING, Evaluation, Method, Options, Outcome, Progress
from scaling.optimize.precision import Array, ArrayLike, in_float64, promote, promoted

# A user's function or its derivative. `Any`: its arguments after x, and what it returns.
Function = Callable[..., Any]
Derivative = Function | bool | None
Trees = tuple[Any, ...]  # arrays, or trees of them
Bounds = Sequence[Any] | np.ndarray  # (lower, upper) for each parameter; None: unbounded
Tree = TypeVar("Tree")

_MODULES = {
    "bfgs": "scaling.optimize.bfgs",
    "l-bfgs": "scaling.optimize.lbfgs",
    "nelder-mead": "scaling.optimize.nelder_mead",
    "newton": "scaling.optimize.newton",
}
_SYNONYMS = {"l-bfgs-b": "l-bfgs", "lbfgs": "l-bfgs", "trust-exact": "newton"}


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["x", "fun", "jac", "hess_inv", "nit", "nfev", "status"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Result(Outcome):
    """The outcome of a minimization, with the fields of scipy's OptimizeResult.

    With several problems, each field has a leading axis K. `success` and `message` are derived
    from `status`.

    Attributes:
      x: (P,) the best point found.
      fun: () the function at x.
      jac: (P,) the gradient at x; None for nelder-mead.
      hess_inv: (P, P) the inverse Hessian at x (newton) or its approximation (bfgs); None for the
        other methods.
      nit: () iterations.
      nfev: () evaluations of the function.
      status: () 0 means converged; `scaling.optimize.method` lists the other codes.
    """

    x: Array
    fun: Array
    jac: Array | None
    hess_inv: Array | None
    nit: Array
    nfev: Array
    status: Array


def find_method(name: str) -> Method:
    """Look up a method by its name, in upper or lower case.

    Raises ScalingError for an unknown name and lists the methods.
    """
    key = str(name).lower()
    key = _SYNONYMS.get(key, key)
    if key not in _MODULES:
        raise ScalingError(f"method={name!r} does not exist. Choose from: {', '.join(_MODULES)}.")
    return cast(Method, importlib.import_module(_MODULES[key]).METHOD)


def evaluator(
    fun: Function, jac: Derivative, hess: Derivative, order: int
) -> Callable[[jax.Array, Trees], Evaluation]:
    """Build (x, args) -> Evaluation with the derivatives that a method of this order needs.

    With None for `jac` or `hess`, `fun` is differentiated automatically; a function returns the
    derivative. jac=True means that `fun` returns (value, gradient), hess=True that it returns
    (value, gradient, Hessian).
    """

    def value_and_gradient(x: jax.Array, args: Trees) -> tuple[jax.Array, jax.Array]:
        if hess is True:
            return cast(tuple[jax.Array, jax.Array], fun(x, *args)[:2])
        if jac is True:
            return cast(tuple[jax.Array, jax.Array], fun(x, *args))
        if not callable(jac):
            return jax.value_and_grad(fun)(x, *args)
        return fun(x, *args), jac(x, *args)

    def evaluate(x: jax.Array, args: Trees) -> Evaluation:
        if order == 0:
            value = fun(x, *args)
            return Evaluation(value[0] if jac is True or hess is True else value)
        if order == 1:
            return Evaluation(*value_and_gradient(x, args))
        if hess is True:
            return Evaluation(*fun(x, *args))
        if callable(hess):
            return Evaluation(*value_and_gradient(x, args), hess(x, *args))

        def gradient(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            value, slope = value_and_gradient(x, args)
            return slope, (value, slope)

        hessian, (value, slope) = jax.jacfwd(gradient, has_aux=True)(x)
        return Evaluation(value, slope, hessian)

    return evaluate


def as_options(tol: float | None, options: Mapping[str, Any] | None) -> Options:
    """Combine `tol` and `options` as scipy does: `tol` sets each tolerance missing in `options`.

    Raises ScalingError for an unknown option.
    """
    given = {} if options is None else dict(options)
    unknown = sorted(set(given) - set(Options._fields))
    if unknown:
        raise ScalingError(
            f"option {unknown[0]!r} does not exist. Choose from: {', '.join(Options._fields)}."
        )
    if tol is not None:
        given = {"gtol": tol, "ftol": tol, "xtol": tol} | given
    return Options(**given)


def as_bounds(bounds: Bounds | None, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Two (P,) arrays from scipy's list of (lower, upper), where None means unbounded."""
    if bounds is None:
        return np.full(size, -np.inf), np.full(size, np.inf)
    if not isinstance(bounds, Sequence | np.ndarray) or not all(np.size(p) == 2 for p in bounds):
        raise ScalingError("bounds must be a list with one (lower, upper) for each parameter.")
    if len(bounds) != size:
        raise ScalingError(f"{len(bounds)} bounds were given for {size} parameters.")
    lower = [-np.inf if low is None else low for low, _ in bounds]
    upper = [np.inf if high is None else high for _, high in bounds]
    for index, (low, high) in enumerate(zip(lower, upper, strict=True)):
        if low > high:
            raise ScalingError(
                f"bounds of parameter {index}: the lower bound {low} is above the upper bound "
                f"{high}."
            )
    return np.asarray(lower, float), np.asarray(upper, float)


def _result(state: Progress) -> Result:
    """The public part of a method's state."""
    fields: dict[str, Any] = {
        item.name: getattr(state, item.name, None) for item in dataclasses.fields(Result)
    }
    hess = getattr(state, "hess", None)
    if fields["hess_inv"] is None and hess is not None:
        fields["hess_inv"] = jnp.linalg.pinv(hess, hermitian=True)
    return Result(**fields)


@functools.partial(jax.jit, static_argnames=("fun", "jac", "hess", "method", "options"))
def _solve(
    fun: Function,
    jac: Derivative,
    hess: Derivative,
    method: Method,
    options: Options,
    x0: jax.Array,
    lower: jax.Array,
    upper: jax.Array,
    args: Trees,
) -> Result:
    evaluate = evaluator(fun, jac, hess, method.order)

    def body(state: Progress) -> Progress:
        return method.advance(state, evaluate(state.trial, args), options)

    state = method.start(x0, lower, upper, options)
    return _result(jax.lax.while_loop(lambda state: state.status == RUNNING, body, state))


def _prepare(
    method: str, bounds: Bounds | None, size: int
) -> tuple[Method, np.ndarray, np.ndarray]:
    found = find_method(method)
    if bounds is not None and not found.bounded:
        able = [name for name in _MODULES if find_method(name).bounded]
        raise ScalingError(
            f"method={method!r} does not support bounds. Choose from: {', '.join(able)}."
        )
    return found, *as_bounds(bounds, size)


@in_float64
def minimize(
    fun: Function,
    x0: ArrayLike,
    args: Trees = (),
    method: str = "bfgs",
    jac: Derivative = None,
    hess: Derivative = None,
    bounds: Bounds | None = None,
    tol: float | None = None,
    options: Mapping[str, Any] | None = None,
) -> Result:
    """Minimize a scalar function of P parameters in float64, with scipy's arguments.

    Args:
      fun: `fun(x, *args)` -> scalar, written with jax.numpy; x has shape (P,).
      x0: (P,) starting point.
      args: further arguments of `fun`: a tuple of arrays or trees of arrays, or a single argument
        that is not a tuple. Integers and floats are converted to float64.
      method: bfgs (Nocedal and Wright, section 6.1), l-bfgs (algorithm 7.4), nelder-mead (1965) or
        newton (trust region with the exact Hessian; Moré and Sorensen 1983).
      jac: None (automatic differentiation), a function that returns the (P,) gradient, or True if
        `fun` returns (value, gradient).
      hess: used by newton only: None, a function that returns the (P, P) Hessian, or True if `fun`
        returns (value, gradient, Hessian).
      bounds: (lower, upper) for each parameter, with None for no bound; l-bfgs and nelder-mead
        only.
      tol: sets gtol, ftol and xtol at once; `options` has precedence.
      options: fields of `scaling.optimize.method.Options`.

    Returns:
      `Result`. Its status and message report a failure, which never raises an exception.

    Raises:
      ScalingError: unknown method or option; wrong bounds or shape of x0; called inside a jit that
        was traced without 64-bit types.
    """
    args = args if isinstance(args, tuple) else (args,)  # as scipy does
    x0, args = promoted(x0), promote(args)
    if x0.ndim != 1 or x0.size == 0:
        raise ScalingError(f"x0 must be a vector; its shape is {x0.shape}.")
    found, lower, upper = _prepare(method, bounds, x0.shape[0])
    return _solve(fun, jac, hess, found, as_options(tol, options), x0, lower, upper, args)


# States of the lanes, their lane_args, the problem in each lane, the next problem, all results.
Carry = tuple[Progress, Trees, jax.Array, jax.Array, Result]


@functools.partial(jax.jit, static_argnames=("fun", "jac", "hess", "method", "options", "width"))
def _solve_many(
    fun: Function,
    jac: Derivative,
    hess: Derivative,
    method: Method,
    options: Options,
    width: int,
    count: jax.Array,
    x0_KxP: jax.Array,
    lower: jax.Array,
    upper: jax.Array,
    args: Trees,
    lane_args: Trees,
) -> Result:
    """Solve `count` problems in `width` lanes; rows beyond `count` are padding."""
    evaluate = evaluator(fun, jac, hess, method.order)
    rows = x0_KxP.shape[0]
    lanes = jnp.arange(width)

    def begin(index: jax.Array) -> tuple[Progress, Trees]:
        here = jnp.minimum(index, count - 1)
        state = jax.vmap(lambda x0: method.start(x0, lower, upper, options))(x0_KxP[here])
        return state, jax.tree.map(lambda leaf: leaf[here], lane_args)

    def select(mask: jax.Array, new: Tree, old: Tree) -> Tree:
        def rows(a: jax.Array, b: jax.Array) -> jax.Array:
            return jnp.where(jnp.reshape(mask, (-1,) + (1,) * (a.ndim - 1)), a, b)

        return cast(Tree, jax.tree.map(rows, new, old))

    def store(results: Result, states: Progress, index: jax.Array) -> Result:
        found = jax.vmap(_result)(states)
        set_rows = lambda all, row: all.at[index].set(row, mode="drop")  # noqa: E731
        return cast(Result, jax.tree.map(set_rows, results, found))

    def refill(carry: Carry) -> Carry:
        states, own, index, following, results = carry
        ended = (states.status != RUNNING) & (index < count)
        results = store(results, states, jnp.where(ended, index, rows))
        index = jnp.where(ended, following + jnp.cumsum(ended) - 1, index)
        fresh_states, fresh_own = begin(index)
        states, own = select(ended, fresh_states, states), select(ended, fresh_own, own)
        return states, own, index, following + jnp.sum(ended), results

    def body(carry: Carry) -> Carry:
        states, own, index, following, results = carry
        at = jax.vmap(lambda x, mine: evaluate(x, (*mine, *args)))(states.trial, own)
        moved = jax.vmap(lambda state, here: method.advance(state, here, options))(states, at)
        states = select(states.status == RUNNING, moved, states)
        ended = jnp.sum((states.status != RUNNING) & (index < count))
        working = jnp.sum((states.status == RUNNING) & (index < count))
        # Refilling lanes moves data, so it waits until an eighth of them has ended.
        exchange = (ended * 8 >= width) | (working == 0)
        carry = (states, own, index, following, results)
        return jax.lax.cond(exchange, refill, lambda carry: carry, carry)

    states, own = begin(lanes)
    blank = jax.eval_shape(lambda states: jax.vmap(_result)(states), states)
    results = jax.tree.map(lambda leaf: jnp.zeros((rows, *leaf.shape[1:]), leaf.dtype), blank)
    carry = (states, own, lanes, jnp.asarray(width), results)
    carry = jax.lax.while_loop(lambda carry: jnp.any(carry[2] < count), body, carry)
    return cast(Carry, carry)[4]


@in_float64
def minimize_many(
    fun: Function,
    x0_KxP: ArrayLike,
    args: Trees = (),
    lane_args: Trees = (),
    method: str = "newton",
    jac: Derivative = None,
    hess: Derivative = None,
    bounds: Bounds | None = None,
    tol: float | None = None,
    options: Mapping[str, Any] | None = None,
    width: int = 128,
    rows: int = 1,
) -> Result:
    """Minimize K problems in one call. Each stops by its own test and makes room for the next.

    Args:
      fun: `fun(x, *lane_args, *args)` -> scalar, for one problem.
      x0_KxP: (K, P) starting points.
      args: tuple of arguments that all problems share.
      lane_args: tuple of arrays with a leading axis K (data, weights); each problem gets one row.
      width: number of lanes, that is, of problems solved at the same time.
      rows: pad to at least this many problems, so that smaller calls share one compiled program:
        compiling one takes longer than solving thousands of small problems.
      method, jac, hess, bounds, tol, options: as in `minimize`.

    Returns:
      `Result` with a leading axis K.

    Raises:
      ScalingError: as in `minimize`; lane_args whose leading axis is not K.
    """
    x0_KxP = promoted(x0_KxP)
    if x0_KxP.ndim != 2:
        raise ScalingError(f"x0 must have shape (problems, parameters), not {x0_KxP.shape}.")
    count, size = x0_KxP.shape
    lane_args = promote(tuple(lane_args))
    for leaf in jax.tree.leaves(lane_args):
        if leaf.shape[:1] != (count,):
            raise ScalingError(
                f"lane_args need a leading axis of {count} problems; one has shape {leaf.shape}."
            )
    found, lower, upper = _prepare(method, bounds, size)
    chosen = as_options(tol, options)
    # Sizes are powers of four, so that a new number of problems rarely needs a new program.
    padded = 4 ** math.ceil(math.log(max(count, rows, 1), 4))
    x0_KxP, lane_args = _rows((x0_KxP, lane_args), np.minimum(np.arange(padded), count - 1))
    lanes = min(width, padded)
    args = promote(tuple(args))
    result = _solve_many(
        fun, jac, hess, found, chosen, lanes, count, x0_KxP, lower, upper, args, lane_args
    )
    return _rows(result, slice(count))


def _rows(tree: Tree, index: np.ndarray | slice) -> Tree:
    """The rows `index` of every leaf, taken by NumPy: JAX would compile a program for each shape.

    Traced leaves stay JAX arrays.
    """

    def taken(leaf: Array) -> Array:
        if isinstance(leaf, jax.core.Tracer):
            return leaf[index]
        return np.asarray(leaf)[index]

    return cast(Tree, jax.tree.map(taken, tree))
