"""job=train: start a new run, or resume an unfinished one."""

import contextlib
import sys
from typing import TYPE_CHECKING, Any

from jaxlm.config.compose import cache_folder, to_yaml
from jaxlm.config.schema import Config, differences, identity
from jaxlm.host.errors import UserError
from jaxlm.host.names import command_line
from jaxlm.spec.contract import Engine, LoadEngine

if TYPE_CHECKING:
    from jaxlm.train.loop import Training


def train_job(config: Config, load_engine: LoadEngine) -> int:
    """job=train: start or resume run.dir; a finished run is not trained further."""
    with contextlib.ExitStack() as stack:
        opened = open_training(config, load_engine, stack)
        if isinstance(opened, int):
            return opened
        from jaxlm.train.loop import run_training

        return run_training(opened)


def open_training(
    config: Config, load_engine: LoadEngine, stack: contextlib.ExitStack
) -> "Training | int":
    """A run ready to train, locked until `stack` closes, or the exit status of an ended run.

    Raises UserError.
    """
    from jaxlm.store.directory import RunDirectory
    from jaxlm.store.overwrite import (
        check_removable,
        finish_removal,
        refuse_runs_inside,
        start_over,
    )

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
    from jaxlm.host.console import Console

    console = Console(run.path / "log.txt")
    stack.callback(console.close)
    console.say(f"{run.path}: {command_line(sys.argv)}")
    from jaxlm.train.loop import Training

    dataset, engine = made or _prepared(config, load_engine)
    for note in dataset.notes:
        console.say(note)
    training = Training(config, run, lock, dataset, engine, console)
    training.resume()
    if dataset.tokenizer:
        dataset.tokenizer.save(run.path / "tokenizer.json")
    run.write_environment(engine.device_names)
    run.write_config(to_yaml(config))
    console.say(_headline(training))
    return training


def _prepared(config: Config, load_engine: LoadEngine) -> tuple[Any, Engine]:
    """(dataset, engine) of a run to train. Raises UserError, also for invalid intervals."""
    from jaxlm.inference.open import prepare
    from jaxlm.train.loop import spans

    dataset = prepare(config)
    spans(config, dataset)
    return dataset, load_engine()(config, dataset.vocab_size, cache_folder(config))


def _headline(training: Any) -> str:
    from jaxlm.spec.flops import flops_per_token, flops_words, parameter_counts

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
    """None if there is something to train, otherwise the exit status. Raises UserError."""
    from jaxlm.inference import guard
    from jaxlm.store import manifest

    if not (run.path / guard.CONFIG).exists() and guard.carried(run.path, guard.CONFIG) is None:
        return None
    run.check_format()
    trained = identity(guard.stored_config(run.path))
    differing = differences(identity(config), trained, one_sided=False)
    if differing:
        lines = [f"  {name}: {new} here, {old} there" for name, (new, old) in differing.items()]
        raise UserError(
            f"{run.path} holds a run with a different configuration:\n" + "\n".join(lines) + "\n"
            "Choose another name with run.name=NAME, or start over with run.overwrite=true."
        )
    summary = run.read_summary() or {}
    if summary.get("status") in ("finished", "stopped_early", "diverged"):
        from jaxlm.train.finish import complete

        guard.check_records(run)
        guard.check_summary(run.path, summary, run.records("eval"))
        if made := complete(run, config, summary, load_engine):
            print(f"{run.path}: wrote what was missing: {', '.join(made)}")
    if summary.get("status") in ("finished", "stopped_early"):
        loss = summary.get("val_loss")
        shown = f", validation loss {loss:.4f}" if loss is not None else ""
        early = ", stopped early" if summary["status"] == "stopped_early" else ""
        print(f"{run.path} is finished{early}: step {summary.get('step')}{shown}.")
        if manifest.whole_steps(run.path / "checkpoints"):
            print("job=generate and job=evaluate use this run; run.overwrite=true starts over.")
        else:
            print("Its checkpoints are gone. Restore them, or start over with run.overwrite=true.")
        return 0
    if summary.get("status") == "diverged":
        reason = summary.get("reason") or "diverged"
        print(f"{run.path} has {reason}\nrun.overwrite=true starts over.")
        return 1
    return None
