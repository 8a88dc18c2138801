"""A tokenizer preserves what it encodes, or reports the loss; no text produces control ids."""

import json
import math

import numpy as np
import pytest
from configured import configured as make
from hypothesis import given
from hypothesis import strategies as st
from test_stream_decoder import TEXTS
from tokenizers_made import LOSSLESS, MAKERS, library, tokenizer

from jaxlm.data.batches import evaluation_batches
from jaxlm.data.corpora import Piece, split_documents
from jaxlm.data.dataset import SpelledBytes
from jaxlm.data.encoding import encode_pieces
from jaxlm.data.lossless import Comparison
from jaxlm.data.prepare import prepare
from jaxlm.data.tokenizer import ByteTokenizer, LibraryTokenizer, load_pretrained
from jaxlm.host.errors import UserError
from jaxlm.inference.evaluate import metrics

ANY_TEXT = [name for name in LOSSLESS if name.startswith("byte level")]
ALL_BUT_MARKS = [name for name in LOSSLESS if "fallback" in name]


def specification(name):
    return json.loads(library(name).to_str())


def unknown(name):
    return {library(name).token_to_id(token) for token in ("<unk>", "[UNK]")}


@pytest.mark.parametrize("name", MAKERS)
@given(TEXTS)
def test_no_control_id_comes_from_any_text(name, text):
    kind = tokenizer(name)
    [ids] = kind.encode_batch([text])
    assert not set(ids.tolist()) & kind.control_ids - unknown(name)


@pytest.mark.parametrize("name", ANY_TEXT + ALL_BUT_MARKS)
@given(TEXTS)
def test_a_tokenizer_with_all_bytes_preserves_any_text(name, text):
    if name in ALL_BUT_MARKS:  # here U+2581 is the mark of a space
        text = text.replace("▁", "")
    kind = tokenizer(name)
    ids = kind.encode(text)
    assert kind.decode(ids) == text
    assert kind.bytes_of_tokens(text).sum() == len(text.encode())


@pytest.mark.parametrize("name", MAKERS)
@given(TEXTS)
def test_a_text_is_preserved_or_refused(name, text):
    kind = tokenizer(name)
    [ids] = kind.encode_batch([text])
    sizes = kind.bytes_of_tokens(text)
    assert len(sizes) == len(ids) and (sizes >= 0).all()
    try:
        kind.encode(text)
    except UserError:
        known = [i for i in ids.tolist() if i not in kind.control_ids]
        assert kind.decode(known) != text
    else:
        assert kind.decode(ids) == text and not set(ids.tolist()) & kind.control_ids


@pytest.mark.parametrize("name", [*(name for name in LOSSLESS if "words" not in name), "by words"])
def test_ids_are_the_librarys_if_those_preserve_the_text(name):
    kind = tokenizer(name)
    for text in ("the cat", "a", "Once upon a time  there", "a\nb \n", "(x) don't"):
        ids = library(name).encode(text, add_special_tokens=False).ids
        if library(name).decode(ids, skip_special_tokens=False) == text:
            assert kind.encode(text).tolist() == ids
    assert kind.decode(kind.encode("the cat")) == "the cat"


@pytest.mark.parametrize("text", [" a", "  a", " ", "   ", "a ", " \n a", "", "\n"])
def test_spaces_at_the_beginning_and_end_are_kept(text):
    for name in LOSSLESS:
        kind = tokenizer(name)
        assert kind.decode(kind.encode(text)) == text, name


def with_model(specification, **changes):
    return specification | {"model": specification["model"] | changes}


def test_merges_and_whole_words_do_not_make_control_ids():
    """A vocabulary may hold `</s>` as a word that merges or a look-up could produce."""
    tokens = ["<unk>", "</s>", "<", "/", "s", ">", "</", "s>", "a"]
    merges = [["<", "/"], ["s", ">"], ["</", "s>"]]
    base = specification("unigram never") | {"pre_tokenizer": None, "decoder": {"type": "Fuse"}}
    base["added_tokens"] = []
    bpe = specification("suffix")["model"] | {
        "vocab": {token: i for i, token in enumerate(tokens)},
        "merges": merges,
        "end_of_word_suffix": None,
    }
    for changes in ({}, {"ignore_merges": True}, {"unk_token": None}, {"dropout": 0.5}):
        kind = LibraryTokenizer(base | {"model": bpe | changes})
        assert kind.end_of_text == 1
        ids = kind.encode("</s>a</s>").tolist()
        assert ids == [6, 7, 8, 6, 7] and ids == kind.encode("</s>a</s>").tolist()
    level = {"type": "WordLevel", "vocab": bpe["vocab"], "unk_token": "<unk>"}
    kind = LibraryTokenizer(base | {"model": level, "pre_tokenizer": {"type": "WhitespaceSplit"}})
    for text in ("a</s>", "</s>", "<unk>", "a <unk>"):
        with pytest.raises(UserError, match="lost"):
            kind.encode(text)


