"""Compute-optimal sizes directly from the runs, without a law of N and D.

Approach 2 of Hoffmann et al. 2022 (IsoFLOP): find the size with the least loss at each compute
budget, with three estimators, and fit a power law to the minima.

- parabola: the vertex of a least-squares parabola of the loss in ln N; common, but biased on wide
  grids.
- argmin: the size with the lowest loss; never off by more than the spacing of the grid.
- spline: the minimum of a cubic P-spline of ln loss in ln N (Eilers & Marx 1996). Its third
  derivative is penalized, so it is between interpolation and a parabola. Generalized
  cross-validation (Craven & Wahba 1979) chooses one penalty for all budgets, with each effective
  parameter counted 1.4 times (Kim & Gu 2004).

Shapes: B budgets, m points and K sizes of a budget, R resamples (row 0: the original data), S
B-splines, F places where a curve is evaluated.
"""

import dataclasses

import numpy as np

from scaling.errors import ScalingError
from scaling.estimate.power_law import (
    Json,
    PowerLaw,
    count_distinct,
    distinct,
    draws,
    line,
    plain,
    power_law,
)
from scaling.law.allocate import optimal
from scaling.law.laws import Law
from scaling.records.records import Records

ESTIMATORS = ("parabola", "argmin", "spline")
STATUS = ("inside", "edge", "concave", "too few sizes", "flat")
INSIDE, EDGE, CONCAVE, TOO_FEW, FLAT = range(5)
ROUNDING = 1e-12  # losses whose relative difference is smaller are flat and have no minimum
FEWEST_SIZES = 4
SEGMENTS, PLACES = 24, 241
SMOOTHING = np.logspace(-10, 1, 34)  # penalties of the third derivative, for a grid of width 1
WORTH_OF_A_PARAMETER = 1.4
MANY = 500  # with fewer points, four of about equal compute are assumed to be planned
NEIGHBOURHOOD = 0.5  # in ln C: points this close to a budget are counted for comparison
MOST_POINTS = 20_000  # of all budgets together; more are thinned
STIFFEST = 1e8  # largest penalty, in steps of the splines: a parabola to rounding
SINGULAR = 1e-9  # least ratio of the extreme eigenvalues of a parabola's normal equations


def uniform_splines(place: np.ndarray) -> np.ndarray:
    """Cubic B-splines with integer knots at `place`, between 0 and SEGMENTS: (len(place), S).

    Written out, because importing scipy's takes longer than all of approach 2.
    """
    first = np.minimum(place.astype(int), SEGMENTS - 1)
    u = place - first
    four = [(1 - u) ** 3, 3 * u**3 - 6 * u**2 + 4, 1 + 3 * u * (1 + u - u**2), u**3]
    found = np.zeros((len(place), SEGMENTS + 3))
    np.put_along_axis(found, first[:, None] + np.arange(4), np.stack(four, -1) / 6, axis=1)
    return found


Minimum = tuple[np.ndarray, np.ndarray, np.ndarray]  # ln N, loss and status, each (R,)


@dataclasses.dataclass(frozen=True)
class Minima:
    """The minimum of each budget (B,); `status_B` states whether it is inside its grid."""

    N_B: np.ndarray
    D_B: np.ndarray
    loss_B: np.ndarray
    status_B: np.ndarray

    @property
    def inside_B(self) -> np.ndarray:
        """(B,) bool: whether the minimum is inside its grid."""
        return self.status_B == STATUS[INSIDE]

    def to_dict(self) -> Json:
        """For JSON."""
        return plain(vars(self))


@dataclasses.dataclass(frozen=True)
class IsoFlop:
    """Approach 2: minima and power laws by estimator, as in `laws["spline"]["N"]` and `["D"]`.

    An estimator with fewer than two minima inside their grids has no laws, and `notes` states it.
    """

    C_B: np.ndarray
    points: tuple[np.ndarray, ...]  # indices into the records, for each budget
    minima: dict[str, Minima]
    laws: dict[str, dict[str, PowerLaw]]
    curves: dict[str, list[tuple[np.ndarray, np.ndarray]]] = dataclasses.field(repr=False)
    smoothing: float
    resamples: int
    level: float
    notes: tuple[str, ...]

    def to_dict(self) -> Json:
        """For JSON, without the curves."""
        return plain({k: v for k, v in vars(self).items() if k != "curves"})


