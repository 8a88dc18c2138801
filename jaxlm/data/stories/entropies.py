"""The exact entropy of a grammar's texts, in nats.

Each choice adds the entropy of its odds, weighted by how likely its context is; in a grammar
whose choices can all be read back, the sum over choices is the entropy of the text (J. Soule,
"Entropies of probabilistic grammars", Information and Control 25, 1974). Working backwards from
the end, the entropy still to come is kept as a sum of *factors*: arrays over the few slots, or
classes of slots, that they depend on. Expectations are linear, so the joint state of all slots is
never needed.
"""

import math
from typing import TypeAlias

import numpy as np

from jaxlm.data.stories.tables import Choice, Ops, Pick, Table

Axis: TypeAlias = tuple[
    int, str
]  # a slot and the column whose classes are the axis; "": its values
_NEW: Axis = (-1, "")  # the value that is being chosen; contexts refer to earlier choices
Factors: TypeAlias = dict[tuple[Axis, ...], np.ndarray]  # sorted axes -> array


def entropy(start: Ops) -> float:
    """The entropy in nats of a text written by the operations `start`: the mean of -log p."""
    return float(sum(factor.sum() for factor in _Expectations().of(start).values()))


class _Expectations:
    def __init__(self) -> None:
        self._entropies: dict[int, Factors] = {}
        self._bound: dict[int, frozenset[int]] = {}
        self._classes: dict[Axis, list[int]] = {}  # the classes of a slot's values

    def of(self, ops: Ops) -> Factors:
        """The expected entropy of all choices in `ops`, by the slots chosen before."""
        total: Factors = {}
        for op in reversed(ops):
            if isinstance(op, Pick | Choice):
                total = _sum(self._pull(op, total), self._own(op))
        return total

    def _own(self, op: Pick | Choice) -> Factors:
        if id(op) not in self._entropies:
            odds = op.table.probabilities
            surprise = -np.log(np.where(odds > 0, odds, 1.0))
            total = _sum({self._given(op.table): (odds * surprise).sum(-1)})
            if isinstance(op, Choice):
                total = _sum(total, self._mix(op, [self.of(ops) for ops in op.alternatives]))
            self._entropies[id(op)] = total
        return self._entropies[id(op)]

    def _pull(self, op: Pick | Choice, after: Factors) -> Factors:
        """The expectation over `op` of what comes after it."""
        binds = self._binds(op)
        moved = {axes: f for axes, f in after.items() if any(slot in binds for slot, _ in axes)}
        if not moved:
            return after
        still = {axes: f for axes, f in after.items() if axes not in moved}
        if isinstance(op, Choice):
            return _sum(still, self._mix(op, [self._pull_all(a, moved) for a in op.alternatives]))
        odds, given = op.table.probabilities, (*self._given(op.table), _NEW)
        terms = []
        for axes, factor in moved.items():
            new = {axis: _NEW for axis in axes if axis[0] == op.slot}
            terms.append(self._product(odds, given, *self._renamed(factor, axes, new)))
        return _sum(still, *terms)

    def _pull_all(self, ops: Ops, after: Factors) -> Factors:
        for op in reversed(ops):
            if isinstance(op, Pick | Choice):
                after = self._pull(op, after)
        return after

    def _mix(self, op: Choice, branches: list[Factors]) -> Factors:
        """The sum of odds x branch, as branch 0 + the sum of odds x (branch - branch 0).

        A term that all branches share then does not depend on the contexts of the odds.
        """
        given, odds, first = self._given(op.table), op.table.probabilities, branches[0]
        terms = [first]
        for i, branch in enumerate(branches[1:], 1):
            for axes in first.keys() | branch.keys():
                difference = np.asarray(branch.get(axes, 0.0) - first.get(axes, 0.0))
                if np.any(difference):
                    terms.append(self._product(odds[..., i], given, difference, axes))
        return _sum(*terms)

    def _product(
        self, odds: np.ndarray, given: tuple[Axis, ...], factor: np.ndarray, axes: tuple[Axis, ...]
    ) -> Factors:
        """odds x factor, summed over the axis _NEW if there is one."""
        slots = {axis[0] for axis in (*given, *axes) if not axis[1]}
        whole = {axis: (axis[0], "") for axis in (*given, *axes) if axis[0] in slots and axis[1]}
        odds, given = self._renamed(odds, given, whole)
        factor, axes = self._renamed(factor, axes, whole)
        shared = [axis for axis in given if axis in axes and axis != _NEW]
        ours = [axis for axis in given if axis not in shared and axis != _NEW]
        theirs = [axis for axis in axes if axis not in shared and axis != _NEW]
        new = [_NEW] if _NEW in given else []
        left = odds.transpose([given.index(axis) for axis in (*shared, *ours, *new)])
        right = factor.transpose([axes.index(axis) for axis in (*shared, *new, *theirs)])
        lengths = left.shape[: len(shared + ours)] + right.shape[len(shared + new) :]
        batch, summed = math.prod(lengths[: len(shared)]), left.shape[-1] if new else 1
        product = left.reshape(batch, -1, summed) @ right.reshape(batch, summed, -1)
        return _sum({(*shared, *ours, *theirs): product.reshape(lengths)})

    def _renamed(
        self, array: np.ndarray, axes: tuple[Axis, ...], names: dict[Axis, Axis]
    ) -> tuple[np.ndarray, tuple[Axis, ...]]:
        """The array with axes of classes turned into axes of values; equal axes become one."""
        for i, axis in enumerate(axes):
            if axis in names:
                array = array.take(self._classes[axis], i)
        axes = tuple(names.get(axis, axis) for axis in axes)
        distinct = tuple(dict.fromkeys(axes))
        if distinct != axes:
            array = np.einsum(array, [distinct.index(axis) for axis in axes], range(len(distinct)))
        return array, distinct

    def _given(self, table: Table) -> tuple[Axis, ...]:
        for context in table.contexts:
            self._classes[context.slot, context.column] = context.classes
        return tuple((context.slot, context.column) for context in table.contexts)

    def _binds(self, op: Pick | Choice) -> frozenset[int]:
        if id(op) not in self._bound:
            inside = {op.slot} if isinstance(op, Pick) else set()
            for alternative in op.alternatives if isinstance(op, Choice) else ():
                for part in alternative:
                    if isinstance(part, Pick | Choice):
                        inside |= self._binds(part)
            self._bound[id(op)] = frozenset(inside)
        return self._bound[id(op)]


def _sum(*terms: Factors) -> Factors:
    total: Factors = {}
    for term in terms:
        for axes, factor in term.items():
            order = tuple(sorted(axes))
            factor = factor.transpose([axes.index(axis) for axis in order])
            total[order] = total[order] + factor if order in total else factor
    return total
