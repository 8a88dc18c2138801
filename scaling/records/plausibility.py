"""Checks whether N, D, C and the loss are plausible in their units, and which units would fit.

Shapes: n points.
"""

import dataclasses
import itertools

import numpy as np

from scaling.errors import ScalingError
from scaling.records.columns import Column
from scaling.records.files import Table
from scaling.records.units import COMPUTE, SCALES, short

_FAR = 10.0  # C and 6 N D are in different units if they differ by a larger factor
_SMALLEST, _LARGEST = {"N": 1e3, "D": 1e3}, {"N": 1e14, "D": 1e17}
_FEWEST, _MOST = 0.02, 1e6  # tokens per parameter of the median run
_FEW = 1.0  # tokens per parameter that are possible but unlikely: a warning
_UNEVEN = 1.0  # spread of log C / 6 N D; a wrong unit would be the same factor in each row
_BASES = {"log10": 10.0, "ln": np.e}
_LARGEST_LOSS = 25.0  # nats: uniform guessing over a vocabulary of 7e10


@dataclasses.dataclass(frozen=True)
class Points:
    """The points to check: arrays (n,), their columns, and names of the rows for errors."""

    place: str
    values: dict[str, np.ndarray]  # of N, D, C, loss
    columns: dict[str, Column]  # those of them that the table has
    rows: list[str]
    noun: str

    @classmethod
    def of(
        cls,
        table: Table,
        columns: dict[str, Column],
        values: dict[str, np.ndarray],
        mask: np.ndarray,
    ) -> "Points":
        """The points of a table selected by a mask (n,)."""
        roles = ("N", "D", "C", "loss")
        return cls(
            table.place,
            {role: values[role][mask] for role in roles},
            {role: columns[role] for role in roles if role in columns},
            [table.rows[i] for i in np.flatnonzero(mask)],
            table.noun,
        )

    def doubted(self, *roles: str) -> list[str]:
        """The roles, of those given, that the table has without a unit stated by the caller."""
        return [r for r in roles if r in self.columns and not self.columns[r].stated]

    def named(self, role: str) -> str:
        """The role and its column: N (column 'params')."""
        if role in self.columns:
            return f"{role} (column {self.columns[role].name!r})"
        return f"{role} (computed as C / 6 {'D' if role == 'N' else 'N'})"

    def where(self, mask: np.ndarray) -> str:
        """The first rows selected by a mask (n,), in words."""
        found = [self.rows[i] for i in np.flatnonzero(mask)]
        more = f" and {len(found) - 5} more" * (len(found) > 5)
        return f"{self.noun}{'s' * (len(found) > 1)} {', '.join(found[:5])}{more}"

    def option(self, role: str, scale: float) -> str:
        """The option that multiplies a column by `scale`."""
        column = self.columns[role]
        # The unit in the heading has been applied already; an option replaces it.
        return f"{role}={column.name}*{short(column.scale * scale)}"


def judge(points: Points, natural_text: bool) -> tuple[list[str], list[str]]:
    """Check points, and return notes and warnings on plausible ones.

    Args:
      natural_text: if False, models and corpora may be arbitrarily small.

    Raises:
      ScalingError: implausible values, with their column and rows, and the unit that would fit.
    """
    _judge_loss(points)
    if natural_text:
        _judge_sizes(points)
    notes: list[str] = []
    warnings: list[str] = []
    if {"N", "D", "C"} <= set(points.columns):
        for known, new in zip((notes, warnings), _judge_compute(points), strict=True):
            known.extend(new)
    N, D = points.values["N"], points.values["D"]
    if natural_text and N.max() < 1e5 and D.max() < 1e7 and points.doubted("N", "D"):
        warnings.append(
            f"{points.place}: the largest model has {N.max():,.0f} parameters, and at most "
            f"{D.max():,.0f} tokens were seen. If they are in thousands or millions, state it: "
            f"columns='N={points.columns.get('N', Column('COLUMN')).name}*1e6'"
        )
    typical = float(np.median(D / N))
    if natural_text and typical < _FEW and points.doubted("N", "D", "C"):
        hint = ""
        if points.doubted("D"):
            hint = f" If D is in thousands, state it: columns='{points.option('D', 1e3)}'"
        warnings.append(
            f"{points.place}: a typical run saw {typical:.2g} tokens per parameter, fewer than any "
            f"model is trained on.{hint}"
        )
    return notes, warnings


