"""Do two backends agree? Compares measured errors with stated tolerances; `job=parity`.

Both engines start from the same weights and receive the same batches. Every measure returns rows of
(quantity, tolerance, error); `parity_tests/` asserts them and `job=parity` prints them.
Legend: B rows, M = L + 1, N batches, T tokens.
"""

import json
import math
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxlm.config.duration import horizon
from jaxlm.config.schema import Config
from jaxlm.data.batches import batch
from jaxlm.data.dataset import Dataset
from jaxlm.host.checked import Json
from jaxlm.host.errors import UserError
from jaxlm.host.files import atomic_write, plain
from jaxlm.inference.evaluate import Evaluator
from jaxlm.spec.contract import Engine, LoadEngine
from jaxlm.spec.sampling import Sampling
from jaxlm.spec.schedule import learning_rate

Arrays = dict[str, np.ndarray]

# Relative errors allowed, by precision. float64: sums in another order round differently, and the
# error grows over steps. float32: the same; moreover, AdamW divides each gradient by its own size,
# so a step turns the rounding errors of the smallest gradients into part of an update. bfloat16 has
# 8 bits: one rounding is up to 2^-9 = 0.002; PyTorch also rounds the logits and each weight
# gradient to 16 bits, where the JAX engine keeps 32. Apple's GPUs compute exp, erf and similar
# functions less exactly; these figures are a first bound, not yet measured on such a GPU.
TOLERANCES = {
    "float64": {"logits": 1e-10, "loss": 1e-10, "gradients": 1e-10, "state": 1e-9, "curve": 1e-8},
    "float32": {"logits": 1e-5, "loss": 1e-5, "gradients": 1e-4, "state": 1e-3, "curve": 1e-3},
    "float32 on mps": {
        "logits": 1e-4,
        "loss": 1e-5,
        "gradients": 1e-3,
        "state": 3e-3,
        "curve": 3e-3,
    },
    "bfloat16": {"logits": 3e-2, "loss": 1e-2, "gradients": 0.1, "state": 0.3, "curve": 5e-2},
}


class Row(NamedTuple):
    """One comparison; it holds if the error is a number not above the tolerance."""

    quantity: str
    tolerance: float
    error: float
    where: str = ""

    @property
    def holds(self) -> bool:
        return self.error <= self.tolerance


