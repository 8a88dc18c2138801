"""Times of the test suite: the slowest tests before and after, and slow tests without the mark.

    python -m pytest -n 2 --junitxml=after.xml
    python benchmarks/suite_times.py before.xml after.xml [--quiet]

Seconds are wall-clock seconds of a test with its fixtures. On a shared machine their ratios are
more reliable than the seconds themselves; `--quiet` records that nothing else was running.
"""

import argparse
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from common import ROOT, print_table, write_result

SLOWEST = 30
LIMIT = 1.0  # seconds; longer tests must be marked slow


def times(path: Path) -> tuple[dict[str, float], float]:
    """(seconds by test, total wall-clock seconds) from a junit file."""
    root = ElementTree.parse(path).getroot()
    found = {
        f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}": float(
            case.get("time", 0)
        )
        for case in root.iter("testcase")
    }
    return found, sum(float(suite.get("time", 0)) for suite in root.iter("testsuite"))


def marked_slow() -> set[str]:
    """The tests marked slow."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "slow", "--thorough"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return set(re.findall(r"^\S+\.py::.*$", done.stdout, re.MULTILINE))


def table(found: dict[str, float]) -> list[dict[str, Any]]:
    rows = sorted(found.items(), key=lambda row: -row[1])[:SLOWEST]
    return [{"seconds": round(seconds, 1), "test": name} for name, seconds in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--name", default=f"suite_times_{os.cpu_count()}_cores")
    parser.add_argument("--quiet", action="store_true", help="nothing else was running")
    given = parser.parse_args()
    result: dict[str, Any] = {"quiet_machine": given.quiet}
    for name in ("before", "after"):
        found, wall = times(getattr(given, name))
        result[name] = {
            "tests": len(found),
            "wall_seconds": round(wall),
            "worker_seconds": round(sum(found.values())),
            "slowest": table(found),
        }
        print(f"\n{name}: {len(found)} tests, {wall:.0f} s")
        print_table(result[name]["slowest"])
    slow = marked_slow()
    unmarked = {n: s for n, s in found.items() if s > LIMIT and n not in slow}
    result["not_slow_worker_seconds"] = round(sum(s for n, s in found.items() if n not in slow))
    result["over_the_limit_without_the_mark"] = sorted(unmarked)
    print(f"\nwithout the mark: {result['not_slow_worker_seconds']} worker-seconds in total")
    print("\n".join(f"{s:6.1f} {n} is not marked slow" for n, s in sorted(unmarked.items())))
    write_result(given.name, result)


if __name__ == "__main__":
    main()
