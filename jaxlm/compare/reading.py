"""Reads run directories and studies for a comparison; unreadable runs are named and skipped.

Everything is read from study.json, config.yaml, summary.json, metrics.jsonl, environment.json and
samples.txt; no run is opened, locked or changed.
"""

import dataclasses
import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxlm.compare.metrics import metrics_of
from jaxlm.config.schema import SECTIONS, Config, defaults, identity, operation
from jaxlm.host.checked import Json, read_yaml
from jaxlm.host.errors import UserError
from jaxlm.host.files import flat
from jaxlm.inference import guard
from jaxlm.store.directory import RunDirectory, read_study

Records = list[Json]

COMPLETE = ("finished", "stopped_early")
_FILES = ("config.yaml", "summary.json", "metrics.jsonl")
_GROUPS = ("gradient_norms", "weight_norms", "update_norms", "activation_rms")
_RECORDED = ("tokens", "flops", "seconds", "wall_seconds", "loss")
_NEEDED = ("status", "step", "tokens", "parameters", "non_embedding_parameters", "flops")


@dataclass
class Run:
    """One run. `keys` are its dotted identity keys and `backend`."""

    path: Path
    keys: Json
    names: Json
    summary: Json
    train: Records
    evals: Records
    environment: Json
    samples: list[str]
    variant: str = ""
    metrics: dict[str, float | None] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        return self.keys["seed"]

    @property
    def status(self) -> str:
        return self.summary["status"]

    @property
    def reason(self) -> str | None:
        return self.summary.get("reason")

    @property
    def complete(self) -> bool:
        """Whether it trained to its end, so that its figures count."""
        return self.status in COMPLETE

    @property
    def packed(self) -> int:
        """The number of runs in the program that trained this one (study.pack), itself included."""
        return self.summary.get("packed") or 1

    @property
    def cost_seconds(self) -> float:
        """Its share of the wall-clock time of its program."""
        return (self.summary.get("wall_seconds") or 0.0) / self.packed

    @property
    def started(self) -> str:
        """Time of the last start, ISO 8601, or ''."""
        starts = self.environment.get("starts") or [{}]
        return starts[-1].get("time") or ""


@dataclass(frozen=True)
class LeftOut:
    """A run that is skipped, and why."""

    path: Path
    reason: str


@dataclass
class Study:
    """Runs to be compared, with what was declared about them (empty for loose runs)."""

    name: str
    definition: Json
    runs: list[Run]
    left_out: list[LeftOut]
    status: str | None = None
    folder: Path | None = None

    def place(self, path: Path) -> str:
        """A run's folder as a report shows it: relative to the study's, or as it was given."""
        if self.folder is None or not path.is_relative_to(self.folder):
            return path.as_posix()
        return path.relative_to(self.folder).as_posix()

    @property
    def variants(self) -> list[str]:
        """Names, as declared or in the order of the runs."""
        return list(dict.fromkeys(run.variant for run in self.runs))

    def of(self, variant: str) -> list[Run]:
        """The runs of a variant, by seed."""
        return sorted((r for r in self.runs if r.variant == variant), key=lambda run: run.seed)


# -- one run -------------------------------------------------------------------------------------


def read_run(path: Path) -> Run:
    """A run that is training or has trained. Raises UserError, whose first line is the reason."""
    run = RunDirectory(path)
    keys, names = _keys(path)
    summary = run.read_summary()
    if summary is None:
        raise UserError("it has no summary.json: it has not begun, or its start failed")
    missing = [name for name in _NEEDED if summary.get(name) is None]
    if missing:
        raise UserError(f"its summary.json lacks {', '.join(missing)}")
    train, evals = _records(run)
    guard.check_records(run)
    guard.check_summary(path, summary, evals)
    if not train and not evals and summary["status"] in COMPLETE:
        raise UserError("it has no records: metrics.jsonl is missing or empty")
    try:
        metrics = metrics_of(summary, train, evals)
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(f"its records or its summary are damaged ({error})") from None
    environment = run.read_environment()
    samples = _samples(path)
    return Run(path, keys, names, summary, train, evals, environment, samples, metrics=metrics)


