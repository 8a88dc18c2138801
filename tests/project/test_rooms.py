"""The order of the rooms (packages): imports only lead down, and never in a circle.

FLOORS is the one list that names the rooms in their order; the README's picture is made from it:
python tests/project/test_rooms.py
"""

import ast
import collections
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLOORS = (
    ("jaxlm",),
    ("jaxlm.cli",),
    ("jaxlm.verify",),
    ("jaxlm.predict",),
    ("jaxlm.study",),
    ("jaxlm.compare", "jaxlm.train"),
    ("jaxlm.inference",),
    ("jaxlm.engine", "torchref"),
    ("jaxlm.data", "jaxlm.spec"),
    ("jaxlm.store",),
    ("jaxlm.config",),
    ("jaxlm.host",),
    ("scaling",),
    ("scaling.report",),
    ("scaling.estimate",),
    ("scaling.law",),
    ("scaling.records", "scaling.optimize"),
    ("scaling.base",),
)
BASE = {"scaling.errors", "scaling.callable_module", "scaling.text_table"}
FRAMEWORKS = {"jax", "flax", "optax", "orbax", "torch"}
NEUTRAL = ("jaxlm.host", "jaxlm.config", "jaxlm.spec", "jaxlm.store", "jaxlm.data")
NEUTRAL_BUT = {"jaxlm.store.checkpoint"}
"""Uses Orbax for the arrays."""


@cache
def modules() -> dict[str, Path]:
    """Name -> file for every module of the product."""
    found = {}
    for top in ("jaxlm", "torchref", "scaling"):
        for file in (ROOT / top).rglob("*.py"):
            parts = file.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = file
    return found


def imports(tree: ast.Module, strings: bool = True) -> set[str]:
    """The modules that a file names: in imports anywhere in it (except those for the type checker
    only) and, unless `strings` is False, in strings such as "jaxlm.study.job:study_job"."""
    unseen = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in set(ast.walk(tree)) - unseen:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif strings and isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {node.value.partition(":")[0]} if "." in node.value else set()
    return found


@cache
def graph() -> dict[str, set[str]]:
    """Module -> the modules of the product that it names."""
    known = modules()
    found = {}
    for name, file in known.items():
        named = imports(ast.parse(file.read_text("utf-8"))) & set(known) - {name}
        # `from jaxlm.store import lock` also names the package, which imports nothing.
        packages = {m for m in named if any(other.startswith(f"{m}.") for other in named)}
        found[name] = named - packages
    return found


def room(module: str) -> str:
    if module in BASE:
        return "scaling.base"
    parts = module.split(".")
    if parts[0] == "torchref":
        return "torchref"
    name = ".".join(parts[:2])
    return name if name in {room for floor in FLOORS for room in floor} else parts[0]


def arrows() -> collections.Counter:
    """(importing room, imported room) -> number of imports."""
    pairs = ((room(a), room(b)) for a, named in graph().items() for b in named)
    return collections.Counter(pair for pair in pairs if pair[0] != pair[1])


def test_every_room_is_on_a_floor_and_has_a_docstring():
    named = [name for floor in FLOORS for name in floor]
    for folder in {*(ROOT / "jaxlm").iterdir(), *(ROOT / "scaling").iterdir()}:
        if folder.is_dir() and folder.name != "__pycache__" and folder.name != "configs":
            name = ".".join(folder.relative_to(ROOT).parts)
            assert name in named, f"{name} has no place in FLOORS"
            assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text("utf-8"))), name


@pytest.mark.slow
def test_imports_lead_only_to_lower_floors():
    floor = {name: depth for depth, names in enumerate(FLOORS) for name in names}
    up = [
        f"{module} -> {other}"
        for module, named in sorted(graph().items())
        for other in sorted(named)
        if room(module) != room(other) and floor[room(module)] >= floor[room(other)]
    ]
    assert not up, "\n".join(up)


def test_imports_between_files_have_no_circle():
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_frameworks_are_imported_only_in_their_rooms():
    for name, file in modules().items():
        found = imports(ast.parse(file.read_text("utf-8")), strings=False)
        named = {word.partition(".")[0] for word in found}
        if room(name) in NEUTRAL and name not in NEUTRAL_BUT:
            assert not named & FRAMEWORKS, name
        if name.startswith("jaxlm"):
            assert "torch" not in named, name
        if name.startswith("scaling"):
            assert not named & {"jaxlm", "torchref", "torch"}, name
        if name.startswith("torchref") and name != "torchref.checkpoint":
            assert not named & {"jax", "flax", "optax", "orbax"}, name


def test_strings_and_lazy_imports_count_as_imports():
    tree = ast.parse(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from jaxlm.cli import jobs\n"
        "def f():\n    import jaxlm.train.loop\n    return 'jaxlm.study.job:study_job'\n"
    )
    assert {"jaxlm.train.loop", "jaxlm.study.job"} <= imports(tree)
    assert "jaxlm.cli.jobs" not in imports(tree)
    assert "jaxlm.study.job" in graph()["jaxlm.cli.jobs"]


def picture() -> str:
    """The list of rooms as shown in the README."""
    lines = []
    for floor in FLOORS:
        if floor == ("scaling.base",):
            continue
        for name in floor:
            file = ROOT / name.replace(".", "/") / "__init__.py"
            said = ast.get_docstring(ast.parse(file.read_text("utf-8"))).splitlines()[0]
            lines.append(f"{name:18s} {said}".removesuffix("."))
    return "\n".join(lines)


def test_the_readme_lists_these_rooms():
    assert picture() in (ROOT / "README.md").read_text("utf-8"), picture()


if __name__ == "__main__":
    print(picture())
