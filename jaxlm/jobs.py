"""Job name -> function, imported only when called, so that help and errors are instant."""

import contextlib
import functools
import importlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxlm.backend import Engine, LoadEngine
from jaxlm.compose import cache_folder, to_yaml
from jaxlm.config import Config, differences, identity
from jaxlm.errors import UserError
from jaxlm.names import command_line

if TYPE_CHECKING:
    from jaxlm.loop import Training

FUNCTIONS = {
    "train": "jaxlm.jobs:train_job",
    "study": "jaxlm.studies:study_job",
    "ladder": "jaxlm.ladder:ladder_job",
    "fit": "jaxlm.laws:fit_job",
    "predict": "jaxlm.laws:predict_job",
    "report": "jaxlm.comparison:report_job",
    "evaluate": "jaxlm.evaluate:evaluate_job",
    "generate": "jaxlm.generate:generate_job",
    "logits": "jaxlm.generate:logits_job",
    "parity": "jaxlm.jobs:parity_job",
    "doctor": "jaxlm.doctor:doctor_job",
}


def run(config: Config, given: Iterable[str] = ()) -> int:
    """Carry out config.job; the exit status. Raises UserError.

    `given` are the keys and groups on the command line: a job that opens a trained run refuses
    those that contradict it.
    """
    if config.job.name in ("evaluate", "generate", "logits"):
        _check_given(config, given)
    module, function = FUNCTIONS[config.job.name].split(":")
    carry_out = getattr(importlib.import_module(module), function)
    return carry_out(config, functools.partial(engine_class, config.backend))


def engine_class(backend: str) -> type[Engine]:
    """The backend's `Engine`. Raises UserError where its library is not installed."""
    if backend == "jax":
        from jaxlm.engine import Engine as Found
    else:
        try:
            from torchref.engine import Engine as Found
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise UserError(
                "backend=torch and job=parity need PyTorch, which is not installed.\n"
                "Install it: pip install 'jaxlm[torch]'."
            ) from None
    return Found


def _check_given(config: Config, given: Iterable[str]) -> None:
    """Raises UserError where the command line asks for another identity than the run's own."""
    from jaxlm.guard import stored_config

    path = Path(config.run.dir)
    differing = differences(identity(config), identity(stored_config(path)))
    named = {
        name: values
        for name, values in differing.items()
        if any(name == key or name.startswith(f"{key}.") for key in given)
    }
    if named:
        lines = [f"  {name}: {new} here, {old} there" for name, (new, old) in named.items()]
        raise UserError(
            f"job={config.job.name} takes what was trained from {path}, which says otherwise:\n"
            + "\n".join(lines)
            + "\nLeave these keys out, or name another run with run.name=NAME."
        )


def parity_job(config: Config, load_engine: LoadEngine) -> int:
    """job=parity: the engine against its witness, whichever backend is configured."""
    from jaxlm.parity import parity_job as compare

    return compare(config, *(functools.partial(engine_class, name) for name in ("jax", "torch")))


def train_job(config: Config, load_engine: LoadEngine) -> int:
    """job=train: start or resume run.dir; does nothing where it is finished."""
    if config.debug.shapes:
        return show_shapes(config)
    with contextlib.ExitStack() as stack:
        opened = open_training(config, load_engine, stack)
        if isinstance(opened, int):
            return opened
        from jaxlm.loop import run_training

        return run_training(opened)


def open_training(
    config: Config, load_engine: LoadEngine, stack: contextlib.ExitStack
) -> "Training | int":
    """A run ready to train, locked until `stack` closes; its exit status where it has ended.

    Raises UserError.
    """
    from jaxlm.overwrite import check_removable, finish_removal, refuse_runs_inside, start_over
    from jaxlm.runs import RunDirectory

    run = RunDirectory(config.run.dir)
    if (run.path / "study.json").exists():
        raise UserError(f"{run.path} holds a study, not a run.\nName the run with run.name=NAME.")
    made = None
    if config.run.overwrite:
        check_removable(run)
        made = _prepared(config, load_engine)  # a command that cannot start removes nothing
        start_over(run)
    else:
        finish_removal(run)
    refuse_runs_inside(run.path)
    status = _continue(run, config, load_engine)
    if status is not None:
        return status
    run.check_writable()
    lock = stack.enter_context(run.lock())
    from jaxlm.console import Console

    console = Console(run.path / "log.txt")
    stack.callback(console.close)
    console.say(f"{run.path}: {command_line(sys.argv)}")
    from jaxlm.loop import Training

    dataset, engine = made or _prepared(config, load_engine)
    for note in dataset.notes:
        console.say(note)
    training = Training(config, run, lock, dataset, engine, console)
    if dataset.tokenizer:
        dataset.tokenizer.save(run.path / "tokenizer.json")
    run.write_environment(engine.device_names)
    run.write_config(to_yaml(config))
    console.say(_headline(training))
    return training


