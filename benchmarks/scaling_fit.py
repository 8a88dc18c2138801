"""Speed and reliability of scaling fits, against scipy in the same run.

    python benchmarks/scaling_fit.py POINTS.csv [--rounds 3]

POINTS.csv holds the 240 points of the Chinchilla refit (column in_fit). Measures the whole fit from
a cold start (a new process, with imports and compilation) and warm, the share of our own starts
that reach the lowest objective, the published grid of 4,500 starts, and 4,000 bootstrap resamples
from 1 and 16 starts; also the grid and the resamples with scipy's L-BFGS-B and the analytic
gradient.
"""

import argparse
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.optimize
from common import ROOT, print_table, write_result

from scaling.estimate.bootstrap import bootstrap, resample_weights
from scaling.estimate.fit import fit
from scaling.law.laws import CHINCHILLA
from scaling.law.problem import Problem
from scaling.records.records import read_records

COLD = """
from scaling import fit, read_records
fit(read_records({path!r}, where="in_fit=1"), resamples={resamples})
"""
TARGET = 1.018274019e-3


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    """Wall-clock seconds of a call, and what it returned."""
    start = time.perf_counter()
    found = function()
    return time.perf_counter() - start, found


def published_grid() -> np.ndarray:
    """The starts of Hoffmann et al. 2022, appendix D.3: log E, log A, log B, alpha, beta."""
    coefficients, exponents = np.arange(0, 30, 5.0), np.arange(0, 2.5, 0.5)
    logs_E = np.arange(-1, 1.5, 0.5)
    axes = (logs_E, coefficients, coefficients, exponents, exponents)
    return np.array(list(itertools.product(*axes)))


def centred(starts: np.ndarray, problem: Problem) -> np.ndarray:
    """Starts in the problem's coordinates from starts in the records' units."""
    moved = starts.copy()
    moved[:, 1] -= moved[:, 3] * problem.centre["N"]
    moved[:, 2] -= moved[:, 4] * problem.centre["D"]
    return moved


def scipy_minima(problem: Problem, starts: np.ndarray, weights: np.ndarray) -> list:
    """scipy's L-BFGS-B with the analytic gradient, one start after another, in its own units."""
    log_N = problem.logs["N"] + problem.centre["N"]
    log_D = problem.logs["D"] + problem.centre["D"]

    def cost(theta, weight):
        terms = np.stack(
            [
                np.full(len(log_N), theta[0]),
                theta[1] - theta[3] * log_N,
                theta[2] - theta[4] * log_D,
            ]
        )
        total = scipy.special.logsumexp(terms, axis=0)
        residual = problem.log_loss - total
        slope = weight * np.clip(residual, -problem.delta, problem.delta)
        share = np.exp(terms - total) * slope
        gradient = [share[0].sum(), share[1].sum(), share[2].sum()]
        gradient += [-(share[1] @ log_N), -(share[2] @ log_D)]
        return np.sum(weight * scipy.special.huber(problem.delta, residual)), -np.array(gradient)

    return [
        scipy.optimize.minimize(cost, start, (weight,), method="L-BFGS-B", jac=True)
        for start, weight in zip(starts, weights, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("points")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    records = read_records(asked.points, where="in_fit=1")
    problem = Problem.of(records, CHINCHILLA, 1e-3)
    grid, starts = published_grid(), problem.starts()
    best = problem.solve(starts).theta[0]
    absolute = CHINCHILLA.absolute(best, problem.centre)
    draws = resample_weights(records.run, 4000, 0)
    code = {r: COLD.format(path=asked.points, resamples=r) for r in (0, 4000)}
    cases: dict[str, Callable[[], Any]] = {
        "cold process, fit": lambda: subprocess.run([sys.executable, "-c", code[0]], cwd=ROOT),
        "cold process, fit with 4,000 resamples": lambda: subprocess.run(
            [sys.executable, "-c", code[4000]], cwd=ROOT
        ),
        "warm fit, own starts": lambda: fit(records, resamples=0, profiles=False),
        "warm fit with 4,000 resamples and profiles": lambda: fit(records),
        "published grid, 4,500 starts": lambda: problem.solve(centred(grid, problem)),
        "bootstrap 4,000, 1 start": lambda: bootstrap(problem, best, records.run, 4000),
        "bootstrap 4,000, 16 starts": lambda: bootstrap(
            problem, best, records.run, 4000, starts=16
        ),
        "scipy L-BFGS-B, published grid": lambda: scipy_minima(
            problem, grid, np.ones((len(grid), len(records)))
        ),
        "scipy L-BFGS-B, bootstrap 4,000, 1 start": lambda: scipy_minima(
            problem, np.tile(absolute, (4000, 1)), draws
        ),
    }
    times: dict[str, list[float]] = {name: [] for name in cases}
    results: dict[str, Any] = {}
    for _ in range(asked.rounds):
        for name, case in cases.items():
            if not name.startswith(("cold", "scipy")) and not times[name]:
                case()  # compile
            spent, results[name] = seconds(case)
            times[name].append(spent)
    rows = [
        {"case": name, "seconds_median": statistics.median(spent), "seconds_least": min(spent)}
        for name, spent in times.items()
    ]
    own = problem.solve(starts)
    ours = results["published grid, 4,500 starts"].objective
    theirs = np.array([found.fun for found in results["scipy L-BFGS-B, published grid"]])
    shares = {
        "own starts": float(np.mean(own.objective <= TARGET)),
        "published grid, ours": float(np.mean(ours <= TARGET)),
        "published grid, scipy": float(np.mean(theirs <= TARGET)),
    }
    print_table(rows)
    print(f"objective {own.objective.min():.10g}; share of starts at most {TARGET}: {shares}")
    write_result("scaling_fit", {"rows": rows, "rounds": asked.rounds, "shares": shares,
                                 "objective": float(own.objective.min())})  # fmt: skip


if __name__ == "__main__":
    main()
