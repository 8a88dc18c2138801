"""A scaling law against the truth: does the interval of E contain the corpus's exact entropy?

    python benchmarks/known_truth.py [markov_ladder | scaling_ladder] [--seeds 4] [--resamplings 20]

Trains the ladder with several seeds in runs/known_truth_LADDER; the same command resumes. Each
resampling takes one seed's run for every size and budget and fits the law as job=fit does. The
result counts the resamplings whose 95 % interval of E contains the exact entropy H, and reports
|E - H|. It also reports the error of a second fit at ten times the compute of its records, as a
share of the loss and of the loss above H.

The resamplings share their sizes, budgets and corpus. They therefore show the noise of training but
not the error of the law itself at these sizes, which E - H shows.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from common import ROOT, print_table, write_result

from jaxlm.study.runner import finished_runs
from scaling.errors import ScalingError
from scaling.estimate.fit import fit
from scaling.estimate.holdout import hold_out
from scaling.records.records import Records, read_records

LADDERS = {  # arguments in addition to its settings: budgets down to a tenth of the largest
    "markov_ladder": (),
    "scaling_ladder": ("job.flops=1.9e11,3.8e11,7.7e11,1.5e12,3.8e12,7.7e12",),
}
FIT_BELOW = 0.11  # of the largest compute; includes a tenth, however steps are rounded
PREDICT_ABOVE = 0.95  # of the largest compute


def train(experiment: str, study: Path, seeds: int, arguments: list[str]) -> None:
    """Train all missing runs; finished ones are skipped."""
    command = [sys.executable, str(ROOT / "run.py"), f"experiment={experiment}"]
    command += [*LADDERS[experiment], "study.pack=true", f"run.dir={study}"]
    command += [f"job.seeds={list(range(seeds))}", *arguments]
    subprocess.run(command, check=True)


def by_cell(study: Path) -> list[Records]:
    """The records of all seeds, for each size and budget."""
    cells: dict[str, list[Path]] = {}
    for run in finished_runs(study):
        cells.setdefault(run.parent.name, []).append(run)
    return [read_records(runs) for runs in cells.values()]


def resampled(cells: list[Records], seed: int) -> Records:
    """One run of every cell, drawn at random with `seed`."""
    generator = np.random.default_rng(seed)
    drawn = [cell.where([generator.integers(len(cell))]) for cell in cells]
    N, D, loss = (np.concatenate([getattr(r, name) for r in drawn]) for name in ("N", "D", "loss"))
    return Records.from_arrays(N, D, loss)


def judge(records: Records, truth: float, resamples: int) -> dict[str, float | bool | str | None]:
    """One row of the table: E, its interval and the errors of the hold-out."""
    found = fit(records, resamples=resamples)
    low, high = found.intervals["E"]
    row = {"E": found.parameters["E"], "low": low, "high": high, "holds": low <= truth <= high}
    row["E_minus_H"] = row["E"] - truth
    profile = found.profiles.get("E")
    row["profile_holds"] = profile is not None and profile.low <= truth <= profile.high
    try:
        largest = records.C.max()
        kept = (records.C <= FIT_BELOW * largest) | (records.C >= PREDICT_ABOVE * largest)
        held = hold_out(records.where(kept), found, FIT_BELOW * largest, resamples=64)
        row["held_out_error"] = float(np.mean(np.abs(held.errors)))
        above = np.abs(held.predicted - held.held.loss) / (held.held.loss - truth)
        row["of_the_excess"] = float(np.mean(above))
    except ScalingError as error:
        row["held_out_error"] = row["of_the_excess"] = None
        print(f"no hold-out: {error}")
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", nargs="?", choices=LADDERS, default="markov_ladder")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--resamplings", type=int, default=20)
    parser.add_argument("--resamples", type=int, default=4000)
    asked, others = parser.parse_known_args()
    study = Path("runs") / f"known_truth_{asked.experiment}"
    train(asked.experiment, study, asked.seeds, others)
    cells = by_cell(study)
    if all(len(cell) < 2 for cell in cells):
        parser.error("every size and budget has only one seed: there is nothing to resample")
    truth = cells[0].floor
    rows = [judge(resampled(cells, s), truth, asked.resamples) for s in range(asked.resamplings)]
    print_table(rows)
    result = {
        "experiment": asked.experiment,
        "exact_entropy": truth,
        "sizes_and_budgets": len(cells),
        "runs": sum(map(len, cells)),
        "intervals_that_hold_it": f"{sum(row['holds'] for row in rows)} of {len(rows)}",
        "profiles_that_hold_it": f"{sum(row['profile_holds'] for row in rows)} of {len(rows)}",
        "median_absolute_E_minus_H": float(np.median([abs(row["E_minus_H"]) for row in rows])),
        "median_error_at_ten_times_the_compute": median(rows, "held_out_error"),
        "the_same_of_the_excess": median(rows, "of_the_excess"),
        "seed_noise": seed_noise(cells),
    }
    print("\n".join(f"{name}: {value}" for name, value in result.items()))
    write_result(f"known_truth_{asked.experiment}", result | {"rows": rows})


def median(rows: list[dict], name: str) -> float | None:
    """The median over the rows that have a value."""
    found = [row[name] for row in rows if row[name] is not None]
    return float(np.median(found)) if found else None


def seed_noise(cells: list[Records]) -> float:
    """Standard deviation of log loss between the seeds of one size and budget."""
    spread = [np.var(np.log(cell.loss), ddof=1) for cell in cells if len(cell) > 1]
    return float(np.sqrt(np.mean(spread)))


if __name__ == "__main__":
    main()