def _judge_loss(points: Points) -> None:
    loss, column = points.values["loss"], points.columns["loss"]
    high = loss > _LARGEST_LOSS
    if not np.any(high) or column.stated:
        return
    said = f"{points.place}, column {column.name!r}: {_range(loss[high])} nats is too high for a"
    said += " cross-entropy per token"
    if np.median(loss) > _LARGEST_LOSS:
        raise ScalingError(
            f"{said}.\nIf these are perplexities: columns='loss=ln({column.name})', or name the "
            "column 'perplexity'."
        )
    raise ScalingError(
        f"{said} ({points.where(high)}).\n"
        f"Correct these points, or skip them: where='{column.name}<{_LARGEST_LOSS:g}'."
    )


def _judge_compute(points: Points) -> tuple[list[str], list[str]]:
    """Notes and warnings on the difference between C and 6 N D.

    Raises:
      ScalingError: C is a logarithm, or differs by more than a factor of 10 and the caller did not
        state its unit.
    """
    N, D, C = (points.values[name] for name in "NDC")
    with np.errstate(all="ignore"):
        ratio = C / (6 * N * D)
    typical = float(np.median(ratio))
    far = (ratio > _FAR * 1.0001) | (ratio < 1 / _FAR / 1.0001)
    apart, without = points.named("C"), "To use 6 N D instead: columns='C='."
    uneven = _spread(ratio) > _UNEVEN
    if np.any(far) and (logarithm := _logarithm_of_compute(points, ratio)):
        raise ScalingError(
            f"{points.place}: {apart} looks like {logarithm} of FLOPs.\n"
            f"Write the FLOPs themselves. {without}"
        )
    if not points.columns["C"].stated and np.any(far):
        if 1 / _FAR < typical < _FAR:
            least, most = (_times(float(r)) for r in (ratio[far].min(), ratio[far].max()))
            range_ = least if least == most else f"{least} to {most}"
            near = "about equal to" if 0.9 < typical < 1.1 else _times(typical)
            raise ScalingError(
                f"{points.place}: {apart} is {range_} 6 N D in {points.where(far)}, but {near} "
                f"6 N D in a typical row.\nCorrect these rows. {without}"
            )
        raise ScalingError(
            f"{points.place}: {apart} is {_times(typical)} 6 N D.\n"
            f"{_fitting(points, ratio)}\n{without}"
        )
    if uneven and np.mean(far) > 0.25:
        return [], [
            f"{points.place}: {apart} is {ratio.min():.3g} to {ratio.max():.3g} times 6 N D, so no "
            "unit fits all rows; it is used as stated. " + without
        ]
    if max(ratio.max(), 1 / ratio.min()) <= 1.1:
        return [], []
    if ratio.max() / ratio.min() < 1.05:
        said = _times(typical)
    else:
        extreme = int(np.argmax(np.abs(np.log(ratio / typical))))
        said = f"between {ratio.min():.3g} and {ratio.max():.3g} times"
        said += (
            f" ({points.noun} {points.rows[extreme]}: {ratio[extreme]:.3g}; median {typical:.3g})"
        )
    said += f" 6 N D{_reason(N, ratio, typical)}"
    return [f"{points.place}: C is {said}; it is used as recorded."], []


def _spread(ratio: np.ndarray) -> float:
    """A robust standard deviation of log ratio (n,), from the middle two thirds of the rows."""
    low, high = np.quantile(np.log(ratio), (1 / 6, 5 / 6))
    return float(high - low) / 2


def _logarithm_of_compute(points: Points, ratio: np.ndarray) -> str:
    """log10 or ln if that explains C better than any unit does; else an empty string."""

    def apart(ratio: np.ndarray) -> float:
        with np.errstate(all="ignore"):
            found = abs(np.log(np.median(ratio))) + _spread(ratio)
        return found if np.isfinite(found) else np.inf

    N, D, C = (points.values[name] for name in "NDC")
    column = points.columns["C"]
    best, least = "", min(apart(ratio * scale) for scale in (1.0, *COMPUTE.values()))
    for name, base in _BASES.items():
        with np.errstate(all="ignore"):
            found = apart(base ** (C / column.scale) / (6 * N * D))
        if found < min(least, 2 * np.log(_FAR)):
            best, least = name, found
    return best


def _times(ratio: float) -> str:
    if ratio >= 1:
        return f"{_round(ratio)} times"
    return f"{_round(1 / ratio)} times smaller than"


def _round(value: float) -> str:
    if 1e3 <= value < 1e7:
        return f"{value:,.0f}"
    return short(value)