def test_an_end_of_text_that_is_not_marked_special_stays_out_of_texts():
    changed = specification("byte level")
    changed["added_tokens"][0]["special"] = False
    kind = LibraryTokenizer(changed)
    ids = kind.encode("a<|endoftext|>b")
    assert kind.end_of_text == 0 and 0 not in ids and kind.decode(ids) == "a<|endoftext|>b"


def test_names_of_bytes_are_text():
    for name in ALL_BUT_MARKS:
        kind = tokenizer(name)
        assert kind.decode(kind.encode("<0x0A><0x41>\n")) == "<0x0A><0x41>\n"


def test_what_is_lost_is_named_with_its_share():
    kind = tokenizer("unigram always")
    with pytest.raises(UserError) as caught:
        kind.encode("the cat 日本日")
    lines = str(caught.value).splitlines()
    assert len(lines) == 3 and "tokenizer.lossy=true" in lines[2]
    assert "27.3% of 11 characters are lost ('日' 2 times, '本' 1 times)" in lines[0]
    assert "character 9" in lines[1] and "'the cat 日本日' becomes 'the cat '" in lines[1]
    with pytest.raises(UserError, match="'T' 1 times.*\n.*'The cat' becomes 'the cat'"):
        tokenizer("wordpiece").encode("The cat")
    with pytest.raises(UserError, match=r"added \(' ' 2 times\)"):
        tokenizer("wordpiece").encode("don't")
    with pytest.raises(UserError, match=r"lost \('\\n' 1 times\) and .* added \(' ' 1 times\)"):
        tokenizer("wordpiece").encode("the\ncat")
    assert tokenizer("wordpiece").decode(tokenizer("wordpiece").encode("the cat")) == "the cat"


def test_a_model_without_a_token_for_unknown_text_is_a_clear_error():
    changed = with_model(specification("unigram never"), unk_id=None)
    with pytest.raises(UserError, match="cannot encode the text"):
        LibraryTokenizer(changed).encode("日本")


def test_a_loss_is_accepted_if_requested():
    kind = LibraryTokenizer(specification("wordpiece"))
    kind.lossy = True
    assert kind.decode(kind.encode("The  Cat")) == "the cat"


@given(st.lists(st.tuples(st.text("ab ", max_size=6), st.booleans()), max_size=8), st.data())
def test_comparison_counts_what_is_lost_whatever_the_pieces(parts, data):
    """A tokenizer of bytes, some of whose ids are removed."""
    kind, lost = ByteTokenizer(), 0
    comparison = Comparison(kind)
    for text, ends in parts:
        [ids] = kind.encode_batch([text])
        kept = np.array(data.draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids))))
        lost += int((~kept.astype(bool)).sum())
        comparison.add(text, ids[kept.astype(bool)] if len(ids) else ids, ends)
    comparison.finish()
    found = comparison.found()
    assert found["characters"] == sum(len(text) for text, _ in parts)
    assert (found["loss"] is None) == (lost == 0)
    assert lost == 0 or found["loss"]["lost"]["characters"] == lost


@pytest.mark.parametrize("name", ["unigram always", "fallback, legacy", "fallback", "byte level"])
def test_cuts_in_a_document_leave_no_trace(name):
    """This would find a space before each piece, or a word cut in two."""
    kind = tokenizer(name)
    text = "the cat said upon a time\nOnce there was  a cat\n" * 3000 + "a" * 70_000 + " end"
    pieces = list(split_documents([text]))
    assert len(pieces) > 2
    comparison = Comparison(kind)
    parts = list(encode_pieces(pieces, kind, None, comparison))
    ids = np.concatenate([part.ids_N for part in parts])
    assert comparison.found()["loss"] is None
    assert kind.decode(ids) == text
    if name != "byte level":
        assert ids.tolist() == kind.encode(text).tolist()
    assert sum(int(part.bytes_N.sum()) for part in parts) == len(text)


