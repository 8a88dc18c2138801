"""Approach 1 of Hoffmann et al. 2022: the best run for each compute.

For training curves this is their lower envelope; for final points alone it is their Pareto front.

Shapes: n points, J runs, G compute values, R resamples (row 0: the original data).
"""

import dataclasses

import numpy as np

from scaling.errors import ScalingError
from scaling.estimate.isoflop import EDGE, INSIDE, TOO_FEW, refuse_one_size
from scaling.estimate.power_law import (
    Json,
    PowerLaw,
    count_distinct,
    distinct,
    draws,
    plain,
    power_law,
)
from scaling.records.records import Records

# ln C, ln N, ln D and ln loss of the points, and the status of each.
Points = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
CURVE_GRID = 100
SAME_COMPUTE = 0.05
MANY, LAYERS = 5000, 20  # with more runs than MANY, only the first LAYERS fronts are considered


@dataclasses.dataclass(frozen=True)
class Envelope:
    """Approach 1: the best run for each compute (G,), and power laws N, D = coefficient C^exponent.

    `used_G` marks the runs that the power laws are fitted to.
    """

    kind: str  # "curves", or "front" if only final points are known
    C_G: np.ndarray
    N_G: np.ndarray
    D_G: np.ndarray
    loss_G: np.ndarray
    used_G: np.ndarray
    laws: dict[str, PowerLaw]
    middle: bool  # whether some points are from before the end of their training
    resamples: int
    level: float
    notes: tuple[str, ...]

    def to_dict(self) -> Json:
        """For JSON."""
        return plain(vars(self))


