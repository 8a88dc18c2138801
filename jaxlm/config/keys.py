"""Declares the keys of the configuration, and sections whose keys depend on their kind.

A section such as `data` has one dataclass per kind (data.name=text, hub, ...), which holds exactly
the keys of that kind. `Kinds` is the registry of a section: name -> dataclass.
"""

import dataclasses
from dataclasses import field
from typing import Any

Leaf = dataclasses.Field[Any]  # a key, of any type


def _fields(kind: type) -> dict[str, Leaf]:
    return {item.name: item for item in dataclasses.fields(kind)}


class Kinds(dict[str, type]):
    """The kinds of a section by name. Each is a dataclass whose `name` defaults to that name."""

    def __init__(self, *kinds: type) -> None:
        super().__init__((str(_fields(kind)["name"].default), kind) for kind in kinds)

    def fields(self, name: str) -> dict[str, Leaf]:
        """Key -> field of one kind."""
        return _fields(self[name])

    def having(self, key: str) -> list[str]:
        """The names of the kinds that have `key`."""
        return [name for name in self if key in self.fields(name)]


def key(
    default: Any,
    help: str,
    *,
    choices: tuple[object, ...] = (),
    operation: bool = False,
    kinds: Kinds | None = None,
) -> Any:
    """A dataclass field with its help text, its allowed values, and whether it is operation.

    For a section with kinds, `kinds` is its registry and `default` the dataclass of the default
    kind.
    """
    metadata = {"help": help, "choices": choices, "operation": operation, "kinds": kinds}
    if dataclasses.is_dataclass(default) and isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def keys_of(schema: Any, prefix: str = "") -> dict[str, Leaf]:
    """Dotted name -> field of every leaf of a schema, except `job`.

    A class yields the keys of all kinds of its sections, an instance those of the kinds it holds.
    """
    leaves: dict[str, Leaf] = {}
    for item in dataclasses.fields(schema):
        inside = f"{prefix}{item.name}."
        if not dataclasses.is_dataclass(item.type):
            if item.name != "job":
                leaves[prefix + item.name] = item
        elif not isinstance(schema, type):
            leaves |= keys_of(getattr(schema, item.name), inside)
        elif item.metadata["kinds"]:
            leaves |= _keys_of_kinds(item, inside)
        else:
            leaves |= keys_of(item.type, inside)
    return leaves


def _keys_of_kinds(section: Leaf, prefix: str) -> dict[str, Leaf]:
    kinds: Kinds = section.metadata["kinds"]
    name: Leaf = key(next(iter(kinds)), section.metadata["help"], choices=tuple(kinds))
    name.name, name.type = "name", str
    leaves = {f"{prefix}name": name}
    for kind in kinds.values():
        leaves |= {n: item for n, item in keys_of(kind, prefix).items() if n not in leaves}
    return leaves
