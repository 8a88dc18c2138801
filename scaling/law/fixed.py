"""Parameters fixed at given values in a fit: parsing them, and the plane that stays free.

A fixed parameter is a linear condition on the coordinates, even if A is fixed and alpha is not: in
centred coordinates, log A = log A_centred + alpha * centre. The fit therefore moves on a plane,
theta = base + basis y. Shapes: P coordinates, Q of them free.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from scaling.errors import ScalingError
from scaling.law.laws import STEEPEST, Law


@dataclasses.dataclass(frozen=True)
class Plane:
    """The points theta = base + basis y; the columns of basis_PxQ are orthonormal."""

    base_P: np.ndarray
    basis_PxQ: np.ndarray

    def inside(self, theta: np.ndarray) -> np.ndarray:
        """Coordinates y (..., Q) of the points of the plane that are nearest to theta (..., P)."""
        return (np.asarray(theta, float) - self.base_P) @ self.basis_PxQ

    def outside(self, y: np.ndarray) -> np.ndarray:
        """The points theta (..., P) with coordinates y (..., Q)."""
        return self.base_P + np.asarray(y) @ self.basis_PxQ.T


def plane_of(law: Law, fixed: Mapping[str, float], centre: Mapping[str, float]) -> Plane | None:
    """The plane of centred coordinates that `fixed` leaves free; None if nothing is fixed."""
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
    """The coordinate of a parameter: log_E for E, alpha for alpha."""
    return law.coordinates[law.parameters.index(parameter)]


def read_fixed(fix: str | Mapping[str, float | str] | None, law: Law) -> dict[str, float]:
    """Parse fixed parameters from a mapping, or from text such as "E=1.69, alpha=0.34".

    Returns:
      {parameter: value}, with values in the units of the records.

    Raises:
      ScalingError: an unknown name, a name given twice, a value that is not a number or is out of
        range, or nothing left to fit.
    """
    if not fix:
        return {}
    given = fix.items() if isinstance(fix, Mapping) else _pairs(str(fix))
    found: dict[str, float] = {}
    for name, value in given:
        if name not in law.parameters:
            raise ScalingError(
                f"fix={name}={value}: law={law.name} has no parameter {name!r}. Choose from: "
                f"{', '.join(law.parameters)}."
            )
        if name in found:
            raise ScalingError(f"fix sets {name} twice.")
        found[name] = _number(name, value, law)
    if len(found) == len(law.parameters):
        raise ScalingError(
            f"all {len(found)} parameters of law={law.name} are fixed, so nothing is left to fit."
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
                f"fix={text!r}: {word.strip()!r} is not NAME=VALUE. Write, for example, "
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
    positive = law.scales and name in law.parameters  # a user's law takes any sign
    if not np.isfinite(number) or (positive and number <= 0):
        raise ScalingError(f"fix: {name}={value} must be finite and above 0.")
    exponents = {exponent for _, exponent, _ in law.scales}
    if coordinate_of(law, name) in exponents and number > STEEPEST:
        raise ScalingError(
            f"fix: {name}={value} is too large for the exponent of a loss; exponents are usually "
            f"between 0 and 1, and at most {STEEPEST:g} is allowed."
        )
    return number
