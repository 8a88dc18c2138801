"""The authors' claims, each answered from our runs, and their figures beside ours.

A claim is `{text, metric, better, than}` with an optional `factor`: the variant `better` is better
than the variant `than` in `metric`, by that factor. It is answered by the paired test over the
seeds, corrected for the number of claims: holds, does not hold, or cannot be told.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jaxlm.compare.metrics import METRICS, Metric, amount, difference_shown, shown
from jaxlm.compare.statistics import ALPHA, Difference, holm, mean, paired, ratio
from jaxlm.host.checked import Json

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told"

Values = Callable[[str, str], Mapping[int, float]]
"""(variant, metric) -> seed -> value, of the finished runs."""


@dataclass(frozen=True)
class Answer:
    """Our runs' answer to a claim: `answer` is one of the three, `why` the numbers in words."""

    text: str
    answer: str
    why: str
    seeds: int
    p: float | None = None
    ratio: tuple[float, float, float] | None = None
    factor: float | None = None

    def to_dict(self) -> Json:
        return asdict(self)


def answer_claims(
    claims: Sequence[Mapping[str, Any]],
    values: Values,
    diverged: Mapping[str, int],
    comparable: bool = True,
) -> list[Answer]:
    """An answer to each claim, in order.

    `diverged` counts each known variant's diverged runs. Unless `comparable`, the variants'
    tokenizers differ, and metrics per token answer nothing.
    """
    tests = [_test(claim, values, diverged, comparable) for claim in claims]
    known = [test.p if isinstance(test, Difference) else None for test in tests]
    answers = []
    for claim, test, p in zip(claims, tests, holm(known), strict=True):
        if isinstance(test, Answer):
            answers.append(test)
        else:
            answers.append(_answer(claim, values, test, p))
    return answers


def _text(claim: Mapping[str, Any]) -> str:
    better, than = claim.get("better"), claim.get("than")
    return str(claim.get("text") or f"{better} beats {than} in {claim.get('metric')}")


def _test(
    claim: Mapping[str, Any], values: Values, diverged: Mapping[str, int], comparable: bool
) -> Difference | Answer:
    """The paired difference (better - than), or the answer if no test is possible."""
    text, name = _text(claim), claim.get("metric")
    if name not in METRICS:
        return Answer(text, OPEN, f"there is no metric {name!r}", 0)
    if METRICS[name].per_token and not comparable:
        why = f"{name} is measured per token, but the tokenizers differ: use bits_per_byte"
        return Answer(text, OPEN, why, 0)
    sides = {side: values(str(claim.get(side)), name) for side in ("better", "than")}
    for side, found in sides.items():
        variant = str(claim.get(side))
        if found:
            continue
        if variant not in diverged:
            return Answer(text, OPEN, f"there is no variant {variant!r} here", 0)
        lost, other = diverged[variant], sides["than" if side == "better" else "better"]
        if lost and other and name != "gradient_norm":
            said = f"{variant} diverged in {lost} of {lost} {'run' if lost == 1 else 'runs'}"
            enough = lost > 1 and len(other) > 1
            answer = (HOLDS if side == "than" else FAILS) if enough else OPEN
            return Answer(text, answer, said, min(lost, len(other)))
        return Answer(text, OPEN, f"{variant} has no finished run with {name}", 0)
    return paired(sides["better"], sides["than"]) or Answer(
        text, OPEN, "the two variants have no seed in common", 0
    )


def _answer(
    claim: Mapping[str, Any], values: Values, difference: Difference, p: float | None
) -> Answer:
    metric, factor = METRICS[claim["metric"]], claim.get("factor")
    better, than = (values(str(claim[side]), metric.name) for side in ("better", "than"))
    up, down = (better, than) if metric.sign > 0 else (than, better)
    times = ratio(up, down)
    gain = difference.value * metric.sign
    why = _numbers(claim, metric, better, than, difference, times)
    if metric.exact:
        answer = HOLDS if gain > 0 else FAILS
    elif p is None or p >= ALPHA:
        answer = OPEN
    else:
        answer = HOLDS if gain > 0 else FAILS
    if factor is not None and times is not None:
        answer, said = _with_factor(answer, float(factor), times, metric.exact)
        why += f"; {said}"
    return Answer(_text(claim), answer, why, difference.n, p, times, factor)


