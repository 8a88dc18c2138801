"""Text tables of fits, approaches, hold-outs and predictions."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from scaling.text_table import text_table

if TYPE_CHECKING:
    from scaling.estimate.envelope import Envelope
    from scaling.estimate.fit import Fit
    from scaling.estimate.holdout import HoldOut
    from scaling.estimate.isoflop import IsoFlop
    from scaling.estimate.power_law import PowerLaw
    from scaling.estimate.predict import Prediction

_LISTED = 50  # held-out points in a table, at most


def number(value: float) -> str:
    """Five significant digits; a dash for NaN or None."""
    if value is None or np.isnan(value):
        return "-"
    return f"{value:.5g}"


def span(low: float, high: float) -> str:
    """An interval as `low .. high`; a dash if both ends are NaN."""
    return "-" if np.isnan(low) and np.isnan(high) else f"{number(low)} .. {number(high)}"


def fit_table(fit: "Fit", budgets: Sequence[float] = ()) -> str:
    """The outcome of a fit, its parameters with both intervals, allocations, and warnings."""
    percent = f"{100 * fit.level:g} %"
    delta = "least squares" if fit.delta is None else f"Huber, delta {fit.delta:g}"
    state = "converged" if fit.success else f"NOT RELIABLE: {fit.message}"
    lines = [
        f"{fit.law.name}: {fit.law.formula}   ({delta} of log loss)",
        f"{fit.n_points} points of {fit.n_runs} runs; N is {fit.count.replace('_', '-')}; "
        f"{state}; {fit.descents_converged} of {fit.descents} descents from {fit.starts} starts "
        "reached this minimum",
        f"objective {fit.objective:.6g}; residuals of {100 * fit.residual_std:.3g} % (std)",
        "",
    ]
    rows = []
    for name, value in fit.parameters.items():
        other = fit.profiles.get(name)
        if name in fit.fixed or name in fit.undetermined:
            word = "fixed" if name in fit.fixed else "not determined"
            rows.append([name, number(value), word, word])
            continue
        rows.append(
            [
                name,
                number(value),
                span(*fit.intervals.get(name, (np.nan, np.nan))),
                "-" if other is None else span(other.low, other.high),
            ]
        )
    if fit.floor is not None:
        rows.append(["exact entropy", number(fit.floor), "", ""])
    lines.append(text_table(["", "estimate", f"bootstrap {percent}", f"profile {percent}"], rows))
    if budgets and fit.divides_compute:
        rows = []
        for found in (fit.allocation(C) for C in budgets):
            row = [f"{found['C']:.3g}"]
            for name in ("N", "D", "loss"):
                row += [number(found[name]), span(*found[f"{name}_interval"])]
            rows.append(row)
        lines += ["", text_table(["C, FLOPs", "best N", "", "best D", "", "loss", ""], rows)]
    lines += [f"warning: {warning}" for warning in fit.warnings]
    return "\n".join(lines)


def approaches_table(fit: "Fit", isoflop: "IsoFlop | None", envelope: "Envelope | None") -> str:
    """The exponents and coefficients of all approaches: N = G_N C^a and D = G_D C^b."""
    rows = []

    def add(name: str, laws: Mapping[str, "PowerLaw"]) -> None:
        row = [name]
        for variable in ("N", "D"):
            law = laws[variable]
            row += [number(law.exponent), span(*law.exponent_interval), number(law.coefficient)]
        rows.append(row)

    if envelope is not None and envelope.laws:
        add(f"1, {envelope.kind}", envelope.laws)
    if isoflop is not None:
        for estimator, laws in isoflop.laws.items():
            add(f"2, {estimator}", laws)
    if "a" in fit.parameters:
        a, b, G = (fit.parameters[name] for name in ("a", "b", "G"))
        empty = (np.nan, np.nan)
        rows.append(
            [
                "3, parametric",
                number(a),
                span(*fit.intervals.get("a", empty)),
                number(G * 6**-a),
                number(b),
                span(*fit.intervals.get("b", empty)),
                number(6**-b / G),
            ]
        )
    header = ["approach", "exponent of N", "", "coefficient", "exponent of D", "", "coefficient"]
    return text_table(header, rows)


def holdout_table(holdout: "HoldOut") -> str:
    """Measured and predicted losses of the held-out points, and the drift of the allocation."""
    from scaling.records.records import spread

    held, percent = holdout.held, f"{100 * holdout.fit.level:g} %"
    none = np.full(len(held), np.nan)
    run_low = none if holdout.run_low is None else holdout.run_low
    run_high = none if holdout.run_high is None else holdout.run_high
    listed = spread(held.C, _LISTED)
    rows = [
        [
            held.run[i],
            number(held.N[i]),
            number(held.D[i]),
            f"{held.C[i]:.3g}",
            f"{held.loss[i]:.4f}",
            f"{holdout.predicted[i]:.4f}",
            span(holdout.low[i], holdout.high[i]),
            span(run_low[i], run_high[i]),
            f"{100 * holdout.errors[i]:+.2f} %",
        ]
        for i in listed
    ]
    law, run = f"law, {percent}", f"single run, {percent}"
    header = ["run", "N", "D", "C, FLOPs", "measured", "predicted", law, run, "error"]
    lines = [
        f"fitted to {holdout.fit.n_points} points of at most {holdout.cut:.4g} FLOPs "
        f"({holdout.fit.message}), {len(held)} predicted; mean absolute error "
        f"{100 * np.mean(np.abs(holdout.errors)):.2f} %",
        *_within(holdout, percent),
        "",
        text_table(header, rows),
    ]
    if len(listed) < len(held):
        lines.append(f"{len(listed)} of {len(held)} points are listed, evenly spread over compute")
    if holdout.drift:
        rows = [
            [f"{row['C']:.3g}", number(row["N_below"]), number(row["N_all"]), f"{row['ratio']:.3f}"]
            for row in holdout.drift
        ]
        lines += ["", text_table(["C, FLOPs", "best N, below", "best N, all", "ratio"], rows)]
    return "\n".join(lines)


def _within(holdout: "HoldOut", percent: str) -> list[str]:
    """The number of held-out losses in each interval, and the number expected."""
    found = holdout.within
    if "law" not in found:
        return []
    inside, count = found["law"]
    lines = [
        f"{inside} of {count} measured losses are in the {percent} interval of the law, which does "
        "not include the scatter of single runs"
    ]
    if "run" in found:
        inside, count = found["run"]
        lines.append(
            f"{inside} of {count} are in the interval of a single run, which adds the scatter of "
            f"the fitted runs; if the law holds above the cut, about {percent} should be"
        )
    return lines


def prediction_table(prediction: "Prediction", level: float) -> str:
    """A prediction with its intervals and warnings."""
    percent = f"{100 * level:g} %"
    runs = prediction.runs
    rows = [
        [name, number(value), span(low, high), *([span(*runs[name])] if name in runs else [])]
        for name, (value, low, high) in prediction.values.items()
    ]
    header = ["", "estimate", f"{percent} interval"]
    if runs:
        header = ["", "estimate", f"law, {percent}", f"single run, {percent}"]
        rows = [row + [""] * (4 - len(row)) for row in rows]
    lines = [prediction.question, "", text_table(header, rows)]
    if runs:
        lines.append("law: interval of the law's value; single run: interval of one run's loss")
    return "\n".join(lines + [f"warning: {warning}" for warning in prediction.warnings])
