"""The laws: how the final loss depends on model size N and training tokens D.

A law is a sum of positive terms, L = sum_k exp(z_k). It is fitted in coordinates theta in which the
logs z_k of its terms are linear if possible (log E, log A, log B, alpha, beta). The data enter as
centred logs, x = ln N - mean ln N, so that theta is well conditioned and a change of units moves
only the centre. `absolute` converts centred coordinates to the units of the data.

Shapes: n points, P coordinates, K starts, S samples.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from scaling.errors import ScalingError
from scaling.optimize.precision import Array, ArrayLike, in_float64

Logs = Mapping[str, Array]
"""ln of each variable, (n,)."""
LogTerms = Callable[[Array, Logs], list[Array]]
"""(theta, logs) -> the logs of the terms, in JAX or in NumPy."""

STEEPEST = 5.0
"""No law of losses has a larger exponent: doubling a size would reduce its term by 97 %."""
EXPONENT_GRID = (0.05, 0.12, 0.22, 0.35, 0.5, 0.7, 1.0, 1.5)


@dataclasses.dataclass(frozen=True)
class Slot:
    """Coordinate `index`, times `sign` and `variable`, is added to the log of term `term`."""

    term: int
    index: int
    variable: str | None = None  # None: the factor 1
    sign: float = -1.0


@dataclasses.dataclass(frozen=True)
class Law:
    """One law. It is hashable, so that jit caches programs by law.

    Attributes:
      name: the value of `law` that selects it.
      variables: the columns of the records that it needs, from N, D, C and U (unique tokens).
      coordinates: names of the entries of theta; `log_X` belongs to a positive parameter X.
      terms: names of the terms, in order.
      starts: (logs, log_loss) -> (K, P) starting points, in NumPy.
      slots: the logs of the terms, as linear functions of theta; empty if `log_terms` is given.
      scales: (coordinate of a term's log coefficient, coordinate of its exponent, variable).
      log_terms: (theta, logs) -> list of (n,), for a law whose logs are not linear.
      formula: the law as text, for tables.
    """

    name: str
    variables: tuple[str, ...]
    coordinates: tuple[str, ...]
    terms: tuple[str, ...]
    starts: Callable[[Mapping[str, np.ndarray], np.ndarray], np.ndarray]
    slots: tuple[Slot, ...] = ()
    scales: tuple[tuple[str, str, str], ...] = ()
    log_terms: LogTerms | None = None
    formula: str = ""

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the natural parameters: E, A, B, alpha, beta, ..."""
        return tuple(name.removeprefix("log_") for name in self.coordinates)

    def log_terms_of(self, theta: Array, logs: Logs) -> list[Array]:
        """The logs of the terms at each point; theta is (P,) or, in NumPy, (P, S, 1)."""
        if self.log_terms is not None:
            return self.log_terms(theta, logs)
        like = next(iter(logs.values()))
        found = [0.0 * like for _ in self.terms]
        for slot in self.slots:
            factor = 1.0 if slot.variable is None else slot.sign * logs[slot.variable]
            found[slot.term] = found[slot.term] + theta[slot.index] * factor
        return found

    def log_loss(self, theta: Array, logs: Logs) -> jax.Array:
        """ln L at each point."""
        return jnp.log(sum(jnp.exp(term) for term in self.log_terms_of(theta, logs)))

    def absolute(self, theta: np.ndarray, centre: Mapping[str, float]) -> np.ndarray:
        """Convert coordinates (..., P) for centred logs to those for data in their own units."""
        moved = np.array(theta, float)
        for coefficient, exponent, variable in self.scales:
            shift = moved[..., self.at(exponent)] * centre[variable]
            moved[..., self.at(coefficient)] += shift
        return moved

    def functional(self, coordinate: str, centre: Mapping[str, float]) -> np.ndarray:
        """The vector g (P,) for which g . theta, with centred theta, is the absolute coordinate."""
        direction = np.zeros(len(self.coordinates))
        direction[self.at(coordinate)] = 1.0
        for coefficient, exponent, variable in self.scales:
            if coefficient == coordinate:
                direction[self.at(exponent)] += centre[variable]
        return direction

    def at(self, coordinate: str) -> int:
        """Index of a coordinate."""
        return self.coordinates.index(coordinate)

    def natural(self, theta: np.ndarray) -> dict[str, np.ndarray]:
        """Convert absolute coordinates (..., P) to parameters by name, each of shape (...)."""
        theta = np.asarray(theta)
        with np.errstate(over="ignore"):
            return {
                name.removeprefix("log_"): np.exp(theta[..., i])
                if name.startswith("log_")
                else theta[..., i]
                for i, name in enumerate(self.coordinates)
            }

    def from_natural(self, values: Mapping[str, float]) -> np.ndarray:
        """Convert parameters by name to absolute coordinates (P,)."""
        return np.array(
            [
                np.log(values[name.removeprefix("log_")])
                if name.startswith("log_")
                else values[name]
                for name in self.coordinates
            ]
        )

    @in_float64
    def loss(self, theta: np.ndarray, **values: ArrayLike) -> np.ndarray:
        """The loss L in NumPy at absolute coordinates theta (..., P).

        The values broadcast against the leading axes of theta: with theta (S, P) and N (n,), pass
        theta[:, None] to get (S, n).
        """
        theta = np.moveaxis(np.asarray(theta, float), -1, 0)
        logs = {name: np.log(np.asarray(value, float)) for name, value in values.items()}
        with np.errstate(over="ignore"):
            return np.asarray(sum(np.exp(term) for term in self.log_terms_of(theta, logs)))


def _linear_starts(
    bases: Callable[[np.ndarray], list[np.ndarray]],
    grids: Sequence[Sequence[float]],
    log_loss: np.ndarray,
) -> list[tuple[np.ndarray, tuple[float, ...]]]:
    """For each combination of exponents, the log coefficients of the best nonnegative mixture.

    With its exponents given, a law is linear in its coefficients, so they come from least squares
    of the relative error. Each term is kept above a hundredth of the typical loss, so that no
    starting point has a dead term.
    """
    loss = np.exp(log_loss)
    found = []
    for exponents in np.stack(np.meshgrid(*grids, indexing="ij"), -1).reshape(-1, len(grids)):
        design = np.stack(bases(exponents), -1) / loss[:, None]
        coefficients = _nonnegative(design, np.ones(len(loss)))
        floor = 0.01 / np.mean(design, 0)
        found.append((np.log(np.maximum(coefficients, floor)), tuple(exponents)))
    return found


def _nonnegative(design: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Nonnegative least squares for two or three columns, by trying every set of active columns."""
    columns = design.shape[1]
    gram, moment = design.T @ design, design.T @ target
    best, lowest = np.zeros(columns), np.inf
    for subset in range(1, 2**columns):
        active = [k for k in range(columns) if subset >> k & 1]
        solution = np.linalg.lstsq(gram[np.ix_(active, active)], moment[active], rcond=1e-12)[0]
        if np.any(solution < 0):
            continue
        full = np.zeros(columns)
        full[active] = solution
        cost = full @ gram @ full - 2 * full @ moment
        if cost < lowest:
            best, lowest = full, cost
    return best


def _three_term_starts(logs: Mapping[str, np.ndarray], log_loss: np.ndarray) -> np.ndarray:
    def bases(exponents: np.ndarray) -> list[np.ndarray]:
        return [
            np.ones_like(log_loss),
            np.exp(-exponents[0] * logs["N"]),
            np.exp(-exponents[1] * logs["D"]),
        ]

    found = _linear_starts(bases, (EXPONENT_GRID, EXPONENT_GRID), log_loss)
    return np.array([[*coefficients, *exponents] for coefficients, exponents in found])


def _tied_starts(logs: Mapping[str, np.ndarray], log_loss: np.ndarray) -> np.ndarray:
    def bases(exponents: np.ndarray) -> list[np.ndarray]:
        return [np.ones_like(log_loss), *(np.exp(-exponents[0] * logs[v]) for v in "ND")]

    grid = sorted({*EXPONENT_GRID, *(1.3 * value for value in EXPONENT_GRID)})
    found = _linear_starts(bases, (grid,), log_loss)
    return np.array([[*coefficients, *exponents] for coefficients, exponents in found])


CHINCHILLA = Law(
    name="chinchilla",
    formula="E + A/N^alpha + B/D^beta",
    variables=("N", "D"),
    coordinates=("log_E", "log_A", "log_B", "alpha", "beta"),
    terms=("E", "A/N^alpha", "B/D^beta"),
    slots=(Slot(0, 0), Slot(1, 1), Slot(2, 2), Slot(1, 3, "N"), Slot(2, 4, "D")),
    scales=(("log_A", "alpha", "N"), ("log_B", "beta", "D")),
    starts=_three_term_starts,
)
"""Hoffmann et al. 2022, equation 10."""

TIED = Law(
    name="tied",
    formula="E + A/N^alpha + B/D^alpha",
    variables=("N", "D"),
    coordinates=("log_E", "log_A", "log_B", "alpha"),
    terms=("E", "A/N^alpha", "B/D^alpha"),
    slots=(Slot(0, 0), Slot(1, 1), Slot(2, 2), Slot(1, 3, "N"), Slot(2, 3, "D")),
    scales=(("log_A", "alpha", "N"), ("log_B", "alpha", "D")),
    starts=_tied_starts,
)
"""One exponent for both terms, as in the base law of Muennighoff et al. 2023."""


def power_law(variable: str) -> Law:
    """E + A/X^alpha in one variable X: N, D or C (Kaplan et al. 2020 with an offset)."""

    def starts(logs: Mapping[str, np.ndarray], log_loss: np.ndarray) -> np.ndarray:
        def bases(exponents: np.ndarray) -> list[np.ndarray]:
            return [np.ones_like(log_loss), np.exp(-exponents[0] * logs[variable])]

        grid = sorted({*EXPONENT_GRID, *(1.3 * value for value in EXPONENT_GRID)})
        found = _linear_starts(bases, (grid,), log_loss)
        return np.array([[*coefficients, *exponents] for coefficients, exponents in found])

    return Law(
        name=f"power_{variable}",
        formula=f"E + A/{variable}^alpha",
        variables=(variable,),
        coordinates=("log_E", "log_A", "alpha"),
        terms=("E", f"A/{variable}^alpha"),
        slots=(Slot(0, 0), Slot(1, 1), Slot(1, 2, variable)),
        scales=(("log_A", "alpha", variable),),
        starts=starts,
    )


def _log_saturated(log_excess: Array, log_star: Array) -> jax.Array:
    """ln of 1 + R* (1 - exp(-R / R*)) with R = exp(log_excess) - 1 repeats (Muennighoff, eq. 5)."""
    repeats = jnp.maximum(jnp.expm1(log_excess), 0.0)
    star = jnp.exp(log_star)
    return jnp.log1p(-star * jnp.expm1(-repeats / star))


def _data_constrained_terms(theta: Array, logs: Logs) -> list[Array]:
    log_e, log_a, log_b, alpha, beta, log_tokens_star, log_size_star = theta
    unique = jnp.minimum(logs["U"], logs["D"])
    tokens = unique + _log_saturated(logs["D"] - unique, log_tokens_star)
    # The size that is compute-optimal for the unique tokens, N = G (U G)^(a/b), a/b = beta/alpha.
    ratio = (log_a + jnp.log(jnp.abs(alpha)) - log_b - jnp.log(jnp.abs(beta))) / (alpha + beta)
    optimal = ratio + (unique + ratio) * beta / alpha
    base = jnp.minimum(optimal, logs["N"])
    size = base + _log_saturated(logs["N"] - base, log_size_star)
    return [log_e + 0 * size, log_a - alpha * size, log_b - beta * tokens]


def _data_constrained_starts(logs: Mapping[str, np.ndarray], log_loss: np.ndarray) -> np.ndarray:
    exponents = (0.12, 0.35, 0.7)

    def bases(pair: np.ndarray) -> list[np.ndarray]:
        return [np.ones_like(log_loss), np.exp(-pair[0] * logs["N"]), np.exp(-pair[1] * logs["D"])]

    found = _linear_starts(bases, (exponents, exponents), log_loss)
    stars = np.log([2.0, 15.0])
    return np.array([[*c, *pair, d, n] for c, pair in found for d in stars for n in stars])


DATA_CONSTRAINED = Law(
    name="data_constrained",
    formula="E + A/N'^alpha + B/D'^beta, D' = U + U R_D (1 - exp(-(D/U - 1)/R_D)), N' likewise",
    variables=("N", "D", "U"),
    coordinates=("log_E", "log_A", "log_B", "alpha", "beta", "log_R_D", "log_R_N"),
    terms=("E", "A/N'^alpha", "B/D'^beta"),
    log_terms=_data_constrained_terms,
    scales=(("log_A", "alpha", "N"), ("log_B", "beta", "D")),
    starts=_data_constrained_starts,
)
"""Muennighoff et al. 2023, equations 5 and 6: U unique tokens, each seen D/U times. R_D and R_N are
the numbers of repeats after which the value of data and of excess parameters has fallen to 1/e."""


def own_law(function: Callable[..., Array], starts: ArrayLike, name: str | None = None) -> Law:
    """Make a law from a function of your own.

    Args:
      function: `function(N, D, E, A, ...)` -> loss, written with jax.numpy. Arguments named N, D,
        C or U are data; all others are parameters, which may have any sign.
      starts: (K, P) or (P,) starting points; parameters in the order of the signature.
      name: the name of the law; defaults to that of the function.

    Raises:
      ScalingError: no data or no parameters among the arguments, or starts of the wrong width.
    """
    arguments = list(inspect.signature(function).parameters)
    variables = tuple(a for a in arguments if a in ("N", "D", "C", "U"))
    coordinates = tuple(a for a in arguments if a not in variables)
    given = np.atleast_2d(np.asarray(starts, float))
    if not variables or not coordinates:
        raise ScalingError(
            f"a law needs data (N, D, C, U) and parameters as arguments; this one has {arguments}."
        )
    if given.shape[1] != len(coordinates):
        raise ScalingError(
            f"each start has {given.shape[1]} values, but the law's parameters are {coordinates}."
        )

    def log_terms(theta: Array, logs: Logs) -> list[Array]:
        data = {variable: jnp.exp(logs[variable]) for variable in variables}
        loss = function(**data, **dict(zip(coordinates, theta, strict=True)))
        return [jnp.log(loss)]

    return Law(
        name=name or str(getattr(function, "__name__", "own")),
        formula=f"{getattr(function, '__name__', 'f')}({', '.join(arguments)})",
        variables=variables,
        coordinates=coordinates,
        terms=("L",),
        log_terms=log_terms,
        starts=lambda logs, log_loss: given,
    )


LAWS = {
    law.name: law
    for law in (
        CHINCHILLA,
        TIED,
        *map(power_law, "NDC"),
        DATA_CONSTRAINED,
    )
}


def find_law(law: "str | Law") -> Law:
    """Look up a law by its name; a `Law` is returned unchanged.

    Raises ScalingError for an unknown name and lists the laws.
    """
    if isinstance(law, Law):
        return law
    if law not in LAWS:
        raise ScalingError(f"law={law!r} does not exist. Choose from: {', '.join(LAWS)}.")
    return LAWS[law]
