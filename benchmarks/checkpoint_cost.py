"""What saving costs: throughput with checkpoints at the default interval against none.

    python benchmarks/checkpoint_cost.py [--rounds 6] [key=value ...]

Whole trainings in turn, with and without checkpoints, round after round, one process each. Two
measures, each as a ratio within its pair: the throughput of training (compilation and evaluation
excluded), which is the question but feels every neighbour of a shared machine; and the processor
time of the whole process, which a neighbour hardly moves and which holds all that saving does, also
in the background.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import ROOT, print_table, write_result


def train(folder: Path, words: list[str], every: str | None) -> tuple[float, float]:
    """Tokens per second and processor seconds of one training (`every` None: the default)."""
    interval = [] if every is None else [f"train.checkpoint_every={every}"]
    fixed = ["train.eval_every=0", "run.samples=0", "run.overwrite=true", f"run.dir={folder}"]
    command = [sys.executable, str(ROOT / "run.py"), *words, *fixed, *interval]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads((folder / "summary.json").read_text())["tokens_per_second"], processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--name", default="checkpoint_cost")
    default = ["experiment=quickstart"]
    parser.add_argument("words", nargs="*", default=default, help="key=value words of the run")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.rounds):
            order = ((None, "0"), ("0", None))[number % 2]
            runs = {every: train(Path(folder) / "run", arguments.words, every) for every in order}
            (speed, processor), (speed_unsaved, processor_unsaved) = runs[None], runs["0"]
            rows.append(
                {
                    "tokens_per_second": speed,
                    "unsaved": speed_unsaved,
                    "throughput_lost_percent": 100 * (1 - speed / speed_unsaved),
                    "processor_seconds": processor,
                    "processor_seconds_unsaved": processor_unsaved,
                    "processor_added_percent": 100 * (processor / processor_unsaved - 1),
                }
            )
    print_table(rows)
    measures = ("throughput_lost_percent", "processor_added_percent")
    medians = {name: statistics.median(row[name] for row in rows) for name in measures}
    print("medians of saving at the default interval:", medians)
    write_result(arguments.name, {"words": arguments.words, "medians": medians, "rounds": rows})


if __name__ == "__main__":
    main()
