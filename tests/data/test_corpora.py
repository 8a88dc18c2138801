"""Corpora: every form of input, the split, and the errors for bad input."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from configured import configured as make
from hypothesis import given
from hypothesis import strategies as st

from conftest import shared_file
from jaxlm.config.tokenizers import Char
from jaxlm.data import corpora
from jaxlm.data.batches import batch
from jaxlm.data.corpora import Piece, between, cut_place, split_documents, text_files
from jaxlm.data.encoding import encode_pieces
from jaxlm.data.prepare import prepare
from jaxlm.data.tokenizer import END_OF_TEXT, ByteTokenizer, LibraryTokenizer, load_pretrained
from jaxlm.host.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def configured(tokenizer="byte", *, name, **data):
    return make(name, tokenizer, **data)


def documents_of(pieces):
    documents = [""]
    for text, ends_document in pieces:
        documents[-1] += text
        if ends_document:
            documents.append("")
    assert documents.pop() == ""
    return documents


def read(path):
    return documents_of(text_files(str(path), "text").pieces())


# Tiny Shakespeare


def test_shakespeare_gives_the_published_split_and_vocabulary(tmp_path):
    file = shared_file("tinyshakespeare.txt")
    dataset = prepare(configured("char", name="shakespeare", path=file), cache=tmp_path)
    assert (len(dataset.train), len(dataset.validation)) == (1_003_854, 111_540)
    assert dataset.vocab_size == 65 and dataset.tokenizer.end_of_text is None
    text = file.read_text()
    assert dataset.tokenizer.decode(dataset.train[:1000]) == text[:1000]
    assert dataset.tokenizer.decode(dataset.validation) == text[1_003_854:]
    assert (
        not dataset.has_documents and not dataset.scores_documents and dataset.entropy_floor is None
    )


def test_shakespeare_comes_from_the_shared_folder_or_the_network_once(tmp_path, monkeypatch):
    file = shared_file("tinyshakespeare.txt")
    monkeypatch.setenv("JAXLM_SHARED", str(file.parent))
    assert corpora.shakespeare(None, tmp_path) == file
    monkeypatch.setenv("JAXLM_SHARED", str(tmp_path / "nothing"))
    monkeypatch.setattr(corpora, "SHAKESPEARE_URL", file.as_uri())
    downloaded = corpora.shakespeare(None, tmp_path)
    assert downloaded.read_bytes() == file.read_bytes()
    monkeypatch.setattr(corpora, "SHAKESPEARE_URL", (tmp_path / "gone").as_uri())
    assert corpora.shakespeare(None, tmp_path) == downloaded


def test_without_shakespeare_the_error_names_three_remedies(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXLM_SHARED", str(tmp_path))
    (tmp_path / "other.txt").write_text("not it")
    for url, problem in (
        ("gone", "No such file"),
        ("other.txt", "SHA-256 of the download"),
    ):
        monkeypatch.setattr(corpora, "SHAKESPEARE_URL", (tmp_path / url).as_uri())
        with pytest.raises(
            UserError, match="internet access, set data.path .*JAXLM_SHARED"
        ) as error:
            corpora.shakespeare(None, tmp_path)
        assert problem in str(error.value)
    with pytest.raises(UserError, match="is not Tiny Shakespeare"):
        corpora.shakespeare(str(tmp_path / "other.txt"), tmp_path)


# Forms of text


def test_text_jsonl_gz_and_folders_are_read_in_order(tmp_path):
    (tmp_path / "b.txt").write_text("two\n")
    (tmp_path / "a.txt").write_bytes("\ufeffone é\r\n".encode())
    (tmp_path / "c.jsonl").write_text('{"text": "three"}\n\n{"text": "four\\né"}\n')
    with gzip.open(tmp_path / "d.jsonl.gz", "wt") as file:
        file.write(json.dumps({"text": "five"}))
    with gzip.open(tmp_path / "e.gz", "wt") as file:
        file.write(f"six{END_OF_TEXT}seven")
    (tmp_path / "ignored.pdf").write_bytes(b"\xff")
    expected = ["one é\r\n", "two\n", "three", "four\né", "five", "six", "seven"]
    assert read(tmp_path) == expected
    assert read(tmp_path / "c.jsonl") == expected[2:4]


def test_end_of_text_and_the_line_breaks_around_it_end_a_document(tmp_path):
    mark = END_OF_TEXT
    path = tmp_path / "x.txt"
    path.write_text(f"\n one \n\n{mark}\n\n two{mark}{mark}\n{mark} \nthree{mark}\nfour\n{mark}\n")
    assert read(path) == ["\n one ", " two", " \nthree", "four"]
    path.write_text(f"one{mark}\ntwo\n")
    assert read(path) == ["one", "two\n"]
    path.write_text("no mark: kept as it is\n\n")
    assert read(path) == ["no mark: kept as it is\n\n"]
    path.write_text(f"six\n{mark}")
    dataset = prepare(configured(name="text", path=path, validation_path=path), cache=tmp_path)
    assert dataset.train.tolist() == list(b"six")  # a single document needs no end mark


texts = st.lists(
    st.one_of(st.text("ab \n", max_size=5), st.just(END_OF_TEXT), st.just("<|endof")), max_size=12
).map("".join)


@given(texts, st.lists(st.integers(0, 100), max_size=6))
def test_documents_do_not_depend_on_how_the_file_is_read(text, places):
    places = sorted({0, len(text), *(p for p in places if p < len(text))})
    chunks = [text[a:b] for a, b in zip(places, places[1:], strict=False)]
    first, *others = text.split(END_OF_TEXT)
    parts = [first, *(part.lstrip("\n") for part in others)]
    parts = [part.rstrip("\n") for part in parts[:-1]] + parts[-1:]
    expected = [part for part in parts if part.strip()]
    assert documents_of(split_documents(chunks)) == expected


@pytest.mark.slow
def test_long_documents_are_cut_where_no_tokenizer_notices():
    text = shared_file("tinyshakespeare.txt").read_text()[:300_000]
    text = text.replace("\n", "\n\n   ") + "1234 5678\n" * 20_000
    pieces = list(split_documents([text]))
    assert len(pieces) > 8 and max(len(piece.text) for piece in pieces) <= 1 << 16
    assert documents_of(pieces) == [text]
    for file in ("smollm_tokenizer.json", "gpt2_vocab.json"):
        path = shared_file(f"tokenizers/{file}")
        tokenizer = load_pretrained(path if "smollm" in file else path.parent)
        encoded = np.concatenate([p.ids_N for p in encode_pieces(pieces, tokenizer, None)])
        np.testing.assert_array_equal(encoded, tokenizer.encode(text))


def test_text_without_spaces_is_still_cut():
    text = "x" * 400_000 + END_OF_TEXT + "日" * 200_000
    pieces = list(split_documents(text[i : i + 1000] for i in range(0, len(text), 1000)))
    assert max(len(piece.text) for piece in pieces) <= 1 << 16
    assert documents_of(pieces) == text.split(END_OF_TEXT)
    halves = ["x" * 65_530 + END_OF_TEXT[:8], END_OF_TEXT[8:] + "y"]  # cut inside the mark
    assert documents_of(split_documents(halves)) == ["x" * 65_530, "y"]
    ids = np.concatenate([p.ids_N for p in encode_pieces(pieces, ByteTokenizer(), 256)])
    assert (ids == 256).sum() == 2  # pieces inside a document do not end it


@pytest.mark.slow
def test_cuts_suit_pretokenizers_that_join_punctuation_with_line_breaks():
    """GPT-4's and Llama 3's words: a full stop and the line breaks after it are one."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    words = (
        r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(words), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    library.decoder = tokenizers.decoders.ByteLevel()
    text = "It ended.\n\nWell (so) it did...\nand 1234567\n  then ?!\n" * 1300
    library.train_from_iterator([text], trainers.BpeTrainer(vocab_size=200, show_progress=False))
    tokenizer = LibraryTokenizer(json.loads(library.to_str()))
    for shift in range(0, 60, 3):  # so that cuts fall at every place of the pattern
        pieces = list(split_documents([text[shift:]]))
        encoded = np.concatenate([p.ids_N for p in encode_pieces(pieces, tokenizer, None)])
        np.testing.assert_array_equal(encoded, tokenizer.encode(text[shift:]))


