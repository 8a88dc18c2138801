"""Parameters held at given values in a fit: how they are written, and what is left to vary.

A held parameter is a linear condition on the coordinates, also where A is held and alpha is not:
in centred coordinates log A = log A_centred + alpha * centre. So the fit moves on a plane,
theta = base + basis y. Shapes: P coordinates, Q of them free.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from scaling.errors import ScalingError
from scaling.law.laws import STEEPEST, Law


@dataclasses.dataclass(frozen=True)
class Plane:
    """The points base + basis y; the columns of basis_PxQ are orthonormal."""

    base_P: np.ndarray
    basis_PxQ: np.ndarray

    def inside(self, theta: np.ndarray) -> np.ndarray:
        """y (..., Q) of the plane's points nearest to theta (..., P)."""
        return (np.asarray(theta, float) - self.base_P) @ self.basis_PxQ

    def outside(self, y: np.ndarray) -> np.ndarray:
        """theta (..., P) from y (..., Q)."""
        return self.base_P + np.asarray(y) @ self.basis_PxQ.T


def plane_of(law: Law, fixed: Mapping[str, float], centre: Mapping[str, float]) -> Plane | None:
    """Where `fixed` leaves the centred coordinates free; None where nothing is fixed."""
    if not fixed:
        return None
    names = [coordinate_of(law, name) for name in fixed]
    conditions = np.stack([law.functional(name, centre) for name in names])
    values = [
        np.log(v) if n.startswith("log_") else v for n, v in zip(names, fixed.values(), strict=True)
    ]
    basis_PxQ = np.linalg.svd(conditions)[2][len(names) :].T
    return Plane(np.linalg.pinv(conditions) @ np.array(values), basis_PxQ)


def coordinate_of(law: Law, parameter: str) -> str:
    """The coordinate behind a parameter: log_E of E, alpha of alpha."""
    return law.coordinates[law.parameters.index(parameter)]


def read_fixed(fix: str | Mapping[str, float | str] | None, law: Law) -> dict[str, float]:
    """{parameter: value} from a mapping, or from text as in "E=1.69, alpha=0.34".

    Raises:
      ScalingError: a name the law does not have, one given twice, no number, a value out of range,
        or nothing left to fit.
    """
    if not fix:
        return {}
    given = fix.items() if isinstance(fix, Mapping) else _pairs(str(fix))
    found: dict[str, float] = {}
    for name, value in given:
        if name not in law.parameters:
            raise ScalingError(
                f"fix={name}={value}: law={law.name} has no parameter {name!r}; it has "
                f"{', '.join(law.parameters)}."
            )
        if name in found:
            raise ScalingError(f"fix gives {name} twice.")
        found[name] = _number(name, value, law)
    if len(found) == len(law.parameters):
        raise ScalingError(
            f"all {len(found)} parameters of law={law.name} are fixed: nothing is left to fit."
        )
    return found


def _pairs(text: str) -> list[tuple[str, str]]:
    pairs = []
    for word in text.replace(";", ",").split(","):
        if not word.strip():
            continue
        name, equals, value = word.partition("=")
        if not equals:
            raise ScalingError(
                f"fix={text!r}: {word.strip()!r} is not NAME=VALUE; write it as in "
                "fix='E=1.69, alpha=0.34'."
            )
        pairs.append((name.strip(), value.strip()))
    return pairs


def _number(name: str, value: float | str, law: Law) -> float:
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        raise ScalingError(f"fix: {name}={value!r} is not a number.") from None
    positive = law.scales and name in law.parameters  # a law of one's own takes any sign
    if not np.isfinite(number) or (positive and number <= 0):
        raise ScalingError(f"fix: {name}={value} must be finite and above 0.")
    exponents = {exponent for _, exponent, _ in law.scales}
    if coordinate_of(law, name) in exponents and number > STEEPEST:
        raise ScalingError(
            f"fix: {name}={value} is no exponent of a law of losses; those lie between 0 and 1, "
            f"and none above {STEEPEST:g}."
        )
    return number
