"""Checks that a grammar can be read back from its text, in all states it can be in.

Two conditions suffice. *Breaks*: a word that ends in a letter or digit is never followed directly
by another, so that a word is matched whole. *Heads*: no two alternatives of a choice can begin
alike; an alternative's head is its text up to its own first choice.
"""

import itertools
from collections.abc import Iterator

from jaxlm.data.stories.tables import Choice, Op, Ops, Pick, Print

# (sequence of operations, slots chosen before it) -> slots chosen after it
Bound = dict[tuple[int, frozenset[int]], frozenset[int]]


def choices(start: Ops) -> list[Pick | Choice]:
    """Every choice of the grammar, once."""
    found: dict[int, Pick | Choice] = {}
    waiting = list(start)
    while waiting:
        op = waiting.pop()
        if isinstance(op, Pick | Choice) and id(op) not in found:
            found[id(op)] = op
            if isinstance(op, Choice):
                waiting.extend(itertools.chain(*op.alternatives))
    return list(found.values())


def conflicts(start: Ops) -> list[str]:
    """Descriptions of alternatives that some text cannot tell apart; empty for a sound grammar.

    All values of the slots they print are considered. Two alternatives that no state allows
    together may begin alike.
    """
    problems = []
    for op in choices(start):
        if isinstance(op, Pick):
            pairs = _word_pairs(op.words)
        else:
            pairs = itertools.combinations(range(len(op.alternatives)), 2)
        allowed = op.table.probabilities.reshape(-1, len(op.table.entries)) > 0
        for i, j in pairs:
            sides = [(op.words[k],) if isinstance(op, Pick) else op.alternatives[k] for k in (i, j)]
            if _alike("", "", sides[0], "", sides[1]) and (allowed[:, i] & allowed[:, j]).any():
                problems.append(f"{op.table.name}: alternatives {i} and {j} can begin alike")
    return problems


def _word_pairs(words: list[str]) -> list[tuple[int, int]]:
    """The pairs of words in which one begins the other; all other pairs can be told apart."""
    order = sorted(range(len(words)), key=lambda i: words[i])
    pairs = []
    for n, i in enumerate(order):
        for j in order[n + 1 :]:
            if not words[j].startswith(words[i]):
                break
            pairs.append((i, j))
    return pairs


def _alike(read: str, left: str, left_ops: Ops, right: str, right_ops: Ops) -> bool:
    """Whether a head on one side can begin a head on the other (each: its text, then operations).

    `read` is the last character that both had. Words must match whole, as when reading: "cat" does
    not begin "caterpillar".
    """
    n = 0
    while n < min(len(left), len(right)) and left[n] == right[n]:
        n += 1
    read, left, right = (left[n - 1] if n else read), left[n:], right[n:]
    if left and right:
        return False
    if not left and not right and left_ops and right_ops and _same(left_ops[0], right_ops[0]):
        return _alike(read, "", left_ops[1:], "", right_ops[1:])
    if left or (not left_ops and not right and right_ops):  # always advance the left side
        left, left_ops, right, right_ops = right, right_ops, left, left_ops
    if not left_ops:
        return not (right and read.isalnum() and right[0].isalnum())
    return any(_alike(read, text, ops, right, right_ops) for text, ops in _advance(left_ops))


def _same(left: Op, right: Op) -> bool:
    """Whether both print the same slot in the same form, and so the same word in any state."""
    if not (isinstance(left, Print) and isinstance(right, Print)):
        return False
    return left.slot == right.slot and left.words is right.words


def _advance(ops: Ops) -> Iterator[tuple[str, Ops]]:
    """Each possible first text of `ops`, with the remaining operations of its head."""
    first, rest = ops[0], ops[1:]
    if isinstance(first, str):
        yield first, rest
    elif isinstance(first, Print):
        yield from ((word, rest) for word in dict.fromkeys(first.words))
    elif isinstance(first, Pick):
        yield from ((word, ()) for word in first.words)
    else:
        yield from (("", ops) for ops in first.alternatives)


def check(start: Ops, slot_names: list[str]) -> int:
    """The largest number of choices in one text; raises ValueError for an unsound template."""
    _check_bound(slot_names, start, frozenset(), {})
    _check_breaks(start, {})
    return _max_draws(start, {})


def _check_bound(names: list[str], ops: Ops, bound: frozenset[int], seen: Bound) -> frozenset[int]:
    """The slots certainly chosen after `ops`, if those in `bound` were chosen before."""
    key = (id(ops), bound)
    if key in seen:
        return seen[key]
    for op in ops:
        if isinstance(op, str):
            continue
        needs = {op.slot} if isinstance(op, Print) else {c.slot for c in op.table.contexts}
        for slot in needs - bound:
            where = op.table.name if not isinstance(op, Print) else op.words[:1]
            raise ValueError(
                f"grammar: the slot {names[slot]!r} is used before it is chosen (at {where})"
            )
        if isinstance(op, Pick):
            bound |= {op.slot}
        elif isinstance(op, Choice):
            ends = [_check_bound(names, a, bound, seen) for a in op.alternatives]
            bound = frozenset.intersection(*ends)
    seen[key] = bound
    return bound


def _check_breaks(ops: Ops, seen: dict[int, tuple[bool, bool]]) -> tuple[bool, bool]:
    """Whether `ops` can begin, and end, with a letter or digit."""
    if id(ops) in seen:
        return seen[id(ops)]
    edges = []
    for op in ops:
        if isinstance(op, Choice):
            inner = [_check_breaks(a, seen) for a in op.alternatives]
        else:
            words = [op] if isinstance(op, str) else op.words
            inner = [(w[:1].isalnum(), w[-1:].isalnum()) for w in words]
        edges.append((any(e[0] for e in inner), any(e[1] for e in inner)))
    for i, (left, right) in enumerate(itertools.pairwise(edges)):
        if left[1] and right[0]:
            near = [o for o in ops[i : i + 2] if isinstance(o, str)]
            raise ValueError(f"grammar: two words may meet without a break near {near}")
    seen[id(ops)] = (edges[0][0], edges[-1][1]) if edges else (False, False)
    return seen[id(ops)]


def _max_draws(ops: Ops, seen: dict[int, int]) -> int:
    if id(ops) not in seen:
        seen[id(ops)] = sum(
            1 + max(_max_draws(a, seen) for a in op.alternatives)
            if isinstance(op, Choice)
            else int(isinstance(op, Pick))
            for op in ops
        )
    return seen[id(ops)]
