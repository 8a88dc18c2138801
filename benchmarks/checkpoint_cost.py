"""What saving costs: throughput with checkpoints at the default interval against none.

    python benchmarks/checkpoint_cost.py [--rounds 5] [key=value ...]

Whole trainings in turn, with and without checkpoints, round after round, in one process each; the
ratio of their training seconds (compilation and evaluation excluded) is taken pair by pair.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import ROOT, print_table, write_result


def tokens_per_second(folder: Path, words: list[str], every: str | None) -> float:
    """Throughput of one training, saved every `every` (None: the default interval)."""
    interval = [] if every is None else [f"train.checkpoint_every={every}"]
    fixed = ["train.eval_every=0", "run.samples=0", "run.overwrite=true", f"run.dir={folder}"]
    command = [sys.executable, str(ROOT / "run.py"), *words, *fixed, *interval]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return json.loads((folder / "summary.json").read_text())["tokens_per_second"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--name", default="checkpoint_cost")
    default = ["experiment=quickstart", "train.duration=200"]
    parser.add_argument("words", nargs="*", default=default, help="key=value words of the run")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.rounds):
            order = ((None, "0"), ("0", None))[number % 2]
            speed = {e: tokens_per_second(Path(folder) / "run", arguments.words, e) for e in order}
            cost = 1 - speed[None] / speed["0"]
            rows.append({"with": speed[None], "without": speed["0"], "cost_percent": 100 * cost})
    print_table(rows)
    median = statistics.median(row["cost_percent"] for row in rows)
    print(f"median cost of saving at the default interval: {median:.2f} % of throughput")
    result = {"words": arguments.words, "median_cost_percent": median, "rounds": rows}
    write_result(arguments.name, result)


if __name__ == "__main__":
    main()
