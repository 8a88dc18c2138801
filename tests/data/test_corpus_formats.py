"""Every kind of file is read as what it is, or refused by name; never mistaken for plain text."""

import bz2
import gzip
import json
import lzma
import pickle
import sqlite3
import sys
import types
import zipfile

import numpy as np
import pytest
from configured import configured
from hypothesis import given
from hypothesis import strategies as st

from jaxlm.data import corpora, tables
from jaxlm.data.corpora import survey, text_files
from jaxlm.data.prepare import prepare
from jaxlm.host.errors import UserError

TEXTS = ["One é.", 'Two,\nwith "quotes"\tand tabs', "three"]
RECORDS = [{"n": i, "story": text, "of": {"title": f"t{i}"}} for i, text in enumerate(TEXTS)]


def read(path, field="story"):
    documents = [""]
    for text, ends_document in text_files(str(path), field).pieces():
        documents[-1] += text
        if ends_document:
            documents.append("")
    assert documents.pop() == ""
    return documents


def line(path, tmp_path, field="story"):
    corpus = text_files(str(path), field)
    return survey(corpus, None, tmp_path / "cache").line(corpus)


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def csv_of(delimiter, texts=TEXTS):
    rows = [f'"{text}"' for text in (t.replace('"', '""') for t in texts)]
    lines = [f"{i}{delimiter}{row}" for i, row in enumerate(rows)]
    return "\n".join([f"n{delimiter}story", *lines]) + "\n"


FORMS = {
    "list.json": json.dumps(RECORDS),
    "list.JSON": json.dumps(RECORDS, indent=2, ensure_ascii=False),
    "data.json": json.dumps({"version": 1, "data": RECORDS}),
    "texts.json": json.dumps(TEXTS),
    "column.json": json.dumps({"story": TEXTS, "n": [0, 1, 2]}),
    "pandas.json": json.dumps({"story": {str(i): text for i, text in enumerate(TEXTS)}}),
    "lines.json": "\n".join(map(json.dumps, RECORDS)),
    "lines.jsonl": "\n".join(map(json.dumps, RECORDS)) + "\n",
    "crlf.ndjson": "\r\n".join(map(json.dumps, RECORDS)),
    "cr.jsonl": "\r".join(map(json.dumps, RECORDS)),
    "really_a_list.jsonl": json.dumps(RECORDS, indent=1),
    "comma.csv": csv_of(","),
    "semicolon.csv": csv_of(";"),
    "crlf.CSV": csv_of(",", [TEXTS[0], *TEXTS[2:], TEXTS[0]]).replace("\n", "\r\n"),
    "tabs.tsv": csv_of("\t"),
}


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("name", FORMS)
def test_records_are_read_by_their_field(tmp_path, name, mark, monkeypatch):
    expected = [TEXTS[0], TEXTS[2], TEXTS[0]] if name == "crlf.CSV" else TEXTS
    for read_bytes in (1 << 20, 7):
        monkeypatch.setattr(corpora, "_READ_BYTES", read_bytes)
        assert read(written(tmp_path / name, mark + FORMS[name])) == expected


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize("separator", ",;\t|:")
def test_a_spreadsheets_separator_line_is_not_a_header(tmp_path, separator, suffix):
    words = [f"sep={separator}", f'"sep={separator}"', f"SEP={separator}{separator * 2}"]
    for line in [*words, "\ufeff" + words[0], *["sep=\\t"] * (separator == "\t")]:
        path = written(tmp_path / f"x.{suffix}", f"{line}\r\n{csv_of(separator)}")
        assert read(path) == TEXTS
    with pytest.raises(UserError, match="Choose from: n, story"):
        read(path, "text")
    written(path, f"sep={separator}\nstory\nhello\n")  # one column
    assert read(path) == ["hello"]
    written(path, f"sep={separator}\nstory\nhello\na{separator}b\n")
    with pytest.raises(UserError, match="line 4 has 2 columns"):
        read(path)


