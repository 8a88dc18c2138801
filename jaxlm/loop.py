"""The training loop: `job=train` starts, resumes and finishes a run."""

import math
import time
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxlm import finish
from jaxlm.checkpoint import Checkpoints, NoCheckpoint, restore
from jaxlm.config import Config
from jaxlm.console import Console, clock
from jaxlm.data import Dataset
from jaxlm.data.batches import batch as batch_at
from jaxlm.data.batches import loader
from jaxlm.duration import Horizon
from jaxlm.engine import Engine
from jaxlm.errors import UserError
from jaxlm.evaluate import Evaluator
from jaxlm.flops import exact_flops_per_token, flops_per_token, parameter_counts, peak_flops
from jaxlm.memory import memory_bytes, peak_memory_bytes
from jaxlm.runs import RunDirectory
from jaxlm.schedule import learning_rate
from jaxlm.signals import Signals
from jaxlm.step import Batch, make_train_step, parameter_groups

_ENDLESS = 2**40


@dataclass
class Position:
    """Where a run stands; saved with every checkpoint."""

    step: int = 0
    seconds: float = 0.0
    wall_seconds: float = 0.0
    best_val_loss: float | None = None
    best_step: int | None = None
    val_loss: float | None = None
    evaluated_step: int = -1
    evaluations_since_best: int = 0


class Diverged(Exception):
    """The loss is no longer a finite number."""