def test_documents_are_followed_by_end_of_text(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"text": "aé"}\n{"text": "b<|endoftext|>c"}\n{"text": "d"}')
    config = configured(name="text", path=tmp_path / "x.jsonl", validation_fraction=0.2)
    dataset = prepare(config, cache=tmp_path)
    end = dataset.tokenizer.end_of_text
    assert dataset.train.tolist() == [*"aé".encode(), end, ord("b"), end, ord("c"), end]
    assert dataset.validation.tolist() == [ord("d"), end] and dataset.has_documents
    config.tokenizer = Char()
    assert prepare(config, cache=tmp_path).vocab_size == len("aébcd") + 1


# The split


@given(st.integers(2, 500), st.sets(st.integers(0, 500)), st.floats(0.01, 0.9))
def test_the_split_falls_on_the_nearest_end_of_a_document(length, ends, fraction):
    target = length - int(np.ceil(length * fraction - 1e-9))
    if target <= 0:
        return
    place = cut_place(length, ends, fraction)
    inside = [end for end in ends if 0 < end < length]
    assert 0 < place < length
    if inside:
        assert place in inside
        assert abs(place - target) <= min(abs(end - target) for end in inside) + 1
    else:
        assert abs(place - target) <= 1


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, 2.0])
def test_a_split_that_leaves_nothing_is_refused(fraction):
    with pytest.raises(UserError, match="data.validation_fraction"):
        cut_place(1000, [], fraction)