@dataclasses.dataclass(frozen=True)
class ParabolaBias:
    """The error of parabolas through noise-free losses of a known law, on the grids of the data."""

    C_B: np.ndarray
    width_B: np.ndarray  # largest over smallest size
    N_true_B: np.ndarray
    N_parabola_B: np.ndarray
    status_B: np.ndarray
    exponent_true: float
    exponent_parabola: float
    extrapolated: float  # the parabolas' N over the true N at ten times the largest budget

    @property
    def shift_B(self) -> np.ndarray:
        """ln of the parabola's optimal size over the true one."""
        return np.log(self.N_parabola_B / self.N_true_B)

    @property
    def exponent_bias(self) -> float:
        """The exponent of N from parabolas, minus the true one."""
        return self.exponent_parabola - self.exponent_true

    def statement(self) -> str:
        """The bias in words and numbers."""
        inside = np.flatnonzero(self.status_B == STATUS[INSIDE])
        opening = (
            "If the fitted law were exactly true and the runs free of noise, parabolas through "
            f"these {len(self.C_B)} grids of sizes"
        )
        if len(inside) < 2:
            return f"{opening} would have fewer than two minima inside the grids and no exponent."
        low, high = (
            f"{_percent(self.shift_B[i])} at {self.C_B[i]:.3g} FLOPs" for i in inside[[0, -1]]
        )
        widths = dict.fromkeys(f"{width:.3g}" for width in np.sort(self.width_B)[[0, -1]])
        return (
            f"{opening} (the largest {' to '.join(widths)} times the smallest) would put "
            f"the optimal size {low} and {high}; the exponent a "
            f"would be {self.exponent_parabola:.4f} instead of {self.exponent_true:.4f} "
            f"({self.exponent_bias:+.4f}), and the size extrapolated to ten times the largest "
            f"budget {_percent(np.log(self.extrapolated))}. More runs on the same grids would not "
            "remove this error (the bias of parabolas: Czech et al. 2026)."
        )

    def to_dict(self) -> Json:
        more = {"shift_B": self.shift_B, "exponent_bias": self.exponent_bias}
        return plain(vars(self) | more | {"statement": self.statement()})


def budgets(records: Records, tolerance: float = 0.1) -> list[tuple[float, np.ndarray]]:
    """Group points of about the same compute into budgets: [(C, indices)], smallest C first.

    The window of width `tolerance` in ln C with the most remaining points becomes a budget if it
    has at least four sizes; C is its geometric mean. This repeats until no window has enough
    points. If the points are so dense that chance alone would fill such windows, a window must
    contain far more points than its surroundings.

    Raises ScalingError if all sizes are equal.
    """
    refuse_one_size(records)
    order = np.argsort(records.C, kind="stable")
    every, found = np.log(records.C[order]), []
    crowded = len(every) >= max(MANY, FEWEST_SIZES * np.ptp(every) / tolerance)
    while len(order) >= FEWEST_SIZES:
        log_C = np.log(records.C[order])
        # The window is wider by a rounding error, so that a spread of `tolerance` is one budget.
        ends = np.searchsorted(log_C, log_C + tolerance + 1e-12, side="right")
        count = ends - np.arange(len(order))
        spread = log_C[ends - 1] - log_C
        start = np.lexsort((spread, -count))[0]
        if count[start] < FEWEST_SIZES:
            break
        inside = slice(start, ends[start])
        if crowded and not _stands_out(every, log_C[start], log_C[ends[start] - 1], tolerance):
            break  # all further windows contain fewer points
        if count_distinct(np.log(records.N[order[inside]])) >= FEWEST_SIZES:
            found.append((float(np.exp(log_C[inside].mean())), np.sort(order[inside])))
        order = np.delete(order, inside)
    return sorted(found, key=lambda budget: budget[0])


