"""Runs `-m` sweeps with Hydra: one run per combination of comma-separated values."""

import contextlib
import dataclasses
import json
import math
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxlm.cli.sweep_names import sweep_label
from jaxlm.config.compose import (
    check_override,
    config_folder,
    first_line,
    free_text_keys,
    groups,
    plain_tree,
    read_override,
    refuse_list,
    store_kinds,
    typed,
)
from jaxlm.config.schema import is_identity
from jaxlm.host.checked import Json
from jaxlm.host.errors import UserError
from jaxlm.host.memory import forget_process_peak
from jaxlm.host.names import shortened

# Jobs that create a run folder. All others read one, whose name shows only identity keys.
_MAKING = ("train", "study", "ladder")
_IDENTITY_GROUPS = ("model", "data", "tokenizer", "optimizer", "schedule", "scale")
_MOST_RUNS = 10_000
_QUIET = ("hydra/job_logging=none", "hydra/hydra_logging=none")


@dataclasses.dataclass
class Outcome:
    """One run of a sweep: its number, its swept values, how it ended."""

    number: int
    label: str
    status: int
    folder: Path | None = None  # for training runs
    error: str | None = None

    def line(self, width: int) -> str:
        return f"  [{self.number}] {self.label or 'as given':<{width}}  {self._words()}".rstrip()

    def _words(self) -> str:
        if self.error is not None:
            return f"failed: {self.error}"
        ended = "done" if self.status == 0 else f"exit status {self.status}"
        if self.folder is None:
            return ended
        try:
            summary = json.loads((self.folder / "summary.json").read_text("utf-8"))
            loss, best = summary.get("val_loss"), summary.get("best_val_loss")
            said = f"{summary['status']} at step {summary['step']:,}".replace("_", " ")
            said += "" if loss is None else f", validation loss {loss:.4f}"
            if best is not None and summary["best_step"] != summary["step"]:
                said += f" (best {best:.4f} at step {summary['best_step']:,})"
            return f"{said}; {self.folder}"
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return ended


def sweep(overrides: list[str]) -> int:
    """Run every combination with Hydra's sweeper and launcher. Returns the worst exit status.

    A failed run is reported and the others continue; a signal stops them all. Values follow Hydra's
    grammar, because commas separate them. The swept values are appended to a run's name, and to a
    run.dir that does not contain the name: NAME_lr=0.001.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig

    store_kinds()
    arguments, swept = _arguments(overrides)
    outcomes: list[Outcome] = []

    def task(composed: Any) -> None:
        settings = HydraConfig.get()
        if outcomes and outcomes[-1].status >= 128:
            return
        values = _values(settings.overrides.task)
        one = Outcome(settings.job.num, sweep_label({k: values[k] for k in swept}), 0)
        outcomes.append(one)
        print(f"\n[{one.number}] {one.label or 'as given'}", flush=True)
        forget_process_peak()
        _run(one, composed, values, swept, dict(settings.runtime.choices))

    # Hydra reads sys.argv itself and accepts no list of overrides.
    before, sys.argv = sys.argv, [sys.argv[0], "--multirun", *arguments]
    refused = 0
    try:
        folder = str(Path(config_folder()))
        with _plain_errors():
            hydra.main(version_base="1.3", config_path=folder, config_name="config")(task)()
    except SystemExit as error:  # Hydra has printed what it could not read
        refused = 2 if error.code else 0
    except Exception as error:  # Hydra could not compose it
        said = f"-m {shortened(' '.join(overrides))}: {first_line(error)}."
        if not outcomes:
            raise UserError(said) from None
        print(f"error: {said}", file=sys.stderr)
        refused = 2
    finally:
        sys.argv = before
    failed = sum(one.status != 0 for one in outcomes)
    width = max((len(one.label or "as given") for one in outcomes), default=0)
    print(f"\n{len(outcomes)} runs, {failed} of them failed", flush=True)
    print("\n".join(one.line(width) for one in outcomes), flush=True)
    return max([refused, *(one.status for one in outcomes)])


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Make Hydra raise its errors inside the context, instead of printing some and exiting."""
    name = "HYDRA_FULL_ERROR"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _run(one: Outcome, composed: Any, values: Json, swept: list[str], choices: Json) -> None:
    """Run one job of the sweep and record in `one` how it ended."""
    from jaxlm.cli import jobs

    argv = sys.argv
    try:
        places = _places(composed, values, swept, choices)
        config = typed(composed, places, choices, given=list(values), strict=True)
        values = {
            k: v for k, v in values.items() if not k.startswith(("hydra.", "hydra/"))
        } | places
        words = [f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in values.items()]
        sys.argv = [argv[0], *words]  # so that a run records its own command
        if config.job.name == "train":
            one.folder = Path(config.run.dir)
        one.status = jobs.run(config, list(values))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        one.status, one.error = 2, str(error).splitlines()[0]
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        one.status, one.error = 130, "interrupted"
    except (Exception, SystemExit) as error:  # a bug of ours: let the other runs finish
        traceback.print_exc()
        one.status, one.error = 1, f"{type(error).__name__}: {error}".splitlines()[0]
    finally:
        sys.argv = argv


