"""Evaluates a whole split in one pass, with a standard error; `job=evaluate`.

Legend: B rows of a batch, R rows of the split, L length.
"""

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.config.schema import Config
from jaxlm.data.batches import evaluation_batches
from jaxlm.data.dataset import Dataset
from jaxlm.host.checked import Json
from jaxlm.host.errors import UserError
from jaxlm.host.files import plain
from jaxlm.inference import guard
from jaxlm.inference.open import load_parameters, open_run
from jaxlm.spec.contract import Engine, EvalBatch, LoadEngine

_TOKENS = 16_384
_LOGITS = 2**27


class Evaluator:
    """Evaluates parameters on a dataset. `runs` evaluated at once share the memory of a batch."""

    def __init__(self, engine: Engine, dataset: Dataset, runs: int = 1) -> None:
        self.engine, self.dataset = engine, dataset
        length, devices = engine.model_config.context_length, engine.batch_devices
        tokens = min(_TOKENS, _LOGITS // engine.model_config.vocab_size) // runs
        self.rows = max(1, tokens // length // devices) * devices
        self.has_bytes = dataset.validation_bytes is not None

    def __call__(
        self, parameters: Any, split: str = "validation", max_batches: int | None = None
    ) -> dict[str, float | int | None]:
        """`metrics` of the split. Each target counts once."""
        eval_step = functools.partial(self.engine.eval_step, parameters)
        sums_R = self.sums(eval_step, split, max_batches)
        return metrics(sums_R, has_bytes=self.has_bytes)

    def sums(
        self,
        eval_step: Callable[[EvalBatch], Json],
        split: str = "validation",
        max_batches: int | None = None,
    ) -> dict[str, np.ndarray]:
        """The sums of `eval_step` for each row of the split, float64 (..., R)."""
        length = self.engine.model_config.context_length
        sums = []
        batches = evaluation_batches(self.dataset, self.rows, length, split)
        for number, batch in enumerate(batches):
            if number == max_batches:
                break
            sums.append(eval_step(EvalBatch(*batch)))
        parts = self.engine.read(sums)
        return {
            name: np.concatenate([part[name] for part in parts], axis=-1).astype(np.float64)
            for name in parts[0]
        }


def metrics(sums_R: dict[str, np.ndarray], has_bytes: bool) -> dict[str, float | int | None]:
    """Means over all tokens, from float64 sums over each row.

    `loss` is in nats per token; its standard error is that of a ratio whose units are the rows
    (Cochran 1977, eq. 6.13), because tokens of one row are not independent. accuracy, top5_accuracy
    and confidence are fractions. bits_per_byte divides by the UTF-8 bytes of the targets' text,
    counted when it was encoded; None without a tokenizer. end_of_text adds bits but no bytes.
    """
    tokens = sums_R["tokens"].sum()
    loss = sums_R["loss"].sum() / tokens
    used_R = sums_R["tokens"] > 0
    residual_R = (sums_R["loss"] - loss * sums_R["tokens"])[used_R]
    n = len(residual_R)
    error = math.sqrt(np.square(residual_R).sum() * n / (n - 1)) / tokens if n > 1 else None
    total_bytes = sums_R["bytes"].sum()
    bits = float(sums_R["loss"].sum() / math.log(2) / total_bytes) if total_bytes else None
    return {
        "loss": float(loss),
        "standard_error": error,
        "accuracy": float(sums_R["correct"].sum() / tokens),
        "top5_accuracy": float(sums_R["top5"].sum() / tokens),
        "confidence": float(sums_R["confidence"].sum() / tokens),
        "perplexity": math.exp(loss) if loss < 700 else math.inf,
        "bits_per_byte": bits if has_bytes else None,
        "tokens": int(tokens),
    }


def evaluate_job(config: Config, load_engine: LoadEngine) -> int:
    """job=evaluate: metrics of a trained run, printed and written to evaluation.json."""
    run, dataset, engine = open_run(config, load_engine)
    found = load_parameters(engine, run.path, config.job.checkpoint)
    for line in found.skipped:
        print(f"skipped {line}")
    guard.check_data(found.metadata, dataset, run.path)
    for line in dataset.notes:
        print(line)
    evaluate = Evaluator(engine, dataset)
    result: Json = evaluate(found.content, config.job.split, config.job.max_batches)
    if not math.isfinite(result["loss"]):
        raise UserError(
            f"{run.path}, step {found.step}: the loss on the {config.job.split} split is "
            f"{result['loss']}, so nothing can be measured.\n"
            "The logits overflow: train again with a lower optimizer.lr or a higher precision."
        )
    result = {"step": found.step, "split": config.job.split} | result
    if dataset.entropy_floor is not None and config.job.split == "validation":
        result["entropy_floor"] = dataset.entropy_floor
        result["excess_loss"] = result["loss"] - dataset.entropy_floor
    path = Path(run.path) / "evaluation.json"
    run.write_text(path.name, json.dumps(plain(result), indent=1) + "\n")
    for name, value in result.items():
        shown = (
            f"{value:.6g}" if isinstance(value, float) else "unknown" if value is None else value
        )
        print(f"{name:<16} {shown}")
    print(f"written to {path}")
    return 0
