"""The interface of an optimization method: a state with the next trial point, and an update.

Every method is written as *ask and tell* (reverse communication): its state holds the `trial` point
to evaluate next, and `advance` takes that evaluation and chooses the next one. One advance uses one
evaluation, never an inner loop. Under `vmap`, a batch of problems in different phases of their line
searches therefore evaluates all trial points together, and no lane waits for the inner loop of
another. `minimize_many` can also refill finished lanes with waiting problems.

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
"""Parameters larger than this have diverged: there is no minimum, or it lies at infinity."""


class Outcome:
    """Success and message, derived from `status`: one code or an array of codes."""

    status: Array

    @property
    def success(self) -> Array | np.bool:
        """Whether the method converged by its own test."""
        return self.status == CONVERGED

    @property
    def message(self) -> str | list[str]:
        """The status in words; a list for several problems."""
        if jnp.ndim(self.status) == 0:
            return MESSAGES[int(self.status)]
        return [MESSAGES[int(code)] for code in jnp.ravel(self.status)]


class Options(NamedTuple):
    """Tolerances and limits; each method has its own default for None. Static under jit."""

    gtol: float | None = None  # converged below this largest gradient component
    ftol: float | None = None  # converged below this relative decrease of the function
    xtol: float | None = None  # converged below this relative step size
    maxiter: int | None = None
    maxfev: int | None = None
    radius: float = 1.0  # newton: initial trust radius
    history: int = 10  # l-bfgs: number of stored pairs


class Evaluation(NamedTuple):
    """The function at a trial point; the method's `order` decides which fields are set."""

    fun: jax.Array  # scalar; least squares: half the sum of squares
    jac: jax.Array | None = None  # (P,) gradient
    hess: jax.Array | None = None  # (P, P)
    residuals: jax.Array | None = None  # least squares: (M,)
    jacobian: jax.Array | None = None  # least squares: (M, P)


class Progress(Protocol):
    """The fields that every state has; methods of order 1 and 2 add `jac`."""

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
    """A pair of pure functions: `start` makes the first state, `advance` the next one.

    A state is a NamedTuple with at least the fields of `Progress`; x, fun and jac are the best
    point so far. `status` is RUNNING until the method stops; the result of `advance` on a stopped
    state is discarded.
    """

    order: int  # derivatives needed: 0 none, 1 gradient, 2 Hessian
    start: Callable[[jax.Array, jax.Array, jax.Array, Options], Progress]
    advance: Callable[[Any, Evaluation, Options], Progress]  # Any: the state of this method
    bounded: bool = False  # whether it respects lower and upper


def first_status(status: jax.Array, *cases: tuple[jax.Array, int]) -> jax.Array:
    """The code of the first case that holds, or else `status`."""
    for condition, code in reversed(cases):
        status = jnp.where(condition, code, status)
    return status
