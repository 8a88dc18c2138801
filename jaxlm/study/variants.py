"""The runs of a study: every named variant of one configuration, trained with every seed."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxlm.config.compose import compose, from_file, groups, split_override
from jaxlm.config.effective import refuse_idle
from jaxlm.config.keys import keys_of
from jaxlm.config.schema import Config, differences, identity, kinds_unlike
from jaxlm.host.errors import UserError
from jaxlm.store.directory import RunDirectory

_PLACE = ("run.name", "run.dir", "run.experiment", "run.options")
_NOT_VARIED = {
    "seed": "put seeds in study.seeds",
    "experiment": "a study has one base experiment",
    "scale": "a study has one scale; set it on the command line",
    "job": "every variant is trained",
    **dict.fromkeys(_PLACE, "the study chooses the folder of each run"),
}


@dataclass
class Member:
    """One run of a study. Its status is waiting, running, failed, or that of a finished run."""

    variant: str
    seed: int
    words: list[str]
    config: Config
    status: str = "waiting"
    reason: str | None = None
    process_seconds: float | None = None

    @property
    def label(self) -> str:
        return f"{self.variant}, seed {self.seed}"

    @property
    def run(self) -> RunDirectory:
        return RunDirectory(self.config.run.dir)

    def lasting(self, seconds: float) -> "Member":
        """The same run, limited to this many seconds of wall-clock time."""
        words = [*self.words, f"train.duration={seconds / 3600:.6g}hours"]
        return replace(self, words=words, config=compose(words))


def members_of(
    config: Config,
    variants: Mapping[str, Sequence[str]],
    seeds: Sequence[int],
    *,
    merge: bool = False,
) -> list[Member]:
    """The runs of a study, seed by seed within each variant.

    Raises UserError if a variant is not a valid configuration, or if two variants are identical and
    `merge` is false. With `merge`, the first of them is kept.
    """
    base, members = words_of(config), []
    for variant, changes in variants.items():
        if not re.fullmatch(r"[^/\\.\s][^/\\\s]*", variant):
            raise UserError(
                f"A variant's name must be a folder name without spaces: {variant!r} is not."
            )
        _check_keys(variant, changes)
        words = [*base, *changes]  # if an option is chosen twice, the last one counts
        for seed in seeds:
            place = Path(config.run.dir) / variant / f"seed{seed}"
            named = [f"seed={seed}", f"run.name={variant}-seed{seed}", f"run.dir={place}"]
            try:
                found = compose(words + named)
                refuse_idle(found, changes)
                members.append(Member(variant, seed, words + named, found))
            except UserError as error:
                raise UserError(f"variant {variant}: {error}") from None
    return _distinct(members, merge)


def _check_keys(variant: str, changes: Sequence[str]) -> None:
    """Raise UserError if a variant changes a key that variants may not change."""
    for key in sorted({split_override(word)[0] for word in changes}):
        why = _NOT_VARIED.get(key, _NOT_VARIED.get(key.split(".")[0]))
        if why or key.startswith("study."):
            why = why or "a study cannot vary its own keys"
            raise UserError(f"variant {variant} may not change {key}: {why}.")


def _distinct(members: list[Member], merge: bool) -> list[Member]:
    """Drop members with the same identity as an earlier one. Without `merge`, raises UserError."""
    seen: dict[str, Member] = {}
    for member in members:
        what = json.dumps(identity(member.config), sort_keys=True)
        twin = seen.setdefault(what, member)
        if twin is not member and not merge:
            same = f"variants {twin.variant} and {member.variant} are the same configuration"
            if twin.variant == member.variant:
                same = f"study.seeds lists seed {member.seed} twice"
            raise UserError(f"{same}.\nRemove one of them, or change its overrides.")
    return list(seen.values())


def words_of(config: Config) -> list[str]:
    """The command-line words that train `config`, without its name and folder."""
    known = config.run.experiment in groups()["experiment"]
    words = [f"experiment={config.run.experiment}"] if known else []
    words.append("job=train")
    usual = compose(words).run.options
    chosen = config.run.options.items()
    words += [f"{group}={option}" for group, option in chosen if usual.get(group) != option]
    kinds = kinds_unlike(config, compose(words, checked=False))
    there = compose([*words, *(f"{k}={name}" for k, name in kinds.items())], checked=False)
    differing = {
        name: _value(config, name)
        for name in keys_of(config)
        if name not in _PLACE
        and not name.startswith("study.")
        and (name in kinds or _value(config, name) != _value(there, name))
    }
    return words + [
        f"{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in differing.items()
    ]


def _value(config: Config, name: str) -> Any:
    node: Any = config
    for part in name.split("."):
        node = getattr(node, part)
    return node


def refuse_others(members: list[Member]) -> None:
    """Raise UserError if the folder of any run already holds a different run."""
    for member in members:
        path = member.run.path / "config.yaml"
        if member.config.run.overwrite or not path.exists():
            continue
        differing = differences(identity(member.config), identity(from_file(path)))
        if differing:
            name, (new, old) = next(iter(differing.items()))
            raise UserError(
                f"{member.run.path} holds a run of another configuration ({name}: {new} here, "
                f"{old} there).\n"
                "Choose another study with run.name=NAME, or start over with run.overwrite=true."
            )
