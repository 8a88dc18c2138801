"""Which keys count for the kinds that are chosen (data.name=text, optimizer.name=lion, ...).

A key of another kind, or one that a second key leaves without effect, is in no configuration, or
at its default, so that no report shows it; where a person typed it, it is refused. What a typed key
implies is chosen with it: a path is a text's.
"""

import dataclasses
from collections.abc import Collection, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from jaxlm.config.corpora import CORPORA, Endless
from jaxlm.config.job_options import OPENING
from jaxlm.config.keys import Kinds, keys_of
from jaxlm.config.model_kinds import POSITIONS
from jaxlm.config.schema import SECTIONS, Config
from jaxlm.host.errors import UserError, nearest
from jaxlm.host.names import shortened, shown

Tree = MutableMapping[str, Any]
"""A composed configuration before it is typed: nested mappings of plain values."""


# -- before the configuration is typed ------------------------------------------------------------


def choose_kinds(
    tree: Tree, typed: Collection[str] | None, *, job: str, strict: bool = False
) -> dict[str, type]:
    """Section -> the dataclass of its kind; keys of other kinds are taken out of `tree`.

    `typed` are the keys and groups of the command line, or None for the configuration of a run.
    What they imply is chosen first. Under `strict`, a typed key of another kind is refused;
    otherwise it yields as others do, since a study's variants may change the kind. Raises
    UserError, also for a kind that is not there.
    """
    if typed is not None:
        _imply(tree, typed)
    typed = typed or ()
    chosen = {}
    for section, kinds in SECTIONS.items():
        inside = tree.get(section)
        if not isinstance(inside, MutableMapping):
            chosen[section] = _default_kind(section)
            continue
        name = inside.get("name")
        name = _default_kind(section).name if name is None else str(name)
        if job in OPENING and not {section, f"{section}.name"} & set(typed):
            name = _having(kinds, name, [key for key in inside if f"{section}.{key}" in typed])
        if name not in kinds:
            key = f"{section}.name"
            raise UserError(
                f"{key}={shortened(name)} is not one of {', '.join(kinds)}{nearest(name, kinds)}.\n"
                f"{key}: {keys_of(Config)[key].metadata['help']}"
            )
        inside["name"] = name
        chosen[section] = kinds[name]
        for key in _foreign(section, name, inside):
            value, goes_with = inside.pop(key), _kinds_with(section, key, name)
            if strict and f"{section}.{key}" in typed and value != _default(section, key):
                raise _refused(f"{section}.{key}", value, goes_with)
    return chosen


def _default_kind(section: str) -> Any:
    return Config.__dataclass_fields__[section].default_factory


def _having(kinds: Kinds, name: str, keys: list[str]) -> str:
    """`name`, or the first kind that has these keys where that one has not.

    A job that opens a run compares what was typed with the run itself.
    """
    fitting = [kind for kind in (name, *kinds) if all(kind in kinds.having(key) for key in keys)]
    return fitting[0] if fitting else name


def _foreign(section: str, name: str, inside: Tree) -> list[str]:
    kinds: Kinds = SECTIONS[section]
    own = kinds.fields(name)
    return [key for key in inside if key not in own and kinds.having(str(key))]


def _default(section: str, key: str) -> Any:
    kinds: Kinds = SECTIONS[section]
    item = kinds.fields(kinds.having(key)[0])[key]
    made = item.default_factory
    return item.default if made is dataclasses.MISSING else made()


def _kinds_with(section: str, key: str, name: str) -> str:
    kinds: Kinds = SECTIONS[section]
    names = [_kind(section, kind) for kind in kinds.having(key)]
    return f"{' or '.join(names)}, and this is {_kind(section, name)}"


def _kind(section: str, name: str) -> str:
    return f"{section}={name}"


def _imply(tree: Tree, typed: Collection[str]) -> None:
    """data.path alone means data=text; corpora of ids need no tokenizer."""
    data, tokenizer = (tree.setdefault(name, {}) for name in ("data", "tokenizer"))
    corpus = data.get("name") or _default_kind("data").name
    path = data.get("path")
    endless = issubclass(CORPORA.get(corpus, object), Endless)
    if endless and path is not None and not {"data", "data.name"} & set(typed):
        from jaxlm.host.kinds import holds_tokens  # the data room takes a while to import

        if holds_tokens(Path(path)):
            raise UserError(
                f"data.path={shown(path)} looks like a file of token ids.\n"
                "Add data=tokens data.vocab_size=N; for a text, add data=text."
            )
        data["name"] = corpus = "text"
        _name_option(tree, "data", "text")
    ids = corpus == "markov" or (corpus == "tokens" and data.get("vocab_size") is not None)
    if ids and not {"tokenizer", "tokenizer.name", "tokenizer.path", "tokenizer.hub"} & set(typed):
        if corpus == "markov" or tokenizer.get("name") != "pretrained":
            tokenizer["name"] = "none"
            _name_option(tree, "tokenizer", "none")


def _name_option(tree: Tree, group: str, option: str) -> None:
    options = (tree.get("run") or {}).get("options") or {}
    if group in options:
        options[group] = option


# -- the typed configuration ----------------------------------------------------------------------


def without_effect(config: Config) -> dict[str, str]:
    """Key -> what it goes with, for every key of this configuration that changes nothing."""
    idle = {
        f"{section}.{key}": goes_with
        for section in ("data", "tokenizer")
        for key, goes_with in getattr(config, section).idle().items()
    }
    position = config.model.position
    for kind, entry in POSITIONS.items():
        for key in entry.keys if kind != position else ():
            goes_with = f"model.position={kind}, and this is model.position={position}"
            idle[f"model.{key}"] = goes_with
    return idle


def settle(config: Config, typed: Collection[str] | None, *, strict: bool = False) -> None:
    """Put keys without effect at their defaults; under `strict`, refuse those that were typed."""
    typed = typed or ()
    opening = config.job is not None and config.job.name in OPENING
    known = keys_of(config)
    for name, goes_with in without_effect(config).items():
        section, key = name.split(".")
        default, value = known[name].default, getattr(getattr(config, section), key)
        if value == default or (opening and name in typed):
            continue
        if strict and name in typed:
            raise _refused(name, value, goes_with)
        setattr(getattr(config, section), key, default)


def refuse_idle(config: Config, words: Sequence[str]) -> None:
    """Raises UserError where one of a variant's own words sets a key without effect."""
    known, idle = keys_of(config), without_effect(config)
    for word in words:
        name, _, value = word.partition("=")
        name = name.strip().lstrip("+")
        section, _, key = name.partition(".")
        if name in idle and value != _shown(known[name].default):
            raise _refused(name, value, idle[name])
        if name not in known and section in SECTIONS and SECTIONS[section].having(key):
            if value != _shown(_default(section, key)):
                kind = getattr(config, section).name
                raise _refused(name, value, _kinds_with(section, key, kind))


def _refused(name: str, value: object, goes_with: str) -> UserError:
    return UserError(
        f"{name}={shown(str(value))} has no effect: it goes with {goes_with}.\n"
        "Leave it out, or choose what it goes with."
    )


def _shown(value: object) -> str:
    return "null" if value is None else str(value)