def approach1(
    records: Records, *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> Envelope:
    """Find the run with the least loss at each compute; fit N, D = coefficient C^exponent.

    If runs have several points, ln loss is interpolated in ln C along each. Of single points, those
    are used that no point with at most their compute (to 5 %) beats. If the best size at some
    compute is the smallest or largest there, a size beyond it might be better, so it is excluded
    from the power law as long as two sizes remain. Intervals come from a bootstrap over runs.

    Raises:
      ScalingError: all sizes are equal, or one size is the best at every compute.
    """
    refuse_one_size(records)
    runs, run_n, count_J = np.unique(records.run, return_inverse=True, return_counts=True)
    single = count_J.max() == 1
    sizes = records.N.min(), records.N.max()
    if single and len(runs) > MANY:
        records = records.where(_outer(records))
        runs, run_n, count_J = np.unique(records.run, return_inverse=True, return_counts=True)
    drawn_RxJ = _drawn(np.random.default_rng(seed), resamples, len(runs))
    follow = _front if single else _follow_curves
    log_C_G, log_N_RxG, log_D_RxG, log_loss_G, status_RxG = follow(
        records, run_n, drawn_RxJ, np.log(sizes)
    )
    notes = []
    used = status_RxG == INSIDE
    if count_distinct(log_N_RxG[0, used[0]]) < 2:
        used = status_RxG != TOO_FEW
        notes.append(
            "the best size is mostly the smallest or largest one, so these are included as well."
        )
    if count_distinct(log_N_RxG[0, used[0]]) < 2:
        raise ScalingError(
            "one size is the best at every compute, so there is no envelope of several sizes.\n"
            "Add runs with more sizes or more compute."
        )
    alone = int(np.sum(count_J == 1))
    if not single and alone:
        notes.append(f"{alone} runs with a single point are skipped: they have no curve.")
    middle = records.middle
    if middle is None and not single:
        middle = ~_last(records, run_n)
    early = 0 if middle is None else int(np.sum(middle))
    if early:
        notes.append(
            f"{early} of {len(records.C)} points lie before the end of their training; if the "
            "learning rate had not yet decayed, a run that ended there would reach a lower loss."
        )
    both = {"N": log_N_RxG, "D": log_D_RxG}
    laws = {k: power_law(log_C_G, v, used, level) for k, v in both.items()}
    seen = status_RxG[0] != TOO_FEW
    columns = (log_C_G, log_N_RxG[0], log_D_RxG[0], log_loss_G)
    kind = "front" if single else "curves"
    C_G, N_G, D_G, loss_G = (np.exp(column[seen]) for column in columns)
    return Envelope(
        kind, C_G, N_G, D_G, loss_G, used[0, seen], laws, early > 0, resamples, level, tuple(notes)
    )


def _last(records: Records, run_n: np.ndarray) -> np.ndarray:
    """(n,) bool: whether the point has the most tokens of its run."""
    order = np.lexsort((records.D, run_n))
    last = np.zeros(len(order), bool)
    last[order[np.append(np.diff(run_n[order]) > 0, True)]] = True
    return last


def _drawn(generator: np.random.Generator, resamples: int, runs: int) -> np.ndarray:
    """(R, J) bool: whether the run is drawn at least once; row 0 has all runs.

    More than MANY runs are drawn independently.
    """
    if runs <= MANY:
        return draws(generator, resamples, runs) > 0
    found = np.ones((resamples + 1, runs), bool)
    for row in found[1:]:
        row[:] = generator.random(runs, np.float32) > np.exp(-1)
    return found


def _outer(records: Records) -> np.ndarray:
    """Indices of the points of the first LAYERS fronts, which may be on the front of a resample.

    A point of a later front is beaten by so many others that every resample contains one of them.
    """
    left = np.lexsort((records.loss, records.C))
    found = []
    for _ in range(LAYERS):
        loss = records.loss[left]
        before = np.concatenate([[np.inf], np.minimum.accumulate(loss)[:-1]])
        found.append(left[loss < before])
        left = left[loss >= before]
    return np.sort(np.concatenate(found))


def _front(records: Records, run_n: np.ndarray, drawn_RxJ: np.ndarray, ends: np.ndarray) -> Points:
    """Final points in order of compute; the status marks those on the front of each resample.

    At equal compute only the best counts. `_ranks` treats runs planned for one budget as equal,
    which rounding would otherwise put in sequence.
    """
    order = np.lexsort((records.loss, _ranks(records.C)))
    loss_RxG = np.where(drawn_RxJ[:, run_n[order]], records.loss[order], np.inf)
    least = np.minimum.accumulate(loss_RxG, 1)
    before = np.concatenate([np.full((len(least), 1), np.inf), least[:, :-1]], 1)
    log_N = np.log(records.N[order])
    size = distinct(np.concatenate([log_N, ends]))
    edge = ((size == 0) | (size == size.max()))[:-2]
    status = np.where(loss_RxG < before, np.where(edge, EDGE, INSIDE), TOO_FEW)
    every = np.ones((len(drawn_RxJ), 1))
    log_D = np.log(records.D[order])
    return (
        np.log(records.C[order]),
        every * log_N,
        every * log_D,
        np.log(records.loss[order]),
        status,
    )


def _ranks(C_n: np.ndarray) -> np.ndarray:
    """(n,): the rank of each compute value, equal within SAME_COMPUTE of the least of a group."""
    order = np.argsort(C_n)
    rank_n, rank, least = np.zeros(len(C_n), int), 0, C_n[order[0]]
    for i in order:
        if C_n[i] > (1 + SAME_COMPUTE) * least:
            rank, least = rank + 1, C_n[i]
        rank_n[i] = rank
    return rank_n


def _follow_curves(
    records: Records, run_n: np.ndarray, drawn_RxJ: np.ndarray, ends: np.ndarray
) -> Points:
    """Curves interpolated to common compute values, and the lowest drawn curve at each value."""
    log_C_G = np.linspace(np.log(records.C.min()), np.log(records.C.max()), CURVE_GRID)
    J = drawn_RxJ.shape[1]
    log_N_J, (loss_JxG, log_D_JxG) = np.zeros(J), np.full((2, J, CURVE_GRID), np.inf)
    order = np.lexsort((records.C, run_n))
    for j, points in enumerate(np.split(order, np.flatnonzero(np.diff(run_n[order])) + 1)):
        log_N_J[j] = np.log(records.N[points]).mean()
        if len(points) > 1:
            log_C = np.log(records.C[points])
            loss_JxG[j] = np.interp(log_C_G, log_C, np.log(records.loss[points]), np.inf, np.inf)
            log_D_JxG[j] = np.interp(log_C_G, log_C, np.log(records.D[points]))
    R, size_J = len(drawn_RxJ), distinct(log_N_J)
    log_N_RxG, log_D_RxG = np.zeros((2, R, CURVE_GRID))
    status_RxG, log_loss_G = np.full((R, CURVE_GRID), TOO_FEW), np.zeros(CURVE_GRID)
    for g in range(CURVE_GRID):
        covering = np.flatnonzero(np.isfinite(loss_JxG[:, g]))
        sizes = size_J[covering]
        if sizes.size == 0 or sizes.min() == sizes.max():
            continue
        ranked = covering[np.argsort(loss_JxG[covering, g], kind="stable")]
        drawn = drawn_RxJ[:, ranked]
        best = ranked[np.argmax(drawn, 1)]
        log_N_RxG[:, g], log_D_RxG[:, g] = log_N_J[best], log_D_JxG[best, g]
        log_loss_G[g] = loss_JxG[best[0], g]
        edge = (size_J[best] == sizes.min()) | (size_J[best] == sizes.max())
        status_RxG[:, g] = np.where(drawn.any(1), np.where(edge, EDGE, INSIDE), TOO_FEW)
    return log_C_G, log_N_RxG, log_D_RxG, log_loss_G, status_RxG
