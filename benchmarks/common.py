"""Shared by the benchmarks: the description of the machine, and the dated result file."""

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def machine() -> dict[str, Any]:
    """What a figure depends on: processor, cores, load, accelerator and versions."""
    from importlib.metadata import version

    found = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "jax": version("jax"),
    }
    if "jax" in sys.modules:
        import jax

        found["device"] = jax.devices()[0].device_kind
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def git_commit() -> str:
    """The measured commit, with `-dirty` if files differ from it."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def write_result(name: str, result: dict[str, Any], folder: Path | None = None) -> Path:
    """Write benchmarks/results/NAME.json: machine, date, commit and the figures."""
    folder = folder or ROOT / "benchmarks" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    about = {"date": time.strftime("%Y-%m-%d"), "commit": git_commit(), "machine": machine()}
    path.write_text(json.dumps(about | result, indent=1) + "\n")
    print(f"written to {path}")
    return path


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print rows with equal keys as an aligned table."""
    if not rows:
        return
    from scaling.text_table import text_table

    cells = [[_shown(value) for value in row.values()] for row in rows]
    print(text_table(list(rows[0]), cells, left=(), rule=False))


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return (
        f"{value:,.4g}"
        if isinstance(value, float) and abs(value) < 1e4
        else (f"{value:,.0f}" if isinstance(value, float) else str(value))
    )
