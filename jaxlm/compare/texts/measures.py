"""How varied a text is, from its words alone: distinct-n, repetition, self-BLEU.

A word is a run of letters and digits, with apostrophes inside, in its written form; punctuation is
not a word.
"""

import re
from collections.abc import Sequence

WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_BLEU_ORDER = 4


def words(text: str, whole: bool = True) -> list[str]:
    """The words of a text, without the last one if a text that is not whole ends inside it."""
    found = WORD.findall(text)
    cut_off = not whole and found and text.endswith(found[-1])
    return found[:-1] if cut_off else found


def ngrams(items: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All runs of n items, in order."""
    return list(zip(*(items[i:] for i in range(n)), strict=False))


def distinct(texts: Sequence[Sequence[str]], n: int) -> float | None:
    """Distinct-n: the share of distinct n-grams among those of the texts, each a list of words.

    Li et al. 2016, "A diversity-promoting objective function for neural conversation models",
    section 5. It falls with the length of the texts. None if there is no n-gram.
    """
    found = [gram for text in texts for gram in ngrams(text, n)]
    return len(set(found)) / len(found) if found else None


def repetition(text: Sequence[str], n: int = 4) -> float | None:
    """The share of the n-grams of a text, a list of words, that occurred in it before.

    Welleck et al. 2020, "Neural text generation with unlikelihood training", section 6 (seq-rep-n).
    None if there is no n-gram.
    """
    share = distinct([text], n)
    return None if share is None else 1 - share


def self_bleu(texts: Sequence[Sequence[str]]) -> list[float | None] | None:
    """BLEU-4 of each text, a list of words, against all others: 0 all different, 1 all alike.

    Zhu et al. 2018, "Texygen", section 3; by nltk, with its smoothing method 1. A score is None for
    a text of fewer than 4 words, or if no other text has as many. The result is None without nltk.
    """
    try:
        from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
    except ImportError:
        return None
    smoothing = SmoothingFunction().method1
    long = [i for i, text in enumerate(texts) if len(text) >= _BLEU_ORDER]
    scores: list[float | None] = [None] * len(texts)
    for i in long if len(long) > 1 else []:
        others = [texts[j] for j in long if j != i]
        scores[i] = float(sentence_bleu(others, texts[i], smoothing_function=smoothing))
    return scores


def known_words(text: Sequence[str], vocabulary: set[str] | dict[str, int]) -> float | None:
    """The share of a text's words that `vocabulary` contains; None if there is no word."""
    return sum(word in vocabulary for word in text) / len(text) if text else None