def _arguments(overrides: list[str]) -> tuple[list[str], list[str]]:
    """Return Hydra's arguments and the keys and groups with several values. Raises UserError."""
    arguments, counts = [], {}
    for override in overrides:
        key, value = check_override(override)
        plain = key in groups() or key.startswith(("hydra.", "hydra/"))
        try:
            value, count = _read(key, value)
        except UserError as error:
            if key not in free_text_keys():
                raise
            if "," in value:
                raise UserError(f"{error}\nQuote text for -m, such as {key}=\"'...'\".") from None
            value, count = "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'", None
        arguments.append(f"{key}={value}" if plain else f"++{key}={value}")
        if count is not None:
            counts[key] = count
    if (runs := math.prod(counts.values())) > _MOST_RUNS:
        raise UserError(f"-m would start {runs:,} runs; at most {_MOST_RUNS:,} are possible.")
    given = {word.partition("=")[0] for word in arguments}
    return [*arguments, *(w for w in _QUIET if w.partition("=")[0] not in given)], list(counts)


def _read(key: str, value: str) -> tuple[str, int | None]:
    """A value in Hydra's syntax and, if it is a sweep, how many values it has. Raises UserError."""
    from hydra.core.override_parser.types import Glob, RangeSweep

    override = read_override(key, value)
    content = override.value()
    if not override.is_sweep_override():
        if key not in free_text_keys():
            refuse_list(key, value, content)
        return value, None
    if isinstance(content, Glob):
        value, options = _matching(key, value, content)
        return value, len(options)
    if not override.is_discrete_sweep():
        raise UserError(f"{key}={value}: a sweep needs a finite list of values.")
    if isinstance(content, RangeSweep) and content.start is not None and content.stop is not None:
        return value, max(0, math.ceil((content.stop - content.start) / (content.step or 1)))
    for item in content.list:
        refuse_list(key, str(item), item)
        if key in groups():
            check_override(f"{key}={item}")
    return value, len(content.list)


def _matching(key: str, value: str, pattern: Any) -> tuple[str, list[str]]:
    """The options of a group that match a glob: in Hydra's syntax, and as a list.

    Raises UserError.
    """
    if key not in groups():
        raise UserError(f"{key}={value}: glob selects options of a group, such as model.")
    options = pattern.filter(groups()[key])
    if not options:
        listed = ", ".join(groups()[key])
        raise UserError(f"{key}={value}: no {key} matches.\nChoose from: {listed}.")
    return f"choice({','.join(options)})", options


def _values(task: list[str]) -> Json:
    """Maps each key or group to its value in one job of the sweep."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(list(task))
    return {word.key_or_group: word.value() for word in parsed}


def _places(composed: Any, values: Json, swept: list[str], choices: Json) -> dict[str, str]:
    """run.name of one job, with the swept values; also run.dir if it does not contain the name."""
    run = plain_tree(composed.run) if "run" in composed else {}
    making = (choices.get("job") or "train") in _MAKING
    named = [
        key
        for key in swept
        if key not in ("run.name", "run.dir", "job")
        and not key.startswith(("hydra.", "hydra/"))
        and (making or key in ("experiment", *_IDENTITY_GROUPS) or is_identity(key))
    ]
    given = run.get("name")
    if not given and "experiment" in named:
        named.remove("experiment")  # already in the name
    label = sweep_label({key: values[key] for key in named})
    name = "_".join(filter(None, [str(given or choices.get("experiment") or "run"), label]))
    places = {"run.name": name}
    folder = run.get("dir")
    if folder and "${run.name}" not in str(folder):
        apart = [*named, "experiment", "run.name"]
        label = sweep_label({key: values[key] for key in swept if key in apart})
        places["run.dir"] = "_".join(filter(None, [str(folder).rstrip("/"), label]))
    return places
