"""The parts of a grammar: lexicons, slots and rules (the data), operations, tables of odds.

Every template of a grammar becomes a tuple of four kinds of operation: str (a literal), Print,
Pick and Choice. Writing (`grammar.py`), reading (`reading.py`), the entropy (`entropies.py`) and
the checks (`checks.py`) all walk these same tuples.
"""

import hashlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

# A word with its forms and classes (text or numbers), as predicates see it.
Entry = dict[str, Any]
# A context, or several -> predicate(entry, *contexts).
Fits = Mapping[str | tuple[str, ...], Callable[..., bool]]
Values = list[Any]  # of each slot: the index of its value, None until it is chosen


@dataclass(frozen=True)
class Lexicon:
    """Words by column: "" is the plain form, others are forms ("a", "he") or classes ("kind")."""

    columns: dict[str, list[Any]]

    def __len__(self) -> int:
        return len(self.columns[""])

    def entry(self, index: int) -> Entry:
        return {name: column[index] for name, column in self.columns.items()}


@dataclass(frozen=True)
class Slot:
    """A remembered choice from a lexicon.

    The odds of an entry are rank^-skew by its own frequency rank, times rank^-tilt by its rank
    within each context of `given` and, if `joint`, within all of them together. All ranks are
    fixed pseudo-random permutations. `given` names slots ("place") or classes ("place.kind").
    `fits` maps a context, or a tuple of them, to predicate(entry, *contexts): others have odds 0.
    """

    lexicon: str
    given: tuple[str, ...] = ()
    fits: Fits = field(default_factory=dict)
    skew: float = 0.4
    tilt: float = 0.7
    joint: bool = True


@dataclass(frozen=True)
class Rule:
    """Alternative templates, the most frequent first; `given`, `fits` and odds as for a Slot.

    `groups` maps the group's name to its templates; predicates see {"": template, "group": name}.
    """

    groups: dict[str, list[str]]
    given: tuple[str, ...] = ()
    fits: Fits = field(default_factory=dict)
    skew: float = 0.6
    tilt: float = 0.6
    joint: bool = True


def rule(*alternatives: str, given: tuple[str, ...] = ()) -> Rule:
    """A rule with a single group of alternatives."""
    return Rule({"": list(alternatives)}, given)


@dataclass(frozen=True, eq=False)
class Print:
    """Prints words[value of the slot]."""

    slot: int
    words: list[str]


@dataclass(frozen=True, eq=False)
class Pick:
    """Chooses the slot's value i and prints words[i]."""

    table: "Table"
    slot: int
    words: list[str]


@dataclass(frozen=True, eq=False)
class Choice:
    """Chooses one of several tuples of operations."""

    table: "Table"
    alternatives: "list[Ops]"


Op = str | Print | Pick | Choice
Ops = tuple[Op, ...]


@dataclass(frozen=True)
class Context:
    """What a table's odds depend on: a slot, through the class of its value."""

    slot: int
    column: str  # of the slot's lexicon; "" for the value itself
    classes: list[int]  # value of the slot -> class
    values: list[Any]  # class -> what predicates see


class Table:
    """The odds of a choice: one row of probabilities for each combination of its contexts.

    With `most`, a row keeps only that many of the entries that fit: those with the best own rank,
    regardless of the contexts, so that few words occur at all.
    """

    def __init__(
        self,
        name: str,
        entries: Sequence[object],
        spec: Slot | Rule,
        contexts: dict[str, Context],
        most: int | None = None,
    ):
        self.name, self.entries, self.spec, self.most = name, entries, spec, most
        self.contexts = list(contexts.values())
        self.sizes = [len(context.values) for context in self.contexts]
        self._context_names = list(contexts)
        strides = [math.prod(self.sizes[i + 1 :]) for i in range(len(self.sizes))]
        self._keys = [
            (context.slot, [c * stride for c in context.classes])
            for context, stride in zip(self.contexts, strides, strict=True)
        ]
        self._rows: dict[int, tuple[list[float], list[float]]] = {}

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Shape (classes of each context..., entries); each row sums to one."""
        spec, n, depth = self.spec, len(self.entries), len(self.sizes)
        own = _ranks(self.name, (n,)) if isinstance(spec, Slot) else np.arange(1.0, n + 1)
        weights = np.broadcast_to(own**-spec.skew, (*self.sizes, n)).copy()
        for axis, (name, size) in enumerate(zip(self._context_names, self.sizes, strict=True)):
            ranks = _ranks(f"{self.name}|{name}", (size, n))
            shape = [size if a == axis else 1 for a in range(depth)]
            weights *= (ranks**-spec.tilt).reshape(*shape, n)
        if spec.joint and depth > 1:
            name = "|".join([self.name, *self._context_names])
            weights *= _ranks(name, weights.shape) ** -spec.tilt
        for names, predicate in spec.fits.items():
            weights *= self._mask(names if isinstance(names, tuple) else (names,), predicate)
        if self.most is not None:
            own_rank = np.where(weights > 0, own, np.inf).argsort(-1).argsort(-1)
            weights[own_rank >= self.most] = 0.0
        totals = weights.sum(-1, keepdims=True)
        if not (totals > 0).all():
            where = tuple(int(i) for i in np.argwhere(totals[..., 0] == 0)[0])
            raise ValueError(f"grammar: nothing fits in {self.name!r} given context {where}")
        return weights / totals

    def _mask(self, names: tuple[str, ...], predicate: Callable[..., bool]) -> np.ndarray:
        axes = [self._context_names.index(name) for name in names]
        values = [self.contexts[axis].values for axis in axes]
        allowed = [
            [bool(predicate(entry, *combination)) for entry in self.entries]
            for combination in itertools.product(*values)
        ]
        shape = [size if axis in axes else 1 for axis, size in enumerate(self.sizes)]
        return np.array(allowed, float).reshape(*shape, len(self.entries))

    def row(self, values: Values) -> tuple[list[float], list[float]]:
        """(cumulative probabilities, log-probabilities) given the slots' values."""
        key = 0
        for slot, keys in self._keys:
            key += keys[values[slot]]
        row = self._rows.get(key)
        return row if row is not None else self._make_row(key)

    def _make_row(self, key: int) -> tuple[list[float], list[float]]:
        p = self.probabilities.reshape(-1, len(self.entries))[key]
        cumulative = np.cumsum(p)
        cumulative[np.flatnonzero(p)[-1] :] = 1.0  # rounding puts no draw beyond the last entry
        logs = [math.log(x) if x > 0 else -math.inf for x in p.tolist()]
        row = self._rows[key] = (cumulative.tolist(), logs)
        return row


def _ranks(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Ranks 1..n along the last axis: permutations fixed by the name alone."""
    key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest(), "big")
    raw = np.random.Philox(key=key).random_raw(math.prod(shape)).reshape(shape)
    return raw.argsort(-1, kind="stable").argsort(-1, kind="stable") + 1.0
