"""Several runs in one program: their states stacked, one vmapped step and evaluation for all.

Shape suffixes: K runs, A accumulation parts, B rows of one part, M = L + 1 tokens, R rows of an
evaluation.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxlm.engine.dropout import Rate, Rates
from jaxlm.engine.engine import Engine
from jaxlm.engine.step import Batch, TrainState, make_eval_step, make_train_step
from jaxlm.host.checked import Json
from jaxlm.inference.evaluate import Evaluator, metrics
from jaxlm.spec.contract import EvalBatch, StepMetrics
from jaxlm.train.loop import Evaluation, NewestState, Step, Training


class Numbers(NamedTuple):
    """The numbers in which the runs of one program may differ, each (K,); None if no run has it."""

    seed: Any
    rule: Json  # by the key of `optimizer`
    clip_norm: Any
    rates: Rates


def numbers_of(engines: Sequence[Engine]) -> Numbers:
    """The numbers of these engines' configurations, on the host."""
    dtype = engines[0].parameter_dtype
    rules = [engine.config.optimizer for engine in engines]
    models = [engine.model_config for engine in engines]

    def rate(values: Sequence[float]) -> Rate | None:
        nothing = Rate(np.uint32(0), 1.0)
        each = [Rate.of(value) or nothing for value in values]
        if not any(values):
            return None
        return Rate(np.array([r.threshold for r in each]), np.array([r.kept for r in each], dtype))

    limits = [math.inf if rule.clip_norm is None else rule.clip_norm for rule in rules]
    return Numbers(
        seed=np.array([engine.config.seed for engine in engines], np.uint32),
        rule={
            key: np.array([getattr(rule, key) for rule in rules], dtype)
            for key in ("eps", "weight_decay")
            if hasattr(rules[0], key)
        },
        clip_norm=None if set(limits) == {math.inf} else np.array(limits, dtype),
        rates=Rates(
            rate([model.attention_dropout for model in models]),
            rate([model.residual_dropout for model in models]),
        ),
    )


