"""The exact entropy of a grammar's texts, in nats.

Each choice adds the entropy of its odds, weighted by how likely its context is; in a grammar
whose choices can all be read back, the sum over choices is the entropy of the text (J. Soule,
"Entropies of probabilistic grammars", Information and Control 25, 1974). Working backwards from
the end, what is still to come is kept as a sum of *factors*: arrays over the few slots, or
classes of slots, that they depend on. Expectations are linear, so the joint state of all slots is
never needed.
"""

from typing import TypeAlias

import numpy as np

from jaxlm.data.stories.tables import Choice, Pick, Table

Axis: TypeAlias = tuple[int, str]  # a slot and the column whose classes are the axis; "": its values
Factors: TypeAlias = dict[tuple[Axis, ...], np.ndarray]  # sorted axes -> array


def entropy(start: tuple) -> float:
    """The entropy in nats of a text written by the operations `start`: the mean of -log p."""
    return float(sum(factor.sum() for factor in _Expectations().of(start).values()))


class _Expectations:
    def __init__(self) -> None:
        self._entropies: dict[int, Factors] = {}
        self._bound: dict[int, frozenset] = {}
        self._classes: dict[Axis, list[int]] = {}  # the classes of a slot's values

    def of(self, ops: tuple) -> Factors:
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
        # Axis (-1, "") stands for the value chosen now; contexts are of what was chosen before.
        odds, given = op.table.probabilities, (*self._given(op.table), (-1, ""))
        terms = []
        for axes, factor in moved.items():
            classes = [self._classes[axis] if axis[0] == op.slot else None for axis in axes]
            terms.append(_product(odds, given, factor, axes, classes))
        return _sum(still, *terms)

    def _pull_all(self, ops: tuple, after: Factors) -> Factors:
        for op in reversed(ops):
            if isinstance(op, Pick | Choice):
                after = self._pull(op, after)
        return after

    def _mix(self, op: Choice, branches: list[Factors]) -> Factors:
        """The sum of odds x branch, as branch 0 + the sum of odds x (branch - branch 0).

        What is the same in all branches then stays free of what the odds depend on.
        """
        given, odds, first = self._given(op.table), op.table.probabilities, branches[0]
        terms = [first]
        for i, branch in enumerate(branches[1:], 1):
            for axes in first.keys() | branch.keys():
                difference = branch.get(axes, 0.0) - first.get(axes, 0.0)
                if np.any(difference):
                    terms.append(_product(odds[..., i], given, difference, axes))
        return _sum(*terms)

    def _given(self, table: Table) -> tuple[Axis, ...]:
        for context in table.contexts:
            self._classes[context.slot, context.column] = context.classes
        return tuple((context.slot, context.column) for context in table.contexts)

    def _binds(self, op: Pick | Choice) -> frozenset:
        if id(op) not in self._bound:
            inside = {op.slot} if isinstance(op, Pick) else set()
            for alternative in op.alternatives if isinstance(op, Choice) else ():
                for part in alternative:
                    if isinstance(part, Pick | Choice):
                        inside |= self._binds(part)
            self._bound[id(op)] = frozenset(inside)
        return self._bound[id(op)]


def _product(
    odds: np.ndarray,
    given: tuple[Axis, ...],
    factor: np.ndarray,
    axes: tuple[Axis, ...],
    classes: list | None = None,
) -> Factors:
    """odds x factor, summed over the axis (-1, "") where there is one.

    `classes`, where not None, turns an axis of the factor into that of the value chosen now.
    """
    for i, of_value in enumerate(classes or ()):
        if of_value is not None:
            factor = factor.take(of_value, i)
            axes = (*axes[:i], (-1, ""), *axes[i + 1 :])
    out = tuple(sorted({*given, *axes} - {(-1, "")}))
    number = {axis: i for i, axis in enumerate({*given, *axes})}
    subscripts = [[number[axis] for axis in some] for some in (given, axes, out)]
    product = np.einsum(odds, subscripts[0], factor, subscripts[1], subscripts[2], optimize=True)
    return {out: product}


def _sum(*terms: Factors) -> Factors:
    total: Factors = {}
    for term in terms:
        for axes, factor in term.items():
            order = tuple(sorted(axes))
            factor = factor.transpose([axes.index(axis) for axis in order])
            total[order] = total[order] + factor if order in total else factor
    return total
