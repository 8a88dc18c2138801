"""Parameter trees: flat with dotted names (the canonical form) and nested, as in Flax."""

from typing import Any

from flax.traverse_util import flatten_dict


def nest(flat: dict[str, Any]) -> dict[str, Any]:
    """{'blocks.0.norm.weight': x} -> {'blocks': {'0': {'norm': {'weight': x}}}}, Flax's form."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *path, leaf = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = value
    return tree


def flatten(tree: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `nest`."""
    return flatten_dict(tree, sep=".")
