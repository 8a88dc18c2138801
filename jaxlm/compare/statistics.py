"""Means and differences over seeds: Student's intervals, paired tests, Holm's correction.

Two variants are paired by seed: the same seed means the same order of the data and, if shapes
agree, the same initial values, so the effect of a seed on both cancels in the difference.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxlm.compare.metrics import Metric, amount

LEVEL = 0.95
ALPHA = 1 - LEVEL
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Mean:
    """A mean over `n` seeds with the half-width of its 95 % interval; None for one seed."""

    value: float
    half: float | None
    n: int


@dataclass(frozen=True)
class Difference:
    """Mean of (variant - baseline) over the seeds that both have.

    `p` is two-sided, of the paired t test; None for fewer than two seeds. `p_holm` is corrected
    for the number of comparisons.
    """

    value: float
    half: float | None
    n: int
    p: float | None
    p_holm: float | None = None


def mean(values: Sequence[float]) -> Mean | None:
    """Mean and 95 % interval by Student's t; None if there are no values."""
    n = len(values)
    if n == 0:
        return None
    center = math.fsum(values) / n
    if n == 1:
        return Mean(center, None, 1)
    deviation = math.sqrt(math.fsum((value - center) ** 2 for value in values) / (n - 1))
    if deviation <= _ROUNDING * max(map(abs, values)):
        return Mean(center, 0.0, n)
    return Mean(center, _quantile(n - 1) * deviation / math.sqrt(n), n)


def paired(variant: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """The difference of two variants (seed -> value); None if they share no seed."""
    seeds = [seed for seed in variant if seed in baseline]
    deltas = [variant[seed] - baseline[seed] for seed in seeds]
    found = mean(deltas)
    if found is None:
        return None
    return Difference(found.value, found.half, found.n, _p(found, variant, baseline, seeds))


def _p(found: Mean, variant, baseline, seeds) -> float | None:
    if found.half is None:
        return None
    # A spread of mere rounding counts as none: the difference is then exact, or zero.
    size = _ROUNDING * max(abs(variant[s]) + abs(baseline[s]) for s in seeds)
    if found.half <= size:
        return 1.0 if abs(found.value) <= size else 0.0
    from scipy import stats

    pairs = [variant[s] for s in seeds], [baseline[s] for s in seeds]
    return float(stats.ttest_rel(*pairs).pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's (1979) step-down correction; None (no test was possible) is kept and not counted."""
    tested = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, i) in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - rank) * p))
        corrected[i] = highest
    return corrected


def ratio(
    above: Mapping[int, float], below: Mapping[int, float]
) -> tuple[float, float, float] | None:
    """(geometric mean, low, high) of above / below over the shared seeds, by t on the logarithms.

    One seed: an interval from 0 to infinity. None without a shared seed or a positive value.
    """
    seeds = [seed for seed in above if seed in below]
    if not seeds or min(min(above[s], below[s]) for s in seeds) <= 0:
        return None
    found = mean([math.log(above[s] / below[s]) for s in seeds])
    assert found is not None
    if found.half is None:
        return math.exp(found.value), 0.0, math.inf
    ends = (found.value - found.half, found.value, found.value + found.half)
    low, middle, high = (math.exp(min(end, 700.0)) for end in ends)
    return middle, low, high


def verdict(metric: Metric, difference: Difference | None) -> str:
    """The verdict on a difference from the baseline, in words."""
    if difference is None:
        return "no seed in common with the baseline: no conclusion"
    if difference.n == 1:
        return "one seed: no conclusion"
    size = amount(metric, abs(difference.value), difference.half, difference=True)
    corrected = difference.p if difference.p_holm is None else difference.p_holm
    assert corrected is not None and difference.p is not None  # with two or more seeds
    if corrected < ALPHA:
        if metric.better is None:
            return f"{'higher' if difference.value > 0 else 'lower'} by {size}"
        return f"{'better' if difference.value * metric.sign > 0 else 'worse'} by {size}"
    words = f"no difference that {difference.n} seeds can show"
    if difference.p < ALPHA:
        return f"{words} once corrected for the number of comparisons"
    return words


def _quantile(degrees: int) -> float:
    from scipy import stats

    return float(stats.t.ppf(1 - ALPHA / 2, degrees))
