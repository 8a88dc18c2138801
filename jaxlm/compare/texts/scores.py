"""Scores of a text that a model wrote: against itself, the training text and the grammar.

Scores cover what was written after the prompt, except the grammar's, which cover the whole text.
A score is None if the text is too short for it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxlm.compare.texts.measures import WORD, distinct, known_words, repetition, self_bleu, words
from jaxlm.compare.texts.overlap import longest_common_runs
from jaxlm.data import stories
from jaxlm.data.dataset import Dataset
from jaxlm.data.stories.reading import sentences
from jaxlm.data.tokenizer import Tokenizer
from jaxlm.host.checked import Json

LEGEND = {
    "words": "Words written after the prompt, without punctuation.",
    "distinct_1": "Share of distinct words among all words; for a model, over all its texts.",
    "distinct_2": "Share of distinct pairs of adjacent words among all such pairs.",
    "distinct_3": "Share of distinct runs of three words among all such runs.",
    "repetition_4": "Share of the runs of four words that occurred before in the same text (0: "
    "none).",
    "self_bleu": "BLEU-4 of a text against the model's other texts (1: all alike).",
    "known_words": "Share of the words that occur in the training text.",
    "overlap_characters": "Longest run of characters that also occurs in the training text.",
    "overlap_words": "Longest run of words, ignoring punctuation, that also occurs in the training "
    "text.",
    "overlap_characters_most": "The longest overlap_characters of all texts.",
    "grammar_sentences": "Share of the sentences that the corpus's grammar accepts, each on its "
    "own; a last sentence that was cut off does not count.",
    "grammar_stories": "Share of the texts that are whole stories of the grammar; texts cut off "
    "before any fault do not count (for one text: grammar_story, 1 or 0).",
    "grammar_read": "Share of a text before the first character that no story could have there.",
    "grammar_nats": "Exact negative log-likelihood, under the grammar, of all texts up to their "
    "first fault, in nats per character; equal to the reference's if as likely as real text.",
    "grammar_story_nats": "The same for whole stories, in nats per story.",
    "tokens_per_second_generating": "Tokens per second, one text at a time, excluding compilation.",
}
_SEPARATOR = "\0"
_MEANS = ("words", "repetition_4", "known_words", "overlap_characters", "overlap_words")


class Specimen(NamedTuple):
    """A prompt and the text written after it; `whole` says that it ended by itself."""

    prompt: str
    new: str
    whole: bool

    @property
    def text(self) -> str:
        return self.prompt + self.new

    @property
    def words(self) -> list[str]:
        """The words after the prompt."""
        return words(self.new, self.whole)


@dataclass(frozen=True)
class TrainingText:
    """A training text prepared for searches: code points, and words as numbers from 1 up."""

    codes_N: np.ndarray
    number_of_word: dict[str, int]
    words_N: np.ndarray

    @classmethod
    def of(cls, text: str) -> "TrainingText":
        numbers: dict[str, int] = {}
        found = (
            numbers.setdefault(match.group(), len(numbers) + 1) for match in WORD.finditer(text)
        )
        words_N = np.fromiter(found, np.int32)
        return cls(_codes(text), numbers, words_N)

    def overlaps(self, specimens: Sequence[Specimen]) -> list[Json]:
        """overlap_characters, its text, and overlap_words of each; exact."""
        lists = [specimen.words for specimen in specimens]
        numbers = [np.array([self.number_of_word.get(w, 0) for w in ws], int) for ws in lists]
        characters = longest_common_runs([_codes(s.new) for s in specimens], self.codes_N)
        in_words = longest_common_runs(numbers, self.words_N)
        return [
            {
                "overlap_characters": length,
                "overlap_text": specimen.new[at : at + length],
                "overlap_words": n,
            }
            for specimen, (length, at), (n, _) in zip(specimens, characters, in_words, strict=True)
        ]


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def split_text(tokens_N: np.ndarray, tokenizer: Tokenizer) -> str:
    """The text of ids, with a NUL in place of each end_of_text."""
    if tokenizer.end_of_text is None:
        return tokenizer.decode(tokens_N.tolist())
    places = np.flatnonzero(tokens_N == tokenizer.end_of_text)
    first, *others = np.split(tokens_N, places)
    documents = [first, *(ids[1:] for ids in others)]
    return _SEPARATOR.join(tokenizer.decode(ids.tolist()) for ids in documents)


def passages(dataset: Dataset, characters: int, count: int, most_tokens: int) -> list[Specimen]:
    """`count` passages (or as many as there are) of the validation text, spread over it.

    If the corpus has documents, passages are their beginnings; otherwise they start at a word. Each
    is as long as `characters`, or as its document.
    """
    assert dataset.tokenizer is not None  # a run that writes texts has one
    text = split_text(dataset.validation[:most_tokens], dataset.tokenizer)
    if dataset.has_documents:
        documents = [part for part in text.split(_SEPARATOR) if part.strip()]
        if len(dataset.validation) > most_tokens:
            documents = documents[:-1]  # the last one was cut off above
        places = np.linspace(0, len(documents), min(count, len(documents)), endpoint=False)
        chosen = [documents[int(place)] for place in places]
        return [Specimen("", part[:characters], len(part) <= characters) for part in chosen]
    count = min(count, len(text) // max(1, characters))
    found = []
    for place in np.linspace(0, len(text) - characters, count, endpoint=False):
        match = WORD.search(text, int(place))
        while match and match.start() and text[match.start() - 1].isalnum():
            match = WORD.search(text, match.end())
        at = match.start() if match else int(place)
        found.append(Specimen("", text[at : at + characters], False))
    return found


def text_scores(specimen: Specimen) -> Json:
    """Scores from the text alone: its length, variety and repetition."""
    ws = specimen.words
    scores: Json = {"words": len(ws)}
    scores |= {f"distinct_{n}": distinct([ws], n) for n in (1, 2, 3)}
    return scores | {"repetition_4": repetition(ws)}


def grammar_scores(specimen: Specimen, choices: int | None = None) -> Json:
    """Scores of a text by the grammar of the built-in corpus, with its data.choices; see LEGEND.

    `grammar_story` is 1 for a whole story, else 0; None if the text was cut off before any fault.
    `grammar_nats` is None if no choice of the grammar was read to its end. A last sentence that was
    cut off is not among `sentences`.
    """
    found = stories.score(specimen.text, choices)
    complete = specimen.text
    if not specimen.whole:
        complete = " ".join(sentences(complete)[:-1])
    by_sentence = stories.score_sentences(complete)
    undecided = not specimen.whole and found.stop == len(specimen.text)
    read = found.stop
    return {
        "grammar_sentences": by_sentence.share if by_sentence.sentences else None,
        "grammar_story": None if undecided else int(found.parses and specimen.whole),
        "grammar_read": read / len(specimen.text) if specimen.text else None,
        "grammar_nats": -found.read_log_prob / read if found.read_log_prob else None,
        "grammar_story_nats": -found.log_prob if found.parses and specimen.whole else None,
        "sentences": by_sentence.sentences,
        "sentences_accepted": by_sentence.accepted,
        "grammar_characters": read,
    }


def scored(
    groups: Sequence[Sequence[Specimen]],
    training: TrainingText | None,
    grammar: bool,
    choices: int | None = None,
) -> list[tuple[list[Json], Json]]:
    """(scores of each text, scores of all together) for each group of texts.

    All groups are searched in the training text together, since that is most of the work.
    """
    texts = [specimen for group in groups for specimen in group]
    rows = [text_scores(specimen) for specimen in texts]
    if training is not None:
        for row, specimen, overlap in zip(rows, texts, training.overlaps(texts), strict=True):
            row["known_words"] = known_words(specimen.words, training.number_of_word)
            row |= overlap
    if grammar:
        for row, specimen in zip(rows, texts, strict=True):
            row |= grammar_scores(specimen, choices)
    result, at = [], 0
    for group in groups:
        own = rows[at : at + len(group)]
        result.append((own, _together(group, own)))
        at += len(group)
    return result


def _together(group: Sequence[Specimen], rows: list[Json]) -> Json:
    lists = [specimen.words for specimen in group]
    scores: Json = {f"distinct_{n}": distinct(lists, n) for n in (1, 2, 3)}
    bleu = self_bleu(lists)
    if bleu is not None:
        scores["self_bleu"] = mean(bleu)
        for row, value in zip(rows, bleu, strict=True):
            row["self_bleu"] = value
    scores |= {name: mean([row[name] for row in rows]) for name in _MEANS if name in rows[0]}
    if "overlap_characters" in rows[0]:
        scores["overlap_characters_most"] = max(row["overlap_characters"] for row in rows)
    if "sentences" in rows[0]:
        scores |= _grammar_together(rows)
    return {name: scores[name] for name in LEGEND if name in scores}


def _grammar_together(rows: list[Json]) -> Json:
    """Shares and likelihoods over all texts, with equal weight for each sentence and character."""
    count = sum(row["sentences"] for row in rows)
    accepted = sum(row["sentences_accepted"] for row in rows)
    read = [row for row in rows if row["grammar_nats"] is not None]
    nats = math.fsum(row["grammar_nats"] * row["grammar_characters"] for row in read)
    characters = sum(row["grammar_characters"] for row in read)
    return {
        "grammar_sentences": accepted / count if count else None,
        "grammar_stories": mean([row["grammar_story"] for row in rows]),
        "grammar_read": mean([row["grammar_read"] for row in rows]),
        "grammar_nats": nats / characters if characters else None,
        "grammar_story_nats": mean([row["grammar_story_nats"] for row in rows]),
    }


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are not None; None if there are none."""
    there = [value for value in values if value is not None]
    return math.fsum(there) / len(there) if there else None