@pytest.mark.parametrize("name", ["lines.jsonl", "list.json", "comma.csv", "plain.txt"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".xz"])
def test_byte_order_marks_and_compressed_files_are_read(tmp_path, name, encoding, suffix):
    content = FORMS.get(name, "plain é text").encode(encoding)
    pack = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[suffix]
    path = written(tmp_path / f"{name}{suffix}", pack(content))
    assert read(path) == (TEXTS if name in FORMS else ["plain é text"])
    if suffix:
        written(path, pack(content)[:-9])
        with pytest.raises(UserError, match=f"{name}{suffix} is a damaged or truncated"):
            read(path)


def test_fields_may_be_nested(tmp_path):
    path = written(tmp_path / "x.json", json.dumps(RECORDS))
    assert read(path, "of.title") == ["t0", "t1", "t2"]
    squad = {"data": [{"paragraphs": [{"context": "a"}, {"context": "b"}]}], "version": "1"}
    written(path, json.dumps(squad))
    assert read(path, "data.paragraphs.context") == ["a", "b"]
    assert read(path, "paragraphs.context") == ["a", "b"]
    written(path, json.dumps({"a.b": "dotted", "text": "x"}))
    assert read(path, "a.b") == ["dotted"]


@pytest.mark.parametrize(
    "name", ["list.json", "data.json", "lines.jsonl", "comma.csv", "tabs.tsv", "lines.json"]
)
def test_a_missing_field_is_answered_with_the_existing_ones(tmp_path, name):
    path = written(tmp_path / name, FORMS[name])
    with pytest.raises(UserError, match=f"{name}.*\n.*data.text_field") as error:
        read(path, "text")
    assert "story" in str(error.value) and len(str(error.value).splitlines()) <= 3
    if "json" in name:
        assert "of.title" in str(error.value)


def test_a_field_named_for_plain_text_is_refused(tmp_path):
    path = written(tmp_path / "x.txt", "a plain text")
    config = configured("text", path=path, text_field="story")
    with pytest.raises(UserError, match="data.text_field=story has no effect"):
        prepare(config, cache=tmp_path)


texts_lists = st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=9), max_size=5)


@given(texts_lists, st.integers(1, 30), st.sampled_from([None, 1]), st.booleans())
def test_json_lists_read_in_pieces_equal_those_read_whole(texts, size, indent, lines):
    records = [{"text": text, "n": [1.5e10, -3, None, True]} for text in texts]
    content = "\n".join(map(json.dumps, records)) if lines else json.dumps(records, indent=indent)
    chunks = [content[i : i + size] for i in range(0, len(content), size)]
    found = tables.texts(iter(chunks), "json", "text", "x.json")
    assert list(found) == [text if text.strip() else None for text in texts]


def test_broken_records_are_named_and_never_half_read(tmp_path):
    deep = "[" * 100_000
    for name, content, problem in (
        ("a.json", json.dumps(RECORDS)[:-9], "is not valid JSON"),
        ("b.json", json.dumps(RECORDS) + "x", "something follows the list"),
        ("c.json", "[1, 2]", "entry 1 has no text"),
        ("d.json", '[{"story": "\\udc80"}]', "half of a surrogate pair"),
        ("e.json", '[{"story": "a"} {"story": "b"}]', "expected ',' or ']'"),
        ("f.json", deep, "nested too deeply"),
        ("g.jsonl", '{"story": "a"}\n' + '{"x":' * 100_000, "line 2 is not valid JSON"),
        ("h.csv", "story\nhello, world\n", "line 2 has 2 columns, but its first line has 1"),
        ("i.csv", 'story\n"never closed\nb\nc\n', "not valid CSV"),
        ("j.csv", "story,story\na,b\n", "more than one column 'story'"),
        ("k.csv", "A long first line without any header\nb\n", "no column 'story'"),
    ):
        with pytest.raises(UserError, match=problem) as error:
            read(written(tmp_path / name, content))
        assert name in str(error.value) and len(str(error.value).splitlines()) <= 3


def test_tabs_and_quotes_are_read_as_their_writer_meant(tmp_path):
    path = written(tmp_path / "x.tsv", 'n\tstory\n1\t"Hi," she said.\n2\tfive " inches\n')
    assert read(path) == ['"Hi," she said.', 'five " inches']  # no quoting, as TSV is defined
    written(path, 'n\tstory\n1\t"a\ttab"\n2\tplain\n')
    assert read(path) == ["a\ttab", "plain"]  # as a spreadsheet writes it


