"""Speed of one training step: tokens/s, model FLOP/s, MFU, compile time and memory.

    python benchmarks/train_step.py [--shapes small wide ...] [--precisions float32 bfloat16]
    python benchmarks/train_step.py --parts          the time of each part of a step

The same script runs on a GPU. The precisions of a shape take turns, round after round, so that a
noisy machine affects all equally; figures are medians over the rounds. --parts removes one
component at a time and reports the difference. These times do not add up where XLA fuses parts.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

from common import print_table, write_result

from jaxlm.host.allocator import restart_with_huge_pages

SHAPES = {
    "quickstart": ("model=quickstart", "train.batch_size=8", "model.vocab_size=1024"),
    "shakespeare_cpu": ("model=shakespeare_cpu", "train.batch_size=12"),
    "wide": ("model.n_layers=4", "model.d_model=256", "model.n_heads=4", "train.batch_size=64",
             "model.context_length=128"),
    "wide_gelu": ("model.n_layers=4", "model.d_model=256", "model.n_heads=4",
                  "train.batch_size=64", "model.context_length=128", "model.ffn=gelu"),
    "shakespeare_gpt": ("model=shakespeare_gpt", "train.batch_size=64"),
    "llama_17m": ("model=llama_17m", "train.batch_size=64", "model.vocab_size=10000"),
    "gpt2_124m": ("model=gpt2_124m", "train.batch_size=16", "model.vocab_size=50257"),
}  # fmt: skip
CPU_SHAPES = ("quickstart", "shakespeare_cpu", "wide", "wide_gelu")


class Case:
    """One shape in one precision, compiled and ready to step."""

    def __init__(self, name: str, precision: str, extra: tuple[str, ...] = ()) -> None:
        import jax
        import numpy as np

        from jaxlm.config.compose import cache_folder, compose
        from jaxlm.engine.engine import Engine
        from jaxlm.engine.step import Batch, make_train_step
        from jaxlm.spec.flops import exact_flops_per_token, peak_flops

        config = compose([*SHAPES[name], f"precision={precision}", *extra])
        self.name, self.precision = name, precision
        self.engine = Engine(config, 65, cache_folder(config))
        jax.config.update("jax_compilation_cache_dir", None)  # compile times are in the result
        model, rows = self.engine.model_config, config.train.batch_size
        self.tokens = rows * model.context_length
        self.flops = exact_flops_per_token(model) * self.tokens
        self.peak = peak_flops(jax.devices()[0].device_kind, precision)
        self.state = self.engine.initial_state()
        shape = (1, rows, model.context_length + 1)
        tokens = np.random.default_rng(0).integers(0, model.vocab_size, shape).astype(np.int32)
        places = np.arange(rows, dtype=np.int32)[None]
        batch = Batch(tokens, places, np.asarray(1e-4, self.engine.parameter_dtype))
        self.batch = self.engine.placement.put_batch(batch)
        function = make_train_step(self.engine.model, config.optimizer, 0)
        started = time.perf_counter()
        self.step = self.engine.placement.compile(function, self.state, self.batch)
        self.compile_seconds = time.perf_counter() - started
        self.temporary_bytes = self.step.memory_analysis().temp_size_in_bytes
        self.seconds: list[float] = []
        self.run(2)

    def run(self, steps: int) -> None:
        """A round of steps. As in training, the host waits only for the step before the newest."""
        import jax

        started, before = time.perf_counter(), None
        for _ in range(steps):
            self.state, metrics = self.step(self.state, self.batch)
            if before is not None:
                jax.block_until_ready(before)
            before = metrics.loss
        jax.block_until_ready((self.state, before))
        self.seconds.append((time.perf_counter() - started) / steps)

    def row(self) -> dict[str, Any]:
        from jaxlm.host.memory import process_peak_bytes

        seconds = statistics.median(self.seconds[1:])
        return {
            "shape": self.name,
            "precision": self.precision,
            "attention": self.engine.kernels.attention,
            "ms_per_step": seconds * 1e3,
            "fastest_ms": min(self.seconds[1:]) * 1e3,
            "tokens_per_second": self.tokens / seconds,
            "gflops_per_second": self.flops / seconds / 1e9,
            "mfu": self.flops / seconds / self.peak if self.peak else None,
            "compile_seconds": self.compile_seconds,
            "temporary_mib": self.temporary_bytes / 2**20,
            "peak_memory_mib": process_peak_bytes() / 2**20,
        }


def measure(cases: list[Case], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Rounds of about `seconds` for each case, in turn."""
    for _ in range(rounds):
        for case in cases:
            case.run(max(2, round(seconds / case.seconds[-1])))
    return [case.row() for case in cases]


@contextmanager
def replaced(module: Any, name: str, value: Callable) -> Any:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def parts(shape: str, precision: str, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """The step's time without each of its parts; the difference is the cost of the part."""
    from jaxlm.engine import model, step

    identity = {name: lambda x: x for name in model.ACTIVATIONS}
    values = lambda q, k, v, *rest: v.repeat(q.shape[2] // v.shape[2], 2)  # noqa: E731
    variants = {
        "whole step": [],
        "attention (scores, softmax, mixing)": [
            (model, kernel, values) for kernel in ("plain_attention", "blocked_attention")
        ],
        "activation of the feed-forward": [(model, "ACTIVATIONS", identity)],
        "norms": [(model.Norm, "__call__", lambda self, x: x)],
        "rotation": [(model, "rotate", lambda x, start, config: x)],
        "cross-entropy": [(step, "cross_entropy", lambda logits, targets: logits.mean(-1))],
        "reported norms": [(step, "norms", lambda tree, groups: __import__("jax").numpy.ones(1))],
    }
    cases = {}
    for name, changes in variants.items():
        from contextlib import ExitStack

        with ExitStack() as stack:
            for change in changes:
                stack.enter_context(replaced(*change))
            extra = ("model.norm=none",) if name == "norms" else ()
            cases[name] = Case(shape, precision, extra)
    rows = measure(list(cases.values()), rounds, seconds)
    whole = rows[0]["ms_per_step"]
    return [
        {
            "left out": name,
            "ms_per_step": row["ms_per_step"],
            "difference_ms": whole - row["ms_per_step"],
        }
        for name, row in zip(cases, rows, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES)
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one round")
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--name", help="name of the result file")
    arguments = parser.parse_args()
    import jax

    platform = jax.devices()[0].platform
    shapes = arguments.shapes or (CPU_SHAPES if platform == "cpu" else list(SHAPES))
    if arguments.parts:
        rows = parts(shapes[0], arguments.precisions[0], arguments.rounds, arguments.seconds)
        print_table(rows)
        name = arguments.name or f"train_step_parts_{shapes[0]}_{platform}"
        write_result(name, {"shape": shapes[0], "parts": rows})
        return
    rows = []
    for shape in shapes:  # one shape at a time, since peak memory is that of the process
        cases = [Case(shape, precision) for precision in arguments.precisions]
        rows += measure(cases, arguments.rounds, arguments.seconds)
    print_table(rows)
    write_result(arguments.name or f"train_step_{platform}", {"cases": rows})


if __name__ == "__main__":
    restart_with_huge_pages()  # as run.py does; GLIBC_TUNABLES= python ... measures without
    main()