def _prepared(config: Config, load_engine: LoadEngine) -> tuple[Any, Engine]:
    """(dataset, engine) of a run to be trained. Raises UserError, also for its intervals."""
    from jaxlm.loop import spans
    from jaxlm.opened import prepare

    dataset = prepare(config)
    spans(config, dataset)
    return dataset, load_engine()(config, dataset.vocab_size, cache_folder(config))


def _headline(training: Any) -> str:
    from jaxlm.flops import flops_per_token, flops_words, parameter_counts

    engine, horizon = training.engine, training.horizon
    model, counts = engine.model_config, parameter_counts(engine.model_config)
    length = f"{horizon.steps:,} steps" if horizon.steps else f"{horizon.seconds / 3600:g} hours"
    tokens = ""
    if horizon.steps:
        count = horizon.steps * horizon.tokens_per_step
        tokens = f", {count:,} tokens, FLOPs {flops_words(flops_per_token(model) * count)}"
    return (
        f"{counts.total:,} parameters ({counts.non_embedding:,} without embedding and head), "
        f"{model.n_layers} layers x {model.d_model} wide, vocabulary {model.vocab_size:,}\n"
        f"{length} of {training.config.train.batch_size} x {model.context_length} tokens{tokens}; "
        f"{training.config.precision}, {engine.where}"
    )


def _continue(run: Any, config: Config, load_engine: LoadEngine) -> int | None:
    """None where there is something to train, else the exit status. Raises UserError."""
    from jaxlm import guard, manifest

    if not (run.path / guard.CONFIG).exists() and guard.carried(run.path, guard.CONFIG) is None:
        return None
    run.check_format()
    differing = differences(identity(config), identity(guard.stored_config(run.path)))
    if differing:
        lines = [f"  {name}: {new} here, {old} there" for name, (new, old) in differing.items()]
        raise UserError(
            f"{run.path} holds a run of another configuration:\n" + "\n".join(lines) + "\n"
            "Name another folder with run.name=NAME, or start over with run.overwrite=true."
        )
    summary = run.read_summary() or {}
    if summary.get("status") in ("finished", "stopped_early", "diverged"):
        from jaxlm.finish import complete

        guard.check_records(run)
        guard.check_summary(run.path, summary, run.records("eval"))
        if made := complete(run, config, summary, load_engine):
            print(f"{run.path}: made {', '.join(made)}, which was missing")
    if summary.get("status") in ("finished", "stopped_early"):
        loss = summary.get("val_loss")
        shown = f", validation loss {loss:.4f}" if loss is not None else ""
        early = ", stopped early" if summary["status"] == "stopped_early" else ""
        print(f"{run.path} is finished{early}: step {summary.get('step')}{shown}.")
        if manifest.whole_steps(run.path / "checkpoints"):
            print("run.overwrite=true starts over; job=generate and job=evaluate use it.")
        else:
            print("Its checkpoints are gone: put them back, or run.overwrite=true starts over.")
        return 0
    if summary.get("status") == "diverged":
        reason = summary.get("reason") or "diverged"
        print(f"{run.path} has {reason}\nrun.overwrite=true starts over.")
        return 1
    return None


def show_shapes(config: Config) -> int:
    """debug=shapes: the shapes and parameters of every component, what training would cost.

    Nothing is trained; where model.vocab_size is given, no data are needed.
    """
    from jaxlm.config import resolve_model
    from jaxlm.opened import prepare
    from jaxlm.plan import estimate_lines
    from jaxlm.shapes import shapes_text

    vocab_size = config.model.vocab_size or prepare(config).vocab_size
    model = resolve_model(config.model, vocab_size)
    print(shapes_text(model, config.precision, config.train.batch_size))
    print("\n" + "\n".join(estimate_lines(config, model)))
    return 0
