"""Is the built-in corpus hard enough? Excess loss over the exact floor, by model and data size.

    python benchmarks/stories_scaling.py [--sizes 0.1M 0.3M 1M] [--tokens 0.5M 2M 8M]

Every cell is one complete run with its own cosine schedule, at the learning rate of its size. The
excess over the entropy of the scored documents must fall in both directions. The same command
resumes an unfinished grid.
"""

import argparse
import json
import subprocess
import sys

from common import ROOT, print_table, write_result

SIZES = {
    "0.1M": ("model.n_layers=3", "model.d_model=56", "optimizer.lr=6e-3"),
    "0.3M": ("model.n_layers=3", "model.d_model=96", "optimizer.lr=4e-3"),
    "1M": ("model.n_layers=4", "model.d_model=144", "optimizer.lr=3e-3"),
}
BATCHES = {"0.5M": 4, "2M": 8, "8M": 16}
FIXED = ("model.n_heads=4", "model.context_length=256", "train.eval_every=100%", "run.samples=0",
         "train.checkpoint_every=25%", "schedule.final_lr=0.05")  # fmt: skip


def train(size: str, tokens: str) -> dict:
    name = f"stories-{size}-{tokens}"
    words = [*SIZES[size], *FIXED, f"train.duration={tokens}tokens", "data.train_tokens=8100000"]
    words += [f"train.batch_size={BATCHES[tokens]}", f"run.name={name}"]
    subprocess.run([sys.executable, str(ROOT / "run.py"), *words], cwd=ROOT, check=True)
    summary = json.loads((ROOT / "runs" / name / "summary.json").read_text())
    return {
        "size": size,
        "non_embedding_parameters": summary["non_embedding_parameters"],
        "tokens": summary["tokens"],
        "val_loss": summary["val_loss"],
        "entropy_floor": summary["entropy_floor"],
        "excess": summary["val_loss"] - summary["entropy_floor"],
        "training_seconds": summary["seconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--tokens", nargs="+", choices=BATCHES, default=list(BATCHES))
    arguments = parser.parse_args()
    rows = [train(size, tokens) for tokens in arguments.tokens for size in arguments.sizes]
    print_table(rows)
    write_result("stories_scaling", {"fixed": FIXED, "sizes": SIZES, "runs": rows})


if __name__ == "__main__":
    main()
