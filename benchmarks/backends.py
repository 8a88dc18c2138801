"""JAX against PyTorch: tokens/s of the training step, both measured in alternation.

    python benchmarks/backends.py [--shapes wide wide_gelu] [--cases jax:float32 torch:bfloat16 ...]

Every case has its own process, set up as in `run.py`. The processes take turns, one round each, so
that only one works at a time and a noisy machine affects all equally. A round is a few training
steps through the backend's engine; batches come from the host and metrics are read as in training.
Each ratio is the median over the rounds of the ratio within a round.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

from common import ROOT, print_table, write_result
from train_step import SHAPES

from jaxlm.host.allocator import tunables

CASES = ("jax:float32", "torch:float32", "torch:float32:eager", "torch:bfloat16",
         "torch:bfloat16:eager", "jax:bfloat16")  # fmt: skip


class Worker:
    """A case in its own process, which runs a round on request."""

    def __init__(self, shape: str, case: str) -> None:
        backend = case.split(":")[0]
        self.case, self.seconds = case, []
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--worker", shape, case],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"GLIBC_TUNABLES": tunables(backend)},
        )
        self.about = self._answer()

    def _answer(self) -> dict[str, Any]:
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"{self.case} ended: status {self.process.wait()}")

    def round(self, steps: int) -> float:
        """Seconds per step."""
        print(steps, file=self.process.stdin, flush=True)
        return self._answer()["seconds"]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def work(shape: str, case: str) -> None:
    """The worker's side: set up, then run as many steps as each line of standard input says."""
    import numpy as np

    from jaxlm.config.compose import cache_folder, compose
    from jaxlm.inference.engines import engine_class

    backend, precision, *how = case.split(":")
    words = [*SHAPES[shape], f"precision={precision}", f"torch.compile={'eager' not in how}"]
    config = compose(words)
    engine = engine_class(backend)(config, 65, cache_folder(config))
    state = engine.initial_state()
    started = time.perf_counter()
    engine.compile(state)
    compiled = time.perf_counter() - started
    size = (config.train.batch_size, config.model.context_length + 1)
    tokens = np.random.default_rng(0).integers(0, 65, size).astype(np.int32)

    def steps(number: int) -> float:
        nonlocal state
        started, before = time.perf_counter(), None
        for _ in range(number):
            state, metrics = engine.train_step(state, tokens, 1e-4)
            if before is not None:
                engine.read(before.loss)
            before = metrics
        engine.read(before)
        return (time.perf_counter() - started) / number

    steps(3)
    print(json.dumps({"where": engine.where, "compile_seconds": compiled}), flush=True)
    for line in sys.stdin:
        print(json.dumps({"seconds": steps(int(line))}), flush=True)


def measure(shape: str, cases: list[str], rounds: int, steps: int) -> list[dict[str, Any]]:
    """Rows of one shape; ratios are speeds relative to the first case."""
    from jaxlm.config.compose import compose

    config = compose(list(SHAPES[shape]))
    tokens = config.train.batch_size * config.model.context_length
    workers = [Worker(shape, case) for case in cases]
    for _ in range(rounds):
        for worker in workers:
            worker.seconds.append(worker.round(steps))
    for worker in workers:
        worker.close()
    first = workers[0].seconds
    return [
        {
            "shape": shape,
            "case": worker.case,
            "ms_per_step": 1e3 * statistics.median(worker.seconds),
            "tokens_per_second": tokens / statistics.median(worker.seconds),
            f"speed / {workers[0].case}": statistics.median(
                a / b for a, b in zip(first, worker.seconds, strict=True)
            ),
            "compile_seconds": worker.about["compile_seconds"],
            "where": worker.about["where"],
        }
        for worker in workers
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["wide_gelu", "wide"])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3, help="steps per round")
    parser.add_argument("--name", default="backends", help="name of the result file")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return work(*arguments.worker)
    rows = []
    for shape in arguments.shapes:
        rows += measure(shape, arguments.cases, arguments.rounds, arguments.steps)
        print_table([{k: v for k, v in row.items() if k != "where"} for row in rows])
    write_result(arguments.name, {"rounds": arguments.rounds, "rows": rows})


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
