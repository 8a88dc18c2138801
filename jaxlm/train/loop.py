"""The training loop: from a run's newest checkpoint to its end, or to a signal."""

import contextlib
import itertools
import json
import math
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxlm.config.compose import to_yaml
from jaxlm.config.duration import Horizon, horizon
from jaxlm.config.schema import Config
from jaxlm.data.batches import batch as batch_at
from jaxlm.data.dataset import Dataset
from jaxlm.host.checked import Json
from jaxlm.host.console import Console
from jaxlm.host.errors import UserError
from jaxlm.host.signals import Signals
from jaxlm.inference import guard
from jaxlm.inference.evaluate import Evaluator
from jaxlm.spec.contract import Engine, StepMetrics
from jaxlm.spec.schedule import learning_rate
from jaxlm.store.directory import RunDirectory
from jaxlm.store.lock import WriterLock
from jaxlm.store.manifest import NoCheckpoint
from jaxlm.train import finish
from jaxlm.train.clocks import Clocks
from jaxlm.train.ledger import Ledger, Position
from jaxlm.train.trackers import open_tracker

_ENDLESS = 2**40  # steps of a run that only the clock ends


class Diverged(Exception):
    """The loss, the gradient or the weights are no longer finite."""


class Step(NamedTuple):
    """Yielded by `Training.stages` to take a step; the answer is its metrics."""

    tokens_BxM: np.ndarray
    lr: float


class Evaluation(NamedTuple):
    """Yielded by `Training.stages` to evaluate; the answer is the result (see `Evaluator`)."""


class NewestState(NamedTuple):
    """Yielded by `Training.stages` before a save; the answer is the newest state."""


def spans(config: Config, dataset: Dataset) -> tuple[Horizon, dict[str, Callable[..., int]]]:
    """The length of a run, and the counters of its intervals by name. Raises UserError."""
    found = horizon(config, len(dataset.train))
    names = ("eval_every", "checkpoint_every", "log_every")
    return found, {n: found.counter(getattr(config.train, n), f"train.{n}") for n in names}


Stages = Generator[Step | Evaluation | NewestState, Any, str]