class Training:
    """One process's part in a run: from its newest checkpoint to its end, or to a signal."""

    def __init__(
        self, config: Config, run: RunDirectory, dataset: Dataset, engine: Engine, console: Console
    ) -> None:
        self.started = time.monotonic()
        self.config, self.run, self.dataset = config, run, dataset
        self.engine, self.console = engine, console
        train, model = config.train, engine.model_config
        self.tokens_per_step = train.batch_size * model.context_length
        self.horizon = horizon(config, len(dataset.train))
        self.evaluator = Evaluator(engine, dataset)
        self.groups = parameter_groups(engine.model_config)
        self.position = Position()
        self.wall_before = 0.0
        self.clock_started: float | None = None
        self.evaluation_seconds = 0.0
        self.pending: tuple[int, float, dict[str, Any]] | None = None
        self.last_logged = (0, 0.0)
        self.intervals = {
            name: self.horizon.counter(getattr(train, name), f"train.{name}")
            for name in ("eval_every", "checkpoint_every", "log_every")
        }
        self.state = self._start()
        self.checkpoints = Checkpoints(run.path / "checkpoints", keep=train.keep_checkpoints)

    # -- starting ----------------------------------------------------------------------------

    def _start(self) -> Any:
        """The newest checkpoint's state, or the initial one; the records are cut to match."""
        try:
            step, tree, metadata, skipped = restore(
                self.run.path / "checkpoints", "last", template=self.engine.template()
            )
        except NoCheckpoint:
            self.run.truncate_after(-1)
            return self.engine.initial_state()
        for line in skipped:
            self.console.say(f"skipped {line}")
        if metadata["data_fingerprint"] != self.dataset.fingerprint:
            raise UserError(
                f"The text or token file has changed since {self.run.path} began.\n"
                "Put the old file back, or start over with run.overwrite=true."
            )
        self.position = Position(**metadata["position"])
        records = self.run.records()
        lost = max((record.get("wall_seconds") or 0.0 for record in records), default=0.0)
        self.wall_before = max(self.position.wall_seconds, lost)
        self.run.truncate_after(step)
        self.last_logged = (step, self.position.seconds)
        self.console.say(f"resuming {self.run.path} at step {step}")
        return self.engine.state_of(tree)

    def compile(self) -> None:
        """Compile the training step before the clock starts."""
        started = time.monotonic()
        step = make_train_step(
            self.engine.model, self.config.optimizer, self.config.seed, self.engine.placement.axis
        )
        length = self.engine.model_config.context_length
        batch = self._batch(np.zeros((self.config.train.batch_size, length + 1), np.int32), 0.0)
        self.train_step = self.engine.placement.compile(step, self.state, batch)
        self.console.say(f"compiled in {time.monotonic() - started:.1f} s")

    # -- clocks ------------------------------------------------------------------------------

    def wall(self) -> float:
        """Wall-clock seconds of the run, over all its restarts."""
        return self.wall_before + time.monotonic() - self.started

    def seconds(self) -> float:
        """Seconds of training: no compilation, no evaluation."""
        running = time.monotonic() - self.clock_started if self.clock_started else 0.0
        return self.position.seconds + running

    def pause(self) -> None:
        self.position.seconds, self.clock_started = self.seconds(), None

    def resume(self) -> None:
        self.clock_started = time.monotonic()

    def schedule_seconds(self) -> float:
        """The clock as the schedule sees it: it ends when only the last evaluation is left."""
        if self.horizon.seconds is None:
            return 0.0
        reserve = min(0.5, self.evaluation_seconds / self.horizon.seconds)
        return self.wall() / (1.0 - reserve)

    # -- the loop ----------------------------------------------------------------------------

    def _batch(self, tokens_BxL1: np.ndarray, lr: float) -> Batch:
        parts = self.config.train.grad_accumulation
        rows = np.arange(len(tokens_BxL1), dtype=np.int32).reshape(parts, -1)
        tokens = tokens_BxL1.reshape(parts, -1, tokens_BxL1.shape[1])
        batch = Batch(tokens, rows, np.asarray(lr, self.engine.parameter_dtype))
        return self.engine.placement.put_batch(batch)

    def _batches(self):
        """Token batches from the current step on."""
        train = self.config.train
        arguments = {
            "seed": self.config.seed if self.config.data_seed is None else self.config.data_seed,
            "batch_size": train.batch_size,
            "context_length": self.engine.model_config.context_length,
            "stride": self.config.data.stride,
        }
        if train.overfit:
            first = batch_at(self.dataset.train, step=0, **arguments)
            return iter(lambda: first, None)
        return loader(
            self.dataset.train,
            start_step=self.position.step,
            stop_step=self.horizon.steps or _ENDLESS,
            **arguments,
        )

    def done(self) -> bool:
        if self.horizon.steps is not None:
            return self.position.step >= self.horizon.steps
        return self.schedule_seconds() >= self.horizon.seconds

    def due(self, name: str, before: tuple[int, float], now: tuple[int, float]) -> bool:
        return self.intervals[name](*now) > self.intervals[name](*before)

    def loop(self, signals: Signals) -> str:
        """Train to the end, a signal, run.stop_at or early stopping; returns the status."""
        config, batches = self.config, self._batches()
        patience = config.train.early_stopping
        before = (self.position.step, self.wall())
        self.resume()
        while not self.done():
            lr = learning_rate(
                config.schedule,
                config.optimizer.lr,
                self.horizon,
                self.position.step,
                self.schedule_seconds(),
            )
            self.state, metrics = self.train_step(self.state, self._batch(next(batches), lr))
            self.position.step += 1
            self.drain()
            now = (self.position.step, self.wall())
            self.pending = (self.position.step, lr, metrics)
            leave = signals.received or self.position.step == config.run.stop_at
            if self.due("eval_every", before, now):
                improved = self.evaluate()
                if improved or self.due("checkpoint_every", before, now):
                    self.save()
                if patience and self.position.evaluations_since_best >= patience:
                    return "stopped_early"
            elif leave or self.due("checkpoint_every", before, now):
                self.save()
            before = now
            if leave and not self.done():
                self.save()
                return "interrupted"
        self.drain()
        if self.position.evaluated_step != self.position.step and not _never(config):
            self.evaluate()
        self.save()
        return "finished"

    def drain(self) -> None:
        """Read the metrics of the step before the newest: the device is already at work again."""
        if self.pending is None:
            return
        (step, lr, metrics), self.pending = self.pending, None
        metrics = self.engine.placement.first_copy(metrics)
        loss, norm = (float(jax.device_get(metrics[name])) for name in ("loss", "gradient_norm"))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            first = self.last_logged[0] + 1
            raise Diverged(
                f"diverged: loss {loss}, gradient norm {norm} at step {step} "
                f"(in the window of steps {first} to {step})"
            )
        length = self.horizon.steps
        every = self.intervals["log_every"]
        if every(step, self.wall()) > every(step - 1, self.last_wall) or step in (1, length):
            self.log(step, lr, loss, norm, metrics)
        self.last_wall = self.wall()

    last_wall = 0.0

    def log(self, step: int, lr: float, loss: float, norm: float, metrics: dict) -> None:
        """One training record, and what the console shows."""
        metrics = jax.device_get(metrics)
        seconds, (step_before, seconds_before) = self.seconds(), self.last_logged
        new_tokens = (step - step_before) * self.tokens_per_step
        speed = new_tokens / max(seconds - seconds_before, 1e-9)
        self.last_logged = (step, seconds)
        groups = {
            name: dict(zip(self.groups, map(float, metrics[name]), strict=True))
            for name in ("gradient_norms", "weight_norms", "update_norms")
        }
        self.run.append(
            self._at(step)
            | {"kind": "train", "loss": loss, "lr": lr, "gradient_norm": norm}
            | groups
            | {"activation_rms": [float(x) for x in metrics["activation_rms"]]}
            | {"tokens_per_second": speed, "memory_bytes": memory_bytes()}
        )
        fraction = self.horizon.position(step, self.wall()) / self.horizon.length
        left = (self.wall() - self.wall_before) * (1 - fraction) / max(fraction, 1e-9)
        fields = {
            "step": f"{step}/{self.horizon.steps}" if self.horizon.steps else str(step),
            "loss": f"{loss:.4f}",
            "lr": f"{lr:.2e}",
            "tokens/s": f"{speed:,.0f}",
            "left": clock(left),
        }
        done = self.horizon.position(step, self.wall())
        self.console.progress(done, self.horizon.length, fields)

    def _at(self, step: int) -> dict[str, Any]:
        tokens = step * self.tokens_per_step
        flops = flops_per_token(self.engine.model_config) * tokens
        times = {"seconds": self.seconds(), "wall_seconds": self.wall()}
        return {"step": step, "tokens": tokens, "flops": flops} | times

    def evaluate(self) -> bool:
        """Evaluate the current state and record it; True where it is the best so far."""
        self.drain()
        self.pause()
        started = time.monotonic()
        parameters = self.engine.placement.first_copy(self.state.parameters)
        result = self.evaluator(parameters)
        self.evaluation_seconds = time.monotonic() - started
        position = self.position
        position.val_loss, position.evaluated_step = result["loss"], position.step
        improved = position.best_val_loss is None or result["loss"] < position.best_val_loss
        if improved:
            position.best_val_loss, position.best_step = result["loss"], position.step
        position.evaluations_since_best = 0 if improved else position.evaluations_since_best + 1
        record = self._at(position.step) | {"kind": "eval"} | result
        record["tokens"], record["eval_tokens"] = (
            self._at(position.step)["tokens"],
            result["tokens"],
        )
        self.run.append(record)
        floor = self.dataset.entropy_floor
        above = f"  ({result['loss'] - floor:.4f} above the floor)" if floor is not None else ""
        self.console.say(
            f"step {position.step}: validation loss {result['loss']:.4f} "
            f"± {result['standard_error'] or 0:.4f}, perplexity {result['perplexity']:.3f}, "
            f"accuracy {result['accuracy']:.1%}{above}"
        )
        self.run.write_summary(self.summary("running"))
        self.resume()
        return improved

    def save(self) -> None:
        """A checkpoint of the current step, unless there is one already."""
        self.drain()
        step = self.position.step
        if self.saved_step == step:
            return
        self.position.wall_seconds = self.wall()
        position = dict(vars(self.position), seconds=self.seconds())
        metadata = {
            "data_fingerprint": self.dataset.fingerprint,
            "seed": self.config.seed,
            "tokens": step * self.tokens_per_step,
            "position": position,
        }
        tree = self.engine.checkpoint_tree(self.state)
        self.checkpoints.save(step, tree, metadata, best=self.position.best_step == step)
        self.saved_step = step

    saved_step = -1

    # -- ending ------------------------------------------------------------------------------

    def summary(self, status: str, reason: str | None = None) -> dict[str, Any]:
        """What summary.json holds; see DESIGN "A run directory"."""
        model, counts = self.engine.model_config, parameter_counts(self.engine.model_config)
        at = self._at(self.position.step)
        exact = exact_flops_per_token(model) * at["tokens"]
        peak = peak_flops(jax.devices()[0].device_kind, self.config.precision)
        seconds, devices = at["seconds"], len(self.engine.placement.devices)
        return {
            "status": status,
            "reason": reason,
            "step": self.position.step,
            "val_loss": self.position.val_loss,
            "best_val_loss": self.position.best_val_loss,
            "best_step": self.position.best_step,
            "parameters": counts.total,
            "embedding_parameters": counts.embedding,
            "head_parameters": counts.head,
            "non_embedding_parameters": counts.non_embedding,
            "tokens": at["tokens"],
            "flops": at["flops"],
            "flops_exact": exact,
            "seconds": seconds,
            "wall_seconds": at["wall_seconds"],
            "tokens_per_second": at["tokens"] / seconds if seconds else None,
            "mfu": exact / seconds / (peak * devices) if peak and seconds else None,
            "peak_memory_bytes": peak_memory_bytes(),
            "entropy_floor": self.dataset.entropy_floor,
        }


