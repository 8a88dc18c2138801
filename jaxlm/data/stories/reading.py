"""Reads a text back: whether the grammar writes it, where it departs, and its probability.

The heads of a choice's alternatives tell them apart (`checks.py`), so no choice ever has to be
taken back. The log-probability of a text is the sum over the choices read, the same sum as the
writer's.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from jaxlm.data.stories.checks import choices
from jaxlm.data.stories.tables import Choice, Ops, Pick, Print, Values

Known = dict[int, set[int]]  # slot -> the values it may still have


@dataclass(frozen=True)
class Score:
    """The result of reading a text.

    `parses`: the grammar writes exactly this text; `log_prob`: its log-probability in nats (-inf
    if it does not parse); `stop`: the offset of the first character where the text departs from
    every text of the grammar (the text's length if it parses, or only ends too early);
    `read_log_prob`: the log-probability of the choices completed before `stop`; `message`: what
    was expected there.
    """

    parses: bool
    log_prob: float
    stop: int
    read_log_prob: float
    message: str


@dataclass(frozen=True)
class SentenceScore:
    """How many sentences of a text the grammar accepts, each on its own."""

    sentences: int
    accepted: int

    @property
    def share(self) -> float:
        """accepted / sentences; nan for a text without sentences."""
        return self.accepted / self.sentences if self.sentences else math.nan


class _Stop(Exception):
    def __init__(self, position: int, expected: list[str]):
        self.position, self.expected = position, expected


def score(start: Ops, n_slots: int, text: str) -> Score:
    """Reads `text`, any string at all, with the operations `start`."""
    logs: list[float] = []
    try:
        end = _read(text, 0, start, [None] * n_slots, logs)
        if end == len(text):
            return Score(True, sum(logs), end, sum(logs), "a whole text")
        message = "the text continues after its end"
    except _Stop as stop:
        end = stop.position
        shown = ", ".join(repr(word) for word in stop.expected[:3])
        more = f" or {len(stop.expected) - 3} others" if len(stop.expected) > 3 else ""
        where = "the text ends early" if end == len(text) else f"at character {end}"
        message = f"{where}: expected {shown}{more}"
    return Score(False, -math.inf, end, sum(logs), message)


def _read(text: str, at: int, ops: Ops, values: Values, logs: list[float]) -> int:
    for op in ops:
        if isinstance(op, str | Print):
            word = op if isinstance(op, str) else op.words[values[op.slot]]
            if not _matches(word, text, at):
                raise _Stop(at + _common(word, text, at), [word])
            at += len(word)
            continue
        odds = op.table.row(values)[1]
        branches: list[Ops] = [(w,) for w in op.words] if isinstance(op, Pick) else op.alternatives
        possible = [i for i, log_prob in enumerate(odds) if log_prob > -math.inf]
        i = next((i for i in possible if _begins(text, at, branches[i], values)), None)
        if i is None:
            expected = [head for i in possible for head in _heads(branches[i], values)]
            raise _Stop(at + max(_common(head, text, at) for head in expected), expected)
        logs.append(odds[i])
        if isinstance(op, Pick):
            values[op.slot] = i
            at += len(op.words[i])
        else:
            at = _read(text, at, op.alternatives[i], values, logs)
    return at


def _begins(text: str, at: int, ops: Ops, values: Values) -> bool:
    """Whether one of the heads of `ops` matches at `at`."""
    for op in ops:
        if isinstance(op, Pick):
            return any(_matches(word, text, at) for word in op.words)
        if isinstance(op, Choice):
            return any(_begins(text, at, inner, values) for inner in op.alternatives)
        word = op if isinstance(op, str) else op.words[values[op.slot]]
        if not _matches(word, text, at):
            return False
        at += len(word)
    return True


def _heads(ops: Ops, values: Values) -> list[str]:
    """The texts that `ops` may begin with, up to its first choice."""
    text = ""
    for op in ops:
        if isinstance(op, Pick):
            return [text + word for word in op.words]
        if isinstance(op, Choice):
            return [text + head for inner in op.alternatives for head in _heads(inner, values)]
        text += op if isinstance(op, str) else op.words[values[op.slot]]
    return [text]


def _matches(word: str, text: str, at: int) -> bool:
    """Whether `word` is at `at` as a whole: "cat" does not match in "caterpillar"."""
    end = at + len(word)
    whole = end >= len(text) or not (word[-1].isalnum() and text[end].isalnum())
    return whole and text.startswith(word, at)


def _common(word: str, text: str, at: int) -> int:
    """How many characters of `word` match at `at`."""
    n = 0
    while n < len(word) and at + n < len(text) and word[n] == text[at + n]:
        n += 1
    return n


_END = re.compile(r'[.!?]"?$')
_BREAK = re.compile(r'[.!?]"? +(?=[A-Z"])')


def sentences(text: str) -> list[str]:
    """The text cut after . ! or ? (and a closing quote) where a capital or a quote follows.

    Text inside quotes is not cut.
    """
    cut, begin = [], 0
    text = " ".join(text.split())
    for match in _BREAK.finditer(text):
        if text.count('"', begin, match.end()) % 2 == 0:
            cut.append(text[begin : match.end()].rstrip())
            begin = match.end()
    return [s for s in (*cut, text[begin:].strip()) if s]


class SentenceReader:
    """Accepts a sentence that the grammar can write in some state.

    A sentence may begin wherever a template does, or after a sentence's end inside one. Slots
    chosen earlier are unknown: they may hold any value, but the same one throughout the sentence.
    Odds are ignored, so that a rare or unfitting combination of words is accepted too.
    """

    def __init__(self, start: Ops):
        sequences = [start]
        for op in choices(start):
            sequences.extend(op.alternatives if isinstance(op, Choice) else [])
        self._starts = [s for ops in sequences for s in _starts(ops)]

    def accepts(self, sentence: str) -> bool:
        """Whether `sentence`, one of `sentences(text)`, is accepted."""
        if not _END.search(sentence) or not (sentence[0].isupper() or sentence[0] == '"'):
            return False
        return any(_reads(sentence, 0, ops, {}) for ops in self._starts)

    def score(self, text: str) -> SentenceScore:
        """The sentences of any text, and how many of them are accepted."""
        found = sentences(text)
        return SentenceScore(len(found), sum(map(self.accepts, found)))


def _starts(ops: Ops) -> Iterator[Ops]:
    """What follows each place in `ops` where a sentence may begin."""
    yield ops
    for i, op in enumerate(ops):
        if isinstance(op, str):
            for match in re.finditer(r'(?:^|[.!?]"?) ', op):
                rest = (op[match.end() :],) if match.end() < len(op) else ()
                yield rest + ops[i + 1 :]


def _reads(text: str, at: int, ops: Ops, known: Known) -> bool:
    """Whether the rest of a sentence follows; `known`: slot -> the values it may still have."""
    return any(end == len(text) for end, _ in _ends(text, at, ops, known))


def _ends(text: str, at: int, ops: Ops, known: Known) -> Iterator[tuple[int, Known]]:
    """Where reading `ops` from `at` may end: after them, or where the sentence is used up."""
    if at == len(text) or not ops:
        yield at, known
        return
    op, rest = ops[0], ops[1:]
    if isinstance(op, str):
        if _matches(op, text, at):
            yield from _ends(text, at + len(op), rest, known)
        elif op.startswith(text[at:] + " "):  # the sentence ends inside this literal
            yield len(text), known
    elif isinstance(op, Choice):
        for alternative in op.alternatives:
            for end, then in _ends(text, at, alternative, known):
                yield from _ends(text, end, rest, then)
    else:
        values = known.get(op.slot) if isinstance(op, Print) else None
        for word in dict.fromkeys(op.words):
            if _matches(word, text, at):
                same = {v for v, w in enumerate(op.words) if w == word}
                same = same if values is None else same & values
                if same:
                    yield from _ends(text, at + len(word), rest, {**known, op.slot: same})