def _reason(N: np.ndarray, ratio: np.ndarray, typical: float) -> str:
    for share, what in (
        (1 / 3, "2 N D, the forward pass only"),
        (0.5, "3 N D, MACs instead of FLOPs"),
        (1 / 6, "N D, the MACs of a forward pass"),
        (4 / 3, "8 N D, with recomputation"),
    ):
        if ratio.max() / ratio.min() < 1.05 and abs(typical / share - 1) < 0.05:
            return f" ({what}?)"
    if typical < 1 and ratio.max() < 1.05 and np.ptp(N) > 0 and np.ptp(ratio) > 0.05:
        if np.all(np.diff(ratio[np.argsort(N)]) > -0.01):
            return " (does N count embeddings, while C does not?)"
    return ""


def _fitting(points: Points, ratio: np.ndarray) -> str:
    """A sentence on the unit of C, or of N or D, that makes C equal to 6 N D, if there is one."""
    N, D, C = (points.values[name] for name in "NDC")
    typical = float(np.median(ratio))
    column = points.columns["C"]
    per_token = np.log(C / (6 * N))
    spread = float(np.std(np.log(ratio)))
    if np.std(np.log(D)) > 0 and np.std(per_token) < spread and abs(np.median(per_token)) < 1.5:
        return "It looks like FLOPs per token, but the FLOPs of the whole training are required."
    if _spread(ratio) > _UNEVEN:
        return (
            f"No unit fits, because C / 6 N D differs from row to row: {ratio.min():.3g} to "
            f"{ratio.max():.3g}."
        )
    fits = {name: abs(np.log10(typical * scale)) for name, scale in COMPUTE.items()}
    name = min(fits, key=lambda name: fits[name])
    if fits[name] < 0.5:
        head = _bare(column.name)
        return (
            f"{name} would fit: columns='{points.option('C', COMPUTE[name])}', or name the column "
            f"'{head} ({name})'."
        )
    for scale, word in SCALES.items():
        if abs(np.log10(typical / scale)) < 0.5:
            found = points.doubted("N", "D")
            options = " or ".join(f"columns='{points.option(role, scale)}'" for role in found)
            if options:
                return f"{' or '.join(found)} in {word} would fit: {options}."
    return "No common unit fits (GPU hours cannot be converted to FLOPs)."


def _bare(name: str) -> str:
    """A heading without its unit in brackets."""
    return name.partition(" (")[0].strip() or name


def _judge_sizes(points: Points) -> None:
    """Raise ScalingError for models and corpora of an implausible size."""
    N, D = points.values["N"], points.values["D"]
    wrong, said = np.zeros(len(N), bool), []
    for role in ("N", "D"):
        values = points.values[role]
        bad = (values < _SMALLEST[role]) | (values > _LARGEST[role])
        # A computed role is as doubtful as the columns it is computed from.
        if np.any(bad) and (
            points.doubted(role) or (role not in points.columns and points.doubted("C", "N", "D"))
        ):
            wrong |= bad
            said.append(f"{points.named(role)} is {_range(values[bad])}")
    ratio = D / N
    typical = float(np.median(ratio))
    if not said and points.doubted("N", "D", "C"):
        if typical < _FEWEST or ratio.max() < 5 * _FEWEST or typical > _MOST:
            wrong[:] = True
            said.append(
                f"{points.named('N')} is {_range(N)} and {points.named('D')} {_range(D)}: "
                f"{typical:.2g} tokens per parameter"
            )
        else:
            wrong = ((ratio < typical / 1e3) & (ratio < _FEWEST)) | (
                (ratio > typical * 1e3) & (ratio > _MOST / 10)
            )
            if np.any(wrong):
                said.append(f"D / N is {_range(ratio[wrong])} ({typical:.3g} in a typical row)")
    if not said:
        return
    if np.mean(wrong) < 0.5 and _apart(points, wrong):
        raise ScalingError(
            f"{points.place}: {' and '.join(said)} in {points.where(wrong)}.\n"
            "Are these rows in another unit? Correct them, or skip them with where='...'."
        )
    raise ScalingError(f"{points.place}: {' and '.join(said)}.\n{_advice(points)}")


def _apart(points: Points, wrong: np.ndarray) -> bool:
    """Whether the wrong rows are separated from the others by orders of magnitude."""
    right = ~wrong
    for values in (points.values["N"], points.values["D"], points.values["D"] / points.values["N"]):
        gaps = np.abs(np.log10(values[wrong])[:, None] - np.log10(values[right])[None])
        if gaps.min() > 1.5:
            return True
    return False


def _range(values: np.ndarray) -> str:
    low, high = f"{values.min():.4g}", f"{values.max():.4g}"
    return low if low == high else f"{low} to {high}"


