"""How fast text becomes batches: `python benchmarks/input_pipeline.py` prints a table, writes JSON.

Batches (the pure function, and read ahead through grain) in million tokens per second; reading,
encoding and the built-in generator in MB of UTF-8 per second. The text is the built-in corpus.
"""

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from jaxlm.config.corpora import Text
from jaxlm.config.schema import Config  # noqa: E402
from jaxlm.config.tokenizers import TOKENIZERS
from jaxlm.data import stories  # noqa: E402
from jaxlm.data.batches import batch, loader  # noqa: E402
from jaxlm.data.prepare import prepare  # noqa: E402

SHAPES = ((12, 64), (32, 256), (64, 128), (64, 1024))
TOKENS = 100_000_000
TEXT_BYTES = 20_000_000


def seconds_per_call(function: Callable[[int], object], calls: int) -> float:
    """The best of three rounds."""
    rounds = []
    for first in range(0, 3 * calls, calls):
        start = time.perf_counter()
        for step in range(first, first + calls):
            function(step)
        rounds.append((time.perf_counter() - start) / calls)
    return min(rounds)


def batch_rates(folder: Path) -> dict[str, float]:
    """Million tokens per second from a memory-mapped file, shuffled over its whole length."""
    np.random.default_rng(0).integers(0, 1024, TOKENS).astype(np.uint16).tofile(folder / "ids")
    tokens = np.memmap(folder / "ids", np.uint16, "r")
    rates = {}
    for batch_size, context_length in SHAPES:
        shape = dict(batch_size=batch_size, context_length=context_length)
        size = batch_size * context_length / 1e6
        seconds = seconds_per_call(lambda i, s=shape: batch(tokens, seed=0, step=i, **s), 300)
        rates[f"batch {batch_size} x {context_length}"] = size / seconds
        steps = loader(tokens, seed=0, start_step=0, stop_step=2000, stride=None, **shape)
        next(steps)
        seconds = seconds_per_call(lambda i, steps=steps: next(steps), 300)
        rates[f"grain {batch_size} x {context_length}"] = size / seconds
    return rates


def text_rates(folder: Path) -> dict[str, float]:
    """MB of text per second: written by the grammar, read and surveyed, encoded."""
    start, size = time.perf_counter(), 0
    with open(folder / "text.jsonl", "w", encoding="utf-8") as file:
        for text in stories.documents(0, stories.TRAIN_START, stories.VALIDATION_START):
            file.write(json.dumps({"text": text}) + "\n")
            size += len(text.encode())
            if size > TEXT_BYTES:
                break
    rates = {"stories generator": size / 1e6 / (time.perf_counter() - start)}
    for name in ("char", "byte", "bpe"):
        data = Text(path=str(folder / "text.jsonl"))
        config = Config(data=data, tokenizer=TOKENIZERS[name]())
        seconds = []
        for attempt in range(2):
            cache = folder / f"{name}{attempt}"
            start = time.perf_counter()
            prepare(config, cache=cache, progress=False)
            seconds.append(time.perf_counter() - start)
            start = time.perf_counter()
            prepare(config, cache=cache, progress=False)
            again = time.perf_counter() - start
        rates[f"prepare {name}"] = size / 1e6 / min(seconds)
        rates[f"prepare {name}, from the cache"] = size / 1e6 / again
    return rates


def main() -> None:
    """Measure, print, write benchmarks/results/input_pipeline_DATE.json."""
    with tempfile.TemporaryDirectory() as folder:
        batches, text = batch_rates(Path(folder)), text_rates(Path(folder))
    for title, unit, rates in (("batches", "M tokens/s", batches), ("text", "MB/s", text)):
        print(f"{title:<34}{unit:>12}")
        for name, rate in rates.items():
            print(f"  {name:<32}{rate:>12,.1f}")
    date = time.strftime("%Y-%m-%d")
    result = {
        "date": date,
        "machine": {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "load_average": os.getloadavg()[0],
        },
        "batches_million_tokens_per_second": batches,
        "text_megabytes_per_second": text,
    }
    path = Path(__file__).parent / "results" / f"input_pipeline_{date}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {path}")


def cpu_name() -> str:
    """The processor's name as Linux tells it, else what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ", 1)[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