@given(st.lists(st.lists(st.text("ab", min_size=1), min_size=1), min_size=1), st.integers(0, 60))
def test_both_sides_of_a_cut_make_the_whole(documents, cut):
    pieces = [
        Piece(text, i == len(document) - 1)
        for document in documents
        for i, text in enumerate(document)
    ]
    length = sum(len(piece.text) for piece in pieces)
    cut = min(cut, length)
    both = [*between(pieces, 0, cut), *between(pieces, cut, length)]
    assert documents_of(both) == documents_of(pieces)
    assert sum(len(piece.text) for piece in between(pieces, 0, cut)) == cut


def test_ends_of_documents_stay_on_their_side_of_the_cut():
    pieces = [Piece("ab", False), Piece("", True), Piece("cd", True)]
    assert list(between(pieces, 0, 2)) == pieces[:2]
    assert list(between(pieces, 2, 4)) == pieces[2:]


def test_many_documents_split_near_the_fraction(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "_MOST_BOUNDARIES", 64)  # thinned several times
    path = tmp_path / "x.txt"
    path.write_text(END_OF_TEXT.join(f"document {i:04d}" for i in range(2000)))
    dataset = prepare(configured(name="text", path=path), cache=tmp_path)
    ends = [int((split == 256).sum()) for split in (dataset.train, dataset.validation)]
    assert sum(ends) == 2000 and abs(ends[1] - 200) <= 32
    assert dataset.train[-1] == 256
    assert dataset.tokenizer.decode(dataset.validation[:9]) == "document "


def test_a_separate_validation_set_is_used_whole(tmp_path):
    (tmp_path / "train.txt").write_text("abc" * 100)
    (tmp_path / "validation.txt").write_text("xyz")
    config = configured(
        "char",
        name="text",
        path=tmp_path / "train.txt",
        validation_path=tmp_path / "validation.txt",
    )
    dataset = prepare(config, cache=tmp_path)
    assert (len(dataset.train), len(dataset.validation), dataset.vocab_size) == (300, 3, 6)
    config.data.validation_path = str(tmp_path / "nowhere.txt")
    with pytest.raises(UserError, match="data.validation_path"):
        prepare(config, cache=tmp_path)


def test_the_fingerprint_follows_text_tokenizer_and_split_but_not_the_path(tmp_path):
    text = "To be, or not to be.\n" * 100

    def fingerprint(name="x.txt", text=text, tokenizer="byte", fraction=0.1):
        (tmp_path / name).write_text(text)
        data = dict(name="text", path=tmp_path / name, validation_fraction=fraction)
        return prepare(configured(tokenizer, **data), cache=tmp_path).fingerprint

    assert fingerprint("y.txt") == fingerprint()
    changed = [
        fingerprint(text=text + "!"),
        fingerprint(text="t" + text[1:]),
        fingerprint(tokenizer="char"),
        fingerprint(fraction=0.2),
    ]
    assert len({fingerprint(), *changed}) == 5


