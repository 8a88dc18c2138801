"""The built-in corpus: children's stories from a grammar, with exact probabilities.

Story `index` of `seed` is a pure function of the two, so a corpus can have any size, and documents
from VALIDATION_START on are never among those counted from TRAIN_START.

`choices` makes an easier corpus of such stories: every choice of the grammar is limited to that
many of its most frequent alternatives (None: no limit). It needs fewer words and facts, so a small
model comes close to its entropy, which is still exact.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np

from jaxlm.data.stories import reading
from jaxlm.data.stories.entropies import entropy as _entropy
from jaxlm.data.stories.reading import Score, SentenceScore
from jaxlm.data.stories.story import grammar

__all__ = [
    "TRAIN_START",
    "VALIDATION_START",
    "Score",
    "SentenceScore",
    "document",
    "documents",
    "documents_with_log_prob",
    "entropy",
    "score",
    "score_sentences",
]

TRAIN_START = 0
VALIDATION_START = 2**40

_BLOCKS = 24  # Philox counters set aside for a story; each gives 4 uniforms
_CHUNK = 64  # stories whose uniforms are drawn together


def document(seed: int, index: int, choices: int | None = None) -> str:
    """Story `index` of `seed`."""
    return next(documents(seed, index, index + 1, choices))


def documents(seed: int, start: int, stop: int, choices: int | None = None) -> Iterator[str]:
    """Stories start, ..., stop - 1 of `seed`."""
    return (text for text, _ in documents_with_log_prob(seed, start, stop, choices))


def documents_with_log_prob(
    seed: int, start: int, stop: int, choices: int | None = None
) -> Iterator[tuple[str, float]]:
    """(story, its log-probability in nats) for stories start, ..., stop - 1 of `seed`."""
    write, draws = grammar(choices).write, 4 * _BLOCKS
    generator = np.random.Philox(key=seed).advance(start * _BLOCKS)
    for first in range(start, stop, _CHUNK):
        n = min(_CHUNK, stop - first)
        uniforms = (generator.random_raw(n * draws) >> np.uint64(11)) * 2.0**-53
        for row in uniforms.reshape(n, draws).tolist():
            yield write(iter(row))


@cache
def entropy(choices: int | None = None) -> float:
    """The exact entropy of a story in nats, from the grammar alone; takes some seconds."""
    return _entropy(grammar(choices).start)


def score(text: str, choices: int | None = None) -> Score:
    """Whether `text`, any string, is a story, where it stops being one, and its log-probability."""
    return reading.score(grammar(choices).start, len(grammar(choices).slots), text)


def score_sentences(text: str) -> SentenceScore:
    """How many sentences of `text`, any string, could stand in some story (see SentenceReader).

    Odds are ignored, so the result is the same for all `choices`.
    """
    return _sentence_reader().score(text)


@cache
def _sentence_reader() -> reading.SentenceReader:
    return reading.SentenceReader(grammar().start)