def relative(a: np.ndarray, b: np.ndarray, floor: float = 0.0) -> float:
    """|a - b| / max(|b|, floor), with L2 norms in float64; 0 if both are zero."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    difference, size = float(np.linalg.norm(a - b)), max(float(np.linalg.norm(b)), floor)
    return float(difference / size) if difference or size else 0.0


def worst(quantity: str, tolerance: float, a: Arrays, b: Arrays) -> Row:
    """The largest relative error of any array; each counts as at least 1e-6 of the total norm."""
    if set(a) != set(b):
        return Row(quantity, tolerance, math.inf, f"names differ: {sorted(set(a) ^ set(b))[:4]}")
    floor = 1e-6 * math.sqrt(sum(float(np.square(x, dtype=np.float64).sum()) for x in b.values()))
    errors = {name: relative(a[name], b[name], floor) for name in b}
    name = max(errors, key=lambda name: (math.isnan(errors[name]), errors[name]))
    return Row(quantity, tolerance, errors[name], name)


class Pair:
    """Two engines of one configuration, each with the initial state.

    `engines` are the engine under test and the witness. The precision determines the tolerances.
    """

    def __init__(
        self, config: Config, vocab_size: int, cache: Path, *load: Callable[[], type[Engine]]
    ) -> None:
        self.config = config
        self.engines = [load_engine()(config, vocab_size, cache) for load_engine in load]
        on_mps = any("mps" in engine.device_names for engine in self.engines)
        own = TOLERANCES[config.precision]
        self.tolerances = TOLERANCES.get(f"{config.precision} on mps", own) if on_mps else own
        self.states = [engine.initial_state() for engine in self.engines]
        self._compiled = False

    def each(self, function: Callable[[Engine, Any], Any]) -> list[Any]:
        """function(engine, parameters) for both engines."""
        found = []
        for engine, state in zip(self.engines, self.states, strict=True):
            engine.activate()
            found.append(function(engine, engine.parameters_of(state)))
        return found

    def set_parameters(self, values: Arrays) -> None:
        """Give both engines these parameters."""
        for number, engine in enumerate(self.engines):
            engine.activate()
            tree = engine.checkpoint_tree(self.states[number])
            tree = {"parameters": values, "optimizer": _host(tree["optimizer"])}
            self.states[number] = engine.state_of(tree)

    def trees(self) -> list[Json]:
        """Both states as canonical trees of numpy arrays."""
        found = []
        for engine, state in zip(self.engines, self.states, strict=True):
            engine.activate()
            found.append(_host(engine.checkpoint_tree(state)))
        return found

    def train(self, batches: Iterable[tuple[np.ndarray, float]]) -> list[np.ndarray]:
        """Train both on (tokens (B, M), learning rate); returns their losses (N,), float64."""
        batches, losses = list(batches), []
        for number, engine in enumerate(self.engines):
            engine.activate()
            state, found = self.states[number], []
            if not self._compiled:
                engine.compile(state)
            for tokens_BxM, lr in batches:
                state, metrics = engine.train_step(state, tokens_BxM, lr)
                found.append(metrics.loss)
            self.states[number] = state
            losses.append(np.array([float(loss) for loss in engine.read(found)]))
        self._compiled = True
        return losses


def _host(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _host(value) for name, value in tree.items()}
    return np.array(tree)  # a copy: torch's arrays change with its parameters


# -- the measures ----------------------------------------------------------------------------------


def weights(pair: Pair) -> list[Row]:
    """Names, shapes and values of the parameters, which must agree bit for bit."""
    a, b = (tree["parameters"] for tree in pair.trees())
    shapes = [{name: value.shape for name, value in tree.items()} for tree in (a, b)]
    if shapes[0] != shapes[1]:
        return [Row("initial parameters", 0.0, math.inf, "names or shapes differ")]
    return [worst("initial parameters", 0.0, a, b)]


def forward(pair: Pair, tokens_BxM: np.ndarray) -> list[Row]:
    """Logits and, if they differ, the first component that does."""
    tokens_BxL = tokens_BxM[:, :-1]
    a, b = pair.each(lambda engine, p: engine.logits(p, tokens_BxL))
    row = Row("logits", pair.tolerances["logits"], relative(a, b))
    if row.holds:
        return [row]
    return [row._replace(where=f"first to differ: {first_difference(pair, tokens_BxL)}")]


def components(pair: Pair, tokens_BxL: np.ndarray) -> list[Row]:
    """The output of each part of the network, in the order of the forward pass.

    Scores are compared only where the mask admits them.
    """
    a, b = pair.each(lambda engine, p: engine.components(p, tokens_BxL))
    visible = np.tri(tokens_BxL.shape[1], dtype=bool)
    rows = []
    for name in b:
        x, y = a.get(name), b[name]
        if x is None or x.shape != y.shape:
            rows.append(Row(name, pair.tolerances["logits"], math.inf, "missing, or shapes differ"))
            continue
        if name.endswith("scores"):
            x, y = x * visible, np.where(visible, y, 0.0)
        rows.append(Row(name, pair.tolerances["logits"], relative(x, y)))
    missing = set(a) - set(b)
    return rows + [Row(name, 0.0, math.inf, "missing in the witness") for name in sorted(missing)]


def first_difference(pair: Pair, tokens_BxL: np.ndarray) -> str:
    """Name and error of the first component that differs."""
    for row in components(pair, tokens_BxL):
        if not row.holds:
            return f"{row.quantity} ({row.error:.1e})"
    return "none; only the fused kernels differ"


def gradients(pair: Pair, tokens_BxM: np.ndarray, key_biases: bool = True) -> list[Row]:
    """The loss and its gradient for each parameter.

    A key bias shifts all scores of a query equally, so its gradient is zero except for rounding. It
    is omitted in precisions below float64, and always if `key_biases` is false.
    """
    (loss_a, a), (loss_b, b) = pair.each(lambda engine, p: engine.gradients(p, tokens_BxM))
    return [
        Row("loss", pair.tolerances["loss"], relative(loss_a, loss_b)),
        worst("gradients", pair.tolerances["gradients"], *_compared(pair, key_biases, a, b)),
    ]


def _compared(pair: Pair, key_biases: bool, *trees: Arrays) -> list[Arrays]:
    if pair.config.precision == "float64" and key_biases:
        return list(trees)
    return [{n: v for n, v in t.items() if not n.endswith("attention.key.bias")} for t in trees]


def optimizer(pair: Pair, batches: list[tuple[np.ndarray, float]]) -> list[Row]:
    """Parameters and moments after the first step and after the last.

    The error of a parameter is relative to its distance from the initial value. In bfloat16
    parameters are not compared: AdamW's first steps follow little more than the signs of the
    gradients, and rounding decides the signs of small ones. The losses of `trajectory` show whether
    this matters.
    """
    rows, start = [], pair.trees()[1]["parameters"]
    for part, steps in ((batches[:1], "1 step"), (batches[1:], f"{len(batches)} steps")):
        if not part:
            continue
        pair.train(part)
        a, b = pair.trees()
        moved = [
            _compared(pair, True, {n: x - start[n] for n, x in t["parameters"].items()})[0]
            for t in (a, b)
        ]
        if pair.config.precision != "bfloat16":
            rows.append(worst(f"parameters after {steps}", pair.tolerances["state"], *moved))
        for name, value in b["optimizer"].items():
            if isinstance(value, dict):
                moments = _compared(pair, True, a["optimizer"][name], value)
                rows.append(worst(f"{name} after {steps}", pair.tolerances["state"], *moments))
    return rows


def trajectory(pair: Pair, batches: list[tuple[np.ndarray, float]]) -> list[Row]:
    """The losses of a training run: the largest difference at any step, relative to the loss."""
    a, b = pair.train(batches)
    errors = np.abs(a - b) / np.abs(b)
    step = int(np.argmax(np.where(np.isnan(errors), np.inf, errors)))
    where = f"step {step}: {a[step]:.6f}, {b[step]:.6f}"
    quantity = f"losses of {len(batches)} steps"
    return [Row(quantity, pair.tolerances["curve"], float(errors[step]), where)]


_GREEDY = Sampling(temperature=0.0)
_SAMPLED = Sampling(0.9, top_k=40, top_p=0.95, min_p=0.01, repetition_penalty=1.1)


def generation(pair: Pair, prompt_T: np.ndarray, tokens: int) -> list[Row]:
    """Greedy and sampled continuations: the share of tokens that differ.

    Not for bfloat16: its 8-bit logits often tie, and the texts diverge at the first difference.
    """
    rows = []
    for name, sampling in (("greedy", _GREEDY), ("sampled", _SAMPLED)):
        arguments = {"rows": 2, "max_tokens": tokens, "sampling": sampling, "seed": 7}
        decode = lambda engine, p: engine.decoder(p)(prompt_T, **arguments)  # noqa: E731, B023
        a, b = pair.each(lambda engine, p: np.concatenate(list(decode(engine, p)), axis=1))  # noqa: B023
        differ = np.argwhere((a != b).any(axis=0)).ravel()
        where = f"from token {differ[0]} on" if len(differ) else ""
        rows.append(Row(f"{tokens} {name} tokens", 0.0, float((a != b).mean()), where))
    return rows


def evaluation(pair: Pair, dataset: Dataset, max_batches: int | None = None) -> list[Row]:
    """Every metric of an evaluation."""
    evaluate = lambda engine, p: Evaluator(engine, dataset)(p, max_batches=max_batches)  # noqa: E731
    a, b = pair.each(evaluate)
    tolerance = pair.tolerances["logits"] if pair.config.precision == "bfloat16" else 1e-6
    return [
        Row(f"evaluate: {name}", tolerance, relative(a[name], b[name]))
        for name in b
        if b[name] is not None
    ]


# -- the job ---------------------------------------------------------------------------------------

PARTS = ("forward", "gradients", "optimizer", "trajectory", "generation", "evaluation")


def parity_job(config: Config, load_engine: LoadEngine) -> int:
    """job=parity: a table that compares JAX with PyTorch on this machine; 1 if anything differs.

    Both engines are loaded, regardless of the configured backend.
    """
    from jaxlm.config.compose import cache_folder
    from jaxlm.inference.engines import engine_class
    from jaxlm.inference.open import prepare

    job = config.job
    load_engine, load_witness = (partial(engine_class, name) for name in ("jax", "torch"))
    load_witness()
    dataset = prepare(config)
    new_pair = partial(
        Pair, config, dataset.vocab_size, cache_folder(config), load_engine, load_witness
    )
    pair = new_pair()
    for engine in pair.engines:
        print(f"{config.precision}, {engine.where}")
    batches = list(scheduled_batches(config, dataset, max(job.steps, 20)))
    if len(batches) < job.steps:
        print(f"the trajectory has {len(batches)} steps, since train.duration has no more")
    parts = PARTS if job.part == "all" else (job.part,)
    rows: list[Row] = []

    def report(found: list[Row]) -> None:
        rows.extend(found)
        for row in found:
            print(_line(row), flush=True)

    print(f"\n{'quantity':<28} {'tolerance':>10} {'error':>10}  verdict")
    report(weights(pair))
    if "forward" in parts:
        report(forward(pair, batches[0][0]))
    if "gradients" in parts:
        report(gradients(pair, batches[0][0]))
    if "optimizer" in parts:
        report(optimizer(pair, batches[:20]))
    if "trajectory" in parts:
        pair = new_pair() if "optimizer" in parts else pair
        report(trajectory(pair, batches[: job.steps]))
    if {"generation", "evaluation"} & set(parts):  # these compare with equal weights
        pair.set_parameters(pair.trees()[1]["parameters"])
    if "generation" in parts and config.precision != "bfloat16":
        report(generation(pair, dataset.validation[:8].astype(np.int32), job.max_tokens))
    if "evaluation" in parts:
        report(evaluation(pair, dataset, max_batches=8))
    failed = [row for row in rows if not row.holds]
    _write(Path(job.out), config, pair, rows)
    print(f"\n{len(rows) - len(failed)} of {len(rows)} hold; written to {job.out}")
    return 1 if failed else 0


def scheduled_batches(config: Config, dataset: Dataset, steps: int) -> Iterable:
    """(tokens (B, M), learning rate) for the run's first `steps`, or all if it is shorter."""
    plan = horizon(config, len(dataset.train))
    if plan.steps is None:
        raise UserError("job=parity needs train.duration in steps, tokens or epochs.")
    for step in range(min(steps, plan.steps)):
        tokens_BxM = batch(
            dataset.train,
            seed=config.seed if config.data_seed is None else config.data_seed,
            step=step,
            batch_size=config.train.batch_size,
            context_length=config.model.context_length,
            stride=config.data.stride,
        )
        yield tokens_BxM, learning_rate(config.schedule, config.optimizer.lr, plan, step)


def _line(row: Row) -> str:
    verdict = "same" if row.holds else "DIFFERENT"
    where = f"  ({row.where})" if row.where else ""
    return f"{row.quantity:<28} {row.tolerance:>10.0e} {row.error:>10.1e}  {verdict}{where}"


def _write(path: Path, config: Config, pair: Pair, rows: list[Row]) -> None:
    table = [row._asdict() | {"holds": row.holds} for row in rows]
    result = {
        "precision": config.precision,
        "engines": [engine.where for engine in pair.engines],
        "rows": table,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, json.dumps(plain(result), indent=1) + "\n")
    except OSError as error:
        raise UserError(f"Cannot write job.out={path}: {error.strerror}.") from None
