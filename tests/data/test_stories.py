"""The built-in corpus: exact probabilities, one story per index, and texts that read back."""

import math
import random
import re
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxlm.data import stories
from jaxlm.data.stories.checks import conflicts
from jaxlm.data.stories.entropies import entropy
from jaxlm.data.stories.grammar import Grammar
from jaxlm.data.stories.reading import SentenceReader, score, sentences
from jaxlm.data.stories.story import grammar
from jaxlm.data.stories.tables import Lexicon, Rule, Slot, _ranks, rule

# A grammar small enough to write out in full: contexts by value, by class and by two slots,
# forbidden pairs, an optional part, a slot chosen anew, a choice without a choice.
LEXICONS = {
    "names": Lexicon(
        {
            "": ["Ann", "Bob", "Cy"],
            "he": ["she", "he", "he"],
            "He": ["She", "He", "He"],
            "sex": ["f", "m", "m"],
        }
    ),
    "pets": Lexicon({"": ["cat", "caterpillar", "dog"], "a": ["a cat", "a caterpillar", "a dog"]}),
    "colors": Lexicon({"": ["red", "blue"]}),
}
SLOTS = {
    "name": Slot("names"),
    "pet": Slot("pets", ("name",), {"name": lambda pet, name: pet[""] + name[""] != "dogAnn"}),
    "other": Slot("pets", ("pet", "name.sex"), {"pet": lambda other, pet: other[""] != pet[""]}),
    "color": Slot("colors", ("pet",)),
    "same": Slot("pets", ("pet",), {"pet": lambda same, pet: same[""] == pet[""]}),
}
RULES = {
    "story": ["{+name} <has> {+pet.a}[ and {+other.a}|].<more>", "Once, {+name} slept.<end>"],
    "has": Rule({"": ["had", "met", "saw"]}, ("name.sex",)),
    "more": rule(
        " It was {+color}.<end>",
        " Then {+name} took the {pet}.<end>",
        " Yes: {+pet} again. {name.He} said {pet} twice.",
        " The {+same} liked {name}.",
        given=("pet", "name"),
    ),
    "end": Rule({"": [" {name.He} smiled.", " The end[.|!]"]}, skew=1.0),
}


def small(most: int | None = None, **changes) -> Grammar:
    return Grammar(LEXICONS, SLOTS, {**RULES, **changes}, most=most)


def naive_odds(
    name: str, entries: list, spec: Slot | Rule, values: dict, most: int | None = None
) -> list[float]:
    """What `tables.py` describes in words, one entry at a time."""
    classes, contexts, sizes = [], [], []
    for context in spec.given:
        slot, _, column = context.partition(".")
        columns = LEXICONS[SLOTS[slot].lexicon].columns
        known = list(dict.fromkeys(columns[column]))
        classes.append(known.index(columns[column][values[slot]]))
        contexts.append({c: columns[c][values[slot]] for c in columns})
        sizes.append(len(known))
    n = len(entries)
    weights = []
    for i, entry in enumerate(entries):
        own = _ranks(name, (n,))[i] if isinstance(spec, Slot) else i + 1
        weight = own**-spec.skew
        for c, size, context in zip(classes, sizes, spec.given, strict=True):
            weight *= _ranks(f"{name}|{context}", (size, n))[c, i] ** -spec.tilt
        if len(classes) == 2:
            ranks = _ranks("|".join([name, *spec.given]), (*sizes, n))
            weight *= ranks[classes[0], classes[1], i] ** -spec.tilt
        for context, predicate in spec.fits.items():
            weight *= predicate(entry, contexts[spec.given.index(context)])
        weights.append(weight)
    if most is not None:
        own = _ranks(name, (n,)) if isinstance(spec, Slot) else range(n)
        kept = sorted((i for i in range(n) if weights[i]), key=lambda i: own[i])[:most]
        weights = [weight * (i in kept) for i, weight in enumerate(weights)]
    return [weight / sum(weights) for weight in weights]


def naive_texts(
    todo: str, done: str, p: float, values: dict, most: int | None = None
) -> Iterator[tuple[str, float]]:
    """All texts of the small grammar, by treating its templates as macros."""
    token = re.search(r"\[[^\]]*\]|<\w+>|\{[^}]*\}", todo)
    if not token:
        yield done + todo, p
        return
    done, rest, inside = done + todo[: token.start()], todo[token.end() :], token[0][1:-1]
    name, _, form = inside.lstrip("+").partition(".")
    if token[0][0] == "[":
        odds = naive_odds("", inside.split("|"), Rule({}), values, most)
        for branch, q in zip(inside.split("|"), odds, strict=True):
            yield from naive_texts(branch + rest, done, p * q, values, most)
    elif token[0][0] == "<":
        spec = RULES[name] if isinstance(RULES[name], Rule) else rule(*RULES[name])
        branches = spec.groups[""]
        for branch, q in zip(
            branches, naive_odds(f"<{name}>", branches, spec, values, most), strict=True
        ):
            yield from naive_texts(branch + rest, done, p * q, values, most)
    elif inside[0] != "+":
        word = LEXICONS[SLOTS[name].lexicon].columns[form][values[name]]
        yield from naive_texts(rest, done + word, p, values, most)
    else:
        lexicon = LEXICONS[SLOTS[name].lexicon]
        entries = [lexicon.entry(i) for i in range(len(lexicon))]
        for i, q in enumerate(naive_odds(name, entries, SLOTS[name], values, most)):
            if q:
                word = lexicon.columns[form][i]
                yield from naive_texts(rest, done + word, p * q, {**values, name: i}, most)


