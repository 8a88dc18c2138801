"""`predict`: what a fitted law predicts for a run, a budget or a target, with intervals."""

import dataclasses
from collections.abc import Callable, Sequence
from numbers import Real
from typing import TypedDict

import numpy as np

from scaling.errors import ScalingError
from scaling.estimate.fit import Fit
from scaling.estimate.power_law import Json
from scaling.law import allocate

Estimate = tuple[float, float, float]  # an estimate and the ends of its interval
Ends = tuple[float, float]


class _Options(TypedDict):
    inference_tokens: float
    unique: float | None


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The answer to a question.

    Attributes:
      question: the question in words.
      values: (estimate, low, high) by name, in parameters, tokens, FLOPs or nats per token. The
        interval is that of the law's value; its ends are NaN without a bootstrap.
      warnings: doubts about the answer, one line each.
      runs: (low, high) of a single run's loss, for answers that are losses.
    """

    question: str
    values: dict[str, Estimate]
    warnings: tuple[str, ...]
    runs: dict[str, Ends] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> Json:
        """For JSON; numbers that are not finite become None."""

        def plain(value: float) -> float | None:
            return float(value) if np.isfinite(value) else None

        values: dict[str, float | None | list[float | None]] = {}
        for name, (estimate, low, high) in self.values.items():
            values |= {name: plain(estimate), f"{name}_interval": [plain(low), plain(high)]}
        for name, (low, high) in self.runs.items():
            values[f"{name}_interval_of_a_run"] = [plain(low), plain(high)]
        return {"question": self.question, **values, "warnings": list(self.warnings)}


def predict(
    fit: Fit,
    *,
    N: float | None = None,
    D: float | None = None,
    C: float | None = None,
    U: float | None = None,
    target_loss: float | None = None,
    inference_tokens: float = 0,
) -> Prediction:
    """Predict with a fitted law; the values given define the question.

    N and D give the loss. C gives the compute-optimal N, D and loss. target_loss gives the least C
    that reaches it. N and target_loss give the tokens that this model needs. N alone gives the
    tokens for which it is optimal. A law of one variable predicts only from that variable.

    Args:
      fit: the fitted law.
      N: parameters, counted as in the records.
      D: training tokens.
      C: FLOPs; including inference if inference_tokens is given.
      U: unique tokens, for data_constrained; defaults to the most in the records.
      target_loss: nats per token.
      inference_tokens: tokens of inference to include in the cost, at 2 N FLOPs each (Sardana et
        al. 2024).

    Raises:
      ScalingError: the values define no question for this law, have no effect, or are not above 0.
    """
    named = {"N": N, "D": D, "C": C, "U": U, "target_loss": target_loss}
    given = {name: value for name, value in named.items() if value is not None}
    for name, value in given.items():
        real = isinstance(value, Real) and not isinstance(value, bool)
        if not (real and np.isfinite(value) and value > 0):
            raise ScalingError(f"{name}={value} must be a finite number above 0.")
    if not (np.isfinite(inference_tokens) and inference_tokens >= 0):
        raise ScalingError(f"inference_tokens={inference_tokens} must be at least 0.")
    law, asked = fit.law, set(given) - {"U"}
    if U is not None and "U" not in law.variables:
        raise ScalingError(f"U={U:.4g} has no effect: law={law.name} does not use unique tokens.")
    if inference_tokens and asked not in ({"C"}, {"target_loss"}, {"N"}):
        raise ScalingError(
            f"inference_tokens={inference_tokens:.4g} has no effect on this answer: it requires "
            "C, target_loss, or N alone."
        )
    options: _Options = {"inference_tokens": inference_tokens, "unique": U}
    if "U" in law.variables and U is None:
        options["unique"] = fit.range["U"][1]
    if asked == set(law.variables) - {"U"}:
        unique = options["unique"] or 0.0
        point = {v: given.get(v, unique) for v in law.variables}
        values = {"loss": fit.predict(**point)}
        runs = {"loss": fit.predict_run(**point)[1:]}
        question = "loss at " + ", ".join(f"{v} = {value:.4g}" for v, value in point.items())
        cost = given.get("C") or (6 * N * D if N and D else None)
    elif not fit.divides_compute:
        raise ScalingError(
            f"law={law.name} predicts from {' and '.join(law.variables)} only, but was given "
            f"{', '.join(sorted(asked)) or 'nothing'}."
        )
    else:
        question, values, runs = _decide(fit, given, asked, options)
        cost = values["C"][0] if "C" in values else given.get("C")
        if cost is None:
            cost = 6 * given["N"] * values["D"][0]
    if not np.isfinite([end for ends in runs.values() for end in ends]).all():
        runs = {}
    return Prediction(question, values, tuple(_doubts(fit, given, cost)), runs)


def _decide(
    fit: Fit, given: dict[str, float], asked: set[str], options: "_Options"
) -> tuple[str, dict[str, Estimate], dict[str, Ends]]:
    """Answer questions about allocation: (question, values, intervals of single runs)."""
    law = fit.law
    tail = f", {options['inference_tokens']:.4g} tokens of inference" * bool(
        options["inference_tokens"]
    )

    def each(
        names: Sequence[str], function: Callable[[np.ndarray], tuple[np.ndarray, ...]]
    ) -> dict[str, Estimate]:
        """Estimates with intervals of a function that returns one array for each name."""
        point, many = function(fit.theta[None]), None
        if len(fit.samples):
            many = function(fit.samples)
        return {
            name: fit.interval_from(point[i][0], None if many is None else many[i])
            for i, name in enumerate(names)
        }

    if asked == {"C"}:
        C = given["C"]
        found = each(("N", "D", "loss"), lambda theta: allocate.optimal(law, theta, C, **options))
        runs: dict[str, Ends] = {}
        if len(fit.samples):
            least_S = allocate.optimal(law, fit.samples, C, **options)[2]
            runs = {"loss": fit.run_interval(found["loss"][0], least_S)}
        return f"best use of C = {C:.4g} FLOPs{tail}", found, runs
    if asked == {"target_loss"}:
        target = given["target_loss"]
        found = each(
            ("C", "N", "D"), lambda theta: allocate.cheapest(law, theta, target, **options)
        )
        return f"least compute for a loss of {target:.4f}{tail}", found, {}
    unique = options["unique"]
    if asked == {"N", "target_loss"}:
        N, target = given["N"], given["target_loss"]
        found = each(
            ("D",), lambda theta: (allocate.tokens_for(law, theta, N, target, unique=unique),)
        )
        return f"tokens with which N = {N:.4g} reaches a loss of {target:.4f}", found, {}
    if asked == {"N"}:
        N = given["N"]
        found = each(("D",), lambda theta: (allocate.optimal_tokens(law, theta, N, **options),))
        return f"tokens for which N = {N:.4g} is compute-optimal{tail}", found, {}
    raise ScalingError(
        f"{' and '.join(sorted(asked)) or 'no value'}: this is not a question. Set N and D (loss), "
        "C (best N and D),\ntarget_loss (cheapest C), N and target_loss (tokens needed), or N "
        "alone (optimal tokens)."
    )


def _doubts(fit: Fit, given: dict[str, float], cost: float | None) -> list[str]:
    found, target = [], given.get("target_loss")
    if not fit.success:
        found.append(f"the fit is not reliable: {fit.message}")
    smallest, largest = fit.range["C"]
    if cost is not None and np.isfinite(cost) and cost < smallest / 100:
        found.append(
            f"{cost:.3g} FLOPs is {smallest / cost:.3g} times less than the smallest run of the "
            "fit; C must be in FLOPs, N in parameters, D in tokens"
        )
    for name in {"N", "D"} & set(given) & set(fit.range):
        low, high = fit.range[name]
        if not low / 1000 <= given[name] <= high * 1000:
            found.append(
                f"{name} = {given[name]:.3g} is far from the fit's {low:.3g} to {high:.3g}; "
                "N must be in parameters, D in tokens"
            )
    if cost is not None and np.isfinite(cost) and cost > 100 * largest:
        found.append(
            f"{cost:.3g} FLOPs is {cost / largest:.3g} times the largest run of the fit; the law "
            "is untested beyond 100 times"
        )
    if target is not None and "E" in fit.parameters and target <= fit.parameters["E"]:
        found.append(
            f"the target {target:.4f} is not above the fitted E = {fit.parameters['E']:.4f}, so "
            "under this law no compute reaches it"
        )
    if not len(fit.samples):
        found.append("the fit has no bootstrap resamples, so there are no intervals")
    return found
