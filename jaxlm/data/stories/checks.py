"""What makes a grammar readable back from its text, checked over all states it can be in.

Two conditions suffice. *Breaks*: a word that ends in a letter or digit is never followed directly
by another, so that a word is matched whole. *Heads*: of the alternatives of a choice, no two can
begin alike, where an alternative's head is its text as far as its own first choice.
"""

import itertools
from collections.abc import Callable, Iterable

from jaxlm.data.stories.tables import Choice, Pick, Print

HEAD_PRINTS = 2  # a head ends after this many printed slots, which bounds the states to look at


def heads(ops: tuple, words_of: Callable[[Print], Iterable[str]]) -> list[str]:
    """The texts `ops` may begin with, as far as its first choice; words_of gives a Print's texts."""
    texts, prints = [""], 0
    for op in ops:
        if isinstance(op, Pick):
            words = op.words
        elif isinstance(op, Choice):
            words = [head for inner in op.alternatives for head in heads(inner, words_of)]
        else:
            words = [op] if isinstance(op, str) else words_of(op)
        texts = [text + word for text in texts for word in words]
        prints += isinstance(op, Print)
        if isinstance(op, Pick | Choice) or prints == HEAD_PRINTS:
            break
    return texts


def choices(start: tuple) -> list[Pick | Choice]:
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


def conflicts(start: tuple) -> list[str]:
    """Pairs of alternatives that some text cannot tell apart, in words; empty for a sound grammar.

    Heads are compared over all values of the slots they print, taken independently; two
    alternatives that no state allows together may begin alike.
    """
    problems = []
    for op in choices(start):
        if isinstance(op, Pick):
            branches = [[word] for word in op.words]
        else:
            branches = [heads(ops, lambda o: dict.fromkeys(o.words)) for ops in op.alternatives]
        owners: dict[str, set[int]] = {}
        for i, texts in enumerate(branches):
            for text in texts:
                owners.setdefault(text, set()).add(i)
        allowed = op.table.probabilities.reshape(-1, len(branches)) > 0
        clashes = [
            f"{op.table.name}: {text[:end]!r} begins {text!r}"
            for text, here in owners.items()
            for end in range(len(text) + 1)
            if not _joined(text[end - 1 : end], text[end : end + 1])
            for i, j in itertools.product(owners.get(text[:end], ()), here)
            if i != j and (allowed[:, i] & allowed[:, j]).any()
        ]
        problems.extend(clashes[:3])
    return problems


def _joined(left: str, right: str) -> bool:
    return left.isalnum() and right.isalnum()


def check(start: tuple, slot_names: list[str]) -> int:
    """The largest number of choices in one text; raises ValueError for an unsound template."""
    _check_bound(slot_names, start, frozenset(), {})
    _check_breaks(start, {})
    return _max_draws(start, {})


def _check_bound(names: list, ops: tuple, bound: frozenset, seen: dict) -> frozenset:
    """The slots chosen for certain after `ops`, when those in `bound` were before."""
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
                f"grammar: the slot {names[slot]!r} is used before it is chosen "
                f"(at {where})"
            )
        if isinstance(op, Pick):
            bound |= {op.slot}
        elif isinstance(op, Choice):
            ends = [_check_bound(names, a, bound, seen) for a in op.alternatives]
            bound = frozenset.intersection(*ends)
    seen[key] = bound
    return bound


def _check_breaks(ops: tuple, seen: dict) -> tuple[bool, bool]:
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


def _max_draws(ops: tuple, seen: dict) -> int:
    if id(ops) not in seen:
        seen[id(ops)] = sum(
            1 + max(_max_draws(a, seen) for a in op.alternatives)
            if isinstance(op, Choice)
            else int(isinstance(op, Pick))
            for op in ops
        )
    return seen[id(ops)]
