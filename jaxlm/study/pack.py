"""study.pack: runs that differ only in numbers train together, as one vmapped program."""

import contextlib
import inspect
import json
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxlm.config.compose import compose
from jaxlm.config.duration import parse
from jaxlm.config.schema import Config, identity, operation
from jaxlm.host.errors import UserError
from jaxlm.spec.contract import LoadEngine

if TYPE_CHECKING:
    from jaxlm.host.signals import Signals
    from jaxlm.study.lanes import Lanes
    from jaxlm.train.loop import Training

# The keys in which the runs of one program may differ. The betas are not among them, because
# 1 - 0.999 rounds differently if 0.999 is an input.
NUMBERS = (
    "seed data_seed model.init_std model.attention_dropout model.residual_dropout optimizer.lr "
    "optimizer.eps optimizer.weight_decay optimizer.clip_norm"
).split()
_HOST = (  # and the keys that only the host sees
    "schedule train.early_stopping train.eval_every train.checkpoint_every train.keep_checkpoints "
    "train.log_every run study job tracker"
).split()


def program_of(config: Config) -> str | None:
    """What runs must have in common to train together; None if a run cannot."""
    if hindrances(config):
        return None
    halves = {"identity": identity(config), "operation": operation(config)}
    for name in [*NUMBERS, *_HOST]:
        *path, last = name.split(".")
        for node in halves.values():
            for part in path:
                node = node.get(part, {})
            node.pop(last, None)
    return json.dumps(halves, sort_keys=True, default=str)


def hindrances(config: Config) -> list[str]:
    """The settings that keep a run from training together with others."""
    hours = parse(config.train.duration, "train.duration")[1] == "hours"
    found = {
        "backend=torch": config.backend != "jax",
        "parallel.strategy=pmap": config.parallel.strategy == "pmap",
        "study.equal=time, which gives each run its own clock": config.study.equal == "time",
        f"train.duration={config.train.duration}, which the clock ends": hours,
        "debug.eager": config.debug.eager,
        "debug.profile": config.debug.profile,
    }
    return [name for name, holds in found.items() if holds]


def check_pack(config: Config) -> None:
    """Raises UserError if the base of a study cannot train in packs."""
    if found := hindrances(config):
        raise UserError(
            f"study.pack=true cannot be combined with {'; '.join(found)}.\nOmit one of them."
        )


def train_pack(runs: Sequence[list[str]], load_engine: LoadEngine) -> list[tuple[int, str]]:
    """Train the runs of one program, each given as words; (exit status, error) of each.

    An error in one run (its folder, its checkpoints) does not affect the others; an error in the
    program itself is raised after every run has recorded it.
    """
    from jaxlm.host.signals import Signals
    from jaxlm.train.start import open_training

    outcomes: dict[int, tuple[int, str]] = {}
    opened: dict[int, Training] = {}
    with contextlib.ExitStack() as stack, Signals() as signals:
        for number, words in enumerate(runs):
            sys.argv[1:] = words  # what a person would type, for the run's record of its command
            try:
                found = open_training(compose(words), load_engine, stack)
            except UserError as error:
                outcomes[number] = (2, str(error))
                continue
            if isinstance(found, int):
                outcomes[number] = (found, "")
            else:
                opened[number] = found
        if opened:
            ended = _train(list(opened.values()), signals)
            outcomes |= dict(zip(opened, ended, strict=True))
    return [outcomes[number] for number in range(len(runs))]


def _train(trainings: list["Training"], signals: "Signals") -> list[tuple[int, str]]:
    from jaxlm.study.lanes import Lanes
    from jaxlm.train.loop import failed, until_ended

    stages = {lane: until_ended(training, signals) for lane, training in enumerate(trainings)}
    for training in trainings:
        training.ledger.packed = len(trainings)
        training.ledger.summarize("running", training.position)
    try:
        lanes, started = Lanes(trainings), time.monotonic()
        lanes.compile()
        for training in trainings:
            training.console.say(
                f"compiled in {time.monotonic() - started:.1f} s, "
                f"for {len(trainings)} runs in one program"
            )
        outcomes = _drive(lanes, stages)
    except BaseException as error:
        for lane, stage in stages.items():
            if inspect.getgeneratorstate(stage) == inspect.GEN_CREATED:
                failed(trainings[lane], error)
            with contextlib.suppress(BaseException):
                stage.throw(error)
        raise
    return [outcomes[lane] for lane in range(len(trainings))]


def _drive(
    lanes: "Lanes", stages: Mapping[int, Generator[Any, Any, int]]
) -> dict[int, tuple[int, str]]:
    """Carry the runs from one answer to the next request until all have ended."""
    from jaxlm.train.loop import Trained

    requests: dict[int, Any] = {}
    answers: dict[int, Any] = dict.fromkeys(stages)
    outcomes: dict[int, tuple[int, str]] = {}
    while answers:
        for lane, answer in answers.items():
            requests.pop(lane, None)
            try:
                requests[lane] = stages[lane].send(answer)
            except StopIteration as end:
                outcomes[lane] = (end.value, "")
            except UserError as error:
                outcomes[lane] = (2, str(error))
        training = {k: asked for k, asked in requests.items() if not isinstance(asked, Trained)}
        answers = lanes.answer(training) if training else dict.fromkeys(requests)
    return outcomes