def _never(config: Config) -> bool:
    return config.train.eval_every.strip() == "0"


def horizon(config: Config, train_tokens: int) -> Horizon:
    """The run's length, with epochs counted on `train_tokens` tokens (0: not known yet)."""
    from jaxlm.data.batches import number_of_windows

    length, rows = config.model.context_length, config.train.batch_size
    per_epoch = None
    if train_tokens:
        per_epoch = number_of_windows(train_tokens, length, config.data.stride) / rows
    return Horizon.of(config.train.duration, rows * length, per_epoch)


def tokens_needed(config: Config) -> int | None:
    """Training tokens that a run consumes without repetition, for the endless corpus."""
    if config.data.name != "stories" or config.data.train_tokens is not None:
        return None
    ahead = horizon(config, 0)
    if ahead.steps is None:
        raise UserError(
            f"train.duration={config.train.duration} does not say how much text data=stories needs.\n"
            "Set data.train_tokens=20M, say."
        )
    return ahead.steps * ahead.tokens_per_step + 1


def run_training(training: Training) -> int:
    """Compile, loop and finish; the exit status. The run's summary always tells how it ended."""
    run, console = training.run, training.console
    run.write_summary(training.summary("running"))
    reason = None
    try:
        with Signals() as signals, finish.profile(training):
            training.compile()
            status = training.loop(signals)
            training.pause()
            training.checkpoints.close()
    except Diverged as error:
        training.pause()
        training.checkpoints.close()
        run.write_summary(training.summary("diverged", str(error)))
        console.say(
            f"{error}\nTry a lower optimizer.lr, a longer schedule.warmup or a smaller clip."
        )
        return 1
    except BaseException as error:
        run.write_summary(training.summary("interrupted", f"{type(error).__name__}: {error}"))
        raise
    if status == "interrupted":
        reason = signals.name or f"run.stop_at={training.config.run.stop_at}"
        run.write_summary(training.summary(status, reason))
        console.say(
            f"stopped at step {training.position.step} ({reason}); the same command resumes"
        )
        return signals.exit_status
    run.write_summary(training.summary(status))
    finish.finish(training)
    return 0