def _stands_out(log_C: np.ndarray, low: float, high: float, tolerance: float) -> bool:
    """Whether there are more points from low to high than the surroundings suggest by chance."""
    near = max(low - NEIGHBOURHOOD, log_C[0]), min(high + NEIGHBOURHOOD, log_C[-1])
    left, right = (np.searchsorted(log_C, end) for end in near)
    count = np.searchsorted(log_C, high, "right") - np.searchsorted(log_C, low)
    beside = max(near[1] - near[0] - (high - low), 1e-12)
    expected = (right - left - count) * min(tolerance / beside, 1.0)
    return bool(count > 2 * expected + 5 * np.sqrt(expected + 1))


def approach2(
    records: Records,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    tolerance: float = 0.1,
) -> IsoFlop:
    """Find the minima of the IsoFLOP curves, and fit N, D = coefficient C^exponent to them.

    Intervals are percentiles of a bootstrap that draws, with replacement, as many points from each
    budget as it has. Minima at the edge of their grid, and parabolas that open downward, are
    excluded from the power law, in the data and in each resample.

    Args:
      records: the runs.
      resamples: R, number of bootstrap resamples.
      seed: of the bootstrap.
      level: confidence level of the intervals.
      tolerance: width of a budget in ln C; see `budgets`.

    Raises:
      ScalingError: fewer than two budgets with four sizes, or no estimator with two minima inside
        their grids.
    """
    groups = _two_budgets(records, tolerance)
    grids = [_Grid(records, points) for _, points in groups]
    C_B = np.array([C for C, _ in groups])
    generator = np.random.default_rng(seed)
    counts = [draws(generator, resamples, len(points)) for _, points in groups]
    smoothing = _choose_smoothing(grids)
    minima, laws, curves, notes = {}, {}, {}, []
    for estimator in ESTIMATORS:
        found = [
            grid.minimum(estimator, drawn, smoothing)
            for grid, drawn in zip(grids, counts, strict=True)
        ]
        columns = zip(*found, strict=True)
        log_N_RxB, loss_RxB, status_RxB = (np.stack(column, -1) for column in columns)
        log_D_RxB = np.array([grid.log_product for grid in grids]) - log_N_RxB
        status_B = np.array(STATUS)[status_RxB[0]]
        minima[estimator] = Minima(
            np.exp(log_N_RxB[0]), np.exp(log_D_RxB[0]), loss_RxB[0], status_B
        )
        curves[estimator] = [grid.curve(estimator, smoothing) for grid in grids]
        if left_out := [f"{C_B[b]:.3g} ({status_B[b]})" for b in np.flatnonzero(status_RxB[0])]:
            notes.append(f"{estimator}: minima left out of the power law: {', '.join(left_out)}.")
        used = status_RxB == INSIDE
        if used[0].sum() < 2:
            notes.append(
                f"{estimator}: no power law, because fewer than two minima are inside their grids."
            )
            continue
        both = {"N": log_N_RxB, "D": log_D_RxB}
        laws[estimator] = {k: power_law(np.log(C_B), v, used, level) for k, v in both.items()}
    if not laws:
        raise ScalingError(
            "no two budgets have their least loss inside the range of their sizes.\n"
            + "\n".join(notes[:2])
        )
    points = tuple(points for _, points in groups)
    return IsoFlop(C_B, points, minima, laws, curves, smoothing, resamples, level, tuple(notes))


