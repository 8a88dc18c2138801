"""Seconds and memory of fitting many points with tables, intervals and figures.

    python benchmarks/fit_many_points.py [--points 20000 200000]

The points follow a known law over the range of the Chinchilla paper, with noise of half a percent;
a tenth of them are outliers. Each number of points is fitted by `python -m scaling.fit` in its own
process, with an empty folder of compiled programs. The table also shows the distance of the
exponents from the truth.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from common import ROOT, print_table, write_result

from scaling.law.laws import CHINCHILLA

TRUE = {"E": 1.8172, "A": 477.8, "B": 2143.4, "alpha": 0.3473, "beta": 0.3672}


def write_points(path: Path, count: int) -> None:
    """A CSV of `count` runs: name, N, D, loss."""
    generator = np.random.default_rng(0)
    N = np.exp(generator.uniform(np.log(5e7), np.log(1.5e10), count))
    D = np.exp(generator.uniform(np.log(1e9), np.log(4e11), count))
    noise = generator.normal(0, 0.005, count) * np.where(generator.random(count) < 0.1, 5, 1)
    loss = CHINCHILLA.loss(CHINCHILLA.from_natural(TRUE), N=N, D=D) * np.exp(noise)
    rows = (
        f"run{i},{n:.6e},{d:.6e},{x:.8f}"
        for i, (n, d, x) in enumerate(zip(N, D, loss, strict=True))
    )
    path.write_text("\n".join(["run,N,D,loss", *rows]) + "\n", encoding="utf-8")


def measure(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Seconds, and the peak memory in GB of the process and its children together."""
    most, start = 0.0, time.perf_counter()
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        told: list[bytes] = []
        reading = threading.Thread(target=lambda: told.append(process.stdout.read()))
        reading.start()
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                family = [watched, *watched.children(recursive=True)]
                most = max(most, sum(one.memory_info().rss for one in family) / 1e9)
            except psutil.NoSuchProcess:
                pass
            time.sleep(0.05)
        reading.join()
    if process.returncode:
        raise SystemExit(told[0].decode())
    return time.perf_counter() - start, most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, nargs="*", default=[20_000, 200_000])
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for count in asked.points:
        with tempfile.TemporaryDirectory() as home:
            environment = os.environ | {"XDG_CACHE_HOME": home}
            environment.pop("JAX_COMPILATION_CACHE_DIR", None)
            points = Path(home) / "points.csv"
            write_points(points, count)
            command = [
                sys.executable,
                "-m",
                "scaling.fit",
                str(points),
                "--out",
                f"{home}/out",
            ]
            seconds, memory = measure(command, environment)
            found = json.loads((Path(home) / "out" / "fit.json").read_text())
        far = {name: found[name] - TRUE[name] for name in ("E", "alpha", "beta")}
        rows.append({"points": count, "seconds": seconds, "gigabytes": memory, **far})
        print(rows[-1], flush=True)
    print_table(rows)
    write_result("fit_many_points", {"rows": rows, "resamples": 4000})


if __name__ == "__main__":
    main()
