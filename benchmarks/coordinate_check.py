"""Coordinate check: how activations and their changes grow with the width, with and without muP.

    python benchmarks/coordinate_check.py [--widths 64 128 256 512 1024] [--steps 100]

Each model trains on the built-in corpus at one learning rate (Yang et al. 2022, section D.1).
Prints the exponent of the width for each component, by least squares in log-log, and writes
benchmarks/results/coordinate_check.json and docs/coordinate_check.png.
"""

import argparse
from pathlib import Path
from typing import Any

from common import ROOT, print_table, write_result

from jaxlm.config.compose import cache_folder, compose
from jaxlm.inference.engines import engine_class
from jaxlm.inference.open import prepare
from jaxlm.verify.coordinates import Coordinate, coordinates, slopes
from jaxlm.verify.parity import scheduled_batches

PARTS = ("attention.scores", "attention_output", "feedforward_output", "after_feedforward")


def words(parametrization: str, width: int, arguments: argparse.Namespace) -> list[str]:
    """The command line of one model: two layers of four heads, whose width grows."""
    return [
        f"model.parametrization={parametrization}", f"model.d_model={width}",
        f"model.base_width={arguments.widths[0]}", "model.n_layers=2", "model.context_length=32",
        "model.qk_norm=false", "train.batch_size=8", f"train.duration={arguments.steps}",
        "data.train_tokens=0.2M", f"backend={arguments.backend}", "torch.compile=false",
    ]  # fmt: skip


def measure(parametrization: str, arguments: argparse.Namespace) -> list[Coordinate]:
    """Coordinates of all widths."""
    rows = []
    for width in arguments.widths:
        config = compose(words(parametrization, width, arguments))
        dataset = prepare(config)
        engine = engine_class(config.backend)(config, dataset.vocab_size, cache_folder(config))
        fed = [tokens for tokens, _ in scheduled_batches(config, dataset, arguments.steps)]
        rows += coordinates(engine, fed, arguments.lr, every=max(1, arguments.steps // 10))
        print(f"{parametrization} {width}: {rows[-1]}", flush=True)
    return rows


def exponents(rows: list[Coordinate], parametrization: str) -> list[dict[str, Any]]:
    """The exponent of each component's size and change at every measured step."""
    found = []
    for step in sorted({row.step for row in rows} - {0}):
        size = slopes(rows, step, lambda row: row.rms)
        change = slopes(rows, step, lambda row: row.change)
        about = {"parametrization": parametrization, "step": step}
        found += [
            about | {"component": n, "size": size[n], "change": change[n]} for n in sorted(size)
        ]
    return found


def draw(measured: dict[str, list[Coordinate]], path: Path) -> None:
    """Plot the change of the last block since the start against the width, a line per step."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    parts = (*PARTS, "logits")
    figure, axes = plt.subplots(
        2, len(parts), figsize=(12, 5), sharex=True, sharey=True, layout="constrained"
    )
    for row, (parametrization, rows) in enumerate(measured.items()):
        steps = sorted({r.step for r in rows} - {0})
        for axis, part in zip(axes[row], parts, strict=True):
            name = part if part == "logits" else f"blocks.1.{part}"
            for number, step in enumerate(steps):
                points = [
                    (r.width, r.change) for r in rows if (r.step, r.component) == (step, name)
                ]
                colour = plt.get_cmap("viridis")(number / max(1, len(steps) - 1))
                axis.plot(*zip(*points, strict=True), "o-", color=colour, ms=3, label=str(step))
            axis.set(xscale="log", yscale="log", title=part if row == 0 else "")
            widths = sorted({r.width for r in rows})
            axis.set_xticks(widths, [str(w) for w in widths])
            axis.minorticks_off()
        axes[row, 0].set_ylabel(f"{parametrization}\nrms of the change")
    for axis in axes[-1]:
        axis.set_xlabel("width")
    lines = axes[0, 0].get_lines()
    figure.legend(
        lines, [line.get_label() for line in lines], title="step", loc="outside right upper"
    )
    figure.savefig(path, dpi=100)
    print(f"written to {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", nargs="+", type=int, default=[64, 128, 256, 512, 1024])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--backend", choices=("jax", "torch"), default="jax")
    parser.add_argument("--figure", type=Path, default=ROOT / "docs" / "coordinate_check.png")
    arguments = parser.parse_args()
    measured = {name: measure(name, arguments) for name in ("standard", "mup")}
    found = [row for name, rows in measured.items() for row in exponents(rows, name)]
    print_table([row for row in found if row["step"] == arguments.steps])
    draw(measured, arguments.figure)
    write_result(
        "coordinate_check",
        {
            "widths": arguments.widths,
            "steps": arguments.steps,
            "lr": arguments.lr,
            "backend": arguments.backend,
            "exponents": found,
            "after_all_steps": {
                name: [row._asdict() for row in rows if row.step == arguments.steps]
                for name, rows in measured.items()
            },
        },
    )


if __name__ == "__main__":
    main()