@pytest.fixture(scope="module", params=[None, 2])
def most(request) -> int | None:
    """The most alternatives of a choice."""
    return request.param


@pytest.fixture(scope="module")
def enumerated(most) -> dict[str, float]:
    texts = list(naive_texts("<story>", "", 1.0, {}, most))
    texts = [(text, p) for text, p in texts if p]
    assert len(texts) == len(dict(texts)) > (200 if most is None else 30)  # one derivation each
    return dict(texts)


def test_small_grammar_probabilities_equal_brute_force(enumerated, most):
    g = small(most)
    assert conflicts(g.start) == []
    assert sum(enumerated.values()) == pytest.approx(1, abs=1e-12)
    for text, p in enumerated.items():
        read = score(g.start, len(g.slots), text)
        assert read.parses and read.stop == len(text), read.message
        assert read.log_prob == pytest.approx(math.log(p), abs=1e-12)


def test_small_grammar_entropy_equals_brute_force(enumerated, most):
    expected = -sum(p * math.log(p) for p in enumerated.values())
    assert entropy(small(most).start) == pytest.approx(expected, abs=1e-12)


@pytest.mark.slow
def test_small_grammar_writes_with_its_probabilities(enumerated, most):
    g, uniform, n = small(most), random.Random(0), 60_000
    counts = dict.fromkeys(enumerated, 0)
    for _ in range(n):
        text, log_prob = g.write(iter(uniform.random, None))
        assert log_prob == pytest.approx(math.log(enumerated[text]), abs=1e-12)
        counts[text] += 1
    z = [(counts[t] - n * p) / math.sqrt(n * p * (1 - p)) for t, p in enumerated.items()]
    assert np.mean(np.square(z)) == pytest.approx(1, abs=4 * math.sqrt(2 / len(z)))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"has": ["had {color}"]}, "'color' is used before it is chosen"),
        (
            {"more": [" It was {+color}.<end>", "."], "end": [" {color}."]},
            "used before it is chosen",
        ),
        ({"has": ["had", "<has>"]}, "contains itself"),
        ({"has": ["<nothing>"]}, "no rule 'nothing'"),
        ({"has": ["{name.her}"]}, "unknown form 'her'"),
        ({"has": ["{nobody}"]}, "unknown slot 'nobody'"),
        ({"has": ["[had|met"]}, "unbalanced"),
        ({"end": [" {name}s smiled."]}, "two words may meet"),
    ],
)
def test_unsound_grammars_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)


@pytest.mark.parametrize(
    "more",
    [
        [" The end.", " The end. Really."],
        [" {name} ran.", " [Ann|Eve] ran."],
        [" {+pet} ran.", " cat and dog."],
        [" {name} saw {pet}.", " {name} saw {+other}."],
        [" {name} saw a [cat|dog].", " {name} saw {pet.a}."],
    ],
)
def test_alternatives_that_begin_alike_are_found(more):
    assert conflicts(small(more=more).start)


def test_words_are_told_apart_by_their_ends_and_printed_slots_by_their_value():
    more = [" {pet} slept.", " cats slept.", " {name} had the {pet}.", " {name} had it."]
    assert conflicts(small(more=more).start) == []


@pytest.mark.slow
def test_fewer_choices_make_an_easier_corpus_of_the_same_stories():
    of_all, words = stories.entropy(), 10_000
    for choices in (16, 4, 2):
        pairs = list(stories.documents_with_log_prob(3, 0, 4000, choices))
        surprise = -np.array([log_prob for _, log_prob in pairs])
        error = surprise.std() / math.sqrt(len(pairs))
        assert abs(surprise.mean() - stories.entropy(choices)) < 3 * error
        assert stories.entropy(choices) < 0.85 * of_all
        of_all, before, words = stories.entropy(choices), words, len(words_of(pairs))
        assert words < 0.7 * before
        for text, log_prob in pairs[:200]:
            assert stories.score(text, choices).log_prob == pytest.approx(log_prob, abs=1e-9)
            assert stories.score(text).parses  # each is a story of the whole grammar


def words_of(pairs: list[tuple[str, float]]) -> set[str]:
    return {word for text, _ in pairs for word in text.split()}


@pytest.mark.slow
def test_every_choice_of_the_stories_can_be_read_back():
    assert conflicts(grammar().start) == []


@pytest.mark.slow
def test_stories_read_back_with_the_probability_they_were_written_with():
    for start in (stories.TRAIN_START, stories.VALIDATION_START):
        for text, log_prob in stories.documents_with_log_prob(3, start, start + 250):
            read = stories.score(text)
            assert read.parses and read.stop == len(text), (read.message, text)
            assert abs(read.log_prob - log_prob) < 1e-9