def test_the_fingerprint_follows_a_validation_set_and_the_ends_of_documents(tmp_path):
    path, held_out = tmp_path / "x.jsonl", tmp_path / "y.jsonl"
    prints = set()
    for lines, other in (("ab c", "d"), ("a bc", "d"), ("ab c", "e"), ("ab c", "d e")):
        for file, texts in ((path, lines), (held_out, other)):
            file.write_text("\n".join(json.dumps({"text": text}) for text in texts.split()))
        config = configured(name="text", path=path, validation_path=held_out)
        prints.add(prepare(config, cache=tmp_path).fingerprint)
    assert len(prints) == 4


def test_the_bpe_sees_only_training_text(tmp_path):
    training, held_out = "the cat sat on the mat. " * 50, "zygote zygote "
    for i, text in enumerate((held_out, "another end. ")):
        (tmp_path / f"{i}.txt").write_text(training + END_OF_TEXT + text * 10)
    prints = []
    for i in range(2):
        config = configured("bpe", name="text", path=tmp_path / f"{i}.txt")
        config.tokenizer.vocab_size = 265
        prints.append(prepare(config, cache=tmp_path).tokenizer.fingerprint)
    assert prints[0] == prints[1]


@pytest.mark.slow
def test_memory_stays_flat(tmp_path):
    """Four times the text takes no more memory once it fills the buffers, by peaks of processes."""
    line = "The cat sat on the mat and looked at the moon, number {}.\n"
    if not Path("/proc/self/status").exists():
        pytest.skip("reads the peak from /proc")
    script = (
        "import re, sys\nfrom pathlib import Path\nfrom jaxlm.config.schema import Config\n"
        "from jaxlm.config.corpora import Text\nfrom jaxlm.config.tokenizers import Char\n"
        "from jaxlm.data.prepare import prepare\n"
        "config = Config(data=Text(path=sys.argv[1]), tokenizer=Char())\n"
        "prepare(config, cache=Path(sys.argv[2]))\n"
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1])"
    )
    peaks = []
    for megabytes in (32, 128):
        path = tmp_path / f"{megabytes}.txt"
        block = "".join(line.format(i) for i in range(17_000))[: 1 << 20]
        with open(path, "w") as file:
            for _ in range(megabytes):
                file.write(block)
        command = [sys.executable, "-c", script, str(path), str(tmp_path / str(megabytes))]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout))
    assert peaks[1] - peaks[0] < 25_000  # kB


# Bad input


@given(st.text(max_size=60), st.integers(1, 7), st.sampled_from([b"\xff", b"\xc3", b"\xe2\x82"]))
def test_the_offset_of_invalid_utf8_is_named(tmp_path_factory, text, read_bytes, bad):
    path = tmp_path_factory.mktemp("bad") / "x.txt"
    content = text.encode() + bad
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "_READ_BYTES", read_bytes)
        with pytest.raises(UserError, match=f"not UTF-8 .*offset {len(text.encode()):,}\\."):
            read(path)


def test_bad_lines_of_jsonl_are_named(tmp_path):
    path = tmp_path / "x.jsonl"
    for line, problem in (
        (b'{"text": ', "line 2 is not valid JSON"),
        (b'{"body": "x"}', "line 2 has no text in the field 'text'.\n.*data.text_field"),
        (b'{"text": 3}', "line 2 has no text"),
        (b'["text"]', "line 2 has no text"),
        (b'{"text": "\\ud800"}', "line 2 is not valid JSON"),
        (b'{"text": "\xff"}', "not UTF-8 text: byte 0xff at offset 24"),
    ):
        path.write_bytes(b'{"text": "a"}\n' + line)
        with pytest.raises(UserError, match=problem):
            read(path)


def test_truncated_or_damaged_gz_is_named(tmp_path):
    path = tmp_path / "x.txt.gz"
    content = gzip.compress(b"To be, or not to be. " * 1000)
    for damaged in (content[:-10], content[:20], b"no gzip at all", content[:10] + b"\xff" * 50):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="x.txt.gz is a damaged or truncated gzip file"):
            read(path)


