"""Studies and run directories with known numbers, for tests without training."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxlm.config.compose import to_yaml
from jaxlm.config.job_options import TrainJob
from jaxlm.config.schema import Config

STEPS, TOKENS_PER_STEP = 200, 512


def write_run(
    path: Path,
    loss: float = 2.0,
    *,
    seed: int = 0,
    status: str = "finished",
    changes: Mapping[str, Any] | None = None,
    train_loss: float | None = None,
    speed: float = 50.0,
    parameters: int = 100_000,
    steps: int = STEPS,
    time: str = "2026-03-01T10:00:00+0000",
    samples: Sequence[str] = (),
    bytes_per_token: float = 2.0,
) -> Path:
    """A run directory with a final and best validation loss of exactly `loss`.

    The curves fall as 1 / (1 + 20 t) from 7 nats. Training ends at `train_loss`, by default 0.1
    below `loss`.
    """
    path.mkdir(parents=True)
    config = Config(seed=seed, job=TrainJob())
    config.run = dataclasses.replace(config.run, name=path.name, dir=str(path), experiment="tiny")
    for name, value in (changes or {}).items():
        node, parts = config, name.split(".")
        for part in parts[:-1]:
            node = getattr(node, part)
        setattr(node, parts[-1], value)
    (path / "config.yaml").write_text(to_yaml(config))
    lowest = loss - 0.1 if train_loss is None else train_loss
    end = steps if status != "diverged" else steps // 4
    records = []
    for step in [1, *range(5, end + 1, 5)]:
        fall = 1.05 / (1 + 20 * step / steps) - 0.05
        at = {
            "step": step,
            "tokens": step * TOKENS_PER_STEP,
            "flops": 6.0 * parameters * step * TOKENS_PER_STEP,
            "seconds": step / speed,
            "wall_seconds": 2 + 1.2 * step / speed,
        }
        late = step > 0.95 * steps
        train = {
            "loss": lowest if late else lowest + (7 - lowest) * fall,
            "lr": config.optimizer.lr,
            "gradient_norm": 0.5,
            "gradient_norms": {"embed": 0.5},
            "tokens_per_second": speed * TOKENS_PER_STEP,
            "memory_bytes": 10**8,
        }
        if status == "diverged" and step == end:
            train["loss"] = None
        records.append({"kind": "train"} | at | train)
        if step % (steps // 10) == 0 and train["loss"] is not None:
            value = loss if step == steps else loss + (7 - loss) * max(fall, 0.001)
            evaluation = {
                "loss": value,
                "standard_error": 0.01,
                "accuracy": 0.5,
                "top5_accuracy": 0.8,
                "confidence": 0.45,
                "perplexity": math.exp(value),
                "bits_per_byte": value / math.log(2) / bytes_per_token,
                "eval_tokens": 1000,
            }
            records.append({"kind": "eval"} | at | evaluation)
    lines = [json.dumps(record) + "\n" for record in records]
    (path / "metrics.jsonl").write_text("".join(lines))
    evals = [record for record in records if record["kind"] == "eval"]
    best = min(evals, key=lambda record: record["loss"], default={})
    summary = {
        "status": status,
        "reason": f"loss is nan at step {end}" if status == "diverged" else None,
        "step": end,
        "val_loss": evals[-1]["loss"] if evals else None,
        "best_val_loss": best.get("loss"),
        "best_step": best.get("step"),
        "parameters": parameters + 60_000,
        "embedding_parameters": 30_000,
        "head_parameters": 30_000,
        "non_embedding_parameters": parameters,
        "tokens": end * TOKENS_PER_STEP,
        "flops": 6.0 * parameters * end * TOKENS_PER_STEP,
        "flops_exact": 7.0 * parameters * end * TOKENS_PER_STEP,
        "seconds": end / speed,
        "wall_seconds": 2 + 1.2 * end / speed,
        "tokens_per_second": speed * TOKENS_PER_STEP,
        "mfu": None,
        "peak_memory_bytes": 300 * 2**20,
        "entropy_floor": None,
    }
    (path / "summary.json").write_text(json.dumps(summary))
    environment = {
        "format_version": 1,
        "versions": {"python": "3.11.7", "jax": "0.10.2"},
        "platform": "Linux-test",
        "git_commit": "abc123",
        "devices": ["cpu:0"],
        "starts": [{"time": time, "host": "h", "command": f"run.py run.dir={path.name}"}],
    }
    (path / "environment.json").write_text(json.dumps(environment))
    if samples:
        (path / "samples.txt").write_text("\n\n---\n\n".join(samples) + "\n")
    return path


def write_study(
    folder: Path,
    losses: Mapping[str, Sequence[float | None]],
    *,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    runs: Mapping[str, Mapping[str, Any]] | None = None,
    definition: Mapping[str, Any] | None = None,
) -> Path:
    """A study of variants with these losses for seeds 0, 1, ...; None means a diverged run.

    `changes` are configuration keys of a variant; `runs` are further options of `write_run`.
    """
    rows = []
    for variant, by_seed in losses.items():
        for seed, loss in enumerate(by_seed):
            status = "diverged" if loss is None else "finished"
            write_run(
                folder / variant / f"seed{seed}",
                2.0 if loss is None else loss,
                seed=seed,
                status=status,
                changes=(changes or {}).get(variant),
                **(runs or {}).get(variant, {}),
            )
            path = f"{variant}/seed{seed}"
            row = {"variant": variant, "seed": seed, "path": path, "status": status}
            rows.append(row | {"reason": None, "process_seconds": 5.0})
    study = {"status": "finished", "reason": None, "runs": rows}
    if definition is not None:
        study["definition"] = dict(definition)
    (folder / "study.json").write_text(json.dumps(study))
    return folder


def heads_study(folder: Path) -> Path:
    """Four variants with three seeds: the baseline, one equal to it, one better, one diverged."""
    texts = ["Once there was a <b>cat</b> & a dog.\nIt sat.", "A second | text, `quoted`."]
    return write_study(
        folder,
        {
            "4_heads": [2.000, 2.050, 1.960],
            "2_heads": [2.004, 2.041, 1.966],
            "8_heads": [1.902, 1.950, 1.858],
            "1_head": [None, None, None],
        },
        changes={
            "2_heads": {"model.n_heads": 2},
            "8_heads": {"model.n_heads": 8},
            "1_head": {"model.n_heads": 1},
        },
        runs={
            "4_heads": {"samples": texts},
            "2_heads": {"samples": texts, "speed": 61.0},
            "8_heads": {"samples": texts, "speed": 43.0},
        },
        definition={
            "question": "Do 2 heads beat 4?",
            "variants": {"4_heads": [], "2_heads": ["model.n_heads=2"]},
            "axes": {},
            "seeds": [0, 1, 2],
            "baseline": "4_heads",
            "equal": "steps",
            "reported": {
                "4_heads": {"best_val_loss": 1.4904, "seconds": 8400},
                "2_heads": {"best_val_loss": 1.4801, "overfitting": 1.90},
            },
            "claims": [
                {"text": "2 heads beat 4", "metric": "best_val_loss", "better": "2_heads",
                 "than": "4_heads"},
                {"text": "8 heads beat 4", "metric": "best_val_loss", "better": "8_heads",
                 "than": "4_heads"},
                {"text": "2 heads train 44 % faster", "metric": "steps_per_second",
                 "better": "2_heads", "than": "4_heads", "factor": 1.44},
            ],
            "experiment": "shakespeare_heads",
            "command": "run.py experiment=shakespeare_heads scale=cpu",
        },
    )  # fmt: skip
