"""study.pack: runs trained together, against the same runs one after another.

    python benchmarks/pack.py [--runs 2 8 24] [--shapes tiny small quickstart]

Steps: one step of K runs in one program against K steps of one run, in alternation; each ratio is
the median over the rounds of the ratio within a round. Studies: `run.py` trains 8 learning rates of
the tiny shape, from start to report, in alternation with and without study.pack.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from common import ROOT, print_table, write_result

from jaxlm.host.allocator import restart_with_huge_pages

SHAPES = {
    "tiny": ("model.n_layers=2", "model.d_model=32", "model.n_heads=2", "train.batch_size=4",
             "model.context_length=32"),
    "small": ("model.n_layers=3", "model.d_model=96", "model.n_heads=4", "train.batch_size=16",
              "model.context_length=128"),
    "quickstart": ("model=quickstart", "train.batch_size=8"),
    "shakespeare_gpt": ("model=shakespeare_gpt", "train.batch_size=64"),
}  # fmt: skip
CPU_SHAPES = ("tiny", "small", "quickstart")
VOCABULARY = 65
RATES = "[1e-4,2e-4,4e-4,8e-4,1.6e-3,3.2e-3,6.4e-3,1.28e-2]"


class Together:
    """K runs of a shape in one program, or a single run; `step` takes one step of each."""

    def __init__(self, shape: str, runs: int) -> None:
        import numpy as np

        from jaxlm.config.compose import cache_folder, compose
        from jaxlm.engine.engine import Engine
        from jaxlm.study.lanes import Lanes
        from jaxlm.train.loop import Step

        configs = [compose([*SHAPES[shape], f"seed={seed}"]) for seed in range(runs)]
        engines = [Engine(config, VOCABULARY, cache_folder(config)) for config in configs]
        first, self.packed = engines[0], runs > 1
        size = (configs[0].train.batch_size, first.model_config.context_length + 1)
        tokens = np.random.default_rng(0).integers(0, VOCABULARY, size).astype(np.int32)
        if self.packed:
            dataset = SimpleNamespace(validation_bytes=None)
            states = [SimpleNamespace(engine=e, state=e.initial_state(), dataset=dataset)
                      for e in engines]  # fmt: skip
            self.lanes = Lanes(states)
            self.lanes.compile()
            self.steps = {lane: Step(tokens, 1e-4) for lane in range(runs)}
        else:
            self.engine, self.state, self.tokens = first, first.initial_state(), tokens
            first.compile(self.state)

    def step(self) -> Any:
        """The loss of the step, not yet read."""
        if self.packed:
            return self.lanes.step(self.steps)[0].loss
        self.state, metrics = self.engine.train_step(self.state, self.tokens, 1e-4)
        return metrics.loss

    def seconds(self, steps: int) -> float:
        """Seconds per step, where the host reads each loss after the next step is dispatched."""
        import jax

        started, before = time.perf_counter(), None
        for _ in range(steps):
            loss = self.step()
            if before is not None:
                jax.device_get(before)
            before = loss
        jax.device_get(before)
        return (time.perf_counter() - started) / steps


def steps(shape: str, runs: int, rounds: int, seconds: float) -> dict[str, Any]:
    """The row of one shape and number of runs."""
    alone, packed = Together(shape, 1), Together(shape, runs)
    first = {case: max(case.seconds(3), 1e-9) for case in (alone, packed)}
    first = {case: case.seconds(3) for case in first}
    times: dict[Together, list[float]] = {alone: [], packed: []}
    for _ in range(rounds):
        for case in times:
            times[case].append(case.seconds(max(3, round(seconds / first[case]))))
    ratios = [runs * a / p for a, p in zip(times[alone], times[packed], strict=True)]
    return {
        "shape": shape,
        "runs": runs,
        "alone_ms": 1e3 * statistics.median(times[alone]),
        "packed_ms": 1e3 * statistics.median(times[packed]),
        "speedup": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
    }


def study(pack: bool) -> float:
    """Seconds of a whole study of 8 runs, with processes, compilation, evaluation and reports."""
    folder = Path(tempfile.mkdtemp())
    words = [
        "job=study", "scale=smoke", "tokenizer=byte",
        "train.duration=200", "study.specimens=0", "run.samples=0", f"run.dir={folder / 'study'}",
        f"run.cache={folder / 'cache'}", f"study.axes.optimizer.lr={RATES}", f"study.pack={pack}",
    ]  # fmt: skip
    started = time.perf_counter()
    try:
        command = [sys.executable, str(ROOT / "run.py"), *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    finally:
        shutil.rmtree(folder)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="*", default=CPU_SHAPES, choices=SHAPES)
    parser.add_argument("--runs", nargs="*", type=int, default=[2, 8, 24])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--studies", type=int, default=2, help="rounds of whole studies")
    parser.add_argument("--out", default="pack")
    asked = parser.parse_args()
    rows = [
        steps(shape, runs, asked.rounds, asked.seconds)
        for shape in asked.shapes
        for runs in asked.runs
    ]
    print_table(rows)
    whole = [{"alone": study(False), "packed": study(True)} for _ in range(asked.studies)]
    result = {"steps": rows}
    if whole:
        ratios = [times["alone"] / times["packed"] for times in whole]
        result["study_of_8"] = {"seconds": whole, "speedup": statistics.median(ratios)}
        print(result["study_of_8"])
    write_result(asked.out, result)


if __name__ == "__main__":
    restart_with_huge_pages("jax")
    main()
