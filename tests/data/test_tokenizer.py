"""Tokenizers: nothing is lost, control tokens stay out of text, other people's files load."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import shared_file
from jaxlm.data.tokenizer import (
    ByteTokenizer,
    CharTokenizer,
    StreamDecoder,
    load_pretrained,
    load_tokenizer,
    train_bpe,
)
from jaxlm.host.errors import UserError

TEXT = "Once upon a time there was a cat called Zoë. The cat said: “meow”, 3 or 42 times!\n" * 40
BPE = train_bpe([TEXT], 300)
CHAR = CharTokenizer("".join(sorted(set(TEXT))), documents=True)
KINDS = {"char": CHAR, "byte": ByteTokenizer(), "bpe": BPE}


@given(st.text())
def test_any_text_survives_encoding_and_decoding(text):
    for tokenizer in (KINDS["byte"], BPE):
        assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.lists(st.text(alphabet=sorted(set(TEXT)))))
def test_char_encodes_batches_like_single_texts(texts):
    encoded = CHAR.encode_batch(texts)
    assert [CHAR.decode(ids) for ids in encoded] == texts
    assert all(ids.dtype == np.int32 for ids in encoded)


@given(st.text(min_size=1), st.data())
def test_stream_decoder_yields_valid_text_that_adds_up(text, data):
    for tokenizer in (KINDS["byte"], BPE):
        ids = tokenizer.encode(text)
        cut = data.draw(st.integers(0, len(ids)))
        decoder = StreamDecoder(tokenizer)
        parts = [decoder.push(ids[:cut]), *(decoder.push([i]) for i in ids[cut:])]
        for part in parts:
            part.encode()
            assert "\ufffd" not in part or "\ufffd" in text
        assert "".join(parts) + decoder.finish() == text


def test_a_character_cut_in_two_waits_for_its_rest():
    decoder = StreamDecoder(ByteTokenizer())
    assert decoder.push("é".encode()[:1]) == ""
    assert decoder.push("é".encode()[1:]) == "é"
    assert decoder.push("é".encode()[:1]) == ""
    assert decoder.finish() == "\ufffd"
    assert ByteTokenizer().decode([0xC3]) == "\ufffd"
    assert ByteTokenizer().decode([65, 5000]) == "A\ufffd"  # beyond the vocabulary


@pytest.mark.parametrize("kind", ["byte", "bpe"])
def test_end_of_text_written_in_a_text_stays_text(kind):
    tokenizer = KINDS[kind]
    ids = tokenizer.encode("a<|endoftext|>b")
    assert tokenizer.end_of_text not in ids
    assert tokenizer.decode(ids) == "a<|endoftext|>b"
    assert tokenizer.decode([tokenizer.end_of_text]) == "<|endoftext|>"


def test_sizes_and_bytes_per_id():
    assert (ByteTokenizer().vocab_size, ByteTokenizer().end_of_text) == (257, 256)
    assert (BPE.vocab_size, BPE.end_of_text) == (300, 0)
    assert CHAR.vocab_size == len(set(TEXT)) + 1 == CHAR.end_of_text + 1
    for tokenizer in KINDS.values():
        ids = tokenizer.encode(TEXT)
        assert len(tokenizer.bytes_of_tokens(TEXT)) == len(ids)
        assert tokenizer.bytes_of_tokens(TEXT).sum() == len(TEXT.encode())


def test_char_without_documents_has_no_end_of_text():
    tokenizer = CharTokenizer("abc", documents=False)
    assert (tokenizer.vocab_size, tokenizer.end_of_text) == (3, None)


def test_unknown_characters_are_named():
    with pytest.raises(UserError, match="'é', '日'"):
        CharTokenizer("abc", documents=False).encode("abécé日")
    with pytest.raises(UserError, match="not valid Unicode"):
        BPE.encode("a\ud800")
    with pytest.raises(UserError, match="not valid Unicode"):
        ByteTokenizer().encode("a\ud800")
    with pytest.raises(UserError, match="ud800"):
        CharTokenizer("abc", documents=False).encode("a\ud800")


@pytest.mark.parametrize("kind", KINDS)
def test_saved_tokenizers_load_the_same(kind, tmp_path):
    tokenizer = KINDS[kind]
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.end_of_text == tokenizer.end_of_text
    np.testing.assert_array_equal(loaded.encode(TEXT), tokenizer.encode(TEXT))
    assert loaded.spelling == tokenizer.spelling


def test_fingerprints_tell_tokenizers_apart():
    others = [train_bpe([TEXT], 299), CharTokenizer("abc", True), CharTokenizer("abc", False)]
    prints = [tokenizer.fingerprint for tokenizer in [*KINDS.values(), *others]]
    assert len(set(prints)) == len(prints)
    assert train_bpe([TEXT], 300).fingerprint == BPE.fingerprint


def test_damaged_or_missing_tokenizer_files_are_explained(tmp_path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(UserError, match="missing"):
        load_tokenizer(path)
    BPE.save(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="damaged"):
        load_tokenizer(path)
    with pytest.raises(UserError, match="not a tokenizer this program can use"):
        load_pretrained(path)
    with pytest.raises(UserError, match="No tokenizer at"):
        load_pretrained(tmp_path / "nowhere")


def test_bpe_has_exactly_the_requested_size_or_an_error_says_so():
    with pytest.raises(UserError, match="gives only"):
        train_bpe(["too little text"], 1000)
    with pytest.raises(UserError, match="257 or more"):
        train_bpe([TEXT], 256)


PROSE = (
    "Hello world! It's 2024; naïve café —  two  spaces,\n\n\ttabs and 日本語 and 🙂.\r\n"
    "   leading <|endoftext|> <|im_start|>user 12345 don't I'LL x=y+1;\n"
)


@pytest.mark.slow
def test_smollm_tokenizer_loads_and_agrees_with_transformers():
    file = shared_file("tokenizers/smollm_tokenizer.json")
    tokenizer = load_pretrained(file)
    assert (tokenizer.vocab_size, tokenizer.end_of_text) == (49152, 0)
    fast = pytest.importorskip("transformers").PreTrainedTokenizerFast(tokenizer_file=str(file))
    ids = tokenizer.encode(PROSE)
    assert ids.tolist() == fast.encode(PROSE, split_special_tokens=True)
    assert tokenizer.decode(ids) == PROSE
    assert tokenizer.control_ids == set(range(17))
    assert not tokenizer.control_ids.intersection(ids.tolist())
    assert tokenizer.bytes_of_tokens(PROSE).sum() == len(PROSE.encode())


@pytest.mark.slow
def test_gpt2_files_load_and_agree_with_published_ids():
    tokenizer = load_pretrained(shared_file("tokenizers/gpt2_vocab.json").parent)
    assert (tokenizer.vocab_size, tokenizer.end_of_text) == (50257, 50256)
    # "Hello world" is 15496 995 in OpenAI's encoder and in tiktoken's gpt2
    assert tokenizer.encode("Hello world").tolist() == [15496, 995]
    ids = tokenizer.encode(PROSE)
    assert tokenizer.decode(ids) == PROSE
    assert 50256 not in ids
    reference = pytest.importorskip("tokenizers").ByteLevelBPETokenizer(
        str(shared_file("tokenizers/gpt2_vocab.json")),
        str(shared_file("tokenizers/gpt2_merges.txt")),
    )
    assert ids.tolist() == reference.encode(PROSE).ids


@pytest.mark.slow
def test_pretrained_folders_may_use_the_plain_names(tmp_path):
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes(shared_file(f"tokenizers/gpt2_{name}").read_bytes())
    assert load_pretrained(tmp_path).encode("Hello world").tolist() == [15496, 995]


def test_added_words_are_encoded_and_decoded_unchanged(tmp_path):
    """A tokenizer.json may list words, not marked special, that are matched before all merges."""
    specification = json.loads(json.dumps(BPE.specification))
    added = specification["added_tokens"][0] | {"id": 300, "content": "two — words"}
    specification["added_tokens"].append(added | {"special": False})
    (tmp_path / "tokenizer.json").write_text(json.dumps(specification))
    tokenizer = load_pretrained(tmp_path)
    ids = tokenizer.encode("a two — words b")
    assert tokenizer.vocab_size == 301 and 300 in ids
    assert tokenizer.decode(ids) == "a two — words b"
    assert tokenizer.bytes_of_tokens("a two — words b").sum() == len("a two — words b".encode())


def test_sentencepiece_like_files_decode_and_stream(tmp_path):
    tokens = ["<unk>", "</s>", "<0xC3>", "<0xA9>", "▁", "a", "b", "▁a", "▁ab", "ab"]
    specification = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": tokens[i], "single_word": False, "lstrip": False}
            | {"rstrip": False, "normalized": False, "special": True}
            for i in (0, 1)
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {  # adds <unk>, as others add their start mark, which is not wanted here
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<unk>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {"<unk>": {"id": "<unk>", "ids": [0], "tokens": ["<unk>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [["▁", "a"], ["▁a", "b"], ["a", "b"]],
        },
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(specification))
    tokenizer = load_pretrained(tmp_path)
    ids = tokenizer.encode("ab é")
    assert tokenizer.end_of_text == 1
    assert tokenizer.decode(ids) == "ab é"
    decoder = StreamDecoder(tokenizer)
    assert "".join(decoder.push([i]) for i in ids) + decoder.finish() == "ab é"
    decoder = StreamDecoder(tokenizer, after=ids)  # text after a prompt keeps its leading space
    assert "".join(decoder.push([i]) for i in ids) + decoder.finish() == " ab é"
