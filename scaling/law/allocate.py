"""Allocation of compute: the size N and tokens D with the least loss under a law.

The lifetime cost in FLOPs is 6 N D for training and 2 N T for T tokens of inference (Sardana et al.
2024). Along N = C / (6 D + 2 T), the loss is least where the terms that grow with D balance those
that shrink. With s = 6 D / (6 D + 2 T), the share of training in the cost:

    sum_k L_k (d ln L_k / d ln D - s d ln L_k / d ln N) = 0

The root is computed from the derivative of the law, not from its values, whose rounding would leave
only half of the digits. Bootstrap samples may have any coordinates, so nothing here raises for
them: a law without a best allocation gives nan, and a target that cannot be reached gives inf.

Shapes: P coordinates, S samples, C budgets (or sizes, or targets). Every function takes theta (P,)
or (S, P) in absolute coordinates and a number or an array (C,), and returns arrays of shape
theta.shape[:-1] + (C,), without (C,) for a number. N is in parameters, D in tokens, the loss in
nats per token and the cost in FLOPs.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from scaling.errors import ScalingError
from scaling.law.laws import CHINCHILLA, TIED, Law, Logs
from scaling.optimize.precision import Array, ArrayLike, in_float64

Lines = tuple[jax.Array, jax.Array | None]  # values and their changes
Curve = Callable[[np.ndarray], np.ndarray]

LOWEST, HIGHEST = -90.0, 690.0  # search range: ln N and ln D above LOWEST, ln D below HIGHEST
LOWEST_COMPUTE, HIGHEST_COMPUTE = -60.0, 350.0  # search range of ln C
GRID = 65
TOLERANCE = 1e-11  # of ln N, ln D and ln C


def coefficients(law: Law, theta: ArrayLike) -> dict[str, np.ndarray] | None:
    """a, b and G in N = G (C/6)^a and D = (C/6)^b / G (Hoffmann et al. 2022, equation 4).

    Returns:
      {"a", "b", "G"}, each of shape theta.shape[:-1]; None for laws without this closed form. An
      entry is nan if an exponent of the law is not positive, since no loss is least then.
    """
    if law not in (CHINCHILLA, TIED):
        return None
    _, log_A, log_B, alpha, beta = _three_term(law, theta)
    with np.errstate(all="ignore"):
        log_G = (np.log(alpha) + log_A - np.log(beta) - log_B) / (alpha + beta)
        sound = (alpha > 0) & (beta > 0)
        found = {"a": beta / (alpha + beta), "b": alpha / (alpha + beta), "G": np.exp(log_G)}
        return {name: np.where(sound, value, np.nan) for name, value in found.items()}


def optimal(
    law: Law,
    theta: ArrayLike,
    C: ArrayLike,
    *,
    inference_tokens: float = 0,
    unique: float | None = None,
    numeric: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The (N, D, loss) of least loss at the cost C in FLOPs, including inference.

    Args:
      law: a law of both N and D.
      theta: (P,) or (S, P) absolute coordinates.
      C: cost in FLOPs, a number or (C,).
      inference_tokens: T, the tokens that the model will read and write after training.
      unique: distinct training tokens, for a law that needs them; D may be larger.
      numeric: solve numerically even if there is a closed form.

    Returns:
      N, D and loss, each of shape theta.shape[:-1] + C.shape; nan if no allocation is best.

    Raises:
      ScalingError: the law does not depend on both N and D, or needs `unique`; C or unique is not
        positive and finite, or T is negative; theta has the wrong width.
    """
    problem = _Problem(law, theta, inference_tokens, unique)
    C, shape = problem.spread("C", C)
    if law in (CHINCHILLA, TIED) and not inference_tokens and not numeric:
        _, log_A, log_B, alpha, beta = (x[..., None] for x in _three_term(law, problem.theta_SxP))
        with np.errstate(all="ignore"):
            gap = np.log(alpha) + log_A - np.log(beta) - log_B
            log_D = (alpha * np.log(C / 6) - gap) / (alpha + beta)
            log_D = np.where((alpha > 0) & (beta > 0), log_D, np.nan)
    else:
        log_D = np.stack([problem.best_tokens(np.log(c)) for c in C], -1)
    N, D, loss = (x.reshape(shape) for x in problem.outcome(np.log(C), log_D))
    return N, D, loss


