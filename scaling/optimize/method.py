"""What an optimization method is: a state that names the next point to evaluate, and an update.

Every method is written as *ask and tell* (reverse communication): its state holds the `trial` point
at which it wants the function, and `advance` takes the evaluation there and moves on. One advance
is one evaluation, never an inner loop of them. Therefore a batch of problems under `vmap`, each in
another phase of its own line search, evaluates all its trial points together and no lane waits for
another's inner loop; and finished lanes can be exchanged for waiting problems (`minimize_many`).

Shapes: P parameters.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from scaling.optimize.precision import Array

RUNNING = -1
CONVERGED, ITERATION_LIMIT, NO_PROGRESS, NOT_FINITE, UNBOUNDED, EVALUATION_LIMIT = range(6)
MESSAGES = {
    RUNNING: "still running",
    CONVERGED: "converged",
    ITERATION_LIMIT: "the iteration limit was reached",
    NO_PROGRESS: "no step lowers the function any more, but the gradient is not small",
    NOT_FINITE: "the function or its derivatives are not finite at the start",
    UNBOUNDED: "the function falls without bound, or its minimum lies at infinity",
    EVALUATION_LIMIT: "the evaluation limit was reached",
}
FLOOR = -1e100
"""A function below this counts as unbounded."""
FAR = 1e30
"""Parameters beyond this have run away: there is no minimum, or it lies at infinity."""


class Outcome:
    """What a result says of its own `status`, a code or an array of codes."""

    status: Array

    @property
    def success(self) -> Array | np.bool:
        """Whether the method's own convergence test held."""
        return self.status == CONVERGED

    @property
    def message(self) -> str | list[str]:
        """The status in words (a list of them for several problems)."""
        if jnp.ndim(self.status) == 0:
            return MESSAGES[int(self.status)]
        return [MESSAGES[int(code)] for code in jnp.ravel(self.status)]


class Options(NamedTuple):
    """Tolerances and limits; a None is filled in by the method. Static under jit."""

    gtol: float | None = None  # largest gradient component (infinity norm) at convergence
    ftol: float | None = None  # relative decrease of the function below which it has converged
    xtol: float | None = None  # relative size of a step below which it has converged
    maxiter: int | None = None
    maxfev: int | None = None
    radius: float = 1.0  # newton: first trust radius
    history: int = 10  # l-bfgs: remembered pairs


class Evaluation(NamedTuple):
    """The function at a trial point; which fields are set is the method's `order`."""

    fun: jax.Array  # scalar; least squares: half the sum of squares
    jac: jax.Array | None = None  # (P,) gradient
    hess: jax.Array | None = None  # (P, P)
    residuals: jax.Array | None = None  # least squares: (M,)
    jacobian: jax.Array | None = None  # least squares: (M, P)


class Progress(Protocol):
    """What every method's state has; `jac` too where `order` is above 0."""

    @property
    def trial(self) -> jax.Array: ...
    @property
    def x(self) -> jax.Array: ...
    @property
    def fun(self) -> jax.Array: ...
    @property
    def nit(self) -> jax.Array: ...
    @property
    def nfev(self) -> jax.Array: ...
    @property
    def status(self) -> jax.Array: ...


class Method(NamedTuple):
    """`start(x0, lower, upper, options)` and `advance(state, evaluation, options)`, both pure.

    A state is a NamedTuple with at least the fields of `Progress`. `status` is RUNNING until the
    method's own test ends it; `advance` is never told about a state that has ended. x, fun and jac
    are the best point so far.
    """

    order: int  # derivatives wanted: 0 none, 1 gradient, 2 Hessian
    start: Callable[[jax.Array, jax.Array, jax.Array, Options], Progress]
    advance: Callable[[Any, Evaluation, Options], Progress]  # Any: the state of this method
    bounded: bool = False  # whether it heeds lower and upper


def first_status(status: jax.Array, *cases: tuple[jax.Array, int]) -> jax.Array:
    """`status`, or the code of the first case that holds."""
    for condition, code in reversed(cases):
        status = jnp.where(condition, code, status)
    return status
