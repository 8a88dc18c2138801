"""Streams: the text from single ids, put together, is what `decode` gives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers_made import MAKERS, library, tokenizer

from jaxlm.data.continuation import Continuation
from jaxlm.data.spelling import StreamDecoder
from jaxlm.data.tokenizer import ByteTokenizer, CharTokenizer

PARTS = ["a", "b", " ", "  ", "\n", "\r\n", "the", "cat", "</s>", "<s>", "<unk>", "<0x0A>", "[CLS]",
         "<|endoftext|>", "é", "Zoë", "“", "日", "🙂", "two words", "é!", "▁", "_", "\t", ".",
         "Once", "\0", "\ufeff", "don't"]  # fmt: skip
TEXTS = st.one_of(st.lists(st.sampled_from(PARTS), max_size=12).map("".join), st.text(max_size=12))


def streamed(tokenizer, ids, cuts, after=()):
    decoder, text = StreamDecoder(tokenizer, after), ""
    for part in np.split(np.asarray(ids, np.int64), sorted(cuts)):
        text += decoder.push(part)
    return text + decoder.finish()


@pytest.mark.parametrize("name", MAKERS)
@given(st.data())
def test_a_stream_of_any_ids_gives_what_decode_gives(name, data):
    """Random ids: bytes that are not UTF-8, control ids, ids beyond the vocabulary."""
    kind = tokenizer(name)
    ids = data.draw(st.lists(st.integers(0, kind.vocab_size + 2), max_size=12))
    cuts = data.draw(st.lists(st.integers(0, len(ids)), max_size=4))
    assert streamed(kind, ids, cuts) == kind.decode(ids)
    assert streamed(kind, ids, range(1, len(ids))) == kind.decode(ids)


@pytest.mark.parametrize("name", MAKERS)
@given(TEXTS, st.data())
def test_prompt_and_continuation_are_what_decode_gives(name, text, data):
    kind = tokenizer(name)
    ids = kind.encode_batch([text])[0].tolist()
    ids += data.draw(st.lists(st.integers(0, kind.vocab_size - 1), max_size=3))
    cut = data.draw(st.integers(0, len(ids)))
    prompt = kind.decode(ids[:cut])
    new = streamed(kind, ids[cut:], range(1, len(ids) - cut), after=ids[:cut])
    if prompt.endswith("\ufffd"):  # a character cut in two
        prompt, new = "", kind.decode(ids)
    assert prompt + new == kind.decode(ids)


@pytest.mark.parametrize("name", MAKERS)
@given(TEXTS)
def test_texts_are_decoded_as_the_library_does(name, text):
    """Except for added words of byte-level tokenizers, which it reads as bytes, and spaces that it
    drops from inside a first token."""
    kind = tokenizer(name)
    ids = kind.encode_batch([text])[0].tolist()
    if name == "stripping":
        return  # the library panics if nothing is left to strip
    expected = library(name).decode(ids, skip_special_tokens=False)
    first = library(name).id_to_token(ids[0]) if ids else ""
    if kind.decode(ids) != expected:
        assert ("words" in name and "é!" in text) or "▁" in first[1:] or "_" in first[1:]


def test_text_after_a_prompt_keeps_its_leading_space():
    blanks = 0
    for name in ("unigram always", "unigram first", "fallback", "fallback, legacy"):
        kind = tokenizer(name)
        whole = kind.encode("Once upon a time")
        for at in range(1, len(whole)):
            rest = kind.decode(whole).removeprefix(kind.decode(whole[:at]))
            new = whole[at:]
            assert streamed(kind, new, range(1, len(new)), after=whole[:at]) == rest
            blanks += rest.startswith(" ")
        assert streamed(kind, whole, []) == "Once upon a time"
    assert blanks  # some parts begin with a word


def test_the_mark_of_a_space_never_appears_in_a_text():
    for name in MAKERS:
        kind = tokenizer(name)
        ids = kind.encode_batch(["the cat  said  a"])[0]
        decoder = StreamDecoder(kind)
        pieces = [decoder.push([i]) for i in ids] + [decoder.finish()]
        assert not set("▁Ġ_") & set("".join(pieces))


def test_fallback_bytes_are_joined_across_ids():
    kind = tokenizer("fallback")
    by_byte = [library("fallback").token_to_id(f"<0x{value:02X}>") for value in "é🙂".encode()]
    decoder = StreamDecoder(kind)
    assert [decoder.push([i]) for i in by_byte] == ["", "é", "", "", "", "🙂"]
    assert decoder.push(by_byte[:1]) == "" and decoder.push([kind.vocab_size]) == "\ufffd\ufffd"
    assert decoder.push(by_byte[:1]) == "" and decoder.finish() == "\ufffd"


@pytest.mark.parametrize("name", ["unigram always", "fallback, legacy", "byte level", "suffix"])
@given(st.sampled_from(["the", "cat", " the", "a time", "upon", "e t"]), st.integers(1, 4))
def test_stop_strings_are_found_across_pieces(name, stop, chunk):
    kind, text = tokenizer(name), "Once upon a time there was the cat"
    prompt = kind.encode("Once")
    [new] = kind.encode_batch([text.removeprefix("Once")], begins=[False])
    continuation, shown = Continuation(kind, [stop], prompt), ""
    for start in range(0, len(new), chunk):
        shown += continuation.push(new[start : start + chunk])
    assert shown + continuation.finish() == text.removeprefix("Once").split(stop)[0]


@given(st.binary(max_size=20), st.lists(st.integers(0, 20), max_size=3))
def test_invalid_bytes_are_replaced_as_in_python(content, cuts):
    kind = ByteTokenizer()
    assert streamed(kind, list(content), cuts) == content.decode("utf-8", "replace")


def test_text_of_every_character_streams():
    text = "a\0\ufeff▁é\r\n\U0010ffff"
    kind = CharTokenizer("".join(sorted(set(text))), documents=True)
    ids = kind.encode(text)
    assert streamed(kind, ids, range(1, len(ids))) == kind.decode(ids) == text
    assert kind.decode([kind.end_of_text]) == "<|endoftext|>"
