"""A probabilistic grammar with memory: templates compiled into small programs that write texts.

A grammar is data. A *lexicon* is a table of words with a column for each form or class. A *slot*
is something the story remembers (the hero's name, the place): a choice from a lexicon, whose odds
may depend on slots chosen before. A *rule* is a list of alternative templates:

    {+place.at}     choose the slot `place` now and print its form `at`
    {place} {he.x}  print a slot chosen earlier, in its plain form or in the form `x`
    <ending>        one of the alternatives of the rule `ending`
    [a|b|]          one of these, in falling frequency; an empty one skips ahead
"""

import itertools
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence

from jaxlm.data.stories.checks import check
from jaxlm.data.stories.tables import (
    Choice,
    Context,
    Lexicon,
    Op,
    Ops,
    Pick,
    Print,
    Rule,
    Slot,
    Table,
    Values,
)

# A parsed template: text, <rule>, {slot}, or the branches of brackets.
Parts = list["str | list[Parts]"]


class Grammar:
    """Compiles lexicons, slots and rules; `start` is the tuple of operations of a whole text.

    Raises ValueError if a template names something unknown, uses a slot before it is chosen, or
    could put two words together without a break, or if a rule contains itself. `most` limits the
    alternatives of every choice (see `Table`).
    """

    def __init__(
        self,
        lexicons: dict[str, Lexicon],
        slots: dict[str, Slot],
        rules: Mapping[str, list[str] | Rule],
        start: str = "story",
        most: int | None = None,
    ):
        self.lexicons, self.slots, self.rules, self.most = lexicons, slots, rules, most
        self.slot_names = list(slots)
        self._open: list[str] = []  # rules being compiled
        self._choices: dict[str, Choice] = {}
        self._tables: dict[str, Table] = {}
        self.start: Ops = (self._rule(start),)
        self.max_draws = check(self.start, self.slot_names)

    def write(self, uniforms: Iterator[float]) -> tuple[str, float]:
        """One text and its log-probability in nats; one uniform from [0, 1) is used per choice."""
        pieces: list[str] = []
        logs: list[float] = []
        _write(self.start, [None] * len(self.slots), uniforms.__next__, pieces.append, logs.append)
        return "".join(pieces), sum(logs)

    def _table(self, name: str, entries: Sequence[object], spec: Slot | Rule) -> Table:
        if name not in self._tables:
            contexts = {given: self._context(name, given) for given in spec.given}
            if len({context.slot for context in contexts.values()}) < len(contexts):
                raise ValueError(f"grammar: {name!r} depends twice on the same slot")
            self._tables[name] = Table(name, entries, spec, contexts, self.most)
        return self._tables[name]

    def _context(self, name: str, given: str) -> Context:
        slot, _, column = given.partition(".")
        if slot not in self.slots:
            raise ValueError(f"grammar: {name!r} depends on the unknown slot {slot!r}")
        lexicon, index = self.lexicons[self.slots[slot].lexicon], self.slot_names.index(slot)
        if not column:
            entries = [lexicon.entry(i) for i in range(len(lexicon))]
            return Context(index, column, list(range(len(lexicon))), entries)
        values = list(dict.fromkeys(lexicon.columns[column]))
        classes = [values.index(v) for v in lexicon.columns[column]]
        return Context(index, column, classes, values)

    def _rule(self, name: str) -> Choice:
        if name in self._choices:
            return self._choices[name]
        if name not in self.rules:
            raise ValueError(f"grammar: no rule {name!r} (used in {self._open[-1:]})")
        if name in self._open:
            raise ValueError(f"grammar: the rule {name!r} contains itself")
        rule = self.rules[name]
        rule = rule if isinstance(rule, Rule) else Rule({"": rule})
        entries = [{"": t, "group": g} for g, templates in rule.groups.items() for t in templates]
        self._open.append(name)
        numbers = itertools.count(1)
        alternatives = [self._compile(_parse(e[""]), name, numbers) for e in entries]
        self._open.pop()
        choice = Choice(self._table(f"<{name}>", entries, rule), alternatives)
        self._choices[name] = choice
        return choice

    def _compile(self, parts: "Parts", rule: str, numbers: Iterator[int]) -> Ops:
        ops: list[Op] = []
        for i, part in enumerate(parts):
            if isinstance(part, list):  # [a|b|]: if one is empty, each includes the rest
                rest = parts[i + 1 :] if [] in part else []
                branches = [self._compile(branch + rest, rule, numbers) for branch in part]
                name = f"<{rule}>[{next(numbers)}]"
                entries = list(range(len(branches)))
                ops.append(Choice(self._table(name, entries, Rule({})), branches))
                if [] in part:
                    break
            elif part.startswith("<"):
                ops.append(self._rule(part[1:-1]))
            elif part.startswith("{"):
                ops.append(self._slot(part[1:-1], rule))
            elif ops and isinstance(ops[-1], str):
                ops[-1] += part
            else:
                ops.append(part)
        return tuple(ops)

    def _slot(self, text: str, rule: str) -> Print | Pick:
        name, _, form = text.lstrip("+").partition(".")
        if name not in self.slots:
            raise ValueError(f"grammar: rule {rule!r} uses the unknown slot {name!r}")
        slot, index = self.slots[name], self.slot_names.index(name)
        lexicon = self.lexicons[slot.lexicon]
        if form not in lexicon.columns:
            raise ValueError(f"grammar: rule {rule!r} uses {name!r} in unknown form {form!r}")
        if not text.startswith("+"):
            return Print(index, lexicon.columns[form])
        entries = [lexicon.entry(i) for i in range(len(lexicon))]
        return Pick(self._table(name, entries, slot), index, lexicon.columns[form])


def _write(
    ops: Ops,
    values: Values,
    draw: Callable[[], float],
    put: Callable[[str], None],
    put_log: Callable[[float], None],
) -> None:
    for op in ops:
        if isinstance(op, str):
            put(op)
        elif isinstance(op, Print):
            put(op.words[values[op.slot]])
        else:
            cumulative, logs = op.table.row(values)
            i = bisect_right(cumulative, draw())
            put_log(logs[i])
            if isinstance(op, Pick):
                values[op.slot] = i
                put(op.words[i])
            else:
                _write(op.alternatives[i], values, draw, put, put_log)


_TOKEN = re.compile(r"\{\+?[a-z_0-9]+(?:\.\w+)?\}|<[a-z_0-9]+>|[\[\]|]|[^{}<>\[\]|]+")


def _parse(template: str) -> "Parts":
    """'a[b|c]{d}' -> ['a', [['b'], ['c']], '{d}']."""
    tokens = _TOKEN.findall(template)
    if "".join(tokens) != template:
        raise ValueError(f"grammar: cannot read the template {template!r}")
    stack: list[list[Parts]] = [
        [[]]
    ]  # open brackets; each a list of branches, each a list of parts
    for token in tokens:
        if token == "[":
            stack.append([[]])
        elif token == "|" and len(stack) > 1:
            stack[-1].append([])
        elif token == "]" and len(stack) > 1:
            branches = stack.pop()
            stack[-1][-1].append(branches)
        else:
            stack[-1][-1].append(token)
    if len(stack) != 1 or "|" in stack[0][0] or "]" in stack[0][0]:
        raise ValueError(f"grammar: unbalanced brackets in {template!r}")
    return stack[0][0]