def _keys(path: Path) -> tuple[Json, Json]:
    """(identity keys and backend, the run.* keys) of config.yaml; new keys have their defaults."""
    tree = read_yaml(path / "config.yaml")
    if tree is None:
        raise UserError("it has no config.yaml")
    leaves = flat(tree)
    default = defaults({name: str(leaves.get(f"{name}.name")) for name in SECTIONS})
    if wrong := _unlike(leaves, flat(identity(default))):
        raise UserError(f"its config.yaml is not a run's configuration: {wrong}")
    how = {item.name for item in dataclasses.fields(Config) if item.metadata["operation"]}
    dropped = set(flat(operation(default)))
    kept = {
        name: value
        for name, value in leaves.items()
        if name.split(".")[0] not in how and name not in dropped
    }
    keys = flat(identity(default)) | kept | {"backend": tree.get("backend", "jax")}
    if keys.get("data_seed") is None or tree.get("data_seed") is None:
        keys["data_seed"] = keys["seed"]
    run = tree.get("run")
    return keys, run if isinstance(run, dict) else {}


def _unlike(leaves: Json, usual: Json) -> str | None:
    """Why a configuration's leaves, as far as reports use them, are not a run's; else None."""
    if type(leaves.get("seed")) is not int:
        return "it has no seed"
    sections = {name.rsplit(".", 1)[0] for name in usual if "." in name}
    for name, value in leaves.items():
        above = name.rsplit(".", 1)[0]
        if name in sections or (above != name and above in usual):
            return f"{min(name, above, key=len)} has values of another kind"
        if name in usual and not _alike(value, usual[name]):
            return f"{name} is {value!r}"[:80]
    return None


def _alike(value: Any, usual: Any) -> bool:
    """Whether two values are of the same kind; null is of any kind except a list."""
    if isinstance(usual, list):
        return isinstance(value, list) and all(map(_alike, value, [0.0] * len(value)))
    kinds = {type(value), type(usual)} - {type(None)}
    return kinds <= {int, float} or (len(kinds) == 1 and kinds <= {bool, str})


def _records(run: RunDirectory) -> tuple[Records, Records]:
    kinds: dict[str, Records] = {"train": [], "eval": []}
    for record in run.records():
        if record.get("kind") in kinds:
            missing = [name for name in _RECORDED if name not in record]
            if missing:
                raise UserError(f"a record of its metrics.jsonl lacks {missing[0]}")
            kept = {name: value for name, value in record.items() if name not in _GROUPS}
            kinds[record["kind"]].append(kept)
    return kinds["train"], kinds["eval"]


def _samples(path: Path) -> list[str]:
    try:
        text = (path / "samples.txt").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return []
    return [sample.strip("\n") for sample in text.split("\n\n---\n\n")]


# -- many runs -----------------------------------------------------------------------------------


def find_runs(pattern: str) -> list[Path]:
    """The run directories that a path or glob (with **) names, and those inside its folders.

    Raises UserError if there is none.
    """
    base = pattern
    while base.endswith(("/**", "/**/", "/**/*")):  # walking the folder finds the same, faster
        base = base.rsplit("/**", 1)[0]
    literal = Path(os.path.expanduser(base))
    matches = [literal] if os.path.exists(literal) else _globbed(base)
    found = dict.fromkeys(run for match in matches if match.is_dir() for run in _below(match))
    if not found:
        raise UserError(
            f"job.runs={pattern}: no runs found.\n"
            "Name the folder of a study or of a run, or a glob such as job.runs='runs/**'."
        )
    return list(found)


def _globbed(pattern: str) -> list[Path]:
    return [Path(path) for path in sorted(glob.glob(os.path.expanduser(pattern), recursive=True))]


def _below(folder: Path) -> Iterator[Path]:
    """The folder, or all the runs inside it; the inside of a run is not searched."""
    for place, folders, files in os.walk(folder):
        if any(name in files for name in _FILES):
            folders.clear()
            yield Path(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))


def read_runs(paths: Sequence[Path]) -> tuple[list[Run], list[LeftOut]]:
    """All readable runs, and the others with the reason."""
    runs, left_out = [], []
    for path in paths:
        try:
            runs.append(read_run(path))
        except UserError as error:
            left_out.append(LeftOut(path, str(error).splitlines()[0].rstrip(".")))
    return runs, left_out


def read_study_file(folder: Path) -> Json:
    """study.json, checked as far as it is used. Raises UserError."""
    study = read_study(folder)
    if study is None:
        raise UserError(f"cannot read {folder / 'study.json'}: there is no such file.")
    return study
