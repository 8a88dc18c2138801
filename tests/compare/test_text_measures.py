"""Measures of text compared with brute force and by hand; none needs a model."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jaxlm.compare.texts import overlap
from jaxlm.compare.texts.measures import distinct, known_words, repetition, self_bleu, words
from jaxlm.compare.texts.overlap import longest_common_runs
from jaxlm.compare.texts.scores import (
    LEGEND,
    Specimen,
    TrainingText,
    grammar_scores,
    mean,
    passages,
    scored,
    split_text,
)
from jaxlm.data import stories
from jaxlm.data.dataset import Dataset
from jaxlm.data.tokenizer import ByteTokenizer, CharTokenizer


def written(text, whole=True, prompt=""):
    return Specimen(prompt, text, whole)


# -- the longest common run ----------------------------------------------------------------------


def brute_force(text, long):
    """(length, first place) of the longest part of `text` in `long`, both strings."""
    parts = [
        (stop - start, start)
        for start in range(len(text))
        for stop in range(start + 1, len(text) + 1)
        if text[start:stop] in long
    ]
    return max(parts, key=lambda part: (part[0], -part[1]), default=(0, 0))


def codes(text):
    return np.array([ord(c) for c in text], np.uint32)


@given(
    st.lists(st.text("ab", max_size=24), max_size=4),
    st.text("abc", max_size=60),
    st.booleans(),
)
@example(["aaaa"], "aaaaaaa", False)  # the whole text, whose runs overlap each other
@example(["abab", "ba"], "abba", False)  # a run must not continue into the next text
@example(["xyz", ""], "ab", True)  # nothing is shared
@example(["ab\U0001f600"], "b\U0001f600b", False)
def test_the_longest_overlap_is_that_of_brute_force(texts, long, searched):
    expected = [brute_force(text, long) for text in texts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap, "_CHUNK", 7)
        patch.setattr(overlap, "_TABLE", 0 if searched else overlap._TABLE)
        assert longest_common_runs([codes(text) for text in texts], codes(long)) == expected


@pytest.mark.slow
def test_overlaps_of_long_texts_are_those_of_brute_force():
    rng = np.random.default_rng(0)
    long = "".join(rng.choice(list("abcd"), 20_000))
    texts = ["".join(rng.choice(list("abcd"), 80)) for _ in range(4)]
    texts += [texts[0][:30] + long[777:840] + texts[1][:30], long[-50:], long[:3] * 20]
    found = longest_common_runs([codes(text) for text in texts], codes(long))
    assert found == [brute_force(text, long) for text in texts]
    assert found[4][0] >= 63 and found[5] == (50, 0)


def test_an_overlap_in_words_ignores_punctuation_and_counts_whole_words():
    training = TrainingText.of("The cat sat, and the dog ran. A caterpillar ate it all!")
    (found, cut_off) = training.overlaps(
        [written("a cat sat and the dogs ran"), written("the cat and the dog ra", whole=False)]
    )
    assert found["overlap_words"] == 4  # cat sat and the
    assert found["overlap_text"] == " and the dog" and found["overlap_characters"] == 12
    assert cut_off["overlap_words"] == 3  # "ra" is not a whole word
    assert cut_off["overlap_text"] == " and the dog ra"


# -- variety -------------------------------------------------------------------------------------


def test_words_are_runs_of_letters_with_apostrophes_inside():
    assert words("Don't -- 'tis 3 cats_o, naïve!") == ["Don't", "tis", "3", "cats", "o", "naïve"]
    assert words("the ca", whole=False) == ["the"]
    assert words("the ca ", whole=False) == ["the", "ca"]
    assert words("", whole=False) == []


def test_distinct_and_repetition_by_hand():
    text = "a b a b a b".split()
    assert [distinct([text], n) for n in (1, 2, 3)] == [2 / 6, 2 / 5, 2 / 4]
    assert repetition(text) == pytest.approx(1 / 3)  # abab baba abab
    assert distinct([text, ["a", "b"]], 2) == 2 / 6  # no pair across two texts
    assert distinct([["a"]], 2) is None and repetition(["a"] * 3) is None
    assert repetition(["a"] * 10) == pytest.approx(6 / 7)
    assert known_words(["a", "c", "c", "b"], {"a", "b"}) == 0.5 and known_words([], {}) is None


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=9), max_size=3), st.integers(1, 4))
def test_distinct_counts_what_a_plain_loop_counts(texts, n):
    seen, total = [], 0
    for text, i in itertools.chain.from_iterable(
        [(text, i) for i in range(len(text) - n + 1)] for text in texts
    ):
        total += 1
        if text[i : i + n] not in seen:
            seen.append(text[i : i + n])
    assert distinct(texts, n) == (len(seen) / total if total else None)


def test_self_bleu_is_one_for_equal_texts_and_low_for_different_ones():
    pytest.importorskip("nltk")
    same, other = "the cat sat on the mat".split(), "a dog ran off with my hat".split()
    assert self_bleu([same, same, same]) == [1.0, 1.0, 1.0]
    assert max(self_bleu([same, other])) < 0.1
    assert self_bleu([same, other, ["short"]])[2] is None
    assert self_bleu([same]) == [None] and self_bleu([]) == []
    # By hand: 5/6, 3/5, 2/4 and 1/3 of the n-grams, and no penalty for equal lengths.
    near = "the cat sat on a mat".split()
    expected = (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    assert self_bleu([near, same]) == pytest.approx([expected, expected])


def test_without_nltk_self_bleu_is_omitted(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "nltk.translate.bleu_score", None)
    assert self_bleu([["a"] * 4] * 2) is None
    ((rows, together),) = scored([[written("a b c d")] * 2], None, grammar=False)
    assert "self_bleu" not in together and "self_bleu" not in rows[0]


# -- scores of texts -----------------------------------------------------------------------------


def test_scores_of_a_group_are_means_and_pooled_counts():
    training = TrainingText.of("one two three four five")
    texts = [written("one two six"), written("one one"), written("")]
    ((rows, together), (_, empty)) = scored([texts, [written("")]], training, grammar=False)
    assert [row["words"] for row in rows] == [3, 2, 0]
    assert rows[0]["known_words"] == 2 / 3 and rows[2]["known_words"] is None
    assert together["distinct_1"] == 3 / 5  # one two six one one
    assert together["known_words"] == mean([2 / 3, 1.0, None])
    assert together["overlap_characters"] == (8 + 4 + 0) / 3  # "one two " and "one "
    assert together["overlap_characters_most"] == 8
    assert empty["words"] == 0 and empty["distinct_1"] is None
    assert set(together) <= set(LEGEND)


@pytest.mark.slow
def test_the_grammar_accepts_the_corpus_and_states_its_likelihood():
    drawn = list(stories.documents_with_log_prob(3, 0, 8))
    texts = [written(text[4:], prompt=text[:4]) for text, _ in drawn]
    ((rows, together),) = scored([texts], None, grammar=True)
    assert together["grammar_sentences"] == 1.0 and together["grammar_stories"] == 1.0
    assert together["grammar_read"] == 1.0
    for row, (text, log_prob) in zip(rows, drawn, strict=True):
        assert row["grammar_nats"] == pytest.approx(-log_prob / len(text), rel=1e-12)
    total, characters = -sum(log_prob for _, log_prob in drawn), sum(len(t) for t, _ in drawn)
    assert together["grammar_nats"] == pytest.approx(total / characters, rel=1e-12)
    assert together["grammar_story_nats"] == pytest.approx(total / len(drawn), rel=1e-12)


@pytest.mark.slow
def test_a_text_that_was_cut_off_is_scored_as_far_as_it_goes():
    text = stories.document(3, 1)
    for stop in range(1, len(text), 9):
        found = grammar_scores(written(text[:stop], whole=False))
        assert found["grammar_story"] is None and found["grammar_read"] == 1.0
        assert found["sentences_accepted"] == found["sentences"]
    ended = grammar_scores(written(text[:-5]))  # it ended by itself too early, so it is not a story
    assert ended["grammar_story"] == 0 and ended["grammar_sentences"] < 1
    wrong = grammar_scores(written("Zebras fly. " + text, whole=False))
    assert wrong["grammar_story"] == 0 and wrong["grammar_read"] < 0.05
    assert 0 < wrong["grammar_sentences"] < 1
    later = grammar_scores(written(text[:60] + " zebras " + text[60:], whole=False))
    assert later["grammar_story"] == 0 and 0 < later["grammar_read"] < 0.5
    nothing = grammar_scores(written("", whole=False))
    assert nothing["grammar_sentences"] is None and nothing["grammar_read"] is None
    none_read = grammar_scores(written("Once? No", whole=False))
    assert none_read["grammar_nats"] is None and none_read["grammar_story_nats"] is None


# -- the texts of a dataset ----------------------------------------------------------------------


def test_ids_become_their_text_with_a_mark_between_documents():
    tokenizer = ByteTokenizer()
    ids = [*tokenizer.encode("ab"), 256, *tokenizer.encode("é"), 256]
    assert split_text(np.array(ids, np.uint16), tokenizer) == "ab\0é\0"
    assert split_text(np.empty(0, np.uint16), tokenizer) == ""
    padded = CharTokenizer("ab", documents=False)
    assert split_text(np.array([0, 1, 5], np.uint16), padded) == "ab\ufffd"


def test_passages_are_beginnings_of_documents_or_start_with_a_word():
    tokenizer = ByteTokenizer()
    end = [tokenizer.end_of_text]
    documents = [f"document {n} is here" for n in range(10)]
    tokens = np.concatenate([[*tokenizer.encode(text), *end] for text in documents])
    data = Dataset(tokens, tokens, tokenizer, 257, "x", has_documents=True)
    found = passages(data, 10, 5, 10**6)
    assert [p.new for p in found] == [f"document {n}" for n in (0, 2, 4, 6, 8)]
    assert not any(p.whole for p in found) and passages(data, 50, 1, 10**6)[0].whole
    assert len(passages(data, 10, 99, 10**6)) == 10
    assert len(passages(data, 10, 99, len(tokens) - 3)) == 9  # the last one was cut off above
    text = "some words that follow each other without an end " * 20
    plain = Dataset(tokens, tokenizer.encode(text), tokenizer, 257, "x")
    found = passages(plain, 30, 7, 10**6)
    assert len(found) == 7 and len({p.new for p in found}) > 1
    for p in found:
        assert text[text.index(p.new) - 1 : text.index(p.new)] in ("", " ") and len(p.new) == 30
