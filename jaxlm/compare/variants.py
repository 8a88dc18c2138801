"""Tells runs apart: the keys in which they differ, and the names that follow from them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxlm.compare.reading import (
    LeftOut,
    Run,
    Study,
    find_runs,
    read_run,
    read_runs,
    read_study_file,
)
from jaxlm.host.checked import Json
from jaxlm.host.errors import UserError

SEEDS = ("seed", "data_seed")
_TRAINING_ONLY = ("data.stride", "data.train_tokens")
_MOST_KEYS = 4


def load(study: Path | Sequence[Path]) -> Study:
    """Reads a study's folder (with study.json), or loose run directories.

    A run that cannot be read, or has not trained to its end, is in `left_out`. Raises UserError if
    there is no run at all.
    """
    if isinstance(study, (str, Path)):
        folder = Path(study)
        if (folder / "study.json").exists():
            try:
                return _declared(folder, read_study_file(folder))
            except UserError as error:
                loose = _loose(find_runs(str(folder)), folder.name)
                loose.left_out.insert(0, LeftOut(folder / "study.json", str(error)))
                return loose
        return _loose(find_runs(str(folder)), folder.resolve().name)
    return _loose([Path(path) for path in study], "comparison")


def _declared(folder: Path, found: Json) -> Study:
    definition = found.get("definition") or {}
    study = Study(folder.resolve().name, definition, [], [], found.get("status"), folder)
    for row in found["runs"]:
        path = folder / row["path"]
        try:
            run = read_run(path)
        except UserError as error:
            status = row.get("status")
            said = str(error).splitlines()[0].rstrip(".")
            if status not in (None, "finished", "stopped_early"):
                reason = row.get("reason")
                words = "not trained yet" if status == "waiting" else str(status)
                said = f"{words}, {reason}" if reason else words
            study.left_out.append(LeftOut(path, said))
            continue
        run.variant = row["variant"]
        _take(study, run)
    return study


def _loose(paths: Sequence[Path], name: str) -> Study:
    runs, left_out = read_runs(paths)
    study = Study(name, {}, [], left_out)
    for run in named(runs):
        _take(study, run)
    return study


def _take(study: Study, run: Run) -> None:
    """Adds a run to the study if it trained to its end (or diverged) and is not in it already."""
    same = [r for r in study.runs if (r.variant, r.seed) == (run.variant, run.seed)]
    if not run.complete and run.status != "diverged":
        reason = f" ({run.reason})" if run.reason else ""
        study.left_out.append(LeftOut(run.path, f"not finished: {run.status}{reason}"))
    elif same:
        words = f"it has the variant and seed of {same[0].path}"
        study.left_out.append(LeftOut(run.path, words))
    else:
        study.runs.append(run)


def differing_keys(runs: Sequence[Run], among: Sequence[str] = ()) -> list[str]:
    """The keys, except seeds, in which the runs are not all equal; in the schema's order.

    A key that a run of another kind lacks (such as schedule.decay with schedule=cosine) differs
    only if the runs that have it differ; the kind itself tells the others apart.
    """
    names = among or list(dict.fromkeys(name for run in runs for name in run.keys))
    return [
        name
        for name in names
        if name not in SEEDS
        and len({_text(run.keys[name]) for run in runs if name in run.keys}) > 1
    ]


def same_tokens(runs: Sequence[Run], varied: Sequence[str]) -> bool:
    """Whether a token is the same for all the runs; `varied` are the keys in which they differ.

    A tokenizer that is trained on the corpus changes with it.
    """
    if any(key.startswith("tokenizer.") for key in varied):
        return False
    trained = any(run.keys.get("tokenizer.name") == "bpe" for run in runs)
    return not (trained and text_keys(varied))


def text_keys(varied: Sequence[str]) -> list[str]:
    """The keys that choose the text, and so also what a run is evaluated on."""
    return [key for key in varied if key.startswith("data.") and key not in _TRAINING_ONLY]


def named(runs: Sequence[Run]) -> list[Run]:
    """The runs, sorted by the keys in which they differ; these become the variants' names.

    'lr=0.01, n_layers=4'; if more than four keys differ, the run's own name instead.
    """
    keys = differing_keys(runs)
    short = {key: _short(key, keys) for key in keys}
    for run in runs:
        if len(keys) > _MOST_KEYS:
            run.variant = _own_name(run)
        else:
            said = [f"{short[key]}={_text(run.keys.get(key))}" for key in keys if key in run.keys]
            run.variant = ", ".join(said) or str(run.names.get("experiment") or _own_name(run))
    return sorted(runs, key=lambda run: [_order(run.keys.get(key)) for key in keys])


def _own_name(run: Run) -> str:
    """run.name without its seed, so that all seeds of a variant have the same name."""
    name = str(run.names.get("name") or run.path.name)
    for ending in (f"-seed{run.seed}", f"_seed={run.seed}"):
        name = name.removesuffix(ending)
    return name


def _short(key: str, keys: Sequence[str]) -> str:
    last = key.rsplit(".", 1)[-1]
    alone = last != "name" and sum(k.rsplit(".", 1)[-1] == last for k in keys) == 1
    return last if alone else key.removesuffix(".name")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _order(value: Any) -> tuple[int, float, str]:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return (0, value, "") if number else (1, 0.0, _text(value))
