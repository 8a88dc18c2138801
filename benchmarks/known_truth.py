"""A scaling law against the truth: is the corpus's exact entropy in the interval of E?

    python benchmarks/known_truth.py [STUDY] [--seeds 0,1] [--resamplings 20]

Trains the ladder of `experiment=scaling_ladder` with several seeds, and runs of ten times the
compute that the hold-out is fitted to, into STUDY (default: runs/known_truth); the same command
goes on. Each resampling takes one seed's run for every size and budget and fits the law as job=fit
does. Counted are the resamplings whose 95 % interval of E holds the exact entropy H, and measured
are |E - H| and the error of the prediction at ten times the compute.

The resamplings share their sizes, budgets and corpus: they show the noise of training and not how
wrong the law itself is for these sizes, which no resampling can show; E - H does.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from common import ROOT, print_table, write_result

from jaxlm.study import finished_runs
from scaling.errors import ScalingError
from scaling.fit import fit
from scaling.holdout import hold_out
from scaling.records import Records, read_records

FIT_BELOW = 6.2e11  # FLOPs of the hold-out's fit; those of ten times as many are predicted
LADDER = "job.flops=1.5e11,3e11,6e11,1.2e12,2.4e12,6e12"


def train(study: Path, seeds: str, arguments: list[str]) -> None:
    """All runs that are missing; finished ones are skipped."""
    command = [sys.executable, str(ROOT / "run.py"), "experiment=scaling_ladder", LADDER]
    command += [f"run.dir={study}", f"job.seeds=[{seeds}]", *arguments]
    subprocess.run(command, check=True)


def by_cell(study: Path) -> list[Records]:
    """For each size and budget the records of its seeds."""
    cells: dict[str, list[Path]] = {}
    for run in finished_runs(study):
        cells.setdefault(run.parent.name, []).append(run)
    return [read_records(runs) for runs in cells.values()]


def resampled(cells: list[Records], seed: int) -> Records:
    """One run of every cell, drawn by `seed`."""
    generator = np.random.default_rng(seed)
    drawn = [cell.where([generator.integers(len(cell))]) for cell in cells]
    N, D, loss = (np.concatenate([getattr(r, name) for r in drawn]) for name in ("N", "D", "loss"))
    return Records.from_arrays(N, D, loss)


def judge(records: Records, truth: float, resamples: int) -> dict[str, float | bool | str | None]:
    """One row of the table: E, its interval, and the hold-out's errors."""
    found = fit(records, resamples=resamples)
    low, high = found.intervals["E"]
    row = {"E": found.parameters["E"], "low": low, "high": high, "holds": low <= truth <= high}
    row["E_minus_H"] = row["E"] - truth
    profile = found.profiles.get("E")
    row["profile_holds"] = profile is not None and profile.low <= truth <= profile.high
    try:
        kept = (records.C <= FIT_BELOW) | (records.C >= 9.5 * FIT_BELOW)
        held = hold_out(records.where(kept), found, FIT_BELOW, resamples=64)
        row["held_out_error"] = float(np.mean(np.abs(held.errors)))
    except ScalingError as error:
        row["held_out_error"] = None
        print(f"no hold-out: {error}")
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", nargs="?", type=Path, default=Path("runs/known_truth"))
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--resamplings", type=int, default=20)
    parser.add_argument("--resamples", type=int, default=4000)
    asked, others = parser.parse_known_args()
    train(asked.study, asked.seeds, others)
    cells = by_cell(asked.study)
    if all(len(cell) < 2 for cell in cells):
        parser.error("every size and budget has one seed only: there is nothing to resample")
    truth = cells[0].floor
    rows = [judge(resampled(cells, s), truth, asked.resamples) for s in range(asked.resamplings)]
    print_table(rows)
    errors = [row["held_out_error"] for row in rows if row["held_out_error"] is not None]
    result = {
        "exact_entropy": truth,
        "sizes_and_budgets": len(cells),
        "runs": sum(map(len, cells)),
        "intervals_that_hold_it": f"{sum(row['holds'] for row in rows)} of {len(rows)}",
        "profiles_that_hold_it": f"{sum(row['profile_holds'] for row in rows)} of {len(rows)}",
        "median_absolute_E_minus_H": float(np.median([abs(row["E_minus_H"]) for row in rows])),
        "median_error_at_ten_times_the_compute": float(np.median(errors)) if errors else None,
        "seed_noise": seed_noise(cells),
    }
    print("\n".join(f"{name}: {value}" for name, value in result.items()))
    write_result("known_truth", result | {"rows": rows})


def seed_noise(cells: list[Records]) -> float:
    """Standard deviation of log loss between the seeds of one size and budget."""
    spread = [np.var(np.log(cell.loss), ddof=1) for cell in cells if len(cell) > 1]
    return float(np.sqrt(np.mean(spread)))


if __name__ == "__main__":
    main()