def parabola_bias(
    records: Records, law: Law, theta: np.ndarray, *, tolerance: float = 0.1
) -> ParabolaBias:
    """The bias of parabolas on wide or asymmetric grids (Czech et al. 2026), for these records.

    Parabolas are fitted to the noise-free loss of `law` at exactly the sizes of each budget, and
    compared with the law's own optimum. If all grids are placed alike around the optimum, N is
    wrong by a constant factor and the exponent is right; grids that drift from it change the
    exponent.

    Args:
      theta: (P,) absolute coordinates of the law.

    Raises:
      ScalingError: fewer than two budgets with four sizes, or a law that does not depend on both N
        and D.
    """
    rows = []
    for C, points in _two_budgets(records, tolerance):
        product = np.exp(np.mean(np.log(records.N[points] * records.D[points])))
        recorded = getattr(records, "unique", None)
        unique = None if recorded is None else float(np.exp(np.log(recorded[points]).mean()))
        N_true, _, _ = optimal(law, theta, 6 * product, unique=unique)
        every = {"N": records.N[points], "U": unique, "C": 6 * product}
        every["D"] = product / every["N"]
        exact = law.loss(theta, **{name: every[name] for name in law.variables})
        grid = _Grid(records, points, exact)
        log_N, _, status = grid.parabola(np.ones((1, len(points))))
        rows.append((C, np.exp(np.ptp(grid.x_K)), N_true, np.exp(log_N[0]), status[0]))
    C_B, width_B, N_true_B, N_parabola_B, status_B = map(np.array, zip(*rows, strict=True))
    log_C, used = np.log(C_B), (status_B == INSIDE)[None]
    lines = [line(log_C, np.log(N)[None], used)[0] for N in (N_true_B, N_parabola_B)]
    (true, slope), (found, found_slope) = lines
    away = found - true + (found_slope - slope) * (log_C[-1] + np.log(10))
    status_B = np.array(STATUS)[status_B]
    return ParabolaBias(
        C_B, width_B, N_true_B, N_parabola_B, status_B,
        float(slope), float(found_slope), float(np.exp(away)),
    )  # fmt: skip