def _advice(points: Points) -> str:
    found = _units(points)
    given = points.doubted("N", "D", "C")
    kept = ", ".join(points.option(role, 1.0) for role in given)
    keep = f"If the values are correct: columns='{kept}'."
    if logarithms := _logarithms(points, found):
        return f"{logarithms}: write the numbers themselves.\n{keep}"
    if not found:
        return f"No common unit fits. {keep}"
    parts = []
    for role, scale in found.items():
        unit = next((n for n, s in COMPUTE.items() if s == scale), "") if role == "C" else ""
        word = unit or SCALES.get(scale)
        parts.append(f"{role} in {word}" if word else f"{role} without the unit in its heading")
    options = ", ".join(points.option(role, scale) for role, scale in found.items())
    return f"{' and '.join(parts)} would fit: columns='{options}'.\n{keep}"


def _units(points: Points) -> dict[str, float]:
    """The smallest set of units, by role, with which the points are plausible models.

    Among sets of equal size, the one whose losses are closest to Chinchilla's law.
    """
    roles = points.doubted("N", "D", "C")
    every = {
        role: [1.0, *(COMPUTE.values() if role == "C" else SCALES), *_undoing(points.columns[role])]
        for role in roles
    }
    best, least = {}, (np.inf, np.inf)
    for scales in itertools.product(*(every[role] for role in roles)):
        chosen = dict(zip(roles, scales, strict=True))
        rated = _rate(points, chosen)
        if rated is not None and rated < least:
            best, least = chosen, rated
    return {role: scale for role, scale in best.items() if scale != 1.0}


def _logarithms(points: Points, units: dict[str, float]) -> str:
    """Which of N, D and C look like logarithms, if that explains the losses better than units do.

    The comparison with Chinchilla's law uses the variation of the losses, not their level.
    """
    roles = points.doubted("N", "D", "C")

    def misfit(values: dict[str, np.ndarray]) -> float:
        possible = _possible(values)
        if possible is None:
            return np.inf
        return float(np.std(np.log(points.values["loss"] / _law(*possible))))

    own: dict[str, np.ndarray] = {
        role: points.values[role] for role in ("N", "D", "C") if role in points.columns
    }
    scaled = {role: values * units.get(role, 1.0) for role, values in own.items()}
    best, least = "", misfit(scaled) / 2 if units else np.inf
    for size, (name, base) in itertools.product(range(1, len(roles) + 1), _BASES.items()):
        for chosen in itertools.combinations(roles, size):
            with np.errstate(over="ignore"):
                raised = {role: base ** (own[role] / points.columns[role].scale) for role in chosen}
            if (found := misfit(own | raised)) < least:
                ranges = " and ".join(f"{role} of {_range(raised[role])}" for role in chosen)
                look = "looks" if size == 1 else "look"
                best, least = f"{' and '.join(chosen)} {look} like {name} ({ranges})", found
    return best


def _undoing(column: Column) -> list[float]:
    """The factor that removes the unit in a heading, in case the numbers do not have it."""
    return [1 / column.scale] if column.scale > 1 else []


def _rate(points: Points, scales: dict[str, float]) -> tuple[float, float] | None:
    """(number of units that are not 1, distance from a known law); None if implausible."""
    values: dict[str, np.ndarray] = {
        role: points.values[role] * scales.get(role, 1.0)
        for role in ("N", "D", "C")
        if role in points.columns
    }
    possible = _possible(values)
    if possible is None:
        return None
    far = float(np.median(np.abs(np.log(points.values["loss"] / _law(*possible)))))
    return float(sum(scale != 1 for scale in scales.values())), far


def _possible(values: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """N and D from two or three of N, D and C; None if such models are implausible."""
    with np.errstate(all="ignore"):
        if "N" not in values:
            values = values | {"N": values["C"] / 6 / values["D"]}
        elif "D" not in values:
            values = values | {"D": values["C"] / 6 / values["N"]}
    N, D = values["N"], values["D"]
    plausible = N.min() >= 1e4 and N.max() <= 1e13 and D.min() >= 1e5 and D.max() <= 1e15
    if not plausible or not 0.05 <= float(np.median(D / N)) <= 1e5:
        return None
    if "C" in values and abs(np.log10(np.median(values["C"] / (6 * N * D)))) > 0.5:
        return None
    return N, D


def _law(N: np.ndarray, D: np.ndarray) -> np.ndarray:
    """The loss of Chinchilla's models, as fitted by Besiroglu et al. 2024."""
    return 1.82 + 482 / N**0.348 + 2085 / D**0.366