def test_records_without_text_are_skipped_and_counted(tmp_path):
    records = [*RECORDS, {"story": None}, {"story": " \n"}, {"story": ""}]
    for name, content in (
        ("x.json", json.dumps(records)),
        ("x.jsonl", "\n".join(map(json.dumps, records))),
        ("x.csv", csv_of(",", [*TEXTS, "", "", " "])),
    ):
        told = line(written(tmp_path / name, content), tmp_path)
        assert told == "read 1 file, 3 documents, 38 characters; skipped 3 empty documents"


def test_parquet_is_read_by_column_or_the_error_names_its_library(tmp_path, monkeypatch):
    path = written(tmp_path / "x.parquet", b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        UserError, match="x.parquet, a Parquet table, requires pyarrow.*\n.*pip install pyarrow"
    ):
        read(path)
    monkeypatch.setitem(sys.modules, "pyarrow", arrow := types.ModuleType("pyarrow"))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", types.ModuleType("pyarrow.parquet"))
    arrow.parquet = sys.modules["pyarrow.parquet"]
    arrow.ArrowException = type("ArrowException", (Exception,), {})
    arrow.parquet.ParquetFile = _Table
    assert read(path) == TEXTS
    assert read(path, "of.title") == ["t0", "t1", "t2"]
    with pytest.raises(UserError, match="no column 'text'.\n.*n, story, of"):
        read(path, "text")


class _Table:
    """A stand-in for pyarrow.parquet.ParquetFile, as far as it is used."""

    schema_arrow = types.SimpleNamespace(names=["n", "story", "of"])

    def __init__(self, file):
        assert file.name == "x.parquet"

    def iter_batches(self, columns):
        for record in RECORDS:
            cell = types.SimpleNamespace(to_pylist=lambda record=record: [record[columns[0]]])
            yield types.SimpleNamespace(column=lambda index, cell=cell: cell)


def test_without_its_library_zstd_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(UserError, match="x.txt.zst requires zstandard.*\n.*pip install zstandard"):
        read(written(tmp_path / "x.txt.zst", b"\x28\xb5\x2f\xfd"))


def test_zstd_is_read_frame_by_frame_and_whole(tmp_path, monkeypatch):
    zstandard = pytest.importorskip("zstandard")
    packed = zstandard.compress(b"one ") + zstandard.compress(b"two " * 9)
    path = written(tmp_path / "x.txt.zst", packed)
    for size in (1 << 20, 7):
        monkeypatch.setattr(corpora, "_READ_BYTES", size)
        assert read(path) == ["one " + "two " * 9]
        for damaged in (packed[:-5], b"no zstd", packed[:20]):
            with pytest.raises(UserError, match="damaged or truncated zstd"):
                read(written(tmp_path / "y.txt.zst", damaged))


@pytest.mark.parametrize(
    "name, what",
    [
        ("x.pdf", "a PDF"),
        ("x.DOCX", "pandoc"),
        ("x.html", "markup"),
        ("x.png", "an image"),
        ("x.zip", "Unpack it"),
        ("x.tar.gz", "Unpack it"),
        ("x.tgz", "Unpack it"),
        ("x.pkl", "never loaded"),
        ("x.pt", "weights"),
        ("x.safetensors", "weights"),
        ("x.arrow", "a binary table"),
        ("x.sqlite", "a database"),
        ("x.bin", "data=tokens"),
        ("x.npy", "data=tokens"),
        ("x.xlsx", "Save it as .csv"),
        ("x.parquet.gz", "compressed Parquet"),
    ],
)
def test_a_file_that_is_not_text_is_refused_by_its_name(tmp_path, name, what):
    with pytest.raises(UserError, match=name) as error:
        read(written(tmp_path / name, "it could be read as text"))
    assert what in str(error.value)