class _Grid:
    """The points of one budget: sizes x_K = ln N, and the losses (m,).

    Sizes that hardly differ count as one, at the mean of their logs.
    """

    def __init__(self, records: Records, points: np.ndarray, loss_m: np.ndarray | None = None):
        log_N = np.log(records.N[points])
        place_m = distinct(log_N)
        self.x_K = np.bincount(place_m, log_N) / np.bincount(place_m)
        self.at_mxK = np.eye(len(self.x_K))[place_m]
        self.loss_m = records.loss[points] if loss_m is None else loss_m
        self.log_product = float(np.mean(log_N + np.log(records.D[points])))
        self.middle = (self.x_K[0] + self.x_K[-1]) / 2
        self.half = np.ptp(self.x_K) / 2
        self.basis_KxS = self.basis(self.x_K)
        self.powers_Kx3 = np.vander((self.x_K - self.middle) / self.half, 3, increasing=True)

    def penalty(self, smoothing: float) -> np.ndarray:
        """(S, S): the penalty of the third derivative in ln N.

        For uniform cubic B-splines, the third derivative is the third difference over step^3. On a
        grid far narrower than the others, the penalty would make the data vanish in rounding, so it
        is limited to STIFFEST.
        """
        third = np.diff(np.eye(SEGMENTS + 3), 3, axis=0)
        step = 2 * self.half / SEGMENTS
        return min(smoothing / step**5, STIFFEST) * third.T @ third

    def basis(self, x: np.ndarray) -> np.ndarray:
        """B-splines at ln N = x within the grid, (len(x), S)."""
        return uniform_splines(np.clip((x - self.x_K[0]) / (2 * self.half), 0, 1) * SEGMENTS)

    def means(self, counts_Rxm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How often each size was drawn, (R, K), and its mean loss, nan if it was not drawn."""
        weight = counts_Rxm @ self.at_mxK
        with np.errstate(invalid="ignore"):
            return weight, (counts_Rxm * self.loss_m) @ self.at_mxK / weight

    def minimum(self, estimator: str, counts_Rxm: np.ndarray, smoothing: float) -> Minimum:
        """(ln N, loss, status), each (R,)."""
        if estimator == "spline":
            return self.spline(counts_Rxm, smoothing)
        return self.parabola(counts_Rxm) if estimator == "parabola" else self.argmin(counts_Rxm)

    def parabola_coefficients(self, counts_Rxm: np.ndarray) -> np.ndarray:
        """(R, 3): of powers of u = (ln N - middle) / half, which runs from -1 to 1."""
        weight, loss = self.means(counts_Rxm)
        return _least_squares(self.powers_Kx3, weight, loss, self.enough(weight))

    def enough(self, weight_RxK: np.ndarray) -> np.ndarray:
        """(R,) bool: whether the sizes drawn determine a parabola; three that hardly differ do not.

        They then also determine the spline, since parabolas have no penalty.
        """
        eigenvalues = np.linalg.eigvalsh(_gram(self.powers_Kx3, (weight_RxK > 0).astype(float)))
        return eigenvalues[:, 0] > SINGULAR * eigenvalues[:, -1]

    def parabola(self, counts_Rxm: np.ndarray) -> Minimum:
        constant, slope, bend = self.parabola_coefficients(counts_Rxm).T
        with np.errstate(divide="ignore", invalid="ignore"):
            u = -slope / (2 * bend)
            flat = np.maximum(np.abs(slope), np.abs(bend)) <= ROUNDING * np.abs(constant)
            faults = [np.isnan(bend), flat, bend <= 0, np.abs(u) >= 1]
            status = np.select(faults, [TOO_FEW, FLAT, CONCAVE, EDGE], INSIDE)
            return self.middle + self.half * u, constant + slope * u / 2, status

    def argmin(self, counts_Rxm: np.ndarray) -> Minimum:
        weight, loss = self.means(counts_Rxm)
        best = np.argmin(np.where(weight > 0, loss, np.inf), 1)
        status = np.where((best == 0) | (best == len(self.x_K) - 1), EDGE, INSIDE)
        highest = np.max(np.where(weight > 0, loss, -np.inf), 1)
        lowest = np.min(np.where(weight > 0, loss, np.inf), 1)
        status = np.where(highest - lowest <= ROUNDING * highest, FLAT, status)
        return self.x_K[best], np.take_along_axis(loss, best[:, None], 1)[:, 0], status

    def spline_coefficients(self, counts_Rxm: np.ndarray, smoothing: float) -> np.ndarray:
        weight, loss = self.means(counts_Rxm)
        enough, penalty = self.enough(weight), self.penalty(smoothing)
        return _least_squares(self.basis_KxS, weight, np.log(loss), enough, penalty)

    def spline(self, counts_Rxm: np.ndarray, smoothing: float) -> Minimum:
        x_F = np.linspace(self.x_K[0], self.x_K[-1], PLACES)
        y_RxF = self.spline_coefficients(counts_Rxm, smoothing) @ self.basis(x_F).T
        best = np.argmin(y_RxF, 1)
        status = np.where((best == 0) | (best == PLACES - 1), EDGE, INSIDE)
        status = np.where(np.ptp(y_RxF, 1) <= ROUNDING, FLAT, status)
        status = np.where(np.isnan(y_RxF).any(1), TOO_FEW, status)
        # The vertex of the parabola through the lowest place and the two adjacent ones.
        middle = np.clip(best, 1, PLACES - 2)[:, None]
        before, here, after = (np.take_along_axis(y_RxF, middle + k, 1)[:, 0] for k in (-1, 0, 1))
        with np.errstate(divide="ignore", invalid="ignore"):
            offset = np.clip((before - after) / 2 / (before - 2 * here + after), -1, 1)
        return x_F[middle[:, 0]] + offset * (x_F[1] - x_F[0]), np.exp(np.min(y_RxF, 1)), status

    def curve(self, estimator: str, smoothing: float) -> tuple[np.ndarray, np.ndarray]:
        """(N, loss), each (F,): the IsoFLOP curve according to the estimator; (K,) for argmin."""
        x_F = np.linspace(self.x_K[0], self.x_K[-1], PLACES)
        once = np.ones((1, len(self.loss_m)))
        if estimator == "argmin":
            return np.exp(self.x_K), self.means(once)[1][0]
        if estimator == "spline":
            y_F = np.exp(self.basis(x_F) @ self.spline_coefficients(once, smoothing)[0])
        else:
            powers = np.vander((x_F - self.middle) / self.half, 3, increasing=True)
            y_F = powers @ self.parabola_coefficients(once)[0]
        return np.exp(x_F), y_F


def _gram(design_KxS: np.ndarray, weight_RxK: np.ndarray) -> np.ndarray:
    """(R, S, S): the matrices of the weighted normal equations."""
    products = (design_KxS[:, :, None] * design_KxS[:, None, :]).reshape(len(design_KxS), -1)
    return (weight_RxK @ products).reshape(-1, *2 * design_KxS.shape[1:])


def _least_squares(
    design_KxS: np.ndarray,
    weight_RxK: np.ndarray,
    y_RxK: np.ndarray,
    enough_R: np.ndarray,
    penalty_SxS: np.ndarray | float = 0.0,
) -> np.ndarray:
    """Coefficients (R, S) of weighted least squares; nan if the sizes drawn are too few."""
    weight = np.where(enough_R[:, None], weight_RxK, 1.0)
    gram = _gram(design_KxS, weight) + penalty_SxS
    moment = (weight * np.nan_to_num(y_RxK)) @ design_KxS
    found = np.linalg.solve(gram, moment[..., None])[..., 0]
    return np.where(enough_R[:, None], found, np.nan)


def _choose_smoothing(grids: list[_Grid]) -> float:
    """The penalty of the third derivative in ln N with the least cross-validation score."""
    width = np.median([2 * grid.half for grid in grids])
    scores = []
    for smoothing in SMOOTHING * width**5:
        residuals, freedom, n = 0.0, 0.0, 0
        for grid in grids:
            design = grid.at_mxK @ grid.basis_KxS
            gram = design.T @ design + grid.penalty(smoothing)
            hat = design @ np.linalg.solve(gram, design.T)
            log_loss = np.log(grid.loss_m)
            residuals += np.sum((log_loss - hat @ log_loss) ** 2)
            freedom += np.trace(hat)
            n += len(log_loss)
        left = n - WORTH_OF_A_PARAMETER * freedom
        scores.append(residuals / left**2 if left > 0 else np.inf)
    # If every budget has few points, no score may be finite; then the largest penalty is used.
    best = int(np.argmin(scores)) if np.isfinite(min(scores)) else -1
    return float(SMOOTHING[best] * width**5)


def _two_budgets(records: Records, tolerance: float) -> list[tuple[float, np.ndarray]]:
    found = budgets(records, tolerance)
    if len(found) < 2:
        seen = "".join(f" ({C:.3g} FLOPs, {len(points)} points)" for C, points in found)
        raise ScalingError(
            f"IsoFLOP requires two or more compute budgets; found {len(found)}{seen} among "
            f"{len(records.C)} points.\nA budget is at least {FEWEST_SIZES} sizes trained with the "
            f"same compute, within {tolerance:.0%}."
        )
    most = max(MOST_POINTS // len(found), 10 * FEWEST_SIZES)
    return [(C, _thinned(records.N, points, most)) for C, points in found]


def _thinned(N: np.ndarray, points: np.ndarray, most: int) -> np.ndarray:
    """At most `most` points of a budget, evenly spread over their sizes."""
    if len(points) <= most:
        return points
    places = np.linspace(0, len(points) - 1, most).round().astype(int)
    return np.sort(points[np.argsort(N[points], kind="stable")[places]])


def refuse_one_size(records: Records) -> None:
    """Raise ScalingError if all points have the same N."""
    if count_distinct(np.log(records.N)) < 2:
        raise ScalingError(
            f"all {len(records.N)} points have N = {records.N[0]:.6g}, so the best size for a "
            "compute budget cannot be determined.\nTrain other sizes with the same compute."
        )


def _percent(log_ratio: float) -> str:
    ratio = float(np.exp(log_ratio))
    if ratio > 2 or ratio < 0.5:
        return f"{max(ratio, 1 / ratio):.3g} times too {'large' if ratio > 1 else 'small'}"
    return f"{100 * abs(ratio - 1):.2g} % too {'large' if ratio > 1 else 'small'}"
