"""The coordinate check: does a step change activations by the same amount at every width?

After Yang et al. 2022 (section D.1): train the same network at several widths for some steps, and
measure the size of its activations and of their change since the start. Under muP both are constant
in the width, except the initial size of the logits, which falls. Under the standard parametrization
with Adam, the changes grow with the width. Uses `contract.Engine`, so it works in both backends.
"""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from jaxlm.spec.contract import Engine

_PARTS = ("attention.scores", "attention_output", "feedforward_output", "after_feedforward")


class Coordinate(NamedTuple):
    """Root mean squares of one component's output after `step` steps, and of its change."""

    width: int
    step: int
    component: str
    rms: float
    change: float


def followed(name: str) -> bool:
    """Whether a component is measured: each block's scores and outputs, and the logits."""
    return name == "logits" or name.endswith(_PARTS)


def coordinates(
    engine: Engine, batches: Iterable[np.ndarray], lr: float, every: int = 1
) -> list[Coordinate]:
    """Train on batches (B, L+1) at a constant learning rate, and measure every `every` steps.

    Returns a row for each component and measured step, always on the first batch. Step 0 is the
    initial state.
    """
    batches = list(batches)
    probe_BxL, width = batches[0][:, :-1], engine.config.model.d_model
    engine.activate()
    state = engine.initial_state()
    engine.compile(state)
    rows: list[Coordinate] = []
    start: dict[str, np.ndarray] = {}
    for step in range(len(batches) + 1):
        if step % every == 0 or step == len(batches):
            seen = engine.components(engine.parameters_of(state), probe_BxL)
            found = {name: np.array(x, np.float64) for name, x in seen.items() if followed(name)}
            start = start or found
            rows += [
                Coordinate(width, step, name, _rms(x), _rms(x - start[name]))
                for name, x in found.items()
            ]
        if step < len(batches):
            state, _ = engine.train_step(state, batches[step], lr)
    return rows


def _rms(x: np.ndarray) -> float:
    return math.sqrt(float(np.mean(np.square(x))))


def slopes(
    rows: Iterable[Coordinate], step: int, quantity: Callable[[Coordinate], float]
) -> dict[str, float]:
    """Component -> slope of log(quantity) against log(width) at one step, by least squares."""
    points: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row.step == step:
            point = (math.log(row.width), math.log(quantity(row)))
            points.setdefault(row.component, []).append(point)
    slopes = {}
    for name, found in points.items():
        widths, quantities = zip(*found, strict=True)
        slopes[name] = float(np.polyfit(widths, quantities, 1)[0])
    return slopes
