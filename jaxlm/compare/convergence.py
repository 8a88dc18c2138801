"""How a run reached its loss: early versus late, steps to a common loss, loss at equal budgets.

Legend: E evaluations, N training records.
"""

from collections.abc import Sequence

import numpy as np

from jaxlm.compare.reading import Run
from jaxlm.inference.figures import column, smoothed
from jaxlm.store.late import late_mean

EARLY = (0.1, 0.25, 0.5)
LEAST_RECORDS = 20
"""With fewer training records, a tenth of the run has fewer than two, so no share is given."""
BUDGETS = ("step", "tokens", "flops", "seconds")


def early_shares(run: Run) -> dict[float, float] | None:
    """Part of the run -> share of the total fall in training loss that was reached by then.

    The fall is from the first record to the mean over the last 5 % of the steps; the loss in
    between is smoothed. None if the loss did not fall, or with fewer than LEAST_RECORDS records.
    """
    loss_N, step_N = column(run.train, "loss"), column(run.train, "step")
    final = late_mean(run.train, "loss")
    if (
        len(loss_N) < LEAST_RECORDS
        or final is None
        or not np.isfinite(loss_N[0])
        or loss_N[0] <= final
    ):
        return None
    known_N = np.isfinite(loss_N)
    smooth_N = smoothed(loss_N[known_N])
    at = np.interp(np.array(EARLY) * step_N[-1], step_N[known_N], smooth_N)
    return dict(zip(EARLY, ((loss_N[0] - at) / (loss_N[0] - final)).tolist(), strict=True))


def curve(run: Run, name: str, loss: str) -> tuple[np.ndarray, np.ndarray]:
    """(x_E, loss_E) of the evaluations: `name` is step, tokens, flops, seconds or wall_seconds."""
    loss_E = column(run.evals, loss)
    known_E = np.isfinite(loss_E)
    return column(run.evals, name)[known_E], loss_E[known_E]


def common_loss(runs: Sequence[Run], loss: str) -> float | None:
    """The lowest validation loss that all the runs reach: the worst of their best."""
    best = [curve(run, "step", loss)[1].min(initial=np.inf) for run in runs]
    return float(max(best)) if best and np.isfinite(best).all() else None


def reached(run: Run, target: float, loss: str) -> dict[str, float] | None:
    """Where the validation loss first reached `target`: step, tokens, flops, seconds.

    Interpolated linearly between evaluations; the first evaluation if it is already as low. None
    if `target` was never reached.
    """
    at: dict[str, float] = {}
    for name in BUDGETS:
        x_E, loss_E = curve(run, name, loss)
        below = np.flatnonzero(loss_E <= target * (1 + 1e-12))
        if not len(below):
            return None
        i = below[0]
        if i == 0:
            at[name] = float(x_E[0])
            continue
        share = (loss_E[i - 1] - target) / (loss_E[i - 1] - loss_E[i])
        at[name] = float(x_E[i - 1] + min(share, 1.0) * (x_E[i] - x_E[i - 1]))
    return at


def common_budget(runs: Sequence[Run], name: str, loss: str) -> float | None:
    """The largest x (steps, tokens, ...) that the curves of all the runs reach."""
    ends = [curve(run, name, loss)[0].max(initial=-np.inf) for run in runs]
    return float(min(ends)) if ends and np.isfinite(ends).all() else None


def loss_at(run: Run, name: str, x: float, loss: str) -> float | None:
    """The validation loss at x, linear between evaluations; None outside their range."""
    x_E, loss_E = curve(run, name, loss)
    if not len(x_E) or x < x_E[0] * (1 - 1e-12) or x > x_E[-1] * (1 + 1e-12):
        return None
    return float(np.interp(x, x_E, loss_E))