def cheapest(
    law: Law,
    theta: ArrayLike,
    target: ArrayLike,
    *,
    inference_tokens: float = 0,
    unique: float | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The (C, N, D) of least cost that reaches the loss `target`; C includes inference.

    inf if no compute reaches the target, for example a target at or below E. The numeric solution
    gives inf above e^350 FLOPs. Arguments and errors as in `optimal`.
    """
    problem = _Problem(law, theta, inference_tokens, unique)
    target, shape = problem.spread("the target loss", target)
    if law in (CHINCHILLA, TIED) and not inference_tokens:
        found = _cheapest_three_term(law, problem.theta_SxP, target)
    else:
        columns = [problem.least_cost(np.log(one)) for one in target]
        found = [np.stack(column, -1) for column in zip(*columns, strict=True)]
    C, N, D = (x.reshape(shape) for x in found)
    return C, N, D


def tokens_for(
    law: Law, theta: ArrayLike, N: ArrayLike, target: float, *, unique: float | None = None
) -> np.ndarray:
    """The tokens D with which a model of size N reaches the loss `target`; inf if none do.

    `target` is one number. Other arguments and errors as in `optimal`.
    """
    problem = _Problem(law, theta, 0, unique)
    N, shape = problem.spread("N", N)
    goal = np.log(problem.one("the target loss", target))
    low, high = problem.ends(LOWEST, HIGHEST)
    columns = []
    for log_N in np.log(N):
        above = functools.partial(lambda y, x: problem.log_loss(y + 0 * x, x) - goal, log_N)
        columns.append(np.where(above(high) > 0, np.inf, _exp(_root(above, low, high))))
    return np.stack(columns, -1).reshape(shape)


def optimal_tokens(
    law: Law,
    theta: ArrayLike,
    N: ArrayLike,
    *,
    inference_tokens: float = 0,
    unique: float | None = None,
) -> np.ndarray:
    """The tokens D for which size N is the best size at the resulting cost; nan if there are none.

    Arguments and errors as in `optimal`.
    """
    problem = _Problem(law, theta, inference_tokens, unique)
    N, shape = problem.spread("N", N)
    ends = problem.ends(LOWEST, HIGHEST)
    columns = []
    for log_N in np.log(N):
        log_D = _root(functools.partial(lambda y, x: problem.balance(y + 0 * x, x), log_N), *ends)
        columns.append(problem.worth_it(log_N + 0 * log_D, log_D))
    return _exp(np.stack(columns, -1)).reshape(shape)


class _Problem:
    """A law at samples theta_SxP, with the cost of inference; works on logs of shape (S, ...)."""

    def __init__(self, law: Law, theta: ArrayLike, inference_tokens: float, unique: float | None):
        if len({"N", "D", "C"} & set(law.variables)) < 2:
            raise ScalingError(
                f"law={law.name} depends only on {' and '.join(law.variables)}. To divide compute "
                "into size and tokens, choose a law of both N and D, such as chinchilla."
            )
        if "U" in law.variables and unique is None:
            raise ScalingError(f"law={law.name} needs the number of distinct tokens: set unique.")
        if not 0 <= inference_tokens < np.inf:
            raise ScalingError(f"inference_tokens={inference_tokens:g} must be 0 or more tokens.")
        theta = np.asarray(theta, float)
        if theta.ndim not in (1, 2) or theta.shape[-1] != len(law.coordinates):
            raise ScalingError(
                f"theta must have shape (..., {len(law.coordinates)}), not {theta.shape}: the "
                f"coordinates of law={law.name} are {', '.join(law.coordinates)}."
            )
        self.law, self.shape, self.theta_SxP = law, theta.shape[:-1], np.atleast_2d(theta)
        self.inference = float(inference_tokens)
        self.log_unique = np.log(self.one("unique", 1.0 if unique is None else unique))

    def spread(self, name: str, value: ArrayLike) -> tuple[np.ndarray, tuple[int, ...]]:
        """A number or array as (C,), and the shape of the results."""
        value = np.asarray(value, float)
        if value.ndim > 1 or not np.all(np.isfinite(value) & (value > 0)):
            raise ScalingError(f"{name}={value} must consist of positive, finite numbers.")
        return value.reshape(-1), self.shape + value.shape

    def one(self, name: str, value: ArrayLike) -> float:
        """Check a single number. Raises ScalingError if it is an array or is not positive."""
        if np.ndim(value):
            raise ScalingError(f"{name} must be one number, but has shape {np.shape(value)}.")
        return float(self.spread(name, value)[0][0])

    def ends(self, *values: float) -> list[np.ndarray]:
        """Each of the values as (S,)."""
        return [np.full(len(self.theta_SxP), value) for value in values]

    def logs(self, log_N: np.ndarray, log_D: np.ndarray) -> dict[str, np.ndarray]:
        every = {
            "N": log_N,
            "D": log_D,
            "C": np.log(6) + log_N + log_D,
            "U": np.full_like(log_D, self.log_unique),
        }
        return {name: every[name] for name in self.law.variables}

    def theta_like(self, values: np.ndarray) -> np.ndarray:
        """theta as (P, S, 1...), so that it broadcasts against values (S, ...)."""
        return self.theta_SxP.T.reshape(*self.theta_SxP.T.shape, *[1] * (values.ndim - 1))

    @in_float64
    def log_loss(self, log_N: np.ndarray, log_D: np.ndarray) -> np.ndarray:
        terms, _ = _terms(self.law)(self.theta_like(log_D), self.logs(log_N, log_D), None)
        return _log_sum(np.asarray(terms))

    @in_float64
    def sides(
        self, log_N: np.ndarray, log_D: np.ndarray, **slopes: Array | float
    ) -> list[np.ndarray]:
        """[rise, fall]: ln of the total change of the rising and of the falling terms.

        The change is that along `slopes`, the derivatives of the logs of the variables. nan if a
        term is nan. In logs, small terms are not lost in rounding.
        """
        logs = self.logs(log_N, log_D)
        along = {name: slopes[name] + np.zeros_like(log_D) for name in logs}
        terms, changes = map(np.asarray, _terms(self.law)(self.theta_like(log_D), logs, along))
        with np.errstate(all="ignore"):
            parts = terms + np.log(np.abs(changes))
        rise, fall = (np.where(side, parts, -np.inf) for side in (changes > 0, changes < 0))
        return [np.where(np.isnan(parts).any(0), np.nan, _log_sum(x)) for x in (rise, fall)]

    def balance(self, log_N: np.ndarray, log_D: np.ndarray) -> np.ndarray:
        """ln of the rise over the fall with D at equal cost: zero at a stationary point."""
        with np.errstate(all="ignore"):
            training = 1 / (1 + self.inference / 3 * np.exp(-log_D))
        rise, fall = self.sides(log_N, log_D, N=-training, D=1, C=1 - training, U=0)
        with np.errstate(all="ignore"):
            # Far out in a saturated law nothing falls: the result is clipped. If nothing rises
            # either, it is a stationary point.
            return np.where(rise == fall, 0, np.clip(rise - fall, -1e4, 1e4))

    def worth_it(self, log_N: np.ndarray, log_D: np.ndarray) -> np.ndarray:
        """log_D, or nan where a larger model would be worse, so that no size is best."""
        rise, fall = self.sides(log_N, log_D, N=1, D=0, C=1, U=0)
        return np.where(rise <= fall, log_D, np.nan)

    def log_cost(self, log_D: np.ndarray) -> np.ndarray:
        """ln of the FLOPs per parameter, 6 D + 2 T."""
        with np.errstate(all="ignore"):
            return np.logaddexp(np.log(6) + log_D, np.log(2 * self.inference))

    def best_tokens(self, log_C: np.ndarray | float) -> np.ndarray:
        """ln D (S,) of least loss at ln C (S,): the lowest minimum on a grid, refined."""
        log_C = np.broadcast_to(log_C, len(self.theta_SxP))
        # Both N and D stay above e^LOWEST, which is far enough below 1 for any unit.
        share_G = np.linspace(0, 1, GRID)
        log_D = LOWEST + share_G * (log_C[:, None] - np.log(6) - 2 * LOWEST)
        log_N = log_C[:, None] - self.log_cost(log_D)
        side = self.balance(log_N, log_D)
        minimum = (side[:, :-1] < 0) & (side[:, 1:] >= 0)
        at = np.argmax(minimum, 1)
        if np.any(several := minimum.sum(1) > 1):
            loss = self.log_loss(log_N, log_D)
            lower = np.where(minimum, np.fmin(loss[:, :-1], loss[:, 1:]), np.inf)
            at = np.where(several, np.argmin(lower, 1), at)
        ends = [np.take_along_axis(log_D, at[:, None] + step, 1)[:, 0] for step in (0, 1)]
        found = _root(lambda x: self.balance(log_C - self.log_cost(x), x), *ends)
        return self.worth_it(log_C - self.log_cost(found), found)

    def outcome(self, log_C: np.ndarray, log_D: np.ndarray) -> tuple[np.ndarray, ...]:
        """(N, D, loss) for a cost and tokens."""
        log_N = log_C - self.log_cost(log_D)
        return _exp(log_N), _exp(log_D), _exp(self.log_loss(log_N, log_D))

    def least_cost(self, goal: float) -> tuple[np.ndarray, ...]:
        """(C, N, D), each (S,), for the log loss `goal`."""

        def above(log_C: np.ndarray) -> np.ndarray:
            log_D = self.best_tokens(log_C)
            return self.log_loss(log_C - self.log_cost(log_D), log_D) - goal

        low, high = self.ends(LOWEST_COMPUTE, HIGHEST_COMPUTE)
        log_C = _root(above, low, high)
        N, D, _ = self.outcome(log_C, self.best_tokens(log_C))
        return tuple(np.where(above(high) > 0, np.inf, x) for x in (_exp(log_C), N, D))


@functools.lru_cache(maxsize=64)
def _terms(law: Law) -> Callable[[Array, Logs, Logs | None], Lines]:
    """(theta, logs, slopes) -> the logs of the K terms (K, ...), and their changes along slopes."""

    @jax.jit
    def evaluate(theta: Array, logs: Logs, slopes: Logs | None) -> Lines:
        def stacked(logs: Logs) -> jax.Array:
            return jnp.stack(law.log_terms_of(theta, logs))

        if slopes is None:
            return stacked(logs), None
        return jax.jvp(stacked, (logs,), (slopes,))

    return evaluate


def _three_term(law: Law, theta: ArrayLike) -> tuple[np.ndarray, ...]:
    """log_E, log_A, log_B, alpha and beta; for the tied law, beta is alpha."""
    columns = list(np.moveaxis(np.asarray(theta, float), -1, 0))
    return tuple(columns if law == CHINCHILLA else [*columns, columns[-1]])


def _cheapest_three_term(law: Law, theta_SxP: np.ndarray, target_C: np.ndarray) -> list[np.ndarray]:
    """[C, N, D], each (S, C): at the optimum A/N^alpha and B/D^beta are as beta to alpha."""
    log_E, log_A, log_B, alpha, beta = (x[:, None] for x in _three_term(law, theta_SxP))
    with np.errstate(all="ignore"):
        # ln(target - E); E may be far above the range of float64.
        log_excess = np.log(target_C) + np.log(-np.expm1(log_E - np.log(target_C)))
        log_N = (log_A - log_excess - np.log(beta / (alpha + beta))) / alpha
        log_D = (log_B - log_excess - np.log(alpha / (alpha + beta))) / beta
        found = [_exp(np.log(6) + log_N + log_D), _exp(log_N), _exp(log_D)]
        found = [np.where(np.log(target_C) > log_E, x, np.inf) for x in found]
        return [np.where((alpha > 0) & (beta > 0), x, np.nan) for x in found]


def _log_sum(terms: np.ndarray) -> np.ndarray:
    """ln of the sum of the exponentials along the first axis; -inf if all terms are -inf."""
    with np.errstate(all="ignore"):
        highest = terms.max(0)
        shift = np.where(np.isfinite(highest), highest, 0)
        return shift + np.log(np.exp(terms - shift).sum(0))


def _exp(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.exp(values)


def _root(function: Curve, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Roots (S,) of an elementwise function; nan where it has the same sign at both ends.

    Inverse quadratic steps inside a bracket that always shrinks (Chandrupatla 1997).
    """
    a, b = high, low
    f_a, f_b = function(a), function(b)
    with np.errstate(all="ignore"):
        bracketed = np.sign(f_a) * np.sign(f_b) <= 0
        share = np.full_like(low, 0.5)
        for _ in range(200):
            x = a + share * (b - a)
            f_x = function(x)
            same = np.sign(f_x) == np.sign(f_a)
            c, f_c = np.where(same, a, b), np.where(same, f_a, f_b)
            b, f_b = np.where(same, b, a), np.where(same, f_b, f_a)
            a, f_a = x, f_x
            width = np.abs(b - a)
            if np.all(~bracketed | (width <= 2 * TOLERANCE) | (f_a == 0)):
                break
            xi, phi = (a - b) / (c - b), (f_a - f_b) / (f_c - f_b)
            inverse = (f_a / (f_b - f_a)) * (f_c / (f_b - f_c))
            inverse += ((c - a) / (b - a)) * (f_a / (f_c - f_a)) * (f_b / (f_c - f_b))
            trusted = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi) & np.isfinite(inverse)
            share = np.where(trusted, inverse, 0.5)
            edge = np.minimum(TOLERANCE / width, 0.5)
            share = np.where(f_a == 0, 0, np.clip(share, edge, 1 - edge))
        best = np.where(np.abs(f_a) <= np.abs(f_b), a, b)
        return np.where(bracketed, best, np.nan)
