"""Tiny Shakespeare with nanoGPT's CPU settings and several seeds: validation loss, time, a sample.

    python benchmarks/tiny_shakespeare.py [--experiment shakespeare_cpu] [--seeds 0 1 2]

Runs `python run.py experiment=...` as a user would, and reads the files that the runs write.
"""

import argparse
import json
import math
import shlex
import statistics
import subprocess
import sys

from common import ROOT, print_table, write_result


def train(experiment: str, seed: int, extra: list[str]) -> dict:
    """One run's result; a finished run is not trained again."""
    name = f"{experiment}-seed{seed}"
    words = [f"experiment={experiment}", f"seed={seed}", f"run.name={name}", *extra]
    subprocess.run([sys.executable, str(ROOT / "run.py"), *words], cwd=ROOT, check=True)
    folder = ROOT / "runs" / name
    summary = json.loads((folder / "summary.json").read_text())
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last = [record for record in records if record["kind"] == "eval"][-1]
    return {
        "seed": seed,
        "val_loss": last["loss"],
        "standard_error": last["standard_error"],
        "best_val_loss": summary["best_val_loss"],
        "accuracy": last["accuracy"],
        "bits_per_byte": last["bits_per_byte"],
        "eval_tokens": last["eval_tokens"],
        "train_tokens": summary["tokens"],
        "parameters": summary["parameters"],
        "training_seconds": summary["seconds"],
        "wall_seconds": summary["wall_seconds"],
        "tokens_per_second": summary["tokens_per_second"],
        "sample": (folder / "samples.txt").read_text()[:600],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiment", default="shakespeare_cpu")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("extra", nargs="*", help="further key=value words")
    arguments = parser.parse_args()
    rows = [train(arguments.experiment, seed, arguments.extra) for seed in arguments.seeds]
    losses = [row["val_loss"] for row in rows]
    mean = statistics.mean(losses)
    error = statistics.stdev(losses) / math.sqrt(len(losses)) if len(losses) > 1 else None
    print_table([{k: v for k, v in row.items() if k != "sample"} for row in rows])
    print(f"mean over {len(rows)} seeds: {mean:.4f}" + (f" ± {error:.4f}" if error else ""))
    words = [f"experiment={arguments.experiment}", *arguments.extra]
    write_result(
        arguments.experiment,
        {
            "command": shlex.join(["python", "run.py", *words]),
            "mean_val_loss": mean,
            "standard_error_over_seeds": error,
            "runs": rows,
        },
    )


if __name__ == "__main__":
    main()
