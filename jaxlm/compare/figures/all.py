"""Draws the figures of a comparison, as PNG and SVG, with their captions."""

from pathlib import Path
from typing import TYPE_CHECKING

from jaxlm.compare.analysis import Comparison
from jaxlm.compare.figures import (
    curves as figure_curves,
)
from jaxlm.compare.figures import (
    points as figure_points,
)
from jaxlm.compare.figures import style
from jaxlm.compare.figures import (
    sweeps as figure_sweeps,
)
from scaling.report import house

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(comparison: Comparison, folder: Path) -> dict[str, str]:
    """Draw all figures that the runs allow into `folder`; file name without suffix -> caption."""
    captions = {}
    with house.house_style():
        for name, (caption, figure) in _figures(comparison).items():
            house.save(figure, folder / name)
            captions[name] = caption
    return captions


def _figures(comparison: Comparison) -> dict[str, tuple[str, "Figure"]]:
    """name -> (caption, figure), in the order of a report."""
    if not comparison.ranking:
        return {}
    seeds = [comparison.mean_of_ranked(v).n for v in comparison.ranking]
    one_seed = max(seeds) == 1
    kind = "lines are means over seeds, bands reach from the lowest to the highest seed"
    kind = "one seed each" if one_seed else kind
    interval = "" if one_seed else ", with the 95 % interval over seeds"
    result = "one seed each" if one_seed else "its seeds (rings), their mean and its 95 % interval"
    smooth = ", training loss as a mean over about 2 % of the records, at least 3"
    smooth = smooth if comparison.comparable else ""
    many = len(style.drawn_looks(comparison)) < len(comparison.variants)
    some = f" Of {len(comparison.variants)} variants, the best and the baseline." if many else ""
    grey = " Grey dots are the variants that other figures do not show." if many else ""
    unit = "nats per token" if comparison.comparable else "bits per byte"
    found = {
        "final_performance_comparison": (
            f"Each variant's result: {result}"
            + (", and the authors' figure (×)." if comparison.reported else ".")
            + some,
            figure_points.performance_figure(comparison),
        ),
        "training_loss_comparison": (
            f"Loss against steps, {unit}{smooth}; {kind}. × marks where a run diverged.{some}",
            figure_curves.training_figure(comparison),
        ),
        "loss_curves": (
            "Validation loss against steps, tokens, FLOPs (6 N D) and wall-clock time; "
            f"{kind}.{some}",
            figure_curves.curves_figure(comparison),
        ),
        "efficiency_analysis": (
            f"What the loss costs: speed, training time and FLOPs (6 N D){interval}.{grey}",
            figure_points.efficiency_figure(comparison),
        ),
    }  # fmt: skip
    if comparison.shares or comparison.reaching:
        share = (
            "the share of the fall in training loss reached after a tenth, a quarter and half of "
            "the steps; and "
        )
        found["convergence_analysis"] = (
            f"Early versus late: {share if comparison.shares else ''}what each variant needed to "
            "reach the loss that all reach.",
            figure_points.convergence_figure(comparison),
        )
    sizes = {value for v in comparison.variants
             for value in comparison.values(v, "non_embedding_parameters").values()}  # fmt: skip
    if len(sizes) > 1:
        found["parameters_against_loss"] = (
            f"Loss against parameters, excluding embeddings and head.{grey}",
            figure_points.parameters_figure(comparison),
        )
    for sweep in comparison.sweeps:
        caption = f"Loss against {sweep.title}"
        if any(line.lost for line in sweep.lines):
            caption += "; crosses at the top mark values at which training diverged"
        found[sweep.stem] = (f"{caption}.", figure_sweeps.sweep_figure(sweep))
    return found