@pytest.mark.parametrize("name", MAKERS)
def test_bytes_are_those_of_the_text_however_it_is_spelled(name):
    kind = tokenizer(name)
    texts = ["Zoë  said: 日本\n", " the cat", "日", "", "éé ", "the"]
    pieces = [*(Piece(text, True) for text in texts), Piece("a 日", False)]
    [part] = encode_pieces(pieces, kind, 1)
    ends = np.flatnonzero(part.ids_N == 1)
    if len(ends) == len(texts):
        by_document = np.add.reduceat(part.bytes_N, [0, *(ends[:-1] + 1)])
        expected = [len(text.encode()) for text in texts]
        assert by_document[: len(texts) - 1].tolist() == expected[:-1]
        assert not part.bytes_N[ends[[0, 1, 4]]].any()
    assert part.bytes_N.sum() == sum(len(text.encode()) for text in texts) + len("a 日".encode())


def configured(tmp_path, kind, text, **tokenizer_keys):
    (tmp_path / "text.txt").write_text(text)
    (tmp_path / "tokenizer.json").write_text(json.dumps(specification(kind)))
    keys = {"path": str(tmp_path / "tokenizer.json"), **tokenizer_keys}
    return make("text", "pretrained", keys, path=tmp_path / "text.txt")


def test_a_corpus_that_is_not_preserved_is_refused_even_from_the_cache(tmp_path):
    text = "the cat said: 日本\n" * 200
    config = configured(tmp_path, "unigram always", text)
    with pytest.raises(
        UserError, match="not preserve text-train: 11.8% of 3,[0-9]* .*'日' 180 times"
    ):
        prepare(config, cache=tmp_path)
    lossy = configured(tmp_path, "unigram always", text, lossy=True)
    for _ in range(2):
        dataset = prepare(lossy, cache=tmp_path)
        read, *lost = dataset.notes
        assert read.startswith("read 1 file")
        assert len(lost) == 2 and "text-validation, 11.8% of" in lost[1]
    both = int(dataset.train_bytes.sum()) + int(dataset.validation_bytes.sum())
    assert both == len(text.encode())
    with pytest.raises(UserError, match="not preserve text-train"):
        prepare(config, cache=tmp_path)
    fine = configured(tmp_path, "unigram always", "the cat said\n" * 200)
    assert len(prepare(fine, cache=tmp_path).notes) == 1  # what was read


def test_bits_per_byte_refer_to_the_bytes_of_the_text(tmp_path):
    """Neither the three fallback bytes of a space nor characters that are dropped count."""
    for kind in ("fallback, legacy", "unigram always", "wordpiece"):
        text = "The cat  said:\tZoë 日本\n" * 100
        dataset = prepare(configured(tmp_path, kind, text, lossy=True), cache=tmp_path)
        batches = list(evaluation_batches(dataset, 4, 16))
        first = int(dataset.validation_bytes[0])
        count = sum(int(batch.bytes_BxL.sum()) for batch in batches)
        assert count + first + int(dataset.train_bytes.sum()) == len(text.encode())
        tokens = sum(batch.weights_BxL.sum() for batch in batches)
        sums = {name: np.array([1.0]) for name in ("correct", "top5", "confidence")}
        sums |= {"tokens": np.array([tokens]), "loss": np.array([2.0]), "bytes": np.array([count])}
        assert metrics(sums, has_bytes=True)["bits_per_byte"] == 2 / math.log(2) / count


def test_ids_without_a_text_count_the_bytes_that_they_decode_to():
    for name in ("byte level", "fallback", "unigram always", "suffix"):
        kind = tokenizer(name)
        texts = ["the cat", "a time", "Once"]
        end = 1 if kind.end_of_text is None else kind.end_of_text
        ids = np.concatenate([[*kind.encode_batch([text])[0], end] for text in texts])
        counted = SpelledBytes(ids.astype(np.uint16), kind)[np.arange(len(ids))]
        expected = sum(len(text) for text in texts)
        assert counted.sum() - expected in ((0,) if name != "suffix" else (0, 3))  # last space
        assert not counted[ids == end].any()


def test_a_wordpiece_file_loads_and_a_broken_one_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(specification("wordpiece")))
    assert load_pretrained(tmp_path).encode("the cat").size
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "Other"}}')
    with pytest.raises(UserError, match="BPE, Unigram, WordPiece or WordLevel"):
        load_pretrained(tmp_path)
