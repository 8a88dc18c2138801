"""Records and a summary like those of a run, for tests of what a user sees."""

import math
from typing import Any

import numpy as np

FLOOR = 1.2


def parameter_groups(layers: int) -> list[str]:
    blocks = [f"blocks.{n}.{kind}" for n in range(layers) for kind in ("attention", "feedforward")]
    return ["embed", *blocks, "norms", "head"]


def synthetic_run(
    n: int = 60, layers: int = 3, log_every: int = 10, tokens_per_step: int = 2048
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(records, summary): n training records, and an evaluation after each tenth of the run."""
    rng, groups, records = np.random.default_rng(0), parameter_groups(layers), []
    for i in range(n):
        step = max(1, i * log_every)
        progress = i / n
        course = FLOOR + 0.15 + 5.6 / (1 + 60 * progress)
        at = {
            "step": step,
            "tokens": step * tokens_per_step,
            "flops": 1e6 * step * tokens_per_step,
            "seconds": 0.09 * step,
            "wall_seconds": 4.0 + 0.1 * step,
        }
        noise = np.exp(0.2 * rng.normal(size=(3, len(groups))))
        gradient, weight, update = (
            dict(zip(groups, map(float, row), strict=True))
            for row in noise * [[0.2], [10.0], [0.02]]
        )
        train = {
            "kind": "train",
            "loss": course + 0.03 * rng.normal(),
            "lr": 3e-3 * (1 - progress),
            "gradient_norm": math.hypot(*gradient.values()),
            "gradient_norms": gradient,
            "weight_norms": weight,
            "update_norms": update,
            "activation_rms": [float(0.1 * (layer + 1) + progress) for layer in range(layers)],
            "tokens_per_second": 22e3 + 500 * rng.normal(),
            "memory_bytes": int(6.5e8),
        }
        records.append(at | train)
        if i % max(1, n // 10) == max(1, n // 10) - 1:
            evaluation = {
                "kind": "eval",
                "loss": course + 0.02,
                "standard_error": 0.01,
                "accuracy": 0.6,
                "top5_accuracy": 0.85,
                "confidence": 0.58,
                "perplexity": math.exp(course + 0.02),
                "bits_per_byte": course / 3,
                "eval_tokens": 100_000,
            }
            records.append(at | evaluation)
    evals = [record for record in records if record["kind"] == "eval"]
    best = min(evals, key=lambda record: record["loss"])
    summary = {
        "status": "finished",
        "reason": None,
        "step": records[-1]["step"],
        "val_loss": evals[-1]["loss"],
        "best_val_loss": best["loss"],
        "best_step": best["step"],
        "parameters": 531_168,
        "embedding_parameters": 1024 * 96,
        "head_parameters": 1024 * 96,
        "non_embedding_parameters": 334_560,
        "tokens": records[-1]["tokens"],
        "flops": 2.5e12,
        "flops_exact": 3.6e12,
        "seconds": records[-1]["seconds"],
        "wall_seconds": records[-1]["wall_seconds"],
        "tokens_per_second": 22e3,
        "mfu": None,
        "peak_memory_bytes": 700 * 2**20,
        "entropy_floor": FLOOR,
    }
    return records, summary