def _binaries(folder):
    with zipfile.ZipFile(folder / "zip", "w") as archive:
        archive.writestr("a.txt", "text")
    sqlite3.connect(folder / "database").execute("create table a (b)").connection.commit()
    np.save(folder / "array.npy", np.arange(9))
    ids = np.arange(2000, dtype="<u2")
    return {
        "zip": (folder / "zip").read_bytes(),
        "database": (folder / "database").read_bytes(),
        "npy": (folder / "array.npy").read_bytes(),
        "pickle": pickle.dumps({"text": "a"}),
        "gzip": gzip.compress(b"text"),
        "bzip2": bz2.compress(b"text"),
        "xz": lzma.compress(b"text"),
        "pdf": b"%PDF-1.7 text",
        "png": b"\x89PNG\r\n\x1a\n",
        "elf": b"\x7fELF\x02\x01",
        "ids": ids.tobytes(),
        "floats": np.linspace(-3, 3, 500).tobytes(),
        "tar": b"a.txt".ljust(257, b"\0") + b"ustar\x0000" + bytes(240),
        "parquet": b"PAR1\x15\x04",
        "safetensors": (56).to_bytes(8, "little") + b'{"a":{"dtype":"F32"}}',
        "llm.c": np.array([20240520, 1, 9, *[0] * 253], "<i4").tobytes() + bytes(18),
    }


def test_a_file_that_is_not_text_is_refused_by_its_content(tmp_path):
    for what, content in _binaries(tmp_path).items():
        for name in ("x.txt", "x", "x.data", "x.jsonl", "x.csv"):
            with pytest.raises(UserError) as error:
                read(written(tmp_path / name, content))
            assert name in str(error.value), what
            assert len(str(error.value).splitlines()) <= 3


def test_json_with_the_name_of_a_text_is_refused(tmp_path):
    for name, content in FORMS.items():
        if "json" in name.lower() and content.lstrip().startswith(("[\n  {", "[{", '{"')):
            lines = name.startswith(("lines", "crlf"))
            suffix = ".jsonl" if lines or not content.startswith("[") else ".json"
            for other in ("x.txt", "x", "x.txt.gz"):
                packed = gzip.compress(content.encode()) if other.endswith("gz") else content
                if "\r" not in content.replace("\r\n", ""):
                    with pytest.raises(UserError, match=f"holds JSON.*\nRename it to {suffix}"):
                        read(written(tmp_path / other, packed))
    pretty = json.dumps({"data": RECORDS}, indent=2)
    for text in (pretty, json.dumps({"story": "long " * 300_000}).replace("}", "\n}")):
        with pytest.raises(UserError, match="holds JSON"):
            read(written(tmp_path / "x.txt", text))
    for text in ("[a note] and text", '{"a quote"} in braces', "[{ braces }]"):
        assert read(written(tmp_path / "x.txt", text)) == [text]


def test_a_list_of_texts_with_the_name_of_a_text_is_refused(tmp_path, monkeypatch):
    lists = [TEXTS, [None, "a"], [{}, *RECORDS], ["a ]", {"x": ["]"]}], ["word " * 99] * 99]
    for number, items in enumerate(lists):
        for content in (json.dumps(items), " \n" + json.dumps(items, indent=1) + "\n\n"):
            for read_bytes in (1 << 20, 64):
                monkeypatch.setattr(corpora, "_READ_BYTES", read_bytes)
                with pytest.raises(UserError, match=r"holds JSON.*\nRename it to \.json so that"):
                    read(written(tmp_path / f"{number}.txt", content))
    with pytest.raises(UserError, match=r"Rename it to \.json\.gz"):
        read(written(tmp_path / "x.txt.gz", gzip.compress(json.dumps(TEXTS).encode())))
    # A file that only begins like this, or holds no texts, is plain text.
    for text in ('["a"] is a list', '["a", "b"]\n["c"]', '["a", "b"', "[1, 2]", '["a", 1]', "[]"):
        assert read(written(tmp_path / "x.txt", text)) == [text]


# Encodings


