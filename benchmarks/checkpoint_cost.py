"""The cost of saving at the default interval: processor and wall seconds, as shares of training.

    python benchmarks/checkpoint_cost.py [--rounds 4] [key=value ...]

Two whole runs cannot be compared on a shared machine: for seconds on end, the same steps take up to
50 % more processor time, with or without saves. Therefore each save is compared with nearby steps
of its own run: the cost is the time of the steps that follow the save, in which all its work is
done, minus the mean time of equally many steps before it and after them. Runs that save nothing are
measured at the same steps and show the error of the method.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import ROOT, print_table, write_result

NAMES = ("processor", "wall")
WARM_UP = 4  # steps ignored at the start of a run


def train(words: list[str], notes_file: Path) -> int:
    """Train in this process; notes (processor, wall) seconds as each step is read."""
    from jaxlm.cli.main import main
    from jaxlm.train.loop import Training

    notes: dict[int, tuple[float, float]] = {}
    drain = Training.drain

    def noting_drain(training: Training) -> None:
        step = training.pending[0] if training.pending else None
        drain(training)
        if step is not None:
            used = resource.getrusage(resource.RUSAGE_SELF)
            notes[step] = (used.ru_utime + used.ru_stime, time.monotonic())

    Training.drain = noting_drain
    status = main(words)
    notes_file.write_text(json.dumps(notes))
    return status


def measure(words: list[str], folder: Path) -> dict[int, tuple[float, float]]:
    """Step -> (processor, wall) seconds at its end, for a training in its own process."""
    fixed = ["train.eval_every=0", "run.samples=0", "run.overwrite=true", f"run.dir={folder}"]
    notes_file = folder.with_suffix(".json")
    command = [sys.executable, __file__, "--notes", str(notes_file), *words, *fixed]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return {int(step): note for step, note in json.loads(notes_file.read_text()).items()}


def seconds_per_save(notes: dict[int, tuple[float, float]], gap: int, index: int) -> list[float]:
    """Extra seconds of NAMES[index] in the quarter interval after each multiple of `gap` steps."""

    def seconds(first: int, last: int) -> float:
        return notes[last][index] - notes[first][index]

    width = gap // 4
    return [
        seconds(s, s + width) - (seconds(s - width, s) + seconds(s + width, s + 2 * width)) / 2
        for s in range(gap, max(notes) - gap + 1, gap)
    ]


def row_of(notes: dict[int, tuple[float, float]], gap: int, saved: bool) -> dict[str, Any]:
    """The figures of one run.

    The share counts the saves during training; the last one, at the end, costs no throughput.
    """
    row: dict[str, Any] = {"saved": saved}
    last = max(notes)
    for index, name in enumerate(NAMES):
        whole = notes[last][index] - notes[WARM_UP][index]
        cost = statistics.median(seconds_per_save(notes, gap, index))
        saves = (last - 1) // gap
        row[f"{name}_seconds"] = whole
        row[f"{name}_seconds_per_save"] = cost
        row[f"{name}_percent"] = 100 * saves * cost / (whole - saved * saves * cost)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--gap", type=int, default=40, help="steps between two saves of the run")
    parser.add_argument("--name", default="checkpoint_cost")
    parser.add_argument("--notes", type=Path, help=argparse.SUPPRESS)
    default = ["experiment=quickstart"]
    parser.add_argument("words", nargs="*", default=default, help="key=value words of the run")
    arguments = parser.parse_args()
    if arguments.notes:
        from jaxlm.host.allocator import restart_with_huge_pages

        restart_with_huge_pages()
        sys.exit(train(arguments.words, arguments.notes))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.rounds):
            for saved in ((True, False), (False, True))[number % 2]:
                off = [] if saved else ["train.checkpoint_every=0"]
                notes = measure([*arguments.words, *off], Path(folder) / "run")
                rows.append(row_of(notes, arguments.gap, saved))
    print_table(rows)
    medians = {
        "saved" if saved else "nothing saved": {
            f"{name}_percent": statistics.median(
                row[f"{name}_percent"] for row in rows if row["saved"] is saved
            )
            for name in NAMES
        }
        for saved in (True, False)
    }
    print("medians, percent of training:", medians)
    write_result(arguments.name, {"words": arguments.words, "medians": medians, "rounds": rows})


if __name__ == "__main__":
    main()