class Training:
    """One process's part in a run.

    `resume` loads the newest checkpoint. `stages` runs from there to the end and leaves the work on
    the device to its caller: `run_training`, or code that trains several runs in one program.

    The metrics of a step are read after the next step is dispatched, so that the device never waits
    for the host. Code that needs the newest state first calls `drain`.
    """

    def __init__(
        self,
        config: Config,
        run: RunDirectory,
        lock: WriterLock,
        dataset: Dataset,
        engine: Engine,
        console: Console,
    ) -> None:
        self.config, self.run, self.lock, self.dataset = config, run, lock, dataset
        self.engine, self.console = engine, console
        self.clocks = Clocks()
        self.position = Position()
        self.horizon, self.intervals = spans(config, dataset)
        self.evaluator = Evaluator(engine, dataset)
        self.evaluation_seconds = 0.0
        self.pending: tuple[int, float, StepMetrics, bool] | None = None
        self.saved_step = -1
        self.carried = {guard.CONFIG: to_yaml(config).encode()}
        if dataset.tokenizer is not None:
            self.carried[guard.TOKENIZER] = dataset.tokenizer.serialised()

    def resume(self) -> None:
        """Load the newest checkpoint or begin. The constructor changes no files; this does.

        Raises UserError if the run's files are not those that were saved with the checkpoint.
        """
        config, run, engine = self.config, self.run, self.engine
        self.state = self._restore()
        tracker = open_tracker(config, run.path, self.position.step)
        floor = self.dataset.entropy_floor
        self.ledger = Ledger(config, run, engine, self.horizon, floor, self.console, tracker)
        self.ledger.data_notes = self.dataset.notes
        self.checkpoints = engine.writer(run.path / "checkpoints", config.train.keep_checkpoints)

    def _restore(self) -> Any:
        """The newest checkpoint's state, or the initial one; the records are cut to match."""
        run, folder = self.run, self.run.path / "checkpoints"
        try:
            found = self.engine.restore(folder, "last")
        except NoCheckpoint:
            self._begin()
            return self.engine.initial_state()
        for line in found.skipped:
            self.console.say(f"skipped {line}")
        guard.check_data(found.metadata, self.dataset, run.path)
        self.position = Position(**found.metadata["position"])
        lost = [0.0]
        with contextlib.suppress(UserError):  # a crash garbles only later records
            lost += [record.get("wall_seconds") or 0.0 for record in run.records()]
        self.clocks = Clocks(max(self.position.wall_seconds, *lost), self.position.seconds)
        self._cut_records(self.position.step)
        self.saved_step = self.position.step
        self.console.say(f"resuming {run.path} at step {self.position.step}")
        return found.content

    def _begin(self) -> None:
        """Begin a run without a complete checkpoint; drops records of earlier processes."""
        with contextlib.suppress(UserError):
            if steps := [record["step"] for record in self.run.records("train")]:
                self.console.say(
                    f"{self.run.path} was stopped before its first checkpoint, at step "
                    f"{max(steps)} or later; restarting from step 1"
                )
        self.run.truncate_to(0)

    def _cut_records(self, step: int) -> None:
        """Drop records after the checkpoint. Raises UserError if those before it differ."""
        path = self.run.path / "metrics.jsonl"
        seal = guard.records_seal(self.run.path / "checkpoints" / str(step))
        if self.run.has_records(seal):
            self.run.truncate_to(seal["bytes"])
        elif self.config.run.accept_records:
            self.run.truncate_after(step)
            self.console.say(f"{path} does not match the checkpoint; accepted as it is")
        else:
            raise UserError(
                f"{path} does not match the checkpoint of step {step}: records are missing or "
                "altered.\nRestore the file, resume with the records as they are "
                "(run.accept_records=true), or start over (run.overwrite=true)."
            )

    def compile(self) -> None:
        """Compile the training step, before training time counts, unless no step is left."""
        if self.done() or self._out_of_patience():
            return
        started = time.monotonic()
        self.engine.compile(self.state)
        self.console.say(f"compiled in {time.monotonic() - started:.1f} s")

    # -- inputs of a step ----------------------------------------------------------------------

    def _batches(self) -> Iterator[np.ndarray]:
        """Token batches (B, L + 1) from the current step on."""
        config = self.config
        arguments: dict[str, Any] = {  # of several types
            "seed": config.seed if config.data_seed is None else config.data_seed,
            "batch_size": config.train.batch_size,
            "context_length": self.engine.model_config.context_length,
            "stride": config.data.stride,
        }
        if config.train.overfit:
            first = batch_at(self.dataset.train, step=0, **arguments)
            return itertools.repeat(first)
        start, stop = self.position.step, self.horizon.steps or _ENDLESS
        return self.engine.loader(self.dataset.train, start_step=start, stop_step=stop, **arguments)

    def _schedule_seconds(self) -> float:
        """The wall clock for the schedule of a run with a time limit. It reserves time for the last
        evaluation, so that the schedule ends when only that is left."""
        if self.horizon.seconds is None:
            return 0.0
        reserve = min(0.5, self.evaluation_seconds / self.horizon.seconds)
        return self.clocks.wall() / (1.0 - reserve)

    # -- the loop ------------------------------------------------------------------------------

    def done(self) -> bool:
        if self.horizon.steps is not None:
            return self.position.step >= self.horizon.steps
        assert self.horizon.seconds is not None
        return self._schedule_seconds() >= self.horizon.seconds

    def _out_of_patience(self) -> bool:
        patience = self.config.train.early_stopping
        return bool(patience and self.position.evaluations_since_best >= patience)

    def carry_out(self, request: Step | Evaluation | NewestState) -> Any:
        """The answer to a request of `stages`, on this training's own engine."""
        if isinstance(request, Step):
            self.state, metrics = self.engine.train_step(self.state, *request)
            return metrics
        if isinstance(request, Evaluation):
            return self.evaluator(self.engine.parameters_of(self.state))
        return self.state

    def stages(self, signals: Signals) -> Stages:
        """Train to the end, a signal, run.stop_at or early stopping; returns the status.

        Work on the state is yielded to the caller, one request at a time. Raises Diverged, and
        UserError if a checkpoint cannot be written.
        """
        config, batches = self.config, self._batches()
        before = (self.position.step, self.clocks.wall())
        self.ledger.start(self.position.step, self.clocks)
        self.clocks.resume()
        if self._out_of_patience():  # but killed before it noted its end
            return "stopped_early"
        while not self.done():
            step, seconds = self.position.step, self._schedule_seconds()
            lr = learning_rate(config.schedule, config.optimizer.lr, self.horizon, step, seconds)
            metrics = yield Step(next(batches), lr)
            self.drain()
            self.position.step = step + 1
            now = (step + 1, self.clocks.wall())
            due = {name: count(*now) > count(*before) for name, count in self.intervals.items()}
            logged = due["log_every"] or step == 0 or self.done()
            self.pending = (step + 1, lr, metrics, logged)
            before = now

            leave = bool(signals.received) or step + 1 == config.run.stop_at
            improved = due["eval_every"] and (yield from self._evaluate())
            if improved or due["checkpoint_every"] or leave:
                yield from self._save()
            if self._out_of_patience():
                yield from self._save()
                return "stopped_early"
            if leave and not self.done():
                return "interrupted"
        self.drain()
        if self.position.evaluated_step != self.position.step and config.train.eval_every != "0":
            yield from self._evaluate()
        yield from self._save()
        return "finished"

    def drain(self) -> None:
        """Read the metrics of the newest step, if still pending. Raises Diverged."""
        if self.pending is None:
            return
        (step, lr, metrics, logged), self.pending = self.pending, None
        watched = [metrics.loss, metrics.gradient_norm, metrics.weight_norms]
        loss, norm, weights = self.engine.read(watched)
        loss, norm, whole = float(loss), float(norm), bool(np.isfinite(weights).all())
        if not (math.isfinite(loss) and math.isfinite(norm) and whole):
            left = "" if whole else ", with weights not finite after it"
            raise Diverged(
                f"diverged: loss {loss:.5g}, gradient norm {norm:.3g} at step {step}{left}, "
                f"in the window of steps {self.ledger.last_step + 1} to {step}"
            )
        self.position.note_loss(loss)
        if logged:
            interval = self.position.interval_loss()
            self.ledger.train(step, lr, self.engine.read(metrics), interval)

    def _evaluate(self) -> Generator[Evaluation, Json, bool]:
        """Evaluate the current state and record the result; returns whether it is the best."""
        self.drain()
        self.clocks.pause()
        started = time.monotonic()
        result = yield Evaluation()
        self.evaluation_seconds = time.monotonic() - started
        if not math.isfinite(result["loss"]):
            raise Diverged(
                f"diverged: validation loss {result['loss']:.5g} at step {self.position.step}"
            )
        improved = self.position.note_evaluation(result["loss"])
        self.ledger.evaluation(self.position.step, result)
        self.ledger.summarize("running", self.position)
        self.clocks.resume()
        return improved

    def _save(self) -> Generator[NewestState, Any, None]:
        """Start saving the current step, unless it is already saved."""
        self.drain()
        step, position = self.position.step, self.position
        best = position.best_step == step
        if self.saved_step == step and not best:
            return
        self.lock.check()
        self.run.sync()
        position.wall_seconds, position.seconds = self.clocks.wall(), self.clocks.seconds()
        metadata = {
            "data_fingerprint": self.dataset.fingerprint,
            "documents": self.dataset.has_documents,
            "seed": self.config.seed,
            "position": dict(vars(position)),
        }
        records = {guard.RECORDS: json.dumps(self.run.records_seal()).encode()}
        tree = self.engine.checkpoint_tree((yield NewestState()))
        self.checkpoints.save(step, tree, metadata, best=best, files=self.carried | records)
        self.saved_step = step


