"""What a run writes while it trains: records, console lines and the summary."""

import math
from dataclasses import dataclass

from jaxlm.config.duration import Horizon
from jaxlm.config.schema import Config
from jaxlm.host.checked import Json
from jaxlm.host.console import Console
from jaxlm.host.files import plain
from jaxlm.host.progress import clock
from jaxlm.spec.contract import Engine, StepMetrics
from jaxlm.spec.flops import exact_flops_per_token, flops_per_token, parameter_counts
from jaxlm.spec.parameters import parameter_groups
from jaxlm.store.directory import RunDirectory
from jaxlm.train.clocks import Clocks
from jaxlm.train.trackers import Tracker


@dataclass
class Position:
    """The progress of a run, saved with every checkpoint."""

    step: int = 0
    seconds: float = 0.0
    wall_seconds: float = 0.0
    val_loss: float | None = None
    best_val_loss: float | None = None
    best_step: int | None = None
    evaluated_step: int = -1
    evaluations_since_best: int = 0
    loss_sum: float = 0.0  # of the training losses since the last record
    losses: int = 0

    def note_loss(self, loss: float) -> None:
        """Add the training loss of a step."""
        self.loss_sum, self.losses = self.loss_sum + loss, self.losses + 1

    def interval_loss(self) -> float:
        """The mean training loss of the steps since the last record; starts a new interval.

        Raises ZeroDivisionError if there are none."""
        mean = self.loss_sum / self.losses
        self.loss_sum, self.losses = 0.0, 0
        return mean

    def note_evaluation(self, loss: float) -> bool:
        """Note a validation loss; returns whether it is the best so far."""
        self.val_loss, self.evaluated_step = loss, self.step
        best = math.inf if self.best_val_loss is None else self.best_val_loss
        improved = loss < best  # False if the loss is not finite
        if improved:
            self.best_val_loss, self.best_step = loss, self.step
        self.evaluations_since_best = 0 if improved else self.evaluations_since_best + 1
        return improved


class Ledger:
    """Appends a run's records, shows them, and summarizes the run."""

    def __init__(
        self,
        config: Config,
        run: RunDirectory,
        engine: Engine,
        horizon: Horizon,
        entropy_floor: float | None,
        console: Console,
        tracker: Tracker,
    ) -> None:
        self.config, self.run, self.engine, self.horizon = config, run, engine, horizon
        self.entropy_floor, self.console, self.tracker = entropy_floor, console, tracker
        self.packed = 1  # runs that share this run's program
        self.data_notes: tuple[str, ...] = ()  # from `Dataset.notes`
        self.groups = parameter_groups(engine.model_config)
        self.tokens_per_step = config.train.batch_size * engine.model_config.context_length
        self.peak_before = _peak_before(run)
        self.start(0, Clocks())

    def start(self, step: int, clocks: Clocks) -> None:
        """Estimate the time left from this step on."""
        self.clocks, self.last_step = clocks, step
        self.first_wall = clocks.wall()
        self.first_fraction = self.fraction(step)

    def fraction(self, step: int) -> float:
        """The share of the run that is done."""
        return self.horizon.position(step, self.clocks.wall()) / self.horizon.length

    def speed(self, step: int) -> float | None:
        """Tokens per second of training time since the run's first step. Records, the console and
        the summary all report this speed."""
        seconds = self.clocks.seconds()
        return step * self.tokens_per_step / seconds if seconds > 0 else None

    def _record(self, kind: str, step: int, fields: Json) -> None:
        tokens = step * self.tokens_per_step
        record = {
            "kind": kind,
            "step": step,
            "tokens": tokens,
            "flops": flops_per_token(self.engine.model_config) * tokens,
            "seconds": self.clocks.seconds(),
            "wall_seconds": self.clocks.wall(),
        }
        self.run.append(record | fields)
        self.tracker.write(record | fields)

    def train(self, step: int, lr: float, metrics: StepMetrics, interval_loss: float) -> None:
        """Record a training step, from its metrics on the host, and show the progress.

        interval_loss: the mean loss of the steps since the previous record.
        """
        self.last_step, speed = step, self.speed(step)
        loss, norm = float(metrics.loss), float(metrics.gradient_norm)
        groups = {
            name: dict(zip(self.groups, getattr(metrics, name).tolist(), strict=True))
            for name in ("gradient_norms", "weight_norms", "update_norms")
        }
        self._record(
            "train",
            step,
            {"loss": loss, "interval_loss": interval_loss, "lr": lr, "gradient_norm": norm}
            | groups
            | {"activation_rms": metrics.activation_rms.tolist()}
            | {"tokens_per_second": speed, "memory_bytes": self.engine.memory_bytes()},
        )
        fraction = self.fraction(step)
        passed, share = self.clocks.wall() - self.first_wall, fraction - self.first_fraction
        fields = {
            "step": f"{step}/{self.horizon.steps}" if self.horizon.steps else str(step),
            "loss": f"{loss:.4f}",
            "lr": f"{lr:.2e}",
            "tokens/s": f"{speed or 0:,.0f} so far",
            "left": clock(passed / share * max(0.0, 1 - fraction)) if share > 0 else "?",
        }
        self.console.progress(min(fraction, 1.0), fields)

    def evaluation(self, step: int, result: Json) -> None:
        """Record an evaluation and print its line."""
        fields = {name: value for name, value in result.items() if name != "tokens"}
        self._record("eval", step, fields | {"eval_tokens": result["tokens"]})
        floor, loss, error = self.entropy_floor, result["loss"], result["standard_error"]
        within = "" if error is None else f" ± {error:.4f}"
        above = f"  ({loss - floor:.4f} above the floor)" if floor is not None else ""
        self.console.say(
            f"step {step}: validation loss {loss:.4f}{within}, "
            f"perplexity {result['perplexity']:.3f}, accuracy {result['accuracy']:.1%}{above}"
        )

    def summarize(self, status: str, position: Position, reason: str | None = None) -> None:
        """Write summary.json."""
        self.run.write_summary(self.summary(status, position, reason))

    def summary(self, status: str, position: Position, reason: str | None = None) -> Json:
        """The content of summary.json (DESIGN, "A run directory")."""
        model = self.engine.model_config
        counts, seconds = parameter_counts(model), self.clocks.seconds()
        tokens = position.step * self.tokens_per_step
        exact = exact_flops_per_token(model) * tokens
        peak = self.engine.peak_flops
        return plain(
            {
                "status": status,
                "reason": reason,
                "step": position.step,
                "val_loss": position.val_loss,
                "best_val_loss": position.best_val_loss,
                "best_step": position.best_step,
                "parameters": counts.total,
                "embedding_parameters": counts.embedding,
                "head_parameters": counts.head,
                "non_embedding_parameters": counts.non_embedding,
                "tokens": tokens,
                "flops": flops_per_token(model) * tokens,
                "flops_exact": exact,
                "seconds": seconds,
                "wall_seconds": self.clocks.wall(),
                "tokens_per_second": self.speed(position.step),
                "mfu": exact / seconds / peak if peak and seconds else None,
                "peak_memory_bytes": max(self.engine.peak_memory_bytes(), self.peak_before),
                "entropy_floor": self.entropy_floor,
                "packed": self.packed,
                "data_notes": list(self.data_notes),
            }
        )


def _peak_before(run: RunDirectory) -> int:
    """The peak memory of earlier processes of the same run; 0 for a new run."""
    if not run.records():
        return 0
    peak = (run.read_summary() or {}).get("peak_memory_bytes")
    return peak if isinstance(peak, int) else 0
