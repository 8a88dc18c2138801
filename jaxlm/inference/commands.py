"""The commands that a run prints at its end: how to reproduce it, and what to do next."""

import functools
import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxlm.config.compose import compose, groups
from jaxlm.config.schema import Config, identity, kinds_unlike, operation
from jaxlm.host import names
from jaxlm.host.checked import Json
from jaxlm.host.files import flat

_PROMPTS = {"stories": "Once", "shakespeare": "ROMEO:"}


def next_commands(config: Config, summary: Json, run_path: Path) -> list[tuple[str, str]]:
    """(command, purpose), the most useful first. Each works when copied into a shell.

    The commands keep the run's options of how to compute. None needs a checkpoint that the run
    cannot have.
    """
    train = ["python", "run.py", *overrides(config), *how(config)]
    opened = [f"run.dir={run_path}", *how(config, opened=True)]
    commands, status = [], summary["status"]
    if config.tokenizer.name != "none" and status != "diverged":
        prompt = shlex.quote(_PROMPTS.get(config.data.name, "The"))
        prompt = prompt if prompt.startswith("'") else f'"{prompt}"'
        words = names.command_line(["python", "run.py", "job=generate", *opened])
        commands.append((f"{words} job.prompt={prompt}", "continue a text"))
    if summary.get("best_step") is not None:
        words = ["python", "run.py", "job=evaluate", *opened, "job.checkpoint=best"]
        commands.append((names.command_line(words), "measure the best checkpoint"))
    elif status != "diverged":
        words = ["python", "run.py", "job=evaluate", *opened]
        commands.append((names.command_line(words), "measure the last checkpoint"))
    if status in ("finished", "stopped_early"):
        commands.append(
            (names.command_line(_other_seed(config, train)), "train again with another seed")
        )
    elif status != "diverged":
        commands.append((names.command_line([*train, f"run.dir={run_path}"]), "resume"))
    return commands


def _other_seed(config: Config, train: Sequence[str]) -> list[str]:
    """The command that trains the same model with the next seed, in a neighbouring folder."""
    seed = config.seed + 1
    rest = [word for word in train if not word.startswith(("seed=", "run.name="))]
    assert config.run.name is not None
    name = _reseeded(config.run.name, config.seed, seed)
    words = [*rest, f"seed={seed}", f"run.name={name}"]
    folder = Path(config.run.dir)
    in_study = any((above / "study.json").exists() for above in list(folder.parents)[:2])
    if folder != Path("runs") / config.run.name and not in_study:
        words.append(f"run.dir={folder.parent / _reseeded(folder.name, config.seed, seed)}")
    return words


def _reseeded(name: str, old: int, new: int) -> str:
    for ending in (f"-seed{old}", f"_seed={old}"):
        name = name.removesuffix(ending)
    return f"{name}-seed{new}"


# Operation keys that do not affect how a model is computed, or belong to one run only.
_ASIDE = ("job.", "study.", "debug.", "run.name", "run.dir", "run.experiment", "run.options")
_ASIDE += ("run.overwrite", "run.stop_at")
# Operation keys that opening a run needs: where its text is, and what computes it.
_OPENING = ("backend", "parallel.", "torch.", "run.cache")


def how(config: Config, opened: bool = False) -> list[str]:
    """The overrides that keep how a run is computed: backend, devices, cache, intervals of saving
    and logging, ... With `opened`, only those that a job needs to open the run.

    Like `overrides`, they are relative to the run's experiment.
    """
    start = [] if opened else _start(config)
    return [
        f"{key}={_typed(value)}"
        for key, value in _differing(config, start, operation).items()
        if (key.startswith(_OPENING) if opened else not key.startswith(_ASIDE))
    ]


def overrides(config: Config) -> list[str]:
    """The shortest overrides that compose to the same identity, starting from the default
    experiment or from the run's own.
    """
    start = _start(config)
    differing = [f"{key}={_typed(v)}" for key, v in _differing(config, start).items()]
    default = start[0].removeprefix("experiment=") if start else "quickstart"
    named = [] if config.run.name in (None, default) else [f"run.name={config.run.name}"]
    return start + differing + named


def _start(config: Config) -> list[str]:
    """The experiment that needs the fewest further overrides; [] for the default one."""
    found = [n for n in groups()["experiment"] if n == config.run.experiment]
    candidates = []
    for start in [[], *([f"experiment={name}"] for name in found if name != "quickstart")]:
        differing = _differing(config, start)
        # A study's or a ladder's experiment has another job; this is one of its runs.
        job = [] if _composed(*start).job.name == "train" else ["job=train"]
        candidates.append((start + job, len(differing)))
    return min(candidates, key=lambda found: found[1])[0]


def _differing(config: Config, start: list[str], half: Callable[[Config], dict] = identity) -> Json:
    """Key -> value of one half of `config`, for keys to which `start` gives another value."""
    kinds = kinds_unlike(config, _composed(*start))
    words = [f"{key}={name}" for key, name in kinds.items()]
    usual = flat(half(_composed(*start, *words)))
    wanted = flat(half(config)).items()
    return {k: value for k, value in wanted if k in kinds or usual.get(k, value) != value}


def _typed(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@functools.lru_cache(maxsize=64)
def _composed(*words: str) -> Config:
    """`compose` of a start, which every command of a run is compared with. Do not modify it."""
    return compose(list(words), checked=False)