def _with_factor(
    answer: str, factor: float, times: tuple[float, float, float], exact: bool
) -> tuple[str, str]:
    """The answer to a claim with a factor, which the ratio's interval must reach."""
    middle, low, high = times
    if exact:
        low = high = middle
    claimed = f"the claim is {factor:g} times"
    if answer == HOLDS and high < factor:
        return FAILS, f"{claimed}: the direction holds, the size does not"
    if answer == HOLDS and low >= factor:
        return HOLDS, f"{claimed}: it is at least that"
    if answer == HOLDS:
        return HOLDS, f"{claimed}: within the interval"
    if answer == OPEN and high < factor:
        return FAILS, f"{claimed}: that can be ruled out"
    return answer, claimed


def _numbers(
    claim: Mapping[str, Any],
    metric: Metric,
    better: Mapping[int, float],
    than: Mapping[int, float],
    difference: Difference,
    times: tuple[float, float, float] | None,
) -> str:
    parts = []
    for side, values in (("better", better), ("than", than)):
        found = mean(list(values.values()))
        assert found is not None  # a difference has both sides
        parts.append(f"{claim[side]} {shown(metric, found.value, found.half)}")
    text = f"{metric.title}: {', '.join(parts)}; difference "
    unit = "points" if metric.unit == "%" else metric.unit
    text += f"{difference_shown(metric, difference.value, difference.half)} {unit}".rstrip()
    if difference.p is not None and not metric.exact:
        said = p_shown(difference.p)
        text += f" (p {said})" if said.startswith("<") else f" (p = {said})"
    if times is not None and claim.get("factor") is not None:
        middle, low, high = times
        text += f"; {middle:.3g} times"
        if math.isfinite(high) and not metric.exact:
            text += f" [{low:.3g}, {high:.3g}]"
    return text


def p_shown(p: float | None) -> str:
    """0.0312 -> '0.031', 1e-6 -> '< 0.001'."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.2g}" if p < 0.0995 else f"{p:.2f}"


def reported_rows(reported: Mapping[str, Mapping[str, float]], values: Values) -> list[Json]:
    """Each figure that the authors published: variant, metric, theirs, our mean and interval."""
    rows = []
    for variant, figures in reported.items():
        for name, theirs in figures.items():
            found = mean(list(values(variant, name).values())) if name in METRICS else None
            rows.append(
                {
                    "variant": variant,
                    "metric": name,
                    "reported": theirs,
                    "ours": found and found.value,
                    "half": found and found.half,
                    "seeds": found.n if found else 0,
                }
            )
    return rows


def reported_words(row: Mapping[str, Any]) -> str:
    """How our figure compares with the authors'."""
    if row["metric"] not in METRICS:
        return "no such metric here"
    if row["ours"] is None:
        return "no finished run"
    metric, gap = METRICS[row["metric"]], row["ours"] - row["reported"]
    if metric.exact:
        return "the same" if gap == 0 else f"{difference_shown(metric, gap, None)}"
    if row["half"] is None:
        unit = "points" if metric.unit == "%" else metric.unit
        return f"{difference_shown(metric, gap, None)} {unit} (one seed)".replace("  ", " ")
    where = "within" if abs(gap) <= row["half"] else "above" if gap > 0 else "below"
    said = {"within": "within our interval", "above": "ours is higher", "below": "ours is lower"}
    size = "" if where == "within" else f" by {amount(metric, abs(gap), difference=True)}"
    return said[where] + size
