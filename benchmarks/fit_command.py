"""Seconds that a user waits for the command that fits and reports, cold and warm.

    python benchmarks/fit_command.py POINTS.csv [--rounds 3]

POINTS.csv holds the 240 points of the Chinchilla refit (column in_fit). Each round starts
`python run.py job=fit` and `python -m scaling.fit` with an empty folder of compiled programs
(cold) and a second time (warm): 4,000 resamples, profiles, approaches 1 and 2, all figures.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import ROOT, print_table, write_result


def seconds(command: list[str], home: str) -> tuple[float, float, float]:
    """Seconds of a command: wall-clock, wall-clock until its tables, and processor time."""
    environment = os.environ | {"XDG_CACHE_HOME": home, "MPLCONFIGDIR": f"{home}/matplotlib"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.read(1)  # the tables come in one piece
        tables = time.perf_counter() - start
        _, errors = process.communicate()
    spent, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise SystemExit(errors.decode())
    return spent, tables, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("points")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    points = str(Path(asked.points).resolve())
    found: dict[str, list[tuple[float, float, float]]] = {}
    for _ in range(asked.rounds):
        with tempfile.TemporaryDirectory() as home:
            # matplotlib lists a machine's fonts only once.
            warm_up = [sys.executable, "-c", "import matplotlib.font_manager"]
            seconds(warm_up, home)
            job = [sys.executable, "run.py", "job=fit", f"job.records={points}"]
            job += ["job.where=in_fit=1", f"job.out={home}/a", f"run.cache={home}/cache"]
            module = [sys.executable, "-m", "scaling.fit", points, "--where", "in_fit=1"]
            for name, command in (
                ("run.py job=fit", job),
                ("python -m scaling.fit", [*module, "--out", f"{home}/b"]),
            ):
                for state in ("cold", "warm"):
                    found.setdefault(f"{name}, {state}", []).append(seconds(command, home))
    rows: list[dict[str, Any]] = [
        {
            "command": name,
            "seconds_median": statistics.median(wall for wall, _, _ in times),
            "seconds_least": min(wall for wall, _, _ in times),
            "to_the_tables_median": statistics.median(tables for _, tables, _ in times),
            "processor_seconds_median": statistics.median(used for _, _, used in times),
        }
        for name, times in found.items()
    ]
    print_table(rows)
    write_result("fit_command", {"rows": rows, "rounds": asked.rounds, "resamples": 4000})


if __name__ == "__main__":
    main()