def test_the_conversion_command_names_the_file_and_a_likely_encoding(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cp1252 = "It\u2019s a \u201cquote\u201d \u2013 caf\u00e9".encode("cp1252")
    for name, content, command in (
        ("a.txt", cp1252, "iconv -f cp1252 -t utf-8 a.txt > a.utf8.txt"),
        ("my file.txt", "café".encode("latin1"), "latin1 -t utf-8 'my file.txt' > 'my file.utf8"),
        ("-f.txt", "café".encode("latin1"), "iconv -f latin1 -t utf-8 ./-f.txt > ./-f.utf8.txt"),
        ("noext", cp1252, "iconv -f cp1252 -t utf-8 noext > noext.utf8.txt"),
        ("b.txt.gz", gzip.compress(cp1252), "gzip -dc b.txt.gz | iconv -f cp1252 -t utf-8 > b.u"),
        ("c.jsonl", b'{"story": "' + cp1252 + b'"}', "iconv -f cp1252 -t utf-8 c.jsonl > c.utf8.j"),
        ("d.txt", "Hello there, you".encode("utf-16-le"), "iconv -f utf-16le -t utf-8 d.txt"),
        ("e.txt", "Héllo thére, you all".encode("utf-16-be"), "iconv -f utf-16be -t utf-8 e.txt"),
        ("f.txt", ("Hello" * 9).encode("utf-32-le"), "iconv -f utf-32le -t utf-8 f.txt"),
        ("1.txt", b"\xe9", "iconv -f latin1"),
        ("2.txt", "été".encode("latin1"), "iconv -f latin1"),
        ("3.txt", "100 €".encode("cp1252"), "iconv -f cp1252"),
        ("4.txt", "© 5".encode("latin1"), "iconv -f latin1"),
        ("g.txt", "Привет, мир".encode("cp1251"), "cp1251"),
        ("h.txt", "日本語の文章です".encode("shift_jis"), "shift_jis"),
        ("i.txt", "né à la carte".encode() * 9 + b" \x92", "iconv -c -f utf-8 -t utf-8 i.txt"),
        ("j.txt", "é is cut off é".encode()[:-1], "was it cut off?"),
        ("k.txt", "5 €".encode()[:-1], "was it cut off?"),
    ):
        written(tmp_path / name, content)
        with pytest.raises(UserError) as error:
            read(name)
        assert command in str(error.value)
        assert len(str(error.value).splitlines()) <= 3


# Folders


def test_folders_are_read_in_order_and_skipped_files_are_named(tmp_path):
    folder = tmp_path / "corpus"
    for name, text in {
        "b.TXT": "two",
        "a.md": "one",
        "sub/deeper/c.txt": "four",
        "sub/d.Jsonl": '{"story": "five"}',
        "sub/wiki_00": "six",
        "s.py": "three = 3",
        "fig.png": b"\x89PNG",
        "sub/x.pdf": b"%PDF",
        "notes.txt~": "old",
        "x.unknown": "what",
        ".hidden.txt": "no",
        ".git/config.txt": "no",
        "empty.txt": "",
        "blank.txt": " \n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        written(folder / name, text)
    (folder / "loop").symlink_to(folder)
    (folder / "self").symlink_to("self")
    (folder / "gone.txt").symlink_to("nowhere")
    (folder / "z.txt").symlink_to("b.TXT")
    assert read(folder) == ["one", "two", "three = 3", "five", "four", "six"]
    told = line(folder, tmp_path)
    assert told.startswith("read 6 files, 6 documents, 26 characters; skipped 12 files: ")
    assert told == line(folder, tmp_path)  # from the cache
    files = text_files(str(folder), "story")
    for left_out in (
        "fig.png (an image)",
        "sub/x.pdf (a PDF)",
        "notes.txt~ (a backup)",
        "x.unknown (of unknown kind)",
        ".hidden.txt (hidden)",
        ".git (hidden)",
        "gone.txt (a broken link)",
        "z.txt (the same as b.TXT)",
        "loop (a link to a folder that contains it)",
    ):
        assert left_out in files.left_out
    assert "blank.txt (no text), empty.txt (no text), fig.png (an image), gone.txt" in told


def test_a_folder_without_text_says_what_it_holds(tmp_path):
    (tmp_path / "corpus").mkdir()
    written(tmp_path / "corpus" / "fig.png", b"")
    with pytest.raises(UserError, match="skipped 1 file: fig.png \\(an image\\)"):
        read(tmp_path / "corpus")


def test_what_was_read_is_reported_even_if_the_survey_is_cached(tmp_path):
    path = written(tmp_path / "x.jsonl", FORMS["lines.jsonl"])
    config = configured("text", path=path, text_field="story", validation_path=path)
    first = prepare(config, cache=tmp_path / "cache").notes
    assert first == ("read 1 file, 3 documents, 38 characters", f"validation: {first[0]}")
    assert prepare(config, cache=tmp_path / "cache").notes == first