class Lanes:
    """The states of K runs whose configurations differ only in `Numbers`, and their step.

    A run keeps its number (its place in `trainings`) when others end.
    """

    def __init__(self, trainings: Sequence[Training]) -> None:
        self.engines = [cast(Engine, training.engine) for training in trainings]  # JAX's alone
        # All lanes use this kernel; without attention dropout a faster one might apply.
        self.engine = max(self.engines, key=lambda e: e.model_config.attention_dropout)
        self.present = list(range(len(trainings)))
        dataset = trainings[0].dataset
        self.evaluator = Evaluator(self.engine, dataset, runs=len(trainings))
        states = [jax.device_get(training.state) for training in trainings]
        for training in trainings:
            training.state = None  # frees its memory: the stack holds a copy
        self._place(jax.tree.map(lambda *leaves: np.stack(leaves), *states))
        self._eval_step = jax.jit(jax.vmap(make_eval_step(self.engine.model), (0, None)))
        self._take = jax.jit(lambda state, k: jax.tree.map(lambda x: x[k], state))

    def _stacked(self, sharding: NamedSharding) -> NamedSharding:
        return NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))

    def _place(self, state_K: TrainState) -> None:
        """Put stacked states on the devices, with the numbers of the runs that are present."""
        placement = self.engine.placement
        one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), state_K)
        self._shardings = jax.tree.map(self._stacked, placement.state_shardings(one))
        self.state = jax.device_put(state_K, self._shardings)
        numbers = numbers_of([self.engines[lane] for lane in self.present])
        self.numbers = jax.device_put(numbers, placement.sharding())

    def compile(self) -> None:
        """Compile the training step of all runs that are present."""
        model, rule = self.engine.model, self.engine.config.optimizer

        def step(numbers: Numbers, state: TrainState, batch: Batch) -> Any:
            here = dataclasses.replace(rule, **numbers.rule, clip_norm=numbers.clip_norm)
            one = make_train_step(model, here, numbers.seed, rates=numbers.rates)
            return one(state, batch)

        rows = self.engine.config.train.batch_size
        empty = np.zeros((rows, self.engine.model_config.context_length + 1), np.int32)
        batch = self._batch({lane: Step(empty, 0.0) for lane in self.present})
        together = jax.vmap(step, (0, 0, Batch(0, None, 0)))
        shardings = (self._shardings, self.engine.placement.sharding())
        jitted = jax.jit(together, donate_argnums=1, out_shardings=shardings)
        self._step = jitted.lower(self.numbers, self.state, batch).compile()

    def _batch(self, steps: Mapping[int, Step]) -> Batch:
        """The runs' batches, on the devices; a run that has ended gets another's as a filler."""
        parts = self.engine.config.train.grad_accumulation
        filler = next(iter(steps.values()))
        each = [steps.get(lane, filler) for lane in self.present]
        tokens_KxBxM = np.stack([asked.tokens_BxM for asked in each])
        runs, _, length = tokens_KxBxM.shape
        tokens_KxAxBxM = tokens_KxBxM.reshape(runs, parts, -1, length)
        rows_AxB = np.arange(tokens_KxBxM.shape[1], dtype=np.int32).reshape(parts, -1)
        lr_K = np.array([asked.lr for asked in each], self.engine.parameter_dtype)
        sharding, split = self.engine.placement.sharding, (None, ("data", "fsdp"))
        places = Batch(sharding(None, *split), sharding(*split), sharding())
        return jax.device_put(Batch(tokens_KxAxBxM, rows_AxB, lr_K), places)

    # -- requests of the runs ----------------------------------------------------------------------

    def answer(self, requests: Mapping[int, Any]) -> dict[int, Any]:
        """Answers to some of the requests of `Training.stages`, by the run's number.

        Steps are answered last, so that all runs take theirs together.
        """
        saving = [lane for lane, asked in requests.items() if isinstance(asked, NewestState)]
        if saving:
            return {lane: self.take(lane) for lane in saving}
        evaluating = [lane for lane, asked in requests.items() if isinstance(asked, Evaluation)]
        if evaluating:
            found = self.evaluate()
            return {lane: found[lane] for lane in evaluating}
        return self.step(requests)

    def take(self, lane: int) -> TrainState:
        """The newest state of one run."""
        return self._take(self.state, self.present.index(lane))

    def evaluate(self) -> dict[int, Json]:
        """`Evaluator`'s result for every run that is present."""
        place, parameters = self.engine.placement.put_rows, self.state.parameters

        def eval_step(batch: EvalBatch) -> Json:
            return self._eval_step(parameters, place(batch))

        sums_KxR = self.evaluator.sums(eval_step)
        return {
            lane: metrics(
                {name: sums[k] for name, sums in sums_KxR.items()}, self.evaluator.has_bytes
            )
            for k, lane in enumerate(self.present)
        }

    def step(self, steps: Mapping[int, Step]) -> dict[int, StepMetrics]:
        """One step of each of these runs; their metrics, which may not be ready yet."""
        if 2 * len(steps) <= len(self.present):
            self._keep(sorted(steps))
        batch = self._batch(steps)
        with jax.transfer_guard("disallow"):  # an accidental copy fails instead of slowing
            self.state, found = self._step(self.numbers, self.state, batch)
        shared = Fetched(found)
        return {
            lane: StepMetrics(*(Entry(shared, name, k) for name in found._fields))
            for k, lane in enumerate(self.present)
            if lane in steps
        }

    def _keep(self, lanes: list[int]) -> None:
        """Drop the runs that have ended."""
        rows = [self.present.index(lane) for lane in lanes]
        state_K = jax.tree.map(lambda x: x[rows], jax.device_get(self.state))
        self.present = lanes
        self._place(state_K)
        self.compile()


class Fetched:
    """Metrics of all runs, copied to the host once, when the first of them is read."""

    def __init__(self, metrics: StepMetrics) -> None:
        self._metrics = metrics

    @functools.cached_property
    def host(self) -> StepMetrics:
        return jax.device_get(self._metrics)


class Entry:
    """One run's entry of a metric: an array once it is read."""

    def __init__(self, metrics: Fetched, name: str, row: int) -> None:
        self._metrics, self._name, self._row = metrics, name, row

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(getattr(self._metrics.host, self._name)[self._row], dtype)