@pytest.mark.slow
def test_entropy_is_the_mean_surprise_of_stories():
    surprise = -np.array([p for _, p in stories.documents_with_log_prob(11, 0, 20_000)])
    error = surprise.std() / math.sqrt(len(surprise))
    assert abs(surprise.mean() - stories.entropy()) < 3 * error
    assert error < 0.001 * stories.entropy()


def test_a_story_is_a_function_of_seed_and_index():
    some = list(stories.documents(5, 60, 200))
    assert [stories.document(5, i) for i in (60, 127, 128, 199)] == [
        some[i] for i in (0, 67, 68, 139)
    ]
    assert list(stories.documents(5, 100, 103)) == some[40:43]
    assert list(stories.documents(5, 7, 7)) == []
    assert stories.document(6, 60) != some[0]


@pytest.mark.slow
def test_validation_stories_never_appear_in_training():
    n = 10_000
    first = stories.VALIDATION_START
    training = set(stories.documents(0, 0, n))
    validation = set(stories.documents(0, first, first + n))
    other_seed = set(stories.documents(1, 0, n))
    assert len(training) == len(validation) == len(other_seed) == n
    assert len(training | validation | other_seed) == 3 * n


@pytest.mark.slow
def test_stories_are_short_plain_text():
    texts = list(stories.documents(2, 0, 5000))
    lengths = [len(text) for text in texts]
    assert 450 < np.mean(lengths) < 650 and max(lengths) < 900
    assert all(text.isascii() and "\n" not in text and "  " not in text for text in texts)
    assert grammar().max_draws <= 4 * stories._BLOCKS  # no story uses another's uniforms
    for text in texts:
        assert text[-1] in '.!?"' and text.count('"') % 2 == 0
        assert not re.search(r"\ba [aeio]\w|\ban [^aeiouh]|[.!?]\"? [a-z]+ [^a-z]*$", text), text


@pytest.mark.slow
def test_a_whole_story_fits_256_tokens():
    tokenizers = pytest.importorskip("tokenizers")
    bpe = tokenizers.ByteLevelBPETokenizer()
    training = stories.documents(0, 0, 3000)
    bpe.train_from_iterator(training, vocab_size=1024, show_progress=False)
    first = stories.VALIDATION_START
    lengths = [
        len(e.ids) for e in bpe.encode_batch(list(stories.documents(0, first, first + 5000)))
    ]
    assert np.mean(np.array(lengths) <= 255) > 0.999 and 140 < np.mean(lengths) < 220


@pytest.mark.slow
def test_the_count_left_is_the_count_before_minus_the_count_given():
    numbers = "zero one two three four five six seven eight nine ten eleven twelve".split()
    pattern = r"had (\w+) ([\w ]+) and gave \w+ (\w+)\. That left (\w+) \2,"
    found = [m for text in stories.documents(4, 0, 6000) for m in re.findall(pattern, text)]
    assert len(found) > 20
    for had, _, gave, left in found:
        assert numbers.index(had) - numbers.index(gave) == numbers.index(left)


def test_reading_stops_at_the_first_impossible_character():
    rng = random.Random(0)
    for text in stories.documents(8, 0, 100):
        at = rng.randrange(len(text))
        wrong = stories.score(text[:at] + "#" + text[at + 1 :])
        assert (wrong.parses, wrong.stop, wrong.log_prob) == (False, at, -math.inf), wrong
        cut = stories.score(text[:at])
        assert not cut.parses and cut.stop == at and "ends early" in cut.message
        assert cut.read_log_prob <= 0
        more = stories.score(text + " More.")
        assert not more.parses and more.stop == len(text)
        assert more.read_log_prob == stories.score(text).log_prob


@given(st.text() | st.text(alphabet='AOaehnoc ,."{}[]|<>\n'))
def test_any_text_can_be_scored(text):
    result = stories.score(text)
    assert not result.parses and result.log_prob == -math.inf and 0 <= result.stop <= len(text)
    assert 0 <= stories.score_sentences(text).accepted <= stories.score_sentences(text).sentences


@pytest.mark.slow
def test_sentences_of_stories_are_accepted_and_others_are_not():
    for text in stories.documents(9, 0, 60):
        rejected = [s for s in sentences(text) if not stories._sentence_reader().accepts(s)]
        assert not rejected
    shuffled = stories.score_sentences("Lily boat the in. The the ran. He was so very. My cat.")
    assert (shuffled.sentences, shuffled.accepted, shuffled.share) == (4, 0, 0.0)
    assert math.isnan(stories.score_sentences("").share)


def test_a_sentence_keeps_one_value_for_each_slot():
    reader = SentenceReader(small(end=[" {name} said {name.he} and {name} ran.", "!"]).start)
    assert reader.accepts("Ann said she and Ann ran.")
    assert not reader.accepts("Ann said he and Ann ran.")
    assert not reader.accepts("Bob said he and Cy ran.")
