"""Finds the largest batch that fits in memory: tries 1, 2, 4, ..., each in its own process."""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxlm.config.compose import compose
from jaxlm.config.schema import Config
from jaxlm.host.checked import read_json
from jaxlm.host.errors import UserError
from jaxlm.host.signals import Signals
from jaxlm.store.directory import RunDirectory
from jaxlm.store.formats import LIMIT
from jaxlm.study.process import POLL_SECONDS, Process, out_of_memory, outcome
from jaxlm.study.variants import words_of

_MOST = 65_536
_STEPS = 3


@dataclass(frozen=True)
class Doubling:
    """The values to try: 1, 2, 4, ... (or from `least`) up to `most`."""

    pattern = re.compile(r"doubling(?: from (\d+))?(?: to (\d+))?")
    least: int
    most: int

    @classmethod
    def of(cls, text: str) -> "Doubling":
        """'doubling', 'doubling to 1024', 'doubling from 8 to 1024'. Raises UserError."""
        match = cls.pattern.fullmatch(text)
        assert match is not None  # `axes_of` has checked it
        least, most = match.groups()
        found = cls(int(least or 1), int(most or _MOST))
        if not 1 <= found.least <= found.most:
            raise UserError(f"{text!r} has no values: its end is below its start.")
        return found

    def __iter__(self) -> Iterator[int]:
        value = self.least
        while value <= self.most:
            yield value
            value *= 2


def sizes_that_fit(
    config: Config,
    key: str,
    doubling: Doubling,
    attempt: Callable[[Sequence[str], Path], tuple[int, str]] | None = None,
) -> list[int]:
    """The values of `key` that can train for a few steps, up to the first that runs out of memory.

    The result is kept in STUDY/limit.json, so that the study has the same variants when it resumes;
    run.overwrite=true tests again. `attempt(words, folder)` trains and returns the exit status and
    standard error; by default it starts a separate process. Raises UserError if a run fails for
    another reason, or if no value fits.
    """
    study = RunDirectory(config.run.dir)
    study.check_writable()
    asked = {"key": key, "least": doubling.least, "most": doubling.most}
    kept = study.path / "limit.json"
    if not config.run.overwrite:
        found = read_json(kept, LIMIT, "Remove it to test the sizes again.")
        if found and found["asked"] == asked and found["fit"]:
            return found["fit"]
    fit, reason = [], None
    for value in doubling:
        print(f"does {key}={value} fit in memory?", end=" ", flush=True)
        folder = study.path / ".trial"
        words = [*words_of(config), *_trial(key, value, folder)]
        compose(words)
        status, errors = (attempt or _attempt)(words, folder)
        said = outcome(RunDirectory(folder), status, errors)
        shutil.rmtree(folder, ignore_errors=True)
        print("yes" if status == 0 else "no", flush=True)
        if status != 0 and not out_of_memory(status, errors):
            raise UserError(f"{key}={value} could not be tested: {said[1]}")
        if status != 0:
            reason = f"{key}={value}: {said[1]}"
            break
        fit.append(value)
    if not fit:
        raise UserError(f"Not even {reason}.\nTry a smaller model or a shorter context.")
    answer = {"asked": asked, "fit": fit, "reason": reason}
    study.write_text("limit.json", json.dumps(answer, indent=1) + "\n")
    return fit


def _trial(key: str, value: int, folder: Path) -> list[str]:
    return [
        f"{key}={value}",
        f"train.duration={_STEPS}steps",
        "train.eval_every=0",
        "train.checkpoint_every=0",
        "train.grad_accumulation=1",
        "schedule.warmup=0",
        "run.samples=0",
        "run.overwrite=true",
        f"run.dir={folder}",
        "run.name=trial",
    ]


def _attempt(words: Sequence[str], folder: Path) -> tuple[int, str]:
    """Train in a separate process; a signal to this process stops both."""
    folder.mkdir(parents=True, exist_ok=True)
    with Signals() as signals:
        process = Process([words], folder.parent / ".errors_trial.txt")
        while process.status() is None:
            if signals.received:
                process.signal(signals.received)
                break
            time.sleep(POLL_SECONDS)
        ((status, errors),) = process.end()
    if signals.received:
        raise KeyboardInterrupt
    return status, errors
