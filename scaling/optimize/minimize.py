"""`minimize`: scipy's interface over optimizers that can be jitted and batched.

    result = minimize(rosenbrock, [-1.2, 1.0], method="bfgs")
    result.x, result.fun, result.success

`minimize` solves one problem and may itself be put under `jit` and `vmap`. `minimize_many` solves
thousands, from many starts or for many data, in one compiled loop in which a problem that has
converged makes room for the next.
Shapes: P parameters, K problems, W lanes at work.
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

# A user's own function, or its derivative: `Any` is what it takes beside x, and gives.
Function = Callable[..., Any]
Derivative = Function | bool | None
Trees = tuple[Any, ...]  # arrays, or trees of them
Bounds = Sequence[Any] | np.ndarray  # a (lower, upper) for each parameter, None for none
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
    """What scipy's OptimizeResult holds; leading axes where there were several problems.

    `status` 0 is convergence; `scaling.optimize.method` names the other codes. `hess_inv` is
    the inverse Hessian, or the method's approximation of it, and None for methods that have none.
    """

    x: Array
    fun: Array
    jac: Array | None
    hess_inv: Array | None
    nit: Array
    nfev: Array
    status: Array


def find_method(name: str) -> Method:
    """The method of that name, in any case. Raises ScalingError, naming those that exist."""
    key = str(name).lower()
    key = _SYNONYMS.get(key, key)
    if key not in _MODULES:
        raise ScalingError(f"method={name!r} is none of: {', '.join(_MODULES)}.")
    return cast(Method, importlib.import_module(_MODULES[key]).METHOD)


def evaluator(
    fun: Function, jac: Derivative, hess: Derivative, order: int
) -> Callable[[jax.Array, Trees], Evaluation]:
    """(x, args) -> Evaluation, with the derivatives that a method of this order wants.

    jac and hess: None differentiates `fun`, a function returns the derivative; jac=True means that
    `fun` returns (value, gradient), hess=True that it returns (value, gradient, Hessian).
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
    """Options with scipy's precedence: `tol` sets each tolerance that `options` leaves open.

    Raises ScalingError for an option that does not exist.
    """
    given = {} if options is None else dict(options)
    unknown = sorted(set(given) - set(Options._fields))
    if unknown:
        raise ScalingError(f"no such option: {unknown[0]!r}; there are {list(Options._fields)}.")
    if tol is not None:
        given = {"gtol": tol, "ftol": tol, "xtol": tol} | given
    return Options(**given)


def as_bounds(bounds: Bounds | None, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Two (P,) arrays from scipy's list of (lower, upper), None meaning unbounded."""
    if bounds is None:
        return np.full(size, -np.inf), np.full(size, np.inf)
    if not isinstance(bounds, Sequence | np.ndarray) or not all(np.size(p) == 2 for p in bounds):
        raise ScalingError("bounds must be a list with (lower, upper) for each parameter.")
    if len(bounds) != size:
        raise ScalingError(f"{len(bounds)} bounds were given for {size} parameters.")
    lower = [-np.inf if low is None else low for low, _ in bounds]
    upper = [np.inf if high is None else high for _, high in bounds]
    for index, (low, high) in enumerate(zip(lower, upper, strict=True)):
        if low > high:
            raise ScalingError(f"bounds of parameter {index}: {low} lies above {high}.")
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
        raise ScalingError(f"method={method!r} takes no bounds; these do: {', '.join(able)}.")
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
    """Minimize a scalar function of P parameters, in float64, with scipy's arguments.

    Args:
      fun: `fun(x, *args)`, x of shape (P,), written with jax.numpy; differentiated automatically.
      x0: the start, (P,).
      args: further arguments of `fun`, arrays or trees of arrays, or one that is no tuple; floats
        are promoted.
      method: bfgs, l-bfgs, nelder-mead or newton (a trust region, exact Hessian).
      jac: None, a function returning the gradient, or True where `fun` returns (value, gradient).
      hess: likewise for newton; True where `fun` returns (value, gradient, Hessian).
      bounds: a (lower, upper) for each parameter, None for none; not every method takes them.
      tol: sets gtol, ftol and xtol at once.
      options: fields of `scaling.optimize.method.Options`.

    Returns:
      `Result`. A failure is told by its status and message, never by an exception or a NaN alone.

    Raises:
      ScalingError: wrong method, options, bounds or shape of x0; called in a float32 jit.
    """
    args = args if isinstance(args, tuple) else (args,)  # as scipy does
    x0, args = promoted(x0), promote(args)
    if x0.ndim != 1 or x0.size == 0:
        raise ScalingError(f"x0 must be a vector; its shape is {x0.shape}.")
    found, lower, upper = _prepare(method, bounds, x0.shape[0])
    return _solve(fun, jac, hess, found, as_options(tol, options), x0, lower, upper, args)


# The states at work, their own arguments, the problem of each, the next problem, all results.
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
    """A pool of `width` lanes works through `count` problems (rows beyond it are padding)."""
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
        # Exchanging lanes moves data, so it waits until a good part of them has ended.
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
    """Minimize K problems in one call; each ends by its own test and makes room for the next.

    Args:
      fun: `fun(x, *lane_args, *args)` of one problem.
      x0_KxP: the starts.
      args: arguments that all problems share.
      lane_args: arrays with a leading axis K (data, weights): each problem gets its own row.
      width: problems at work at a time.
      rows: take room for at least so many problems, so that calls with fewer share one program:
        compiling one takes longer than thousands of small problems.
      Others as in `minimize`.

    Returns:
      `Result` with a leading axis K.
    """
    x0_KxP = promoted(x0_KxP)
    if x0_KxP.ndim != 2:
        raise ScalingError(f"x0 must be problems x parameters; its shape is {x0_KxP.shape}.")
    count, size = x0_KxP.shape
    lane_args = promote(tuple(lane_args))
    for leaf in jax.tree.leaves(lane_args):
        if leaf.shape[:1] != (count,):
            raise ScalingError(f"lane_args need a leading axis {count}; one has {leaf.shape}.")
    found, lower, upper = _prepare(method, bounds, size)
    chosen = as_options(tol, options)
    # Sizes in powers of four, so that another number of problems rarely needs another program.
    padded = 4 ** math.ceil(math.log(max(count, rows, 1), 4))
    x0_KxP, lane_args = _rows((x0_KxP, lane_args), np.minimum(np.arange(padded), count - 1))
    lanes = min(width, padded)
    args = promote(tuple(args))
    result = _solve_many(
        fun, jac, hess, found, chosen, lanes, count, x0_KxP, lower, upper, args, lane_args
    )
    return _rows(result, slice(count))


def _rows(tree: Tree, index: np.ndarray | slice) -> Tree:
    """The rows `index` of every leaf, by NumPy: JAX would compile a program for each shape.

    Leaves of a trace stay in it.
    """

    def taken(leaf: Array) -> Array:
        if isinstance(leaf, jax.core.Tracer):
            return leaf[index]
        return np.asarray(leaf)[index]

    return cast(Tree, jax.tree.map(taken, tree))