class Trained(NamedTuple):
    """Yielded when training has ended, before figures are drawn and samples written."""


def until_ended(
    training: Training, signals: Signals, prepare: Callable[[], object] = lambda: None
) -> Generator[Any, Any, int]:
    """A run's stages and its end; returns the exit status.

    `prepare` is called first. The run's summary always records how it ended.
    """
    try:
        with training.checkpoints:
            prepare()
            status = yield from training.stages(signals)
            training.clocks.pause()
        yield Trained()
    except Diverged as error:
        training.clocks.pause()
        yield Trained()
        return diverged(training, error)
    except BaseException as error:
        failed(training, error)
        raise
    finally:
        training.ledger.tracker.close()
    return ended(training, status, signals)


def run_training(training: Training) -> int:
    """Compile, train and finish; returns the exit status."""
    training.ledger.summarize("running", training.position)
    with Signals() as signals, finish.profile(training):
        stages = until_ended(training, signals, training.compile)
        request = next(stages)
        while not isinstance(request, Trained):
            try:
                answer = training.carry_out(request)
            except BaseException as error:
                stages.throw(error)
                raise
            request = stages.send(answer)
    try:
        stages.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("a run makes no request after its end")


def diverged(training: Training, error: Diverged) -> int:
    """Record and report that a run has diverged; returns the exit status."""
    training.clocks.pause()
    advice = "Try a lower optimizer.lr, a longer warm-up or a lower clip_norm."
    training.console.say(f"{error}\n{advice}")
    summary = training.ledger.summary("diverged", training.position, str(error))
    finish.write_report(training.run, training.config, summary, [])
    training.run.write_summary(summary)
    return 1


def failed(training: Training, error: BaseException) -> None:
    """Record the error that interrupted a run."""
    reason = f"{type(error).__name__}: {error}"
    training.ledger.summarize("interrupted", training.position, reason)


def ended(training: Training, status: str, signals: Signals) -> int:
    """Summarize and finish a run whose loop returned `status`; returns the exit status."""
    ledger, position = training.ledger, training.position
    if status == "interrupted":
        reason = signals.name or f"run.stop_at={training.config.run.stop_at}"
        ledger.summarize(status, position, reason)
        said = f"stopped at step {position.step} ({reason}); the same command resumes"
        training.console.say(said)
        return signals.exit_status
    summary = ledger.summary(status, position)
    try:
        finish.finish(
            training.run, training.config, summary, training.console, lambda: type(training.engine)
        )
    except UserError as error:
        with contextlib.suppress(UserError):  # if the disk is full, show the first error
            failed(training, error)
        raise
    training.run.write_summary(summary)  # last: the same command makes what is missing
    return 0
