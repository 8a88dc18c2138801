"""Two sections of a comparison's page: how early a loss was reached, and what it costs."""

from typing import Any

from jaxlm.compare.analysis import Comparison
from jaxlm.compare.convergence import EARLY
from jaxlm.compare.document import Block, Heading, Paragraph, Table
from jaxlm.compare.metrics import METRICS, shown
from jaxlm.inference.figures import smoothing_width

_BUDGET_WORDS = {
    "step": ("steps", METRICS["steps"], "at {} steps"),
    "tokens": ("tokens", METRICS["tokens"], "at {} tokens"),
    "flops": ("FLOPs (6 N D)", METRICS["flops"], "at {} FLOPs (6 N D)"),
    "seconds": ("training time (s)", METRICS["seconds"], "after {} s of training"),
}


def convergence(comparison: Comparison, figures: list[Block]) -> list[Block]:
    """Early versus late, if there are enough records, and the cost of the common loss."""
    made: list[Block] = [Heading(2, "Early versus late")]
    if comparison.shares:
        header = ["variant", *(f"at {part:.0%} of the steps" for part in EARLY)]
        rows = []
        for variant, shares in comparison.shares.items():
            cells = [f"{100 * shares[p].value:.1f} %" + _plus_minus(shares[p]) for p in EARLY]
            rows.append([variant, *cells])
        said = (
            "Share of the total fall in training loss, from the first record to the mean of the "
            f"records in the last 5 % of the steps; a loss in between is the mean of "
            f"{_width(comparison)} records."
        )
        made += [Paragraph(said), Table(header, rows)]
    if comparison.reaching:
        unit = "nats per token" if comparison.comparable else "bits per byte"
        target = f"{comparison.common_loss:.4f} {unit}"
        said = (
            f"What each variant needed to reach a validation loss of {target}, which all reach. "
            "Values are interpolated linearly between evaluations; none is before the first one."
        )
        header = ["variant", *(words for words, *_ in _BUDGET_WORDS.values())]
        rows = [
            [v, *(shown(m, found[name].value, found[name].half)
                  for name, (_, m, _) in _BUDGET_WORDS.items())]
            for v, found in comparison.reaching.items()
        ]  # fmt: skip
        made += [Paragraph(said), Table(header, rows)]
    return made + figures


def _plus_minus(found: Any) -> str:
    if not found.half:
        return ""
    half = 100 * found.half
    return f" ± {half:.1f}" if half >= 0.05 else f" ± {half:.1g}"


def _width(comparison: Comparison) -> str:
    """The number of records averaged in a smoothed training loss: '3', '3 to 5'."""
    widths = sorted({smoothing_width(len(run.train)) for run in comparison.counted})
    return f"{widths[0]} to {widths[-1]}" if len(widths) > 1 else f"{widths[0]}"


def efficiency(comparison: Comparison, figures: list[Block]) -> list[Block]:
    """The loss at equal steps, tokens, FLOPs and time."""
    made: list[Block] = [Heading(2, "What the loss costs")]
    if len(comparison.ranking) > 1 and comparison.at_equal_budgets:
        metric = METRICS["best_val_loss"]
        header, rows = ["variant"], [[variant] for variant in comparison.variants]
        for name, found in comparison.at_equal_budgets.items():
            _, count, words = _BUDGET_WORDS[name]
            header.append(words.format(shown(count, found["x"])))
            for row, mean in zip(rows, found["loss"].values(), strict=True):
                row.append(shown(metric, mean.value, mean.half) if mean else "–")
        said = (
            f"{comparison.loss_label[0].upper()}{comparison.loss_label[1:]} at the largest budget "
            "that all finished runs reach, read off the curves. A run that continues beyond it has "
            "not yet lowered its learning rate there, so this favours the run that ends there."
        )
        made += [Paragraph(said), Table(header, rows)]
    return made + figures
