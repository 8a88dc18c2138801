"""How often the 95 % intervals of the law and of a single run contain a new run's loss.

    python benchmarks/run_interval_coverage.py [--trials 100] [--points 40]

Each trial fits points of a known law with noise (normal, or Student's t with 3 degrees of freedom)
and predicts new runs, both inside the range of the points and at ten times their compute.
"""

import argparse
from typing import Any

import numpy as np
from common import print_table, write_result

from scaling.estimate.fit import fit
from scaling.law.laws import CHINCHILLA
from scaling.records.records import Records

TRUTH = {"E": 1.7, "A": 400.0, "B": 410.0, "alpha": 0.34, "beta": 0.28}
NOISE = 0.01  # of log loss


def scatter(generator: np.random.Generator, kind: str, size: int) -> np.ndarray:
    """Noise in the log loss of `size` runs."""
    if kind == "normal":
        return NOISE * generator.standard_normal(size)
    return NOISE * generator.standard_t(3, size) / np.sqrt(3)


def draw(generator: np.random.Generator, kind: str, size: int, beyond: float = 1.0) -> Records:
    """Runs of the law at random sizes and tokens, each `beyond` times as large."""
    N, D = (beyond * 10 ** generator.uniform(*ends, size) for ends in ((7, 9.5), (9, 11.5)))
    loss = CHINCHILLA.loss(CHINCHILLA.from_natural(TRUTH), N=N, D=D)
    return Records.from_arrays(N, D, loss * np.exp(scatter(generator, kind, size)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--points", type=int, nargs="*", default=[12, 40])
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for points in asked.points:
        for kind in ("normal", "heavy tails"):
            inside: dict[tuple[str, str], list[bool]] = {}
            for trial in range(asked.trials):
                generator = np.random.default_rng(trial)
                found = fit(draw(generator, kind, points), resamples=1000, profiles=False)
                for where, beyond in (("inside", 1.0), ("10 times beyond", 10**0.5)):
                    new = draw(generator, kind, 20, beyond)
                    for N, D, loss in zip(new.N, new.D, new.loss, strict=True):
                        for of, ask in (("law", found.predict), ("run", found.predict_run)):
                            _, low, high = ask(N=float(N), D=float(D))
                            inside.setdefault((where, of), []).append(low <= loss <= high)
            for (where, of), held in inside.items():
                about = {"points": points, "noise": kind, "runs": where, "interval_of": of}
                rows.append(about | {"share_inside": float(np.mean(held))})
    print_table(rows)
    write_result("run_interval_coverage", {"trials": asked.trials, "level": 0.95, "rows": rows})


if __name__ == "__main__":
    main()