def test_missing_and_empty_files_are_named(tmp_path):
    with pytest.raises(UserError, match="No such file: data.path=nowhere.txt"):
        prepare(configured(name="text", path="nowhere.txt"), cache=tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="no .txt, .jsonl, .gz or other text files"):
        prepare(configured(name="text", path=tmp_path / "folder"), cache=tmp_path)
    (tmp_path / "folder" / "x.txt").touch()
    with pytest.raises(UserError, match="There is no text in .*x.txt"):
        prepare(configured(name="text", path=tmp_path / "folder"), cache=tmp_path)
    with pytest.raises(UserError, match="data=text needs a file"):
        prepare(configured(name="text"), cache=tmp_path)
    with pytest.raises(UserError, match="data=text is text, but tokenizer=none"):
        prepare(configured("none", name="text", path=tmp_path), cache=tmp_path)
    with pytest.raises(UserError, match="needs tokenizer.path"):
        (tmp_path / "folder" / "x.txt").write_text("some text")
        prepare(configured("pretrained", name="text", path=tmp_path / "folder"), cache=tmp_path)


def test_a_text_shorter_than_the_context_is_named(tmp_path):
    (tmp_path / "x.txt").write_text("short text")
    dataset = prepare(configured(name="text", path=tmp_path / "x.txt"), cache=tmp_path)
    with pytest.raises(UserError, match="9 tokens; one window needs 65.*context_length=64"):
        batch(dataset.train, seed=0, step=0, batch_size=1, context_length=64)


# Flat files of ids


@pytest.mark.parametrize("dtype", ["uint16", "int32", "uint32"])
def test_flat_files_are_used_in_place(tmp_path, dtype):
    ids = np.arange(1000) % 300
    ids.astype(np.dtype(dtype).newbyteorder("<")).tofile(tmp_path / "x.bin")
    np.save(tmp_path / "x.npy", ids.astype(dtype))
    for name in ("x.bin", "x.npy"):
        data = dict(name="tokens", path=tmp_path / name, dtype=dtype, vocab_size=300)
        dataset = prepare(configured("none", **data), cache=tmp_path)
        assert dataset.tokenizer is None and dataset.validation_bytes is None
        assert dataset.vocab_size == 300
        np.testing.assert_array_equal(dataset.train, ids[:900])
        np.testing.assert_array_equal(dataset.validation, ids[900:])
        assert (
            batch(dataset.train, seed=0, step=0, batch_size=2, context_length=8).dtype == np.int32
        )


def test_flat_files_split_at_an_end_of_text_if_the_tokenizer_has_one(tmp_path):
    tokenizer = ByteTokenizer()
    ids = [*([65] * 85), 256, *([66] * 14)]
    np.array(ids, np.uint16).tofile(tmp_path / "x.bin")
    dataset = prepare(configured("byte", name="tokens", path=tmp_path / "x.bin"), cache=tmp_path)
    assert dataset.has_documents and len(dataset.train) == 86
    assert dataset.vocab_size == tokenizer.vocab_size
    config = configured("byte", name="tokens", path=tmp_path / "x.bin")
    config.data.validation_path = config.data.path
    assert len(prepare(config, cache=tmp_path).validation) == 100


def test_bad_flat_files_are_explained(tmp_path):
    path = tmp_path / "x.bin"
    config = configured("none", name="tokens", path=path, vocab_size=300)

    def expect(problem, **changes):
        with pytest.raises(UserError, match=problem):
            prepare(configured("none", **(vars(config.data) | changes)), cache=tmp_path)

    expect("No such file")
    expect("Set data.path=FILE", path=None)
    path.touch()
    expect("holds no tokens")
    path.write_bytes(b"\0" * 7)
    expect("7 bytes, not a multiple of the 2 bytes of one uint16 id")
    ids = np.zeros(5000, np.uint16)
    ids[4321] = 301
    ids.tofile(path)
    expect("the id 301 at position 4,321, beyond the vocabulary of 300")
    expect("Set data.vocab_size=N", vocab_size=None)
    np.array([1, -2] * 9, np.int32).tofile(path)
    expect("the id -2 at position 1", dtype="int32")
    np.save(tmp_path / "x.npy", np.zeros((2, 3), int))
    expect("one\n?.*dimension", path=str(tmp_path / "x.npy"))
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-5])
    expect("not a complete .npy file", path=str(tmp_path / "x.npy"))
    with pytest.raises(UserError, match="has ids, but tokenizer=bpe is built from text"):
        prepare(configured("bpe", name="tokens", path=path, vocab_size=300), cache=tmp_path)
